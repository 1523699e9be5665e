"""What a batch asks of Scrapy's engine: the one place that touches what Scrapy does not document."""

from __future__ import annotations

import logging
import sys
from functools import cached_property

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.log import logformatter_adapter
from twisted.python.failure import Failure

from scrapy_batcher.adapters.downloader import Downloader
from scrapy_batcher.adapters.scraper import Scraper
from scrapy_batcher.adapters.signalmanager import SignalManager

_logger = logging.getLogger("scrapy.core.engine")


class Engine:
    """The engine of *crawler*, as a batch sees it.

    Documented: ``ExecutionEngine.download_async`` and ``.close_spider_async``. Not documented, checked on Scrapy 2.18.0
    and 2.19.0, and used by tests/test_engine.py so that it fails when one goes away: ``ExecutionEngine._slot``
    (``add_request``, ``remove_request``, ``inprogress``, ``closing``, ``nextcall``), ``.running``, ``.paused``,
    ``.downloader.needs_backout()``, ``.downloader.active``, ``.downloader.slots`` with ``concurrency`` and ``delay`` in
    each, ``.scraper.slot.needs_backout()``; ``scrapy.utils.log.logformatter_adapter()``. What it needs of the scraper
    is in `Scraper`, of the downloader in `Downloader`.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._signals = SignalManager(crawler)
        self._anchor = Request("data:,batch")

    @cached_property
    def _scraper(self) -> Scraper:
        return Scraper(self._crawler)  # not before there is an engine

    async def download(self, request: Request) -> Response:
        """The response to *request*, through all downloader middlewares, retries and redirects; or what they raise.

        What ``download_async`` does, without turning one coroutine into a Deferred and that into a Future, twice; with
        a downloader of the project's own it is Scrapy's.
        """
        engine = self._crawler.engine
        if not isinstance(engine.downloader, Downloader):
            return await engine.download_async(request)
        while True:
            slot = engine._slot
            if slot is None:
                raise RuntimeError(f"there is no open spider to download {request} for")
            slot.add_request(request)
            try:
                result = await engine.downloader.fetch_async(request)
                if isinstance(result, Response):
                    self._received(result, request)
                    return result
            finally:
                slot.nextcall.schedule()  # there is room for one that the scheduler has
                slot.remove_request(request)
            request = result

    def _received(self, response: Response, request: Request) -> None:
        """Say that *response* is there, in the log and to whoever listens."""
        crawler, spider = self._crawler, self._crawler.spider
        assert spider is not None, "a batch runs while its spider is open"
        request = response.request = response.request or request
        if line := crawler.logformatter.crawled(request, response, spider):
            _logger.log(*logformatter_adapter(line), extra={"spider": spider})
        self._signals.send_catch_log(signals.response_received, response=response, request=request, spider=spider)

    async def scrape(self, result: Response | Failure, request: Request) -> None:
        """Hand *result* to spider middlewares, callback or errback, and item pipelines; returns when all are done."""
        await self._scraper.scrape(result, request)

    def hold(self) -> None:
        """Keep the engine from closing until `let_go`.

        While it closes, it waits for the requests that are in its slot, and a visit has none there between a redirect's
        two downloads, nor on its way from the downloader to the spider. So a request of ours sits there all the time.
        """
        slot = self._crawler.engine._slot
        assert slot is not None, "a batch runs while its spider is open"
        slot.add_request(self._anchor)

    def let_go(self) -> None:
        """End `hold`."""
        slot = self._crawler.engine._slot
        if slot is not None and self._anchor in slot.inprogress:
            slot.remove_request(self._anchor)

    def ask_scheduler(self) -> None:
        """Have the scheduler asked for a request in the loop's next turn: it may have one now."""
        if slot := self._crawler.engine._slot:
            slot.nextcall.schedule()

    def close(self, reason: str) -> None:
        """Begin to close the spider; it is closed after `let_go`."""
        deferred_from_coro(self._crawler.engine.close_spider_async(reason=reason))

    def is_active(self, request: Request) -> bool:
        """Whether *request* is on its way through the downloader middlewares, or is downloaded."""
        return request in self._crawler.engine.downloader.active

    def open_slot(self, request: Request, *, keep_delay: bool) -> None:
        """Let the downloader send *request*, which has just reached it, and those to come, without waiting: it has
        waited for our permits. Its own limits could not be changed, and its waits would be held against the others."""
        if slot := self._crawler.engine.downloader.slots.get(request.meta["download_slot"]):
            slot.concurrency = sys.maxsize
            if not keep_delay:
                slot.delay = 0.0

    @property
    def closing(self) -> bool:
        """Whether the spider is being closed: no more work then."""
        engine = self._crawler.engine
        return not engine.running or engine._slot is None or engine._slot.closing is not None

    @property
    def full(self) -> bool:
        """Whether more work has to wait: the downloads, or the pages in memory, are as many as may be, or the engine
        was paused by hand."""
        engine = self._crawler.engine
        assert engine.scraper.slot is not None, "a batch runs while its spider is open"
        return engine.paused or engine.downloader.needs_backout() or engine.scraper.slot.needs_backout()
