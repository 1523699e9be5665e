"""How far a batch is at one moment: how fast, until when, and what that looks like in a line."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from scrapy_batcher.batch.progress import Counts
from scrapy_batcher.throttling.limits import Limits

_MEMORY = 60.0  # seconds until what was counts for a third in the rate
_MOST = 1000 * 86400  # seconds; what would take longer is not foretold


@dataclass(frozen=True)
class Figures:
    """A look at a batch.

    :param done: targets with an outcome, whichever; in a job, those of earlier runs too
    :param read: targets that were read from the list
    :param complete: whether these are all
    :param failed: targets that have failed
    :param rate: targets a second that this run gets done, of late
    :param active: hosts that something is under way to
    :param resting: hosts that are left alone for a while
    """

    done: int
    read: int
    complete: bool
    failed: int
    rate: float
    active: int
    resting: int

    @property
    def percent(self) -> int | None:
        """How much of the list is done; ``None`` as long as nobody knows how long it is."""
        if not self.complete:
            return None
        return 100 * self.done // self.read if self.read else 100

    @property
    def left(self) -> float | None:
        """Seconds that the rest takes at this rate; ``None`` when that cannot be told."""
        if not (self.complete and self.rate):
            return None
        seconds = (self.read - self.done) / self.rate
        return seconds if seconds < _MOST else None

    @property
    def long(self) -> str:
        """All of them in words."""
        of = f"{self.done:,} of {self.read:,}" + ("" if self.complete else " read so far")
        hosts = "host" if self.active == 1 else "hosts"
        return ", ".join(self._said(of, f"{_rate(self.rate)} a second", "{:,}".format, f"{hosts} active"))

    @property
    def short(self) -> str:
        """All of them where there is little room: in at most 73 characters, as long as numbers stay below 10**15."""
        return self.short_in(sys.maxsize)

    def short_in(self, columns: int) -> str:
        """As many of those, from the first on, as there is room for: a number that is cut off is another one."""
        of = f"{_short(self.done)}/{_short(self.read)}" + ("" if self.complete else " so far")
        said = self._said(of, f"{_rate(self.rate)}/s", _short, "active")
        while said and len(" ".join(said)) > columns:
            said.pop()
        return " ".join(said)

    def _said(self, of: str, rate: str, number: Callable[[int], str], active: str) -> list[str]:
        left = [] if self.left is None else [f"{_time(self.left)} left"]
        hosts = f"{number(self.active)} {active}", f"{number(self.resting)} resting"
        return [of, rate, *left, f"{number(self.failed)} failed", *hosts]


class Pace:
    """Looks at a batch now and then, and knows from that how fast it goes.

    The rate is that of the last minute or so: an average in which all the work and the time count less, the longer they
    are ago. It begins as the average since the start.

    :param counts: how far the batch is
    :param limits: where its hosts are seen
    :param now: the time in seconds
    """

    def __init__(self, counts: Counts, limits: Limits, now: Callable[[], float] = time.monotonic) -> None:
        self._counts = counts
        self._limits = limits
        self._now = now
        self._last, self._worked = now(), counts.worked
        self._seconds = self._done = 0.0

    def look(self) -> Figures:
        """The figures now."""
        counts = self._counts
        active, resting = self._limits.hosts(self._limits.now())
        return Figures(counts.done, counts.read, counts.complete, counts.failed, self._rate(), active, resting)

    def _rate(self) -> float:
        now, worked = self._now(), self._counts.worked
        seconds, done = now - self._last, worked - self._worked
        self._last, self._worked = now, worked
        still = math.exp(-seconds / _MEMORY)
        self._seconds = self._seconds * still + seconds
        self._done = self._done * still + done
        return self._done / self._seconds if self._seconds else 0.0


def _short(number: int) -> str:
    """*number*, which is below 10**15, in at most five characters."""
    if number < 10_000:
        return f"{number:,}"
    thousands, digits = divmod(len(str(number)) - 1, 3)
    decimals = 2 - digits
    # Cut off, not rounded: what is not done yet does not look as if it were.
    cut = number // 10 ** (3 * thousands - decimals)
    return f"{cut / 10**decimals:.{decimals}f}{'kMGT'[thousands - 1]}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def _time(seconds: float) -> str:
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
