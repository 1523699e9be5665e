"""N workers share one iterator of claims. A request is made only when its turn has come.

Example 8 of the batching walk-through this project grew from. Passing the *same* iterator to ``Cooperator.coiterate`` N
times makes N workers. Each takes the next claim when it is done with its last one, so there are never more than N
requests, however long the list. A worker that finds a claim at once continues with it in the same Deferred.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.extensions.feedexport import FeedExporter
from scrapy.utils.asyncio import call_later, sleep
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure

from scrapy_batcher.adapters.engine import Engine
from scrapy_batcher.adapters.loop import call_soon, sweep_timers
from scrapy_batcher.batch.bell import Bell
from scrapy_batcher.batch.books import Books
from scrapy_batcher.batch.opening import Batch, open_books
from scrapy_batcher.batch.progress import Totals
from scrapy_batcher.batch.turns import Turns
from scrapy_batcher.batch.visit import Visit
from scrapy_batcher.batch.visits import Visits
from scrapy_batcher.config import Config
from scrapy_batcher.jobs.lanes import Claim
from scrapy_batcher.lists.lines import Mark
from scrapy_batcher.lists.reader import Reader
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.monitoring.display import board_for, shown
from scrapy_batcher.monitoring.figures import Pace
from scrapy_batcher.outcome import error_text, exception_of
from scrapy_batcher.signals import batch_finished
from scrapy_batcher.throttling.limiters import Keys
from scrapy_batcher.throttling.rules import rules_of
from scrapy_batcher.values import ConfigError

_SLICE = 100  # rows entered into the ledger at a time: a few milliseconds, also when each is refused and logged
_PLENTY = 1000  # targets ahead of the workers, from where on the list is read in its own time
_PAUSE = 0.01  # seconds between two slices of it then, which are for fetching
_POLL = 0.1  # seconds until workers that wait look again


class CooperatorExtension:
    """An extension that runs a spider's batch when the spider asks it to. It does nothing for other spiders.

    :param config: ``concurrency`` is the number of workers, and so of targets that are worked on at once
    :param books: those of the spider's batch, if it has one
    """

    def __init__(self, crawler: Crawler, config: Config, books: Books | None) -> None:
        self._crawler = crawler
        self._config = config
        self._books = books
        self._engine = Engine(crawler)
        self._visits: Visits | None = None
        self._turns: Turns | None = None
        self._more_to_come = True  # targets that are not in the ledger yet, or are not pending yet
        self._taking_up = False  # whether what failed is being made pending once more
        self._workers = Bell(self._soonest)
        self._reader = Bell(lambda: _POLL)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> CooperatorExtension:
        try:
            config = Config.from_settings(crawler.settings)
        except ConfigError as e:
            raise NotConfigured(str(e)) from e
        if not config.enabled:
            raise NotConfigured
        spider = crawler.spider
        extension = cls(crawler, config, open_books(spider, crawler, config) if isinstance(spider, Batch) else None)
        for handler, signal in (
            (extension.spider_opened, signals.spider_opened),
            (extension.spider_closed, signals.spider_closed),
            (extension.feed_exporter_closed, signals.feed_exporter_closed),
        ):
            crawler.signals.connect(handler, signal)
        return extension

    def spider_opened(self, spider: object) -> None:
        self._end_sweep = sweep_timers()
        if self._books and isinstance(spider, Batch):
            rules = rules_of(self._crawler, self._config)
            self._turns = Turns(self._books.lanes, rules.limits)
            self._visits = Visits(self._crawler, self._config, self._engine, spider, self._books, self._turns, rules)

    @property
    def books(self) -> Books | None:
        """The books of the spider's batch; ``None`` if it has no list."""
        return self._books

    def on_the_way(self, request: Request) -> None:
        """See whether *request* can continue now, if it is part of a visit (`Visits.on_the_way`)."""
        if self._visits:
            self._visits.on_the_way(request)

    def visit_of(self, request: Request) -> Visit | None:
        """The visit that *request*, which has not been downloaded yet, was made for."""
        return self._visits.visit_of(request) if self._visits else None

    async def run(self, spider: Batch) -> Totals:
        """Fetch the whole list of *spider*, and return when the last visit is over.

        Scrapy cancels a spider's ``start()`` when it is told to stop. If this is cancelled, the batch still ends in
        order: nothing more is claimed, and what is in flight is finished and settled before the spider closes.
        """
        over: Deferred[Totals] = Deferred()
        deferred_from_coro(self._run(spider)).addBoth(over.callback)
        return await maybe_deferred_to_future(over)

    async def _run(self, spider: Batch) -> Totals:
        started = time.monotonic()
        assert self._books, "a spider that has a batch has its books"
        assert self._turns, "a spider that is opened has its turns"
        self._engine.hold()
        limits = rules_of(self._crawler, self._config).limits
        limits.listen(self._room)
        try:
            board = board_for(spider, self._config, self._crawler.settings)
            with shown(Pace(self._books.counts, limits).look, board):
                error = await self._work_through(spider, self._books, self._turns)
            totals = await self._books.close(time.monotonic() - started, error)
            await self._crawler.signals.send_catch_log_async(batch_finished, totals=totals, spider=spider)
            if totals.error and not self._engine.closing:
                self._engine.close("incomplete")
            return totals
        except Exception:
            # Whoever called run() may have been cancelled, and not be there to be told.
            spider.logger.exception("The batch broke")
            raise
        finally:
            limits.unlisten(self._room)
            self._turns.close()
            self._engine.let_go()

    async def _work_through(self, spider: Batch, books: Books, turns: Turns) -> str | None:
        """Take the list of *spider* to its end, as far as that can be; returns what it broke off with."""
        books.start()
        reader = Reader(spider.source.marked(), self._reader.ring)
        cooperator = Cooperator(scheduler=cast("Any", call_soon))  # whose result is only ever cancelled

        async def all_of(*steps: Iterator[Any]) -> list[str]:
            over = DeferredList([cooperator.coiterate(it) for it in steps], consumeErrors=True)
            results = await maybe_deferred_to_future(over)
            return [error_text(exception_of(result)) for _, result in results if isinstance(result, Failure)]

        errors = await all_of(books.restore_failures())
        if not errors:
            claims = self._claims(books, turns)
            errors = await all_of(self._load(books, turns, reader, spider.retry), *[claims] * self._config.concurrency)
            if spider.retry and not errors:
                await books.checkpoint()
                errors = await all_of(books.restore_failures())
        reader.stop()
        if reader.error:
            errors.append(str(reader.error))
        return errors[0] if errors else None

    # -- the list becomes pending targets ---------------------------------------------------------------------

    def _load(
        self, books: Books, turns: Turns, reader: Reader[tuple[Target, Mark]], retry: Sequence[str]
    ) -> Iterator[Deferred[None] | None]:
        """Read the list into the ledger, ahead of the workers; then give them once more what they are to retry."""
        try:
            while not (self._stopped(books) or reader.exhausted):
                if rows := reader.take(_SLICE):
                    turns.added(books.load(rows))
                    self._workers.ring()
                    yield self._pause() if books.pending > _PLENTY else None
                else:
                    yield self._reader.wait()
            if reader.exhausted and not reader.error:
                books.list_ended()
            if retry and reader.exhausted:
                yield from self._retry(books, turns, retry)
        except Exception as e:
            books.fail(e)
            raise
        finally:
            self._more_to_come = False
            self._workers.ring_for_all()

    def _retry(self, books: Books, turns: Turns, outcomes: Sequence[str]) -> Iterator[Deferred[None] | None]:
        while books.pending and not self._stopped(books):
            yield self._reader.wait()
        yield deferred_from_coro(books.checkpoint())
        if not self._stopped(books):
            # Nobody works meanwhile: what failed anew must not be taken up again.
            self._taking_up = True
            for _ in books.take_up(outcomes):
                yield None
            turns.reset()
            self._taking_up = False

    def _pause(self) -> Deferred[None]:
        over: Deferred[None] = Deferred()
        call_later(_PAUSE, over.callback, None)
        return over

    # -- the shared iterator ---------------------------------------------------------------------------------

    def _claims(self, books: Books, turns: Turns) -> Iterator[Deferred[None]]:
        """What the workers take turns with: each step is a visit, and those that follow at once, or a wait."""
        try:
            while not self._stopped(books):
                if claim := self._claim(books, turns):
                    yield deferred_from_coro(self._work(books, turns, claim))
                elif books.crowded:
                    yield books.entered()
                elif self._is_held:
                    yield self._wait_for_scrapy()
                elif self._more_to_come or books.pending:
                    books.enter_postponed()
                    yield self._workers.wait()
                else:
                    return
        except Exception as e:
            books.fail(e)
            raise
        finally:
            self._workers.ring_for_all()

    def _claim(self, books: Books, turns: Turns) -> Claim | None:
        """The next claim, if one may be begun now."""
        if self._stopped(books) or self._is_held or books.crowded:
            return None
        if claim := turns.claim():
            self._workers.ring()  # there may be one for another
        return claim

    async def _work(self, books: Books, turns: Turns, claim: Claim | None) -> None:
        """Take *claim* as far as it goes now, and then the next one, as a task for each would cost more."""
        assert self._visits, "a spider that is opened has its visits"
        try:
            while claim and await self._visits.work(claim):
                await sleep(0)  # whatever closes the spider because of this visit does so in the loop's next turn
                claim = self._claim(books, turns)
        except Exception as e:
            # What cannot be written down must not be fetched.
            books.fail(e)
            raise

    @property
    def _is_held(self) -> bool:
        """Whether nothing is to be begun for now: Scrapy has no room, or what failed is made pending once more."""
        return self._engine.full or self._taking_up

    def _stopped(self, books: Books) -> bool:
        """Whether nothing more is to be begun: the spider closes, or what became of it could not be written down."""
        return self._engine.closing or books.error is not None

    def _wait_for_scrapy(self) -> Deferred[None]:
        """Fires when it may have room again: it has nothing scheduled; or time has passed, in which the spider may have
        begun to close."""
        self._crawler.signals.connect(self._scheduler_empty, signals.scheduler_empty)
        return self._workers.wait()

    def _scheduler_empty(self) -> None:
        self._crawler.signals.disconnect(self._scheduler_empty, signals.scheduler_empty)
        self._workers.ring()

    def _room(self, keys: Keys) -> None:
        self._workers.ring()

    def _soonest(self) -> float:
        return min(_POLL, self._turns.soonest if self._turns else _POLL)

    def cannot_keep(self, error: Exception) -> bool:
        """End the batch, if there is one, because Scrapy could not keep a further request; *error* says why."""
        if self._books:
            self._books.fail(error)
        return self._books is not None

    async def spider_closed(self) -> None:
        self._end_sweep()
        if self._books and not self._crawler.get_extension(FeedExporter):
            await self._books.shut()

    async def feed_exporter_closed(self) -> None:
        if self._books:
            await self._books.shut()
