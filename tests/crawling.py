"""Crawls inside the test's own process, on whichever reactor pytest was started with (``--reactor``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import scrapy
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from scrapy.utils.reactor import is_asyncio_reactor_installed
from twisted.internet.task import deferLater

from scrapy_batcher import BatchSpider, SemaphoreMiddleware, Totals
from scrapy_batcher.signals import batch_finished

CURL = "scrapy_batcher.fast.curl.CurlDownloadHandler"

TIMEOUT = 20  # seconds; for a crawl that never ends because something is broken, not a measure of speed

QUIET = {
    "TELNETCONSOLE_ENABLED": False,
    "REMOTE_CONTROL_ENABLED": False,
    "LOG_ENABLED": False,
    "RETRY_TIMES": 1,
    # So that nobody waits for what is tried again, or for a host that is to be left alone.
    "BATCHER_RETRY_SECONDS": 0.01,
    "BATCHER_REST_SECONDS": 0.01,
    "BATCHER_REST_MAX": 0.01,
    "BATCHER_FAILING_REST_MAX": 0.01,
}


class Pages(scrapy.Spider):
    """Requests the URLs it is given, and notes what came of each."""

    name = "pages"

    def __init__(self, urls: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.urls = urls
        self.statuses: list[int] = []
        self.errors: list[str] = []

    async def start(self):
        for number, url in enumerate(self.urls):
            yield scrapy.Request(url, errback=self.on_error, dont_filter=True, meta={"number": number})

    def parse(self, response):
        self.statuses.append(response.status)

    def on_error(self, failure):
        self.errors.append(failure.type.__name__)


def make_crawler(spider: type[scrapy.Spider], **settings: Any) -> Crawler:
    """A crawler that downloads with libcurl on asyncio's reactor, as the add-on has it; as Scrapy does elsewhere."""
    if is_asyncio_reactor_installed():
        settings = {"DOWNLOAD_HANDLERS": dict.fromkeys(("http", "https"), CURL), **settings}
    else:
        settings["TWISTED_REACTOR"] = None
    return Crawler(spider, Settings({**QUIET, **settings}))


async def crawl(
    spider: type[scrapy.Spider], *args: Any, settings: dict[str, Any] | None = None, **kwargs: Any
) -> Crawler:
    """Run *spider* to its end."""
    from twisted.internet import reactor

    crawler = make_crawler(spider, **(settings or {}))
    await crawler.crawl(*args, **kwargs).addTimeout(TIMEOUT, reactor)
    return crawler


async def run(spider: type[BatchSpider], path: str, settings: dict[str, Any] | None = None, **kwargs: Any):
    """Run a batch; returns its crawler, with what `batch_finished` carried as `totals`."""
    crawler = watched(spider, settings)
    await finish(crawler, path, **kwargs)
    return crawler


def watched(spider: type[BatchSpider], settings: dict[str, Any] | None = None):
    crawler = make_crawler(spider, **(settings or {}))
    crawler.all_totals = []

    def note(totals: Totals) -> None:
        crawler.all_totals.append(totals)

    crawler.note = note  # signals hold their handlers weakly
    crawler.signals.connect(note, batch_finished)
    return crawler


async def finish(crawler, path: str, **kwargs: Any) -> None:
    from twisted.internet import reactor

    await crawler.crawl(urls=path, **kwargs).addTimeout(30, reactor)
    assert len(crawler.all_totals) == 1
    crawler.totals = crawler.all_totals[0]
    assert crawler.totals.adds_up
    assert crawler.engine.spider is None, "the spider was closed"


async def until(condition: Callable[[], bool]) -> None:
    """Let the reactor run until *condition* holds."""
    from twisted.internet import reactor

    for _ in range(TIMEOUT * 100):
        if condition():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it never came to hold")


def semaphore_of(crawler: Crawler) -> SemaphoreMiddleware:
    middleware = crawler.get_downloader_middleware(SemaphoreMiddleware)
    assert middleware is not None
    return middleware
