"""The visits that are under way: each takes a target to its outcome, and hears of it what Scrapy has to tell."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.http import Response
from twisted.python.failure import Failure

from scrapy_batcher.books import Books
from scrapy_batcher.config import Config
from scrapy_batcher.engine import Engine
from scrapy_batcher.opening import Batch
from scrapy_batcher.outcome import Outcome, error_text
from scrapy_batcher.rows import Target
from scrapy_batcher.visit import Visit

TARGET_KEY = "batcher_target"
"""The key of ``request.meta`` under which a request, its callback and its errback find their `Target`."""


class Visits:
    """Those of the batch of *spider*; to be made when that is opened."""

    def __init__(self, crawler: Crawler, config: Config, engine: Engine, spider: Batch, books: Books) -> None:
        self._crawler = crawler
        self._config = config
        self._engine = engine
        self._spider = spider
        self._books = books
        self._visits: dict[int, Visit] = {}  # by the id of their target
        self._scraping: dict[Response | Failure, Visit] = {}  # visits in the spider or its pipelines, by what went in
        for handler, signal in (
            (self.request_scheduled, signals.request_scheduled),
            (self.request_reached_downloader, signals.request_reached_downloader),
            (self.spider_error, signals.spider_error),
            # Connected behind Scrapy's feed exporter, which like all extensions connects before a spider is opened:
            # what the exporter has written when we are told of an item is that item.
            (self.item_scraped, signals.item_scraped),
            (self.item_dropped, signals.item_dropped),
            (self.item_error, signals.item_error),
        ):
            crawler.signals.connect(handler, signal)

    async def work(self, target: Target) -> None:
        """Take *target* to its outcome: request, retries, redirects, callback or errback, all pipelines."""
        try:
            request = self._make_request(target)
            if isinstance(request, Outcome):
                self._books.settle(target, request)
                return
            visit = self._visits[target.id] = Visit(target, request)
            # By its id: with the visit itself, it and the request would hold each other until the collector comes.
            request.errback = partial(self._failed, target.id, request.errback)
            try:
                await self._fetch(visit)
            finally:
                del self._visits[target.id]
            self._books.settle(
                target, visit.outcome, visit.attempts, lines=visit.lines, size=visit.bytes, told=visit.told
            )
        except Exception as e:
            # What cannot be written down must not be fetched.
            self._books.fail(e)
            raise

    def _make_request(self, target: Target) -> Request | Outcome:
        """The request for *target*, or why there is none."""
        try:
            request = self._spider.make_request(target)
            if not isinstance(request, Request):
                raise TypeError(f"make_request() must return a Request, not {request!r}")
            fingerprint = self._fingerprint(request) if self._config.skip_duplicates else None
        except ValueError as e:  # Request() refuses what is no URL
            return Outcome("skipped/invalid", error=error_text(e))
        except Exception as e:
            self._spider.logger.exception("make_request() failed for %r", target)
            return Outcome("failed/other", error=error_text(e))
        request.meta[TARGET_KEY] = target
        if fingerprint is not None and not self._books.see(fingerprint, target):
            return Outcome("skipped/duplicate", error="it was in the list before")
        return request

    def _fingerprint(self, request: Request) -> bytes:
        return self._crawler.request_fingerprinter.fingerprint(request)

    async def _fetch(self, visit: Visit) -> None:
        result: Response | Failure
        try:
            result = await self._engine.download(visit.request)
        except (Exception, asyncio.CancelledError) as e:
            if isinstance(e, asyncio.CancelledError) and self._engine.closing:
                raise  # the process is being ended
            # Whatever it is, the errback and the outcome are for it.
            result = Failure()  # type: ignore[no-untyped-call]  # Twisted has no types there
        first = result.request if isinstance(result, Response) else None
        if first and first.meta.get(TARGET_KEY, visit.target) is not visit.target:
            # A middleware has given one response to several requests: it still has the first of them.
            result = cast("Response", result).replace(request=visit.request)
        visit.downloaded(result)
        self._scraping[result] = visit
        try:
            await self._engine.scrape(result, visit.request)
        finally:
            del self._scraping[result]

    def _failed(self, id: int, errback: Any, failure: Failure) -> Any:
        # A copy of the request that the callback makes takes this errback along: its failures are not the visit's.
        request = failure.request  # type: ignore[attr-defined]  # Scrapy puts it there for the errback
        if (visit := self._visits.get(id)) and visit.request is request:
            visit.failed(failure)
            visit.told = errback is not None
        return errback(failure) if errback else failure

    # -- what Scrapy tells ------------------------------------------------------------------------------------

    def request_scheduled(self, request: Request) -> None:
        # A copy of a visit's request that a callback makes: it gets its own errback back, which Scrapy can keep in the
        # job directory, as it can nothing but the spider's methods.
        if isinstance(request.errback, partial) and request.errback.func == self._failed:
            request.errback = request.errback.args[1]

    def request_reached_downloader(self, request: Request) -> None:
        target = request.meta.get(TARGET_KEY)
        if isinstance(target, Target) and (visit := self._visits.get(target.id)) and not visit.is_downloaded:
            visit.request = request

    def spider_error(self, failure: Failure, response: Response | Failure) -> None:
        if visit := self._scraping.get(response):
            visit.broke("failed/callback", failure)

    def item_scraped(self, response: Response | Failure | None) -> None:
        lines, is_whole = self._books.take_lines()
        if visit := self._scraping.get(response) if response else None:
            visit.scraped(lines, is_whole)
        else:
            self._books.append(lines)  # of a further request, which has no outcome

    def item_dropped(self, response: Response | Failure, exception: Exception) -> None:
        if visit := self._scraping.get(response):
            visit.dropped(exception)

    def item_error(self, response: Response | Failure, failure: Failure) -> None:
        if visit := self._scraping.get(response):
            visit.broke("failed/pipeline", failure)
