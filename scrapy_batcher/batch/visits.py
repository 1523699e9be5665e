"""The visits that are under way: each takes a target to its outcome, and hears of it what Scrapy has to tell."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import DownloadTimeoutError
from scrapy.http import Response
from twisted.python.failure import Failure

from scrapy_batcher.adapters.engine import Engine
from scrapy_batcher.batch.books import Books
from scrapy_batcher.batch.opening import Batch
from scrapy_batcher.batch.turns import Turns
from scrapy_batcher.batch.visit import Visit
from scrapy_batcher.config import Config
from scrapy_batcher.jobs.lanes import Claim
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import DeadlineError, Outcome, error_text, retries_of
from scrapy_batcher.throttling.limiters import UnknownLimitError
from scrapy_batcher.throttling.rest import backoff
from scrapy_batcher.throttling.rules import LIMITS_KEY, Rules

_SHORTEST = 0.001  # seconds that a download is given whose target has none left

TARGET_KEY = "batcher_target"
"""The key of ``request.meta`` under which a request, its callback and its errback find their `Target`."""


class Postponed(BaseException):
    """Ends a visit until later. No ``except Exception`` must take it for a failure: not one of Scrapy's, which would
    have every middleware told, nor one of the project's.

    :ivar request: with which it is to be gone on
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.request = request


class Visits:
    """Those of the batch of *spider*; to be made when that is opened.

    :param turns: where a target goes that cannot be gone on with now
    :param clock: the Unix time
    :param uniform: a random number from 0 to 1
    """

    def __init__(
        self,
        crawler: Crawler,
        config: Config,
        engine: Engine,
        spider: Batch,
        books: Books,
        turns: Turns,
        rules: Rules,
        *,
        clock: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._crawler = crawler
        self._config = config
        self._engine = engine
        self._spider = spider
        self._books = books
        self._turns = turns
        self._rules = rules
        self._limits = rules.limits
        self._clock = clock
        self._uniform = uniform
        self._parked: dict[int, Visit] = {}  # begun and not gone on with, by the id of their target
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

    async def work(self, claim: Claim) -> bool:
        """Take the target of *claim* as far as it goes now: mostly to its outcome, by way of request, redirects,
        callback or errback, and all pipelines. A retry goes back to the ledger.

        :returns: whether something was downloaded, so that others have had their turns meanwhile
        """
        try:
            visit = self._parked.pop(claim.target.id, None) or self._begin(claim)
            if isinstance(visit, Outcome):
                self._books.settle(claim, visit, claim.retries)
            elif self._rules.hosts.is_given_up(visit.keys[0]):
                outcome = Outcome("skipped/host-gave-up", error="its host has not answered, again and again")
                self._books.settle(claim, outcome, claim.retries)
            elif self._limits.reserve(visit.request, visit.keys, instead_of=claim):
                await self._go_on(visit)
                return visit.is_begun
            else:
                self._park(visit)
            return False
        finally:
            self._limits.cancel(claim)

    def _begin(self, claim: Claim) -> Visit | Outcome:
        """The visit of *claim*, or why there is none."""
        target = claim.target
        try:
            request = self._spider.make_request(target)
            if not isinstance(request, Request):
                raise TypeError(f"make_request() must return a Request, not {request!r}")
            if names := self._rules.names_of(target):
                request.meta.setdefault(LIMITS_KEY, names)
            keys = self._rules.keys_of(request)
            fingerprinter = self._crawler.request_fingerprinter if self._config.skip_duplicates else None
            fingerprint = fingerprinter.fingerprint(request) if fingerprinter else None
        except UnknownLimitError as e:
            return Outcome("failed/other", error=error_text(e))
        except ValueError as e:  # Request() refuses what is no URL
            return Outcome("skipped/invalid", error=error_text(e))
        except Exception as e:
            self._spider.logger.exception("make_request() failed for %r", target)
            return Outcome("failed/other", error=error_text(e))
        request.meta[TARGET_KEY] = target
        if claim.retries:
            request.meta["retry_times"] = claim.retries
        if fingerprint is not None and not self._books.see(fingerprint, target):
            return Outcome("skipped/duplicate", error="it was in the list before")
        # By its id: with the visit itself, it and the request would hold each other until the collector comes.
        request.errback = partial(self._failed, target.id, request.errback)
        return Visit(claim, request, keys, claim.first)

    async def _go_on(self, visit: Visit) -> None:
        id = visit.target.id
        self._visits[id] = visit
        try:
            await self._fetch(visit)
        except Postponed as postponed:
            self._postpone(visit, postponed.request)
        else:
            self._books.settle(
                visit.claim, visit.outcome, visit.attempts, lines=visit.lines, answer=visit.answer, told=visit.told
            )
        finally:
            self._limits.cancel(visit.request)
            del self._visits[id]

    def _postpone(self, visit: Visit, request: Request) -> None:
        """Go on with *visit* later, by *request*."""
        retries = retries_of(request)
        if retries > retries_of(visit.request):
            first = visit.first or self._clock()  # it may have failed before it reached the downloader
            self._books.postpone(visit.claim, self._due(visit, retries), retries, first, visit.lines)
        else:
            visit.request, visit.keys = request, self._rules.keys_of(request)
            self._park(visit)

    def _park(self, visit: Visit) -> None:
        self._parked[visit.target.id] = visit
        self._turns.park(visit.claim, visit.keys)

    def _due(self, visit: Visit, retries: int) -> float:
        """When the target of *visit* is due, which was tried so often: when its host has rested, if it does; else, the
        later the more often it was tried."""
        rest = self._limits.wait(visit.keys)
        if not 0 < rest < math.inf:
            rest = backoff(retries, self._config.retry_seconds, self._config.retry_max, self._uniform)
        return self._clock() + rest

    def on_the_way(self, request: Request) -> None:
        """See whether *request*, which enters the downloader middlewares, can be gone on with.

        :raises Postponed: when it is one of a visit, and cannot
        """
        visit = self.visit_of(request)
        if not visit or request is visit.request or self._engine.is_active(visit.request):
            return  # none of ours; its first; one that a middleware makes to answer it
        if retries_of(request) > retries_of(visit.request):
            if self._config.retry_seconds or self._engine.closing:
                raise Postponed(request)
        else:
            self._limits.cancel(visit.request)  # of one that was answered before it came for its permits
            if not self._limits.reserve(request, self._rules.keys_of(request)):
                raise Postponed(request)
        visit.request = request

    async def _fetch(self, visit: Visit) -> None:
        result: Response | Failure
        try:
            result = await self._download(visit)
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

    async def _download(self, visit: Visit) -> Response:
        """The response to the request of *visit*.

        :raises DeadlineError: when there is none, and will be none before the deadline
        :raises Postponed: when it is to be gone on with later
        """
        try:
            self._check_deadline(visit, self._clock())
        except DeadlineError:
            if not visit.is_begun:
                visit.request.meta["retry_times"] = visit.claim.retries - 1  # this one is not an attempt
            raise
        try:
            return await self._engine.download(visit.request)
        except Postponed as postponed:
            retries = retries_of(postponed.request)
            is_retry = retries > retries_of(visit.request)
            self._check_deadline(visit, self._due(visit, retries) if is_retry else self._clock())
            raise
        except DownloadTimeoutError:
            self._check_deadline(visit, self._clock() + _SHORTEST)
            raise

    def _check_deadline(self, visit: Visit, time: float) -> None:
        seconds = self._config.deadline
        if seconds and visit.first is not None and time >= visit.first + seconds:
            raise DeadlineError(f"not fetched within {seconds:g} seconds")

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
        visit = self.visit_of(request)
        if visit and request is visit.request:
            now = self._clock()
            visit.first, visit.is_begun = visit.first or now, True
            if self._config.deadline:
                left = max(visit.first + self._config.deadline - now, _SHORTEST)
                timeout = request.meta.get("download_timeout") or left
                request.meta["download_timeout"] = min(timeout, left)

    def visit_of(self, request: Request) -> Visit | None:
        """The visit that *request*, which is not downloaded yet, may have been made for."""
        target = request.meta.get(TARGET_KEY)
        visit = self._visits.get(target.id) if isinstance(target, Target) else None
        return visit if visit and not visit.is_downloaded else None

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
