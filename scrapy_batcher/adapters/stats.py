"""Scrapy's stats, counted at less expense."""

from __future__ import annotations

from scrapy.crawler import Crawler
from scrapy.statscollectors import MemoryStatsCollector

_METHODS = (
    "get_value",
    "get_stats",
    "set_value",
    "set_stats",
    "inc_value",
    "max_value",
    "min_value",
    "clear_stats",
    "open_spider",
    "close_spider",
)


class StatsCollector(MemoryStatsCollector):
    """A class for ``STATS_CLASS``: what Scrapy's own collector does at each access to an attribute of it, to warn of
    the argument ``spider``, is done once for each of its methods. A page is counted about twelve times.

    Not documented, checked on Scrapy 2.18.0 and 2.19.0: that the collector's ``__getattribute__`` gives a method that
    warns. tests/test_stats.py fails when that goes away.
    """

    __getattribute__ = object.__getattribute__

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        for name in _METHODS:
            setattr(self, name, MemoryStatsCollector.__getattribute__(self, name))
