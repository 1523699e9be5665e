"""A bar on a terminal, which log lines do not tear; with the extra ``progress``."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from typing import Any, TextIO

from tqdm import tqdm

from scrapy_batcher.monitoring.figures import Figures
from scrapy_batcher.monitoring.terminal import columns_of, is_terminal

_WIDE = 120  # columns, with which the figures are said in words
_LEAST = len("100%|█| ")  # columns that are there before the figures
# Columns that are left free: in the last some terminals begin a new line, and they show a Ctrl-C as two characters. A
# bar that they broke could not be taken away.
_FREE = 3


class _Meter(tqdm):  # type: ignore[type-arg]  # it is given nothing to iterate over
    monitor_interval = 0  # no thread of its own: it is told when to draw


_Meter.set_lock(threading.RLock())  # by default it is one for several processes, for which there may be another process


class Bar:
    """Shows figures on *terminal*, in its last line, until it is closed: then nothing is left of that.

    It draws in the way that works everywhere: back to the beginning of the line, and over what is there. Nothing in it
    has a colour.

    :ivar seconds: between two looks that are worth while
    """

    seconds = 0.5

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._meter: _Meter | None = None
        self._streams = ExitStack()

    def show(self, figures: Figures) -> None:
        columns = max(columns_of(self._terminal) - _FREE, 1)
        if self._meter is None:
            self._meter = _Meter(file=self._terminal, bar_format=" ", ncols=columns, leave=False)
            self._guard()
        self._meter.ncols = columns
        self._meter.total, self._meter.n = figures.read, figures.done
        self._meter.bar_format = _layout(figures, columns)
        self._meter.refresh()

    def close(self) -> None:
        self._streams.close()
        if self._meter is not None:
            self._meter.close()

    def _guard(self) -> None:
        """Have those handlers of the log that write to a terminal write above the bar. They stay as they are but for
        their stream: so do their levels, filters and formats, and lines that are wider than the terminal."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and is_terminal(handler.stream):
                above = _Above(handler.stream)
                handler.setStream(above)
                self._streams.callback(_give_back, handler, above)


def _layout(figures: Figures, columns: int) -> str:
    """What tqdm is to draw; it fills in the bar."""
    before = 0 if figures.percent is None else _LEAST
    text = figures.long if columns >= _WIDE else figures.short_in(columns - before)
    return f"{figures.percent:>3}%|{{bar}}| {text}" if before else text or " "  # for "" it would draw what it likes


class _Above:
    """A stream for a handler of the log: what is written to it appears above the bar."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        with _Meter.external_write_mode(file=self.stream):
            self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _give_back(handler: logging.StreamHandler[Any], above: _Above) -> None:
    if handler.stream is above:  # not another that was put in front of it meanwhile
        handler.setStream(above.stream)
