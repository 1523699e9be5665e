"""What may run now: at most N at once and so many a second, for everything, each host, and names of one's own.

Example 7 of the batching walk-through this project grew from is Twisted's `DeferredSemaphore`; this is many of them,
under keys, of which a request takes one permit each, or none and waits.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scrapy.utils.asyncio import CallLaterResult, call_later
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from scrapy_batcher.throttling.adaptive import Width
from scrapy_batcher.throttling.limiter import Limit, Limiter
from scrapy_batcher.throttling.limiters import TOTAL, Keys, Limiters, LimiterStatistics


@dataclass(slots=True)
class _Waiter:
    keys: Keys
    granted: Deferred[None] = field(default_factory=Deferred)


class Limits:
    """Who holds permits of which limits, who waits for some, and who is about to come for them. Keeping the borrowers
    instead of a count is the idea of Trio's ``CapacityLimiter``.

    A holder is whatever can be hashed; for us it is a request, by identity. *keys* are those it counts for beside
    `TOTAL`, which all do. Who came first is served first, unless it waits for a key that others do not need.

    :param limits: by key; one under ``name:*`` is for each key that begins with ``name:`` and has none of its own
    :param adapt: find out how many at once a host bears, below its limit
    :param now: the time in seconds
    :param later: calls a function after so many seconds
    :param uniform: a random number from 0 to 1
    """

    def __init__(
        self,
        limits: Mapping[str, Limit],
        *,
        adapt: bool = False,
        now: Callable[[], float] = time.monotonic,
        later: Callable[..., Any] = call_later,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._limiters = limiters = Limiters(limits, adapt=adapt)
        self.now = now
        self._later = later
        self._uniform = uniform
        self._total = limiters.total
        self.limit, self.add = limiters.limit, limiters.add
        self.items, self.hosts = limiters.items, limiters.hosts
        self._held: dict[Hashable, tuple[Keys, list[Limiter]]] = {}  # keys, and their limiters with that of all
        self._reserved: dict[Hashable, tuple[Keys, list[Limiter]]] = {}
        self._waiters: dict[Hashable, _Waiter] = {}  # in the order in which they came
        self._timer: CallLaterResult | None = None
        self._listeners: list[Callable[[Keys], object]] = []

    # -- who takes permits -----------------------------------------------------------------------------------

    def wait(self, keys: Keys) -> float:
        """Seconds until who comes for *keys* now would get them, after those who have a reservation; infinite when
        that depends on another's end.

        :raises UnknownLimitError: when there is none under one of *keys*
        """
        now = self.now()
        longest = self._total.wait(now, reserved=self._total.reserved)
        for key in keys:
            limiter = self._limiters.known(key)
            if limiter is None:
                self.limit(key)
            elif limiter.waiting:
                return math.inf
            else:
                longest = max(longest, limiter.wait(now, reserved=limiter.reserved))
        return longest

    def reserve(self, ticket: Hashable, keys: Keys, *, instead_of: Hashable = None) -> bool:
        """Count in, from now on, that *ticket* is about to come for *keys*, if it would not have to wait; whether that
        is so. A reservation is no permit: nobody waits for it, except who asks for another reservation.

        :param instead_of: whose reservation, if it has one, ends
        :raises RuntimeError: when *ticket* has one already
        """
        if ticket in self._reserved:
            raise RuntimeError(f"{ticket!r} already has a reservation of {self!r}")
        ended = self._end_reservation(instead_of)
        if reserved := not self.wait(keys):
            self._reserved[ticket] = keys, self._limiters.of(keys)
            for limiter in self._reserved[ticket][1]:
                limiter.reserved += 1
        if ended is not None and not (reserved and ended == keys):  # else nothing is new to others
            self._free(ended)
        return reserved

    def cancel(self, ticket: Hashable) -> None:
        """End the reservation of *ticket*, if it has one."""
        if (keys := self._end_reservation(ticket)) is not None:
            self._free(keys)

    def _end_reservation(self, ticket: Hashable) -> Keys | None:
        keys, limiters = self._reserved.pop(ticket, (None, ()))
        for limiter in limiters:
            limiter.reserved -= 1
        return keys

    async def acquire(self, holder: Hashable, keys: Keys) -> bool:
        """Wait for a permit of each of *keys*, and take them all; whether that was to be waited for. Cancelled while it
        waits, it leaves no trace. The reservation of *holder*, if it has one, ends.

        :raises RuntimeError: when *holder* has permits already
        :raises UnknownLimitError: when there is no limit under one of *keys*
        """
        if holder in self._held or holder in self._waiters:
            raise RuntimeError(f"{holder!r} already holds permits, or waits for some, of {self!r}")
        limiters = self._limiters.of(keys)
        reserved = self._end_reservation(holder)
        now, granted = self.now(), None
        if self._waiters or any(limiter.wait(now) for limiter in limiters):
            granted = self._queue(holder, keys)
        else:
            self._begin(holder, keys, limiters, now)
        if reserved is not None and (granted or reserved != keys or any(limiter.is_spaced for limiter in limiters)):
            self._changed(reserved)  # else nothing is new to others: what was reserved is taken
        if granted is None or granted.called:
            return False
        try:
            await maybe_deferred_to_future(granted)
        except BaseException:
            # Cancelled: still waiting, or granted its permits after all in the moment between.
            if holder in self._held:
                self.release(holder)
            else:
                self._leave(holder)
                self._more_of(keys)
            raise
        return True

    def release(self, holder: Hashable) -> None:
        """Give the permits of *holder* back; who waits longest for them gets them at once.

        :raises RuntimeError: when *holder* has none
        """
        keys, limiters = self._held.pop(holder, (None, ()))
        if keys is None:
            raise RuntimeError(f"{holder!r} holds no permits of {self!r}")
        for limiter in limiters:
            limiter.held -= 1
        self._free(keys)

    def _begin(self, holder: Hashable, keys: Keys, limiters: list[Limiter], now: float) -> None:
        self._held[holder] = keys, limiters
        for limiter in limiters:
            limiter.begin(now, self._uniform)

    def _queue(self, holder: Hashable, keys: Keys) -> Deferred[None]:
        waiter = self._waiters[holder] = _Waiter(keys)
        for limiter in self._limiters.of(keys):
            limiter.waiting += 1
        self._grant()
        return waiter.granted

    def _grant(self) -> None:
        """Give those who wait what they can have, the first first: nobody takes a key before one who came earlier and
        waits for it. Except `TOTAL`: it is for who can use it now."""
        if not self._waiters:
            self._set_timer(math.inf)
            return
        now = self.now()
        ahead: set[str] = set()  # what those who came earlier wait for
        soonest = math.inf
        granted = []
        for holder, waiter in self._waiters.items():
            if self._total.wait(now) == math.inf:
                break
            if ahead.isdisjoint(waiter.keys):
                limiters = self._limiters.of(waiter.keys)
                wait = max(limiter.wait(now) for limiter in limiters)
                if not wait:
                    granted.append(holder)
                    self._begin(holder, waiter.keys, limiters, now)
                    continue
                soonest = min(soonest, wait)
            ahead.update(waiter.keys)
        deferreds = [self._leave(holder) for holder in granted]
        self._set_timer(soonest)
        for deferred, holder in zip(deferreds, granted, strict=True):
            deferred.callback(None)
            self._changed(self._held[holder][0] if holder in self._held else ())  # nobody waits before who wants these

    def _leave(self, holder: Hashable) -> Deferred[None]:
        waiter = self._waiters.pop(holder)
        for limiter in self._limiters.of(waiter.keys):
            limiter.waiting -= 1
        return waiter.granted

    def _set_timer(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._later(seconds, self._on_time) if seconds < math.inf else None

    def _on_time(self) -> None:
        self._timer = None
        self._grant()

    # -- what changes ----------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[Keys], object]) -> None:
        """Have *listener* called with keys that more may be had of now, other than by the passing of time."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[Keys], object]) -> None:
        self._listeners.remove(listener)

    def rest(self, key: str, seconds: float) -> None:
        """Let nothing begin under *key* for so many seconds; then one at a time, until it has `recovered`."""
        limiter = self._limiters.get(key)
        limiter.rest(self.now() + seconds)
        limiter.is_recovering = True

    def pace(self, key: str, seconds: float) -> None:
        """Let so many seconds pass between the beginnings of two downloads under *key*, beside what its limit says."""
        limiter = self._limiters.get(key)
        before, limiter.pace = limiter.pace, seconds
        if seconds < before:
            self._changed((key,))

    def recovered(self, key: str) -> None:
        """The host under *key* answers well: it may have as many at once as its limit says, if it has rested."""
        if (limiter := self._limiters.known(key)) and limiter.is_recovering:
            limiter.is_recovering = False
            self._more_of((key,))

    def known(self, key: str) -> None:
        """What had to be known of the site under *key* is: it may have as many at once as its limit says."""
        if (limiter := self._limiters.get(key)).is_new:
            limiter.is_new = False
            self._more_of((key,))

    def end_rest(self, key: str) -> None:
        """Let what was begun under *key* be gone on with."""
        if limiter := self._limiters.known(key):
            limiter.end_rest()
            self._more_of((key,))

    def width(self, key: str) -> Width | None:
        """How many at once the host under *key* was found to bear, if that is looked for."""
        return self._limiters.get(key).width

    def answered_in(self, key: str, latency: float) -> None:
        """The host under *key* has answered well, after so many seconds."""
        limiter = self._limiters.get(key)
        if width := limiter.width:
            width.answered(latency, self.now(), in_flight=limiter.held, most=limiter.limit.concurrency)

    def change(self, key: str, **changes: float) -> None:
        """Change the limit under *key*, of which may be in use what is more than it then allows.

        :param changes: the fields of `Limit` that change
        :raises UnknownLimitError: when there is none
        :raises TypeError: when `Limit` has no such field
        """
        self._limiters.change(key, changes, self.now())
        self._more_of((key,))

    def _free(self, keys: Keys) -> None:
        self._limiters.forget(keys, self.now())
        self._more_of(keys)

    def _more_of(self, keys: Keys) -> None:
        self._grant()
        self._changed(keys)

    def _changed(self, keys: Keys) -> None:
        for listener in self._listeners:
            listener(keys)

    # -- a look from outside ---------------------------------------------------------------------------------

    def statistics(self) -> dict[str, LimiterStatistics]:
        """`TOTAL`, and every key that is in use."""
        now, looks = self.now(), {}
        for key, limiter in self._limiters.items():
            holders = frozenset(holder for holder, (keys, _) in self._held.items() if key == TOTAL or key in keys)
            wait = limiter.wait(now)
            looks[key] = LimiterStatistics(limiter.capacity, holders, limiter.waiting, wait if wait < math.inf else 0.0)
        return looks

    def __repr__(self) -> str:
        most = self._total.limit.concurrency
        return f"<{type(self).__name__} {len(self._held)} of {most} held, {len(self._waiters)} waiting>"
