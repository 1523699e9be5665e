"""The Scrapy project that the benchmarks run: settings, an ordinary spider, and what looks at a crawl from inside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import scrapy
from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.defer import maybe_deferred_to_future

BOT_NAME = "benchmarks"
SPIDER_MODULES = ["benchmark_project", "scrapy_batcher.spider"]
EXTENSIONS = {"benchmark_project.Clock": 0, "benchmark_project.Leave": 0, "benchmark_project.Report": 1000}
LOG_LEVEL = "INFO"
TELNETCONSOLE_ENABLED = False
REMOTE_CONTROL_ENABLED = False

TICK = 0.005  # seconds
LOOK = 0.1  # seconds between two looks at the open files
LOADED = 2.0  # seconds after which the rows that were read ahead are in the ledger, too


class PlainSpider(scrapy.Spider):
    """What one writes without scrapy-batcher: a loop over the file, and the same item as the batch spider's."""

    name = "plain"

    def __init__(self, urls: str) -> None:
        super().__init__()
        self.urls = urls

    async def start(self):
        for line in open(self.urls):  # noqa: SIM115 - as one writes it
            yield scrapy.Request(line.strip())

    def parse(self, response):
        yield {"url": response.url, "length": len(response.body), "content": response.text}


class WorkersSpider(PlainSpider):
    """The batch spider's way without its books: workers on one iterator over the file, and nothing else."""

    name = "workers"

    async def start(self):
        with open(self.urls) as lines:
            await asyncio.gather(*(self._work(lines) for _ in range(self.settings.getint("CONCURRENT_REQUESTS"))))
        for nothing in ():
            yield nothing

    async def _work(self, lines):
        engine = self.crawler.engine
        for line in lines:
            request = scrapy.Request(line.strip(), callback=self.parse, dont_filter=True)
            response = await engine.download_async(request)
            # Not documented: scrapy_batcher/adapters/engine.py says more.
            await maybe_deferred_to_future(engine.scraper.enqueue_scrape(response, request))

    def parse(self, response):
        return [*super().parse(response)]


class Report:
    """With the setting ``REPORT``, a path: writes Scrapy's stats there."""

    def __init__(self, crawler) -> None:
        self._crawler = crawler
        crawler.signals.connect(self.spider_closed, signals.spider_closed)

    @classmethod
    def from_crawler(cls, crawler) -> Report:
        if not crawler.settings["REPORT"]:
            raise NotConfigured
        return cls(crawler)

    def spider_closed(self) -> None:
        Path(self._crawler.settings["REPORT"]).write_text(json.dumps(self._crawler.stats.get_stats(), default=str))


class Clock:
    """With the setting ``CLOCK``: when the engine had started, the first request left and the last response came, in
    seconds since the spider was opened, and the longest time in which the event loop did not come round."""

    def __init__(self, crawler) -> None:
        self._stats = crawler.stats
        for handler in (
            self.spider_opened,
            self.engine_started,
            self.request_reached_downloader,
            self.response_received,
            self.spider_closed,
        ):
            crawler.signals.connect(handler, getattr(signals, handler.__name__))

    @classmethod
    def from_crawler(cls, crawler) -> Clock:
        if not crawler.settings.getbool("CLOCK"):
            raise NotConfigured
        return cls(crawler)

    def spider_opened(self) -> None:
        self._opened = self._ticked = time.monotonic()
        self._first = self._last = None
        self._stall = 0.0
        self._tick()

    def engine_started(self) -> None:
        self._started = time.monotonic() - self._opened

    def _tick(self) -> None:
        now = time.monotonic()
        self._stall = max(self._stall, now - self._ticked - TICK)
        self._ticked = now
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def request_reached_downloader(self) -> None:
        self._first = self._first or time.monotonic() - self._opened

    def response_received(self) -> None:
        self._last = time.monotonic() - self._opened

    def spider_closed(self) -> None:
        self._timer.cancel()
        self._stats.set_value("engine_started", self._started)
        self._stats.set_value("first_request", self._first)
        self._stats.set_value("last_response", self._last)
        self._stats.set_value("stall", self._stall)


class Leave:
    """With the setting ``LEAVE``, a list's path: closes the spider when that was read to its end. No later than then
    its file is closed, which is seen from outside, however it is read. A crawl that is done before is not kept."""

    def __init__(self, crawler, path: str) -> None:
        self._crawler = crawler
        self._path = os.path.realpath(path)
        crawler.signals.connect(self.spider_opened, signals.spider_opened)
        crawler.signals.connect(self.spider_closed, signals.spider_closed)

    @classmethod
    def from_crawler(cls, crawler) -> Leave:
        if not crawler.settings["LEAVE"]:
            raise NotConfigured
        return cls(crawler, crawler.settings["LEAVE"])

    def spider_opened(self) -> None:
        self._opened = time.monotonic()
        self._look()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_open():
            self._timer = loop.call_later(LOOK, self._look)
        else:
            self._crawler.stats.set_value("list_read", time.monotonic() - self._opened)
            self._timer = loop.call_later(LOADED, self._close)

    def _is_open(self) -> bool:
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # that of iterdir() itself
                if os.readlink(link) == self._path:
                    return True
        return False

    def _close(self) -> None:
        self._closing = asyncio.ensure_future(self._crawler.engine.close_spider_async(reason="list read"))

    def spider_closed(self) -> None:
        self._timer.cancel()
