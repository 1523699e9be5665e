"""A source is read in a thread of its own, a few rows ahead: a slow disk or a pipe never holds up the event loop."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from scrapy_batcher.adapters.loop import thread_safe_caller

Row = TypeVar("Row")

AHEAD = 1000  # rows that may wait to be taken; bounds the memory
_SOME = 100  # rows that are read at once when there is room for them; bounds the bursts of the thread


class Reader(Generic[Row]):
    """Reads *rows* ahead.

    The thread is a daemon: one that waits for a line on stdin must not keep the process from ending.

    :param rows: what to read; iterated over, and closed by it, in the thread
    :param on_rows: called in the event loop when there are rows, or the end, after `take` had none to give
    """

    def __init__(self, rows: Iterable[Row], on_rows: Callable[[], object]) -> None:
        self.error: Exception | None = None  # what broke the reading off
        self._on_rows = on_rows
        self._call_in_loop = thread_safe_caller()
        self._read: deque[Row] = deque()  # rows nobody took yet; the thread appends, the loop pops
        self._room = threading.Event()
        self._ended = False
        self._stopped = False
        self._somebody_waits = False
        threading.Thread(target=self._run, args=(rows,), name="scrapy-batcher reader", daemon=True).start()

    @property
    def exhausted(self) -> bool:
        """Whether every row there is has been taken."""
        # In this order: the thread's last row is there before it says that it has ended.
        return self._ended and not self._read

    def take(self, most: int) -> list[Row]:
        """At most *most* rows that are there now, in order; when there are none, ``on_rows`` will be called."""
        self._somebody_waits = not self._read
        rows = [self._read.popleft() for _ in range(min(most, len(self._read)))]
        if rows:
            if len(self._read) <= AHEAD - _SOME:
                self._room.set()
        elif self._read or self._ended:
            # They came between the two looks, when the thread may not have seen yet that somebody waits.
            self._wake()
        return rows

    def stop(self) -> None:
        """Read no further. The thread ends after the row it is at; one that waits for a pipe ends with the process."""
        self._stopped = True
        self._room.set()

    def _run(self, rows: Iterable[Row]) -> None:
        try:
            for row in rows:
                if len(self._read) >= AHEAD:
                    self._wait_for_room()
                if self._stopped:
                    break
                self._read.append(row)
                self._wake()
        except Exception as e:  # noqa: BLE001 - handed over to the event loop, which reports it
            self.error = e
        finally:
            self._ended = True
            self._wake()

    def _wait_for_room(self) -> None:
        self._room.clear()
        # Seen again after that: `take` and `stop` say that there is room after they have made it.
        if len(self._read) >= AHEAD and not self._stopped:
            self._room.wait()

    def _wake(self) -> None:
        if self._somebody_waits:
            self._somebody_waits = False
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._call_in_loop(self._on_rows)
