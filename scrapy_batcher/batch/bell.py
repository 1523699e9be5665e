"""Those who wait for something to do, and are woken one at a time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from scrapy.utils.asyncio import CallLaterResult, call_later
from twisted.internet.defer import Deferred


class Bell:
    """Who waits for it is woken when it rings, or when the time has come to look again.

    Each ring wakes the one that waits longest; who finds enough for another rings it again.

    :param soonest: the seconds until it is worth while for one to look again
    """

    def __init__(self, soonest: Callable[[], float]) -> None:
        self._soonest = soonest
        self._waiting: deque[Deferred[None]] = deque()
        self._timer: CallLaterResult | None = None
        self._due = math.inf  # the time for which that is set

    def wait(self) -> Deferred[None]:
        """Fires when it is one's turn to look again."""
        self._set_timer()
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def ring(self) -> None:
        """Wake one of those that wait."""
        if self._waiting:
            self._waiting.popleft().callback(None)

    def ring_for_all(self) -> None:
        """Wake those that wait."""
        waiting, self._waiting = self._waiting, deque()
        for deferred in waiting:
            deferred.callback(None)

    def _set_timer(self) -> None:
        # That of who waits already may be for later: what keeps this one from its work may be over sooner.
        seconds = self._soonest()
        due = time.monotonic() + seconds
        if due < self._due:
            if self._timer:
                self._timer.cancel()
            self._timer, self._due = call_later(seconds, self._on_time), due

    def _on_time(self) -> None:
        self._timer, self._due = None, math.inf
        self.ring()
        if self._waiting:
            self._set_timer()
