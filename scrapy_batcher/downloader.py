"""Scrapy's downloader with one coroutine for a request, where Scrapy has three tasks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import scrapy.core.downloader
from scrapy import Request, signals
from scrapy.core.downloader.middleware import DownloaderMiddlewareManager
from scrapy.crawler import Crawler
from scrapy.exceptions import _InvalidOutput
from scrapy.http import Response
from scrapy.utils.defer import ensure_awaitable
from scrapy.utils.python import global_object_name

from scrapy_batcher.signalmanager import SignalManager


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
        self.middleware = _Middlewares(*self.middleware.middlewares, crawler=crawler)

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


class _Middlewares(DownloaderMiddlewareManager):
    """Scrapy's, but only what is neither a result nor nothing is awaited: Scrapy makes a coroutine of each result.

    Not documented, checked as above: ``methods``, ``_process_request()``, ``_process_response()``,
    ``_handle_mw_method()``, and ``scrapy.exceptions._InvalidOutput``.
    """

    async def _process_request(
        self, request: Request, download_func: Callable[[Request], Coroutine[Any, Any, Response]]
    ) -> Response | Request:
        for method in self.methods["process_request"]:
            assert method is not None, "only those of spider middlewares may be"
            result = self._handle_mw_method(method, request=request)
            if result is not None and not isinstance(result, (Response, Request)):
                result = await ensure_awaitable(result, _warn=global_object_name(method))
                if result is not None and not isinstance(result, (Response, Request)):
                    raise _wrong(method, "None, Response or Request", result)
            if result is not None:
                return result
        return await download_func(request)

    async def _process_response(self, response: Response | Request, request: Request) -> Response | Request:
        if not isinstance(response, Response):
            return await super()._process_response(response, request)
        for method in self.methods["process_response"]:
            assert method is not None, "only those of spider middlewares may be"
            result = self._handle_mw_method(method, request=request, response=response)
            if not isinstance(result, (Response, Request)):
                result = await ensure_awaitable(result, _warn=global_object_name(method))
                if not isinstance(result, (Response, Request)):
                    raise _wrong(method, "Response or Request", result)
            if isinstance(result, Request):
                return result
            response = result
        return response


def _wrong(method: Callable[..., Any], expected: str, result: object) -> _InvalidOutput:
    name = getattr(method, "__qualname__", method)
    return _InvalidOutput(f"Middleware {name} must return {expected}, got {type(result)}")
