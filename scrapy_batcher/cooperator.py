"""N workers on one shared iterator of claims: requests come into being one by one, each when its turn has come.

Example 8 of the batching walk-through this project grew from. Handing the *same* iterator to ``Cooperator.coiterate`` N
times makes N workers: each takes the next claim when the Deferred of its last one has fired, so there are never more
than N requests, however long the list.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.http import Response
from scrapy.utils.asyncio import CallLaterResult, call_later
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure

from scrapy_batcher.config import Config, ConfigError
from scrapy_batcher.engine import Engine
from scrapy_batcher.errors import StartError, refuse
from scrapy_batcher.failures import FailuresFile
from scrapy_batcher.job import Job
from scrapy_batcher.ledger import Ledger
from scrapy_batcher.loop import call_soon
from scrapy_batcher.outcome import FETCHED, Outcome, error_text
from scrapy_batcher.progress import Totals, summary
from scrapy_batcher.reader import Reader
from scrapy_batcher.rows import Target
from scrapy_batcher.signals import batch_finished
from scrapy_batcher.sources import Source

logger = logging.getLogger(__name__)

TARGET_KEY = "batcher_target"
"""The key of ``request.meta`` under which a request, its callback and its errback find their `Target`."""

_SLICE = 500  # rows entered into the ledger at a time: a few milliseconds
_POLL = 0.1  # seconds until workers that wait look again


@runtime_checkable
class Batch(Protocol):
    """A spider that `CooperatorExtension.run` can work for."""

    source: Source
    failures: str | None

    def make_request(self, target: Target) -> Request: ...


class CooperatorExtension:
    """An extension that runs the batch of a spider, when the spider asks it to; for other spiders it does nothing.

    :param width: workers: how many targets are worked on at once
    :param failures: the failures file, if one is asked for
    """

    def __init__(self, crawler: Crawler, config: Config, width: int, failures: FailuresFile | None) -> None:
        self._crawler = crawler
        self._config = config
        self._width = width
        self._failures = failures
        self._engine = Engine(crawler)
        self._jobs: dict[int, Job] = {}  # by the id of their target
        self._scraping: dict[Response | Failure, Job] = {}  # jobs in the spider or its pipelines, by what went in
        self._counts: Counter[str] = Counter()  # outcomes, counted here to check the ledger's count against
        self._read = 0
        self._bytes = 0
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
        failures = None
        if isinstance(spider := crawler.spider, Batch):
            try:
                _check_width(config)
                failures = _open_failures(spider.failures or config.failures, spider.source)
            except StartError:
                spider.source.close()
                raise
        extension = cls(crawler, config, config.concurrency, failures)
        for handler, signal in (
            (extension.request_reached_downloader, signals.request_reached_downloader),
            (extension.spider_error, signals.spider_error),
            (extension.item_scraped, signals.item_scraped),
            (extension.item_dropped, signals.item_dropped),
            (extension.item_error, signals.item_error),
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
            self._ledger = Ledger()
            self._reader = Reader(spider.source, self._wake)
            claims = self._claims(spider)
            cooperator = Cooperator(scheduler=call_soon)
            workers = DeferredList([cooperator.coiterate(claims) for _ in range(self._width)], consumeErrors=True)
            results = await maybe_deferred_to_future(workers)
            error = next((error_text(result.value) for ok, result in results if not ok), None)
            totals = self._close_books(error, time.monotonic() - started)
            await self._crawler.signals.send_catch_log_async(batch_finished, totals=totals, spider=spider)
            return totals
        finally:
            self._engine.let_go()

    # -- the shared iterator --------------------------------------------------------------------------------------------

    def _claims(self, spider: Batch) -> Iterator[Deferred[None] | None]:
        """What the workers take turns with: each step is a job, a wait, or (``None``) some rows read."""
        while not (self._engine.closing or self._broken):
            if self._engine.full:
                yield self._wait()
            elif target := self._ledger.claim():
                yield deferred_from_coro(self._work(spider, target))
            elif rows := self._reader.take(_SLICE):
                yield self._load(rows)
            elif not self._reader.exhausted:
                yield self._wait()
            else:
                return

    def _load(self, targets: list[Target]) -> None:
        self._read += len(targets)
        self._ledger.load(targets)
        for target in targets:
            if outcome := self._refusal(target):
                self._settle(target, outcome, 0, tell=True)

    def _refusal(self, target: Target) -> Outcome | None:
        """Why *target* is not even tried."""
        if target.error:
            return Outcome("skipped/invalid", error=target.error)
        scheme = target.url.partition(":")[0].lower()
        if scheme not in self._config.schemes:
            return Outcome("skipped/unsupported-scheme", error=f"{scheme} is not in BATCHER_SCHEMES")
        if 0 < self._config.url_length < len(target.url):
            return Outcome("skipped/filtered", error=f"longer than URLLENGTH_LIMIT ({self._config.url_length})")
        return None

    def _wait(self) -> Deferred[None]:
        """Fires when there may be work again; one timer serves all who wait."""
        self._poll = self._poll or call_later(_POLL, self._wake)
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def _wake(self) -> None:
        if self._poll:
            self._poll.cancel()
            self._poll = None
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    # -- one job --------------------------------------------------------------------------------------------------------

    async def _work(self, spider: Batch, target: Target) -> None:
        """Take *target* to its outcome: request, retries, redirects, callback or errback, all pipelines."""
        try:
            request = self._make_request(spider, target)
            if isinstance(request, Outcome):
                self._settle(target, request, 0, tell=True)
                return
            job = self._jobs[target.id] = Job(target, request)
            # By its id: with the job itself, request and job would hold each other until the garbage collector comes.
            request.errback = partial(self._failed, target.id, request.errback)
            try:
                await self._fetch(job)
            finally:
                del self._jobs[target.id]
            self._bytes += job.bytes if job.outcome.name == FETCHED else 0
            self._settle(target, job.outcome, job.attempts, tell=not job.told)
        except Exception:
            # What cannot be written down must not be fetched.
            self._broken = True
            raise

    async def _fetch(self, job: Job) -> None:
        result: Response | Failure
        try:
            result = await self._engine.download(job.request)
        except Exception:  # noqa: BLE001 - whatever it is, the errback and the outcome are for it
            result = Failure()
        job.downloaded(result)
        self._scraping[result] = job
        try:
            await self._engine.scrape(result, job.request)
        finally:
            del self._scraping[result]

    def _make_request(self, spider: Batch, target: Target) -> Request | Outcome:
        """The request for *target*, or why there is none."""
        try:
            request = spider.make_request(target)
            if not isinstance(request, Request):
                raise TypeError(f"make_request() must return a Request, not {request!r}")
        except ValueError as e:  # Request() refuses what is no URL
            return Outcome("skipped/invalid", error=error_text(e))
        except Exception as e:
            logger.exception("make_request() failed", extra={"spider": spider})
            return Outcome("failed/other", error=error_text(e))
        request.meta[TARGET_KEY] = target
        if self._config.skip_duplicates:
            fingerprint = self._crawler.request_fingerprinter.fingerprint(request)
            if not self._ledger.see(fingerprint):
                return Outcome("skipped/duplicate", error="it was in the list before")
        return request

    def _failed(self, id: int, errback: Any, failure: Failure) -> Any:
        if job := self._jobs.get(id):
            job.failed(failure.value)
            job.told = errback is not None
        return errback(failure) if errback else failure

    def _settle(self, target: Target, outcome: Outcome, attempts: int, *, tell: bool) -> None:
        self._ledger.settle(target, outcome, attempts)
        self._counts[outcome.name] += 1
        self._crawler.stats.inc_value(f"batcher/outcomes/{outcome.name}")
        if outcome.name == FETCHED:
            return
        if tell:
            logger.warning(outcome.describe(target, attempts), extra={"spider": self._crawler.spider})
        if self._failures:
            self._failures.write(target, outcome, attempts)

    # -- what Scrapy tells of a job -------------------------------------------------------------------------------------

    def request_reached_downloader(self, request: Request) -> None:
        target = request.meta.get(TARGET_KEY)
        if isinstance(target, Target) and (job := self._jobs.get(target.id)):
            job.request = request

    def spider_error(self, failure: Failure, response: Response | Failure) -> None:
        if job := self._scraping.get(response):
            job.broke("failed/callback", failure.value)

    def item_scraped(self, response: Response | Failure) -> None:
        if job := self._scraping.get(response):
            job.scraped()

    def item_dropped(self, response: Response | Failure, exception: Exception) -> None:
        if job := self._scraping.get(response):
            job.dropped(exception)

    def item_error(self, response: Response | Failure, failure: Failure) -> None:
        if job := self._scraping.get(response):
            job.broke("failed/pipeline", failure.value)

    # -- the end --------------------------------------------------------------------------------------------------------

    def _close_books(self, error: str | None, seconds: float) -> Totals:
        self._reader.stop()
        if error is None and self._reader.error is not None:
            error = str(self._reader.error)
        tally = self._ledger.tally()
        totals = Totals.from_tally(tally, read=self._read, bytes=self._bytes, seconds=seconds, error=error)
        self._ledger.close()
        if self._failures:
            self._failures.close()
        stats = self._crawler.stats
        stats.set_value("batcher/rows", totals.read)
        stats.set_value("batcher/pending", totals.pending)
        stats.set_value("batcher/bytes", totals.bytes)
        log = partial(logger.error if error else logger.info, extra={"spider": self._crawler.spider})
        log(summary(totals))
        if not totals.adds_up or totals.outcomes != self._counts:
            logger.error(
                "The sum does not hold: the ledger has %s, the workers counted %s", totals, dict(self._counts),
                extra={"spider": self._crawler.spider},
            )
        return totals


def _check_width(config: Config) -> None:
    if not config.concurrency:
        raise refuse("CONCURRENT_REQUESTS is 0, no limit: a batch has as many workers, so it needs a number")


def _open_failures(path: str | None, source: Source) -> FailuresFile | None:
    if path is None:
        return None
    try:
        if os.path.exists(path) and os.path.exists(source.location) and os.path.samefile(path, source.location):
            raise refuse(f"the failures file {path} is the list itself, which it would overwrite: name another")
        return FailuresFile(path)
    except OSError as e:
        raise refuse(f"the failures file {path} cannot be written: {e.strerror}") from e
