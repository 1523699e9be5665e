"""Our stats collector is Scrapy's, but quicker."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred
from scrapy.exceptions import ScrapyDeprecationWarning
from scrapy.statscollectors import MemoryStatsCollector

from scrapy_batcher import BatchSpider
from scrapy_batcher.adapters.stats import StatsCollector
from tests.crawling import Pages, make_crawler, run
from tests.mockserver import MockServer

both = pytest.mark.parametrize("collector", [StatsCollector, MemoryStatsCollector])


@both
def test_counting(collector: type[MemoryStatsCollector]) -> None:
    """Every method does what Scrapy documents of it."""
    stats = collector(make_crawler(Pages))
    stats.open_spider()
    stats.set_value("a", 1)
    stats.inc_value("a")
    stats.inc_value("b", 2, start=5)
    stats.max_value("c", 3)
    stats.max_value("c", 2)
    stats.min_value("d", 3)
    stats.min_value("d", 2)
    assert stats.get_stats() == {"a": 2, "b": 7, "c": 3, "d": 2}
    assert (stats.get_value("a"), stats.get_value("z", 0)) == (2, 0)
    stats.set_stats({"e": 1})
    assert stats.get_stats() == {"e": 1}
    stats.close_spider(reason="finished")
    stats.clear_stats()
    assert stats.get_stats() == {}


@both
def test_a_spider_that_is_passed(collector: type[MemoryStatsCollector]) -> None:
    """It is told of as deprecated, and changes nothing."""
    stats = collector(make_crawler(Pages))
    with pytest.warns(ScrapyDeprecationWarning, match="'spider' argument"):
        stats.inc_value("a", spider=object())
    assert stats.get_value("a") == 1


@both
@ensureDeferred
async def test_a_batch_with_either(server: MockServer, urls, collector: type, caplog) -> None:
    """A project's own collector is the one that is used; what is dumped at the end is the same."""
    caplog.set_level("INFO")
    settings = {"STATS_CLASS": collector} if collector is MemoryStatsCollector else {}
    crawler = await run(BatchSpider, urls(server.url("page/one")), settings)
    assert type(crawler.stats) is collector
    assert crawler.stats.spider_stats["batch"]["batcher/outcomes/fetched"] == 1
    assert "'downloader/request_count': 1," in caplog.text
