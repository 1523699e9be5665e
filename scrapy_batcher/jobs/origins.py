"""Which file of a list a target is from, where the list has several."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable

from scrapy_batcher.jobs.database import Database
from scrapy_batcher.lists.rows import Target

_ALL = "SELECT first, file FROM origin ORDER BY first"

_ENTER = "INSERT INTO origin (first, file) VALUES (?, ?)"


class Origins:
    """Those of the ledger in *db*: each file, with the id of its first target. A list is read in order, so that these
    few tell it for all targets."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._firsts: list[int] = []
        self._files: list[str] = []
        for first, file in db.execute(_ALL):
            self._add(first, file)

    def enter(self, targets: Iterable[Target]) -> None:
        """Enter where *targets* are from, which are behind all that were entered before."""
        for target in targets:
            if target.file != (self._files[-1] if self._files else ""):
                self._db.change(_ENTER, (target.id, target.file))
                self._add(target.id, target.file)

    def target(self, id: int, line: int, url: str, columns: str | None) -> Target:
        """The target of which the ledger has this."""
        place = bisect_right(self._firsts, id)
        file = self._files[place - 1] if place else ""
        return Target(id, line, url, json.loads(columns) if columns else {}, file=file)

    def _add(self, first: int, file: str) -> None:
        self._firsts.append(first)
        self._files.append(file)
