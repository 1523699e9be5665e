"""Axes with round numbers on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scrapy_batcher.reports.words import moment, short

_DAY = 86400

_TIMES = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200),
    *(days * _DAY for days in (1, 2, 7, 14, 30, 60, 90, 180, 365, 730, 1825, 3650)),
)

_TIMES_LONGER = 10.0  # than the first is the last latency on an axis, at least

_MOST = 5  # ticks on an axis across: what a telephone has room for


@dataclass(frozen=True)
class Axis:
    """An axis from *low* to *high*.

    :param ticks: values on it, with their labels
    :param scale: of which it is linear: a logarithm, for a latency
    """

    low: float
    high: float
    ticks: list[tuple[float, str]]
    scale: Callable[[float], float] = float

    def at(self, value: float) -> float:
        """Where *value* is: 0 at the axis's beginning, 1 at its end."""
        low, high = self.scale(self.low), self.scale(self.high)
        return (self.scale(value) - low) / (high - low)


def number_axis(most: float, *, whole: bool = False) -> Axis:
    """From 0 to a round number that is at least *most*.

    :param whole: whether there is nothing between one number and the next
    """
    least = most / 4 if most > 1e-6 else 1.0
    power = 10 ** math.floor(math.log10(least))
    step = next(step for factor in (1, 2, 2.5, 5, 10) if (step := factor * power) >= least * 0.999)
    if whole:
        step = max(math.ceil(step), 1)
    count = max(math.ceil(most / step * 0.999), 1)
    return Axis(0.0, step * count, [(step * n, short(round(step * n, 9))) for n in range(count + 1)])


def time_axis(begin: float, end: float) -> Axis:
    """From one Unix time to another, in UTC."""
    step = next((step for step in _TIMES if (end - begin) / step <= _MOST), _TIMES[-1])
    # By a division without a rest, which does not round: a moment behind a tick is not at it.
    first, last = int(-(-begin // step)), int(end // step)
    return Axis(begin, end, [(n * step, _time(n * step, step)) for n in range(first, last + 1)])


def _time(unix_time: int, step: int) -> str:
    if unix_time % _DAY == 0:
        return moment(unix_time, "%d %b %Y" if step >= 180 * _DAY else "%d %b")
    return f"{moment(unix_time, ' %H:%M' if step >= 60 else ' %H:%M:%S').strip()}"


def latency_axis(low: float, high: float) -> Axis:
    """From one latency in seconds to another, and farther when they are near each other. Each step is as many times as
    long as the last."""
    more = max(math.sqrt(_TIMES_LONGER * low / high), 1.0)
    low, high = low / more, high * more
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values: list[float] = []
    for factors, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 4)):
        values = [factor * 10.0**power for power in powers if power % every == 0 for factor in factors]
        values = [value for value in values if low <= value <= high]
        if len(values) <= _MOST:
            break
    return Axis(low, high, [(value, _latency(value)) for value in values], math.log10)


def _latency(seconds: float) -> str:
    return f"{seconds:g} s" if seconds > 0.9 else f"{seconds * 1000:g} ms"
