"""`Histogram`: how many of the values that were noted are up to which bound."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Values, counted as Prometheus does it: each bucket has those up to its bound, that one included.

    It is noted for each page: prometheus_client's own takes two locks for that, and goes from bucket to bucket.

    :param bounds: in order; one more bucket, without a bound, has all values
    :ivar sum: of all values
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # above the bound before, up to this one
        self.sum = 0.0

    def note(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def buckets(self) -> list[tuple[float, int]]:
        """Each bound, and how many values are up to it."""
        return list(zip((*self._bounds, math.inf), accumulate(self._counts), strict=True))
