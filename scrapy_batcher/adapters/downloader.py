"""Scrapy's downloader with one coroutine for a request, where Scrapy has three tasks."""

from __future__ import annotations

from time import monotonic

import scrapy.core.downloader
from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.http import Response

from scrapy_batcher.adapters.middlewares import Middlewares
from scrapy_batcher.adapters.signalmanager import SignalManager


class Downloader(scrapy.core.downloader.Downloader):
    """A class for ``DOWNLOADER`` that does what Scrapy's own does, at less expense.

    A request that nothing holds back is not put into its slot's queue, to be taken out again: the download is awaited
    where the request came in. One that has to wait goes Scrapy's own way.

    What is used of ``scrapy.core.downloader.Downloader`` without being documented, checked on Scrapy 2.18.0 and 2.19.0:
    ``active``, ``middleware``, ``signals``, ``crawler``, ``DOWNLOAD_SLOT``, ``_get_slot()``, ``_enqueue_request()``,
    ``_download()``, and ``queue``, ``latercall``, ``delay``, ``free_transfer_slots()``, ``active``, ``lastseen`` of a
    slot. tests/test_downloader.py fails when one goes away.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self.signals = SignalManager(crawler)
        # Of those that are there: made once more, each would connect its signals twice.
        self.middleware = Middlewares(*self.middleware.middlewares, crawler=crawler)

    async def fetch_async(self, request: Request) -> Response | Request:
        """What the downloader middlewares, and the download between them, make of *request*; or what they raise.

        What ``fetch`` gives a Deferred of, for whoever can await, and goes on with it at once: a turn of the loop later
        the spider may have been taken for idle.
        """
        self.active.add(request)
        try:
            return await self.middleware.download_async(self._enqueue_request, request)
        finally:
            self.active.remove(request)

    async def _enqueue_request(self, request: Request) -> Response:
        key, slot = self._get_slot(request)
        if slot.queue or slot.latercall or slot.delay or slot.free_transfer_slots() <= 0:
            return await super()._enqueue_request(request)
        request.meta[self.DOWNLOAD_SLOT] = key
        slot.active.add(request)
        self.signals.send_catch_log(signals.request_reached_downloader, request=request, spider=self.crawler.spider)
        slot.lastseen = monotonic()
        try:
            return await self._download(slot, request)
        finally:
            slot.active.remove(request)
