"""The downloader middlewares, asked one after the other without a coroutine for each."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any

from scrapy import Request
from scrapy.core.downloader.middleware import DownloaderMiddlewareManager
from scrapy.crawler import Crawler
from scrapy.exceptions import _InvalidOutput
from scrapy.http import Response
from scrapy.utils.defer import ensure_awaitable
from scrapy.utils.python import global_object_name

from scrapy_batcher.adapters.shortcuts import Method, shortcut

Download = Callable[[Request], Coroutine[Any, Any, Response]]


class Middlewares(DownloaderMiddlewareManager):
    """Scrapy's manager of *middlewares*, but only what is neither a result nor nothing is awaited, where Scrapy makes a
    coroutine of each result, and what Scrapy's own do is done by their `shortcut`.

    Not documented, checked on Scrapy 2.18.0 and 2.19.0: ``methods``, ``_process_request()``, ``_process_response()``,
    ``_handle_mw_method()``, ``_mw_methods_requiring_spider``, and ``scrapy.exceptions._InvalidOutput``.
    tests/test_downloader.py fails when one goes away.
    """

    def __init__(self, *middlewares: Any, crawler: Crawler) -> None:
        super().__init__(*middlewares, crawler=crawler)
        self._of_requests = [self._short(method) for method in self.methods["process_request"]]
        self._of_responses = [self._short(method) for method in self.methods["process_response"]]

    def _short(self, method: Method | None) -> tuple[Method, Method]:
        """*method*, and what does the same for less."""
        assert method is not None, "only those of spider middlewares may be"
        if method in self._mw_methods_requiring_spider:
            return method, partial(self._handle_mw_method, method)
        return method, shortcut(method)

    async def _process_request(self, request: Request, download_func: Download) -> Response | Request:
        for method, short in self._of_requests:
            result = short(request=request)
            if result is None:
                continue
            if not isinstance(result, (Response, Request)):
                is_coroutine = type(result) is CoroutineType
                result = await (result if is_coroutine else ensure_awaitable(result, _warn=global_object_name(method)))
                if result is None:
                    continue
                if not isinstance(result, (Response, Request)):
                    raise _wrong(method, "None, Response or Request", result)
            return result
        return await download_func(request)

    async def _process_response(self, response: Response | Request, request: Request) -> Response | Request:
        if not isinstance(response, Response):
            return await super()._process_response(response, request)
        for method, short in self._of_responses:
            result = short(request=request, response=response)
            if result is response:
                continue
            if not isinstance(result, (Response, Request)):
                result = await ensure_awaitable(result, _warn=global_object_name(method))
                if not isinstance(result, (Response, Request)):
                    raise _wrong(method, "Response or Request", result)
            if isinstance(result, Request):
                return result
            response = result
        return response


def _wrong(method: Method, expected: str, result: object) -> _InvalidOutput:
    name = getattr(method, "__qualname__", method)
    return _InvalidOutput(f"Middleware {name} must return {expected}, got {type(result)}")
