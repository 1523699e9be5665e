"""One limit, and how much of it is taken: at most so many at once, at most so many a second, not before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scrapy_batcher.throttling.adaptive import Width


@dataclass(frozen=True, slots=True)
class Limit:
    """What is allowed.

    :param concurrency: how many downloads may be in flight at once
    :param rate: how many downloads may begin per second, in the long run
    :param burst: how many downloads may begin right after one another, if none began for a while
    :param delay: seconds between the starts of two downloads
    :param jitter: how much of the delay is random: 0.5 makes it between half the delay and one and a half times it
    :raises ValueError: if one of them allows nothing
    """

    concurrency: float = math.inf
    rate: float = math.inf
    burst: int = 1
    delay: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("concurrency", self.concurrency, 1),
            ("burst", self.burst, 1),
            ("delay", self.delay, 0),
            ("jitter", self.jitter, 0),
        ):
            if not value >= least:
                raise ValueError(f"{name} must be at least {least}, not {value!r}")
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0, not {self.rate!r}")

    @property
    def seconds_each(self) -> float:
        """How many seconds apart downloads begin in the long run, if each takes one second."""
        return max(1 / self.concurrency, 1 / self.rate, self.delay)


class Limiter:
    """How much of *limit* is taken.

    The rate is kept by the generic cell rate algorithm (ITU-T I.371): one number, the time at which a steady stream
    would be through with what was begun so far.

    :param is_new: whether there is something to be known yet, so that only one may be at once
    :param width: how many at once its host bears, when that is found out
    :ivar pace: seconds between the beginnings of two, beside what the limit says
    :ivar is_recovering: whether only one may be at once as its host has not answered well since it rested
    :ivar held: how many there are
    :ivar reserved: how many are about to come
    :ivar waiting: how many wait
    """

    __slots__ = (
        "_earliest",
        "_steady",
        "held",
        "is_new",
        "is_recovering",
        "limit",
        "pace",
        "reserved",
        "waiting",
        "width",
    )

    def __init__(self, limit: Limit, *, is_new: bool = False, width: Width | None = None) -> None:
        self.limit = limit
        self.is_new = is_new
        self.is_recovering = False
        self.pace = 0.0
        self.width = width
        self.held = 0
        self.reserved = 0
        self.waiting = 0
        self._earliest = -math.inf  # time before which nothing begins
        self._steady = -math.inf

    @property
    def capacity(self) -> float:
        """How many may be at once, now."""
        if self.is_new or self.is_recovering:
            return min(1, self.limit.concurrency)
        return min(self.limit.concurrency, int(self.width.value)) if self.width else self.limit.concurrency

    @property
    def is_spaced(self) -> bool:
        """Whether it depends on when one begins when the next may."""
        return bool(self.limit.delay or self.pace)

    def wait(self, now: float, *, reserved: int = 0) -> float:
        """Seconds until one may begin; infinite when one has to end before, or to begin.

        :param reserved: how many others will begin before
        """
        if self.held + reserved >= self.capacity or (reserved and self.is_spaced):
            return math.inf
        if self.limit.rate == math.inf:
            return max(0.0, self._earliest - now)
        ahead = (reserved + 1 - self.limit.burst) / self.limit.rate
        return max(0.0, self._earliest - now, max(self._steady, now) + ahead - now)

    def begin(self, now: float, random: Callable[[], float]) -> None:
        """One begins, and holds a permit until `held` is counted down."""
        self.held += 1
        if self.limit.rate < math.inf:
            self._steady = max(self._steady, now) + 1 / self.limit.rate
        if self.is_spaced:
            delay = self.limit.delay * max(0.0, 1 + self.limit.jitter * (2 * random() - 1))
            self.rest(now + max(delay, self.pace))

    def change(self, limit: Limit, now: float) -> None:
        """Let it be *limit* from *now* on."""
        if self._steady > now:
            # What the stream is behind with, it is through with at the new rate.
            self._steady = now + (self._steady - now) * self.limit.rate / limit.rate
        self.limit = limit

    def rest(self, until: float) -> None:
        """Let nothing begin before the time *until*."""
        self._earliest = max(self._earliest, until)

    def is_resting(self, now: float) -> bool:
        """Whether nothing may begin as it was told to rest, and not only since another has just begun."""
        return self.is_recovering and self._earliest > now

    def end_rest(self) -> None:
        self._earliest = -math.inf
        self.is_recovering = False

    @property
    def is_in_use(self) -> bool:
        """Whether somebody has a part in it."""
        return bool(self.held or self.reserved or self.waiting)

    def is_idle(self, now: float) -> bool:
        """Whether nobody has a part in it, and a new one in its place would do the same."""
        is_learned = self.is_recovering or self.pace or self.width
        return not (self.is_in_use or is_learned or self._earliest > now or self._steady > now)
