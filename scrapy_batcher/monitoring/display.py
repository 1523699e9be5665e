"""How far a batch is, shown while it runs: by a bar on a terminal, by a line of the log every so often, or not."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from logging import LoggerAdapter
from typing import Any, Protocol, TextIO

from scrapy.settings import BaseSettings
from scrapy.utils.asyncio import create_looping_call

from scrapy_batcher.batch.opening import Batch
from scrapy_batcher.config import Config
from scrapy_batcher.lists.shard import WHOLE
from scrapy_batcher.monitoring.figures import Figures
from scrapy_batcher.monitoring.terminal import is_terminal
from scrapy_batcher.outputs.feeds import named_feeds


class Board(Protocol):
    """Where figures are shown.

    :ivar seconds: between two looks that are worth while
    """

    seconds: float

    def show(self, figures: Figures) -> None: ...

    def close(self) -> None: ...


class Lines:
    """Figures as lines of *log*, at level INFO."""

    def __init__(self, log: LoggerAdapter[Any], seconds: float) -> None:
        self._log = log
        self.seconds = seconds

    def show(self, figures: Figures) -> None:
        percent = "" if figures.percent is None else f"{figures.percent}%, "
        self._log.info("Progress: %s%s", percent, figures.long)

    def close(self) -> None:
        """There is nothing to be taken back."""


def board_for(spider: Batch, config: Config, settings: BaseSettings) -> Board | None:
    """What ``BATCHER_PROGRESS`` chooses for the batch of *spider*; ``None`` for nothing."""
    wanted = config.progress
    if wanted == "auto":
        wanted = "bar" if _is_alone(spider, config, settings) and _has_bar() else "lines"
    elif wanted == "bar" and not _has_bar():
        wanted = "lines"
        spider.logger.warning("BATCHER_PROGRESS is 'bar', which needs tqdm: pip install 'scrapy-batcher[progress]'")
    if wanted == "bar" and (terminal := _terminal()):
        from scrapy_batcher.monitoring.bar import Bar  # noqa: PLC0415 - there may be no tqdm

        return Bar(terminal)
    if wanted == "none" or not config.log_seconds:
        return None
    return Lines(spider.logger, config.log_seconds)


@contextmanager
def shown(look: Callable[[], Figures], board: Board | None) -> Iterator[None]:
    """Have *board* show every so often what *look* sees."""
    if board is None:
        yield
        return
    timer = create_looping_call(lambda: board.show(look()))
    timer.start(board.seconds, now=False)
    atexit.register(board.close)  # a second Ctrl-C ends the process in the middle of this
    try:
        yield
    finally:
        if timer.running:  # it stops by itself when something is wrong with what it calls
            timer.stop()
        board.close()
        atexit.unregister(board.close)


def _is_alone(spider: Batch, config: Config, settings: BaseSettings) -> bool:
    """Whether a bar would have the terminal for itself: the log is no file, to which its figures then belong, no items
    come there, and no other shards."""
    items_come_there = is_terminal(sys.__stdout__) and any(feed.is_stdout for feed in named_feeds(settings))
    return not (config.logs_to_file or items_come_there or spider.source.shard != WHOLE)


def _terminal() -> TextIO | None:
    """The terminal that stderr is, if it is one on which a line can be drawn anew."""
    return sys.stderr if is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" else None


def _has_bar() -> bool:
    return find_spec("tqdm") is not None
