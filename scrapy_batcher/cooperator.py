"""N workers on one shared iterator of claims: requests come into being one by one, each when its turn has come.

Example 8 of the batching walk-through this project grew from. Handing the *same* iterator to ``Cooperator.coiterate`` N
times makes N workers: each takes the next claim when the Deferred of its last one has fired, so there are never more
than N requests, however long the list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.http import Response
from scrapy.utils.asyncio import CallLaterResult, call_later
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from scrapy.utils.log import SpiderLoggerAdapter
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure

from scrapy_batcher.books import Books
from scrapy_batcher.config import Config, ConfigError
from scrapy_batcher.engine import Engine
from scrapy_batcher.errors import StartError, refuse
from scrapy_batcher.failures import FailuresFile
from scrapy_batcher.job import Job
from scrapy_batcher.loop import call_soon
from scrapy_batcher.outcome import Outcome, error_text, exception_of
from scrapy_batcher.progress import Totals
from scrapy_batcher.reader import Reader
from scrapy_batcher.rows import Target
from scrapy_batcher.signals import batch_finished
from scrapy_batcher.sources import Source

TARGET_KEY = "batcher_target"
"""The key of ``request.meta`` under which a request, its callback and its errback find their `Target`."""

_SLICE = 100  # rows entered into the ledger at a time: a few milliseconds, also when each is refused and logged
_POLL = 0.1  # seconds until workers that wait look again


@runtime_checkable
class Batch(Protocol):
    """A spider that `CooperatorExtension.run` can work for."""

    source: Source
    failures: str | None

    @property
    def logger(self) -> SpiderLoggerAdapter: ...

    def make_request(self, target: Target) -> Request: ...


class CooperatorExtension:
    """An extension that runs the batch of a spider, when the spider asks it to; for other spiders it does nothing.

    :param config: ``concurrency`` is the number of workers: how many targets are worked on at once
    :param failures: the failures file, if one is asked for
    """

    def __init__(self, crawler: Crawler, config: Config, failures: FailuresFile | None) -> None:
        self._crawler = crawler
        self._config = config
        self._failures = failures
        self._engine = Engine(crawler)
        self._jobs: dict[int, Job] = {}  # by the id of their target
        self._scraping: dict[Response | Failure, Job] = {}  # jobs in the spider or its pipelines, by what went in
        self._broken = False  # the ledger or the failures file cannot be written
        self._waiting: list[Deferred[None]] = []
        self._poll: CallLaterResult | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> CooperatorExtension:
        try:
            config = Config.from_settings(crawler.settings)
        except ConfigError as e:
            raise NotConfigured(str(e)) from e
        if not config.enabled:
            raise NotConfigured
        spider = crawler.spider
        failures = None
        if isinstance(spider, Batch):
            feeds = [str(uri).removeprefix("file://") for uri in crawler.settings.getdict("FEEDS")]
            failures = _prepare(spider, config, feeds)
        extension = cls(crawler, config, failures)
        for handler, signal in (
            (extension.request_reached_downloader, signals.request_reached_downloader),
            (extension.spider_error, signals.spider_error),
            (extension.item_scraped, signals.item_scraped),
            (extension.item_dropped, signals.item_dropped),
            (extension.item_error, signals.item_error),
            (extension.spider_closed, signals.spider_closed),
        ):
            crawler.signals.connect(handler, signal)
        return extension

    async def run(self, spider: Batch) -> Totals:
        """Fetch the whole list of *spider*; returns when the last job is over.

        Cancelled (Scrapy cancels a spider's ``start()`` when it is told to stop), the batch still ends in order: no
        more claims, and what is in flight is finished and settled before the spider closes.
        """
        over: Deferred[Totals] = Deferred()
        deferred_from_coro(self._run(spider)).addBoth(over.callback)
        return await maybe_deferred_to_future(over)

    async def _run(self, spider: Batch) -> Totals:
        started = time.monotonic()
        self._engine.hold()
        try:
            books = Books(self._config, self._crawler.stats, spider.logger, self._failures)
            reader = Reader(spider.source, self._wake)
            claims = self._claims(spider, books, reader)
            cooperator = Cooperator(scheduler=cast("Any", call_soon))  # whose result is only ever cancelled
            workers = [cooperator.coiterate(claims) for _ in range(self._config.concurrency)]
            results = await maybe_deferred_to_future(DeferredList(workers, consumeErrors=True))
            reader.stop()
            errors = [error_text(exception_of(result)) for _, result in results if isinstance(result, Failure)]
            if reader.error:
                errors.append(str(reader.error))
            totals = books.close(time.monotonic() - started, errors[0] if errors else None)
            await self._crawler.signals.send_catch_log_async(batch_finished, totals=totals, spider=spider)
            if totals.error and not self._engine.closing:
                self._engine.close("incomplete")
            return totals
        except Exception:
            # Whoever called run() may have been cancelled, and not be there to be told.
            spider.logger.exception("The batch broke")
            raise
        finally:
            self._engine.let_go()

    # -- the shared iterator ---------------------------------------------------------------------------------

    def _claims(self, spider: Batch, books: Books, reader: Reader) -> Iterator[Deferred[None] | None]:
        """What the workers take turns with: each step is a job, a wait, or (``None``) some rows read."""
        while not (self._engine.closing or self._broken):
            if self._engine.full:
                yield self._wait()
            elif target := books.claim():
                yield deferred_from_coro(self._work(spider, books, target))
            elif rows := reader.take(_SLICE):
                books.load(rows)
                yield None
            elif not reader.exhausted:
                yield self._wait()
            else:
                return

    def _wait(self) -> Deferred[None]:
        """Fires when there may be work again: Scrapy has room and nothing scheduled, a row was read, or time has passed
        in which the spider may have begun to close."""
        if not self._waiting:
            self._poll = call_later(_POLL, self._wake)
            self._crawler.signals.connect(self._wake, signals.scheduler_empty)
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def _wake(self) -> None:
        if not self._waiting:
            return
        if self._poll:
            self._poll.cancel()
        self._crawler.signals.disconnect(self._wake, signals.scheduler_empty)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    # -- one job ---------------------------------------------------------------------------------------------

    async def _work(self, spider: Batch, books: Books, target: Target) -> None:
        """Take *target* to its outcome: request, retries, redirects, callback or errback, all pipelines."""
        try:
            request = self._make_request(spider, books, target)
            if isinstance(request, Outcome):
                books.settle(target, request)
                return
            job = self._jobs[target.id] = Job(target, request)
            # By its id: with the job itself, request and job would hold each other until the garbage collector comes.
            request.errback = partial(self._failed, target.id, request.errback)
            try:
                await self._fetch(job)
            finally:
                del self._jobs[target.id]
            books.settle(target, job.outcome, job.attempts, size=job.bytes, told=job.told)
        except Exception:
            # What cannot be written down must not be fetched.
            self._broken = True
            raise

    def _make_request(self, spider: Batch, books: Books, target: Target) -> Request | Outcome:
        """The request for *target*, or why there is none."""
        try:
            request = spider.make_request(target)
            if not isinstance(request, Request):
                raise TypeError(f"make_request() must return a Request, not {request!r}")
            fingerprint = self._fingerprint(request) if self._config.skip_duplicates else None
        except ValueError as e:  # Request() refuses what is no URL
            return Outcome("skipped/invalid", error=error_text(e))
        except Exception as e:
            spider.logger.exception("make_request() failed for %r", target)
            return Outcome("failed/other", error=error_text(e))
        request.meta[TARGET_KEY] = target
        if fingerprint is not None and not books.see(fingerprint):
            return Outcome("skipped/duplicate", error="it was in the list before")
        return request

    def _fingerprint(self, request: Request) -> bytes:
        return self._crawler.request_fingerprinter.fingerprint(request)

    async def _fetch(self, job: Job) -> None:
        result: Response | Failure
        try:
            result = await self._engine.download(job.request)
        except (Exception, asyncio.CancelledError) as e:
            if isinstance(e, asyncio.CancelledError) and self._engine.closing:
                raise  # the process is being ended
            # Whatever it is, the errback and the outcome are for it.
            result = Failure()  # type: ignore[no-untyped-call]  # Twisted has no types there
        job.downloaded(result)
        self._scraping[result] = job
        try:
            await self._engine.scrape(result, job.request)
        finally:
            del self._scraping[result]

    def _failed(self, id: int, errback: Any, failure: Failure) -> Any:
        # A copy of the request that the callback makes takes this errback along: its failures are not the job's.
        request = failure.request  # type: ignore[attr-defined]  # Scrapy puts it there for the errback
        if (job := self._jobs.get(id)) and job.request is request:
            job.failed(failure)
            job.told = errback is not None
        return errback(failure) if errback else failure

    # -- what Scrapy tells of a job --------------------------------------------------------------------------

    def request_reached_downloader(self, request: Request) -> None:
        target = request.meta.get(TARGET_KEY)
        if isinstance(target, Target) and (job := self._jobs.get(target.id)) and not job.is_downloaded:
            job.request = request

    def spider_error(self, failure: Failure, response: Response | Failure) -> None:
        if job := self._scraping.get(response):
            job.broke("failed/callback", failure)

    def item_scraped(self, response: Response | Failure) -> None:
        if job := self._scraping.get(response):
            job.scraped()

    def item_dropped(self, response: Response | Failure, exception: Exception) -> None:
        if job := self._scraping.get(response):
            job.dropped(exception)

    def item_error(self, response: Response | Failure, failure: Failure) -> None:
        if job := self._scraping.get(response):
            job.broke("failed/pipeline", failure)

    def spider_closed(self, spider: object) -> None:
        """Close what was opened for a batch, also for one that never started."""
        if self._failures:
            self._failures.close()
        if isinstance(spider, Batch):
            spider.source.close()


def _prepare(spider: Batch, config: Config, feeds: list[str]) -> FailuresFile | None:
    """Check what *spider* needs beside its list, and open its failures file.

    :param feeds: where the items go
    """
    path = spider.failures or config.failures
    try:
        if not config.concurrency:
            raise refuse("CONCURRENT_REQUESTS is 0, no limit: a batch has as many workers, so it needs a number")
        for feed in feeds:
            if spider.source.is_file(feed):
                raise refuse(f"the feed {feed} is the list itself, which it would spoil: name another")
        if not path:
            return None
        if spider.source.is_file(path):
            raise refuse(f"the failures file {path} is the list itself, which it would overwrite: name another")
        if path in feeds:
            raise refuse(f"the failures file {path} is a feed too: name another")
        return FailuresFile(path)
    except OSError as e:
        spider.source.close()
        raise refuse(f"the failures file {path} cannot be written: {e.strerror}") from e
    except StartError:
        spider.source.close()
        raise
