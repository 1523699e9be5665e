"""`Histogram`: buckets as Prometheus has them."""

from __future__ import annotations

import math

from scrapy_batcher.monitoring.histogram import Histogram


def test_buckets() -> None:
    """Each bucket has what is up to its bound, that one included; the last one has everything."""
    histogram = Histogram((1, 2.5, 10))
    for value in (0, 1, 1.1, 2.5, 10, 10.1, 1e9):
        histogram.note(value)
    assert histogram.buckets == [(1, 2), (2.5, 4), (10, 5), (math.inf, 7)]
    assert histogram.sum == 1e9 + 24.7


def test_nothing() -> None:
    """Without a value all buckets are there, and empty."""
    histogram = Histogram((1,))
    assert histogram.buckets == [(1, 0), (math.inf, 0)]
    assert histogram.sum == 0
