"""A response on its way through spider middlewares, callback and item pipelines, without a task for each step of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import AsyncIterator, Iterable
from typing import Any

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import ScrapyDeprecationWarning
from scrapy.http import Response
from scrapy.spidermiddlewares.base import BaseSpiderMiddleware
from scrapy.spidermiddlewares.depth import DepthMiddleware
from scrapy.utils.asyncio import sleep
from scrapy.utils.defer import aiter_errback, ensure_awaitable, maybe_deferred_to_future
from scrapy.utils.misc import warn_on_generator_with_return_value
from scrapy.utils.spider import iterate_spider_output
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from scrapy_batcher.adapters.signalmanager import SignalManager

_logger = logging.getLogger("scrapy.core.scraper")

_TURN = 10  # items and requests of one callback, after which others have their turn


class Scraper:
    """The way that Scrapy's scraper of *crawler* has, whose engine is to be there; shorter where that is the same.

    Documented: ``BaseSpiderMiddleware``. Not documented, checked on Scrapy 2.18.0 and 2.19.0, and used by
    tests/test_scraper.py so that it fails when one goes away: ``ExecutionEngine.scraper`` with ``concurrent_items``,
    ``signals``, ``enqueue_scrape()``, ``call_spider_async()``, ``handle_spider_error()``, ``start_itemproc_async()``,
    ``_check_if_closing()``, ``slot.add_response_request()``, ``.next_response_request_deferred()`` and
    ``.finish_response()``, ``spidermw.middlewares`` and ``.scrape_response_async()``; ``aiter_errback()``,
    ``Spider._parse()``, ``warn_on_generator_with_return_value()``, ``iterate_spider_output()``.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._engine = crawler.engine
        self._crawler = crawler
        self._scraper = self._engine.scraper
        self._spidermw = self._scraper.spidermw
        self._leaves_items = all(leaves_items(middleware) for middleware in self._spidermw.middlewares)
        self._depth = [middleware for middleware in self._spidermw.middlewares if type(middleware) is DepthMiddleware]
        self._scraper.signals = SignalManager(crawler)
        self._checked: object = None  # the callback of the last response

    async def scrape(self, result: Response | Failure, request: Request) -> None:
        """Hand *result* to spider middlewares, callback or errback, and item pipelines; returns when all are done.

        What ``enqueue_scrape`` does. With ``CONCURRENT_ITEMS`` at 1 a response is taken through here, where Scrapy has
        a queue and three tasks for it.
        """
        if self._scraper.concurrent_items != 1 or not isinstance(result, Response):
            await maybe_deferred_to_future(self._scraper.enqueue_scrape(result, request))
            return
        slot = self._scraper.slot
        assert slot is not None, "a batch runs while its spider is open"
        # Counted as one that waits, and at once as one that does no more: Scrapy's queue is empty whenever we look.
        slot.add_response_request(result, request)
        slot.next_response_request_deferred()
        try:
            await self._scrape(result, request)
        except Exception:
            _logger.exception("Scraper bug processing %s", request, extra={"spider": self._crawler.spider})
        finally:
            slot.finish_response(result, request)
            self._scraper._check_if_closing()

    async def _scrape(self, response: Response, request: Request) -> None:
        items: Any = None

        async def call_spider(result: Response | Failure, request: Request) -> Iterable[Any] | AsyncIterator[Any]:
            nonlocal items
            output = await self._call_spider(result, request)
            if not (self._leaves_items and _is_one_item(output)):
                return output
            items = output
            return ()  # nothing for the middlewares

        try:
            output = await self._spidermw.scrape_response_async(call_spider, response, request)
        except Exception:  # noqa: BLE001 - it says so in the log
            failure = Failure()  # type: ignore[no-untyped-call]  # Twisted has no types there
            self._scraper.handle_spider_error(failure, request, response)
            return
        if items is None:
            count = 0
            async for result in aiter_errback(output, self._scraper.handle_spider_error, request, response):
                await self._process(result, response)
                count += 1
                if count % _TURN == 0:
                    await sleep(0)
            return
        for middleware in self._depth:
            for _ in middleware.process_spider_output(response, ()):
                pass
        for item in items:
            await self._process(item, response)

    async def _call_spider(self, result: Response | Failure, request: Request) -> Iterable[Any] | AsyncIterator[Any]:
        """What ``call_spider_async`` does, without its two turns of the loop, in which others may read and write: a
        worker has them between two visits."""
        if not isinstance(result, Response):
            return await self._scraper.call_spider_async(result, request)
        spider = self._crawler.spider
        assert spider is not None, "a batch runs while its spider is open"
        request = result.request = result.request or request
        callback = request.callback or spider._parse
        if callback != self._checked:
            self._checked = callback
            warn_on_generator_with_return_value(spider, callback)
        output = callback(result, **request.cb_kwargs)
        if type(output) is list:
            return output
        if isinstance(output, Deferred):
            warnings.warn(
                f"{callback} returned a Deferred. Returning Deferreds from spider callbacks is deprecated.",
                ScrapyDeprecationWarning,
                stacklevel=2,
            )
        return await ensure_awaitable(iterate_spider_output(output))

    async def _process(self, result: Any, response: Response) -> None:
        if isinstance(result, Request):
            self._engine.crawl(result)
        elif result is not None:
            await self._scraper.start_itemproc_async(result, response=response)


def _is_one_item(output: object) -> bool:
    return type(output) is list and (not output or (len(output) == 1 and not isinstance(output[0], Request)))


def leaves_items(middleware: object) -> bool:
    """Whether *middleware* gives each item on as it is: it has nothing to do with what spiders put out, or does what
    its base class does, which is documented, and has requests in mind alone."""
    cls = type(middleware)
    if not hasattr(middleware, "process_spider_output"):
        return True
    if not issubclass(cls, BaseSpiderMiddleware):
        return False
    names = ["get_processed_item", "_get_processed"]
    if cls is not DepthMiddleware:
        names += ["process_spider_output", "process_spider_output_async"]
    return all(getattr(cls, name) is getattr(BaseSpiderMiddleware, name) for name in names)
