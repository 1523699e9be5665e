"""An extension that ends the process, without any warning, at a place that the setting ``DIE_AT`` names.

It puts itself around the package's own functions: nothing in the package knows of it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from typing import Any

from scrapy.exceptions import NotConfigured

from scrapy_batcher.batch import stock
from scrapy_batcher.batch.failures import FailuresFile
from scrapy_batcher.jobs.database import Database
from scrapy_batcher.jobs.ledger import Ledger
from scrapy_batcher.lists.spool import Spool
from scrapy_batcher.outputs.bodies import Bodies
from scrapy_batcher.outputs.output import Feed, Output

STATUS = 99  # of a process that died here


def die() -> None:
    os._exit(STATUS)


def before(original: Callable) -> Callable:
    return lambda *args, **kwargs: die()


def after(original: Callable) -> Callable:
    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        die()

    return call


def with_half_the_rows(original: Callable) -> Callable:
    def load(self: Ledger, rows: list, mark: Any) -> None:
        def half():
            yield from rows[: len(rows) // 2]
            die()

        original(self, half(), mark)

    return load


def with_half_the_bytes(original: Callable) -> Callable:
    def write(self: Any, data: bytes) -> None:
        original(self, bytes(data)[: len(data) // 2])
        die()

    return write


def before_the_commit(original: Callable) -> Callable:
    @contextmanager
    def transaction(self: Database):
        with original(self):
            yield
            die()

    return transaction


POINTS: dict[str, tuple[Any, str, Callable, int]] = {
    # name: (where, what, how, at which call)
    "some rows of a slice are loaded": (Ledger, "load", with_half_the_rows, 1),
    "a slice is loaded": (Ledger, "load", after, 1),
    "a feed is opened": (Output, "open", after, 2),
    "before a line is written": (Feed, "append", before, 20),
    "half a line is written": (Feed, "append", with_half_the_bytes, 20),
    "a line is written": (Feed, "append", after, 31),
    "before the feeds are synced": (Output, "sync", before, 2),
    "the feeds are synced": (Output, "sync", after, 2),
    "before the commit": (Database, "transaction", before_the_commit, 7),
    "the checkpoint is committed": (Ledger, "settle", after, 5),
    "one of two feeds is cut back": (stock, "cut_back", after, 1),
    "the failures file is empty": (FailuresFile, "clear", after, 1),
    "a failure is written": (FailuresFile, "write", after, 3),
    "some are taken up": (Ledger, "take_up", after, 1),
    "before a feed is closed": (Output, "close", before, 1),
    "half of a chunk of stdin is kept": (Spool, "_keep", with_half_the_bytes, 1),
}


FILE_POINTS: dict[str, tuple[Any, str, Callable, int]] = {
    "a body has no name yet": (Bodies, "_place", before, 20),
    "a body has its name": (Bodies, "_place", after, 20),
    "the bodies' names are synced": (Bodies, "sync", after, 2),
    "half a record is written": (Feed, "append", with_half_the_bytes, 31),
    "before the archive is closed": (Output, "close_own", before, 1),
}
"""Of bodies and a WARC file, one feed beside them."""


class Dies:
    @classmethod
    def from_crawler(cls, crawler):
        point = crawler.settings["DIE_AT"]
        if not point:
            raise NotConfigured
        where, what, how, call = (POINTS | FILE_POINTS)[point]
        original = getattr(where, what)
        fatal = how(original)
        calls = itertools.count(1)  # which threads can share

        def counting(*args: Any, **kwargs: Any) -> Any:
            return (fatal if next(calls) == call else original)(*args, **kwargs)

        setattr(where, what, counting)
        return cls()
