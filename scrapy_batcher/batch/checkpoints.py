"""Outcomes become durable, with the items they stand for: neither is ever there without the other."""

from __future__ import annotations

import time

from scrapy.utils.asyncio import CallLaterResult, call_later, run_in_thread
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred

from scrapy_batcher.batch.failures import FailuresFile
from scrapy_batcher.config import Config
from scrapy_batcher.jobs.ledger import FeedState, Ledger, Postponement, Settlement
from scrapy_batcher.lists.sources import Source
from scrapy_batcher.outputs.output import Output


class Checkpoints:
    """Enters settlements into *ledger*, many at a time.

    A checkpoint waits, in a thread, until the disk has what is in the feeds, the failures file and the spool; then it
    enters all that was settled before it, with the feeds' lengths of then, in one transaction. So what the ledger says
    is fetched is on the disk, and what a feed has behind the length that the ledger knows will be fetched again: there
    it is cut when a job is resumed.

    :param config: ``checkpoint_targets``: settlements that may be without one at a time, so that a crash cannot undo
        more; one is made when they are half as many. ``checkpoint_seconds``: after which one is made, however few
        they are
    :ivar made: how many have entered something
    :ivar took: seconds, by all of them together
    """

    def __init__(
        self,
        ledger: Ledger,
        output: Output | None,
        failures: FailuresFile | None,
        source: Source,
        config: Config,
    ) -> None:
        self._ledger = ledger
        self._output = output
        self._failures = failures
        self._source = source
        self._targets = config.checkpoint_targets
        self._seconds = config.checkpoint_seconds
        self._error: Exception | None = None
        self._failed = False  # whether one has; an error elsewhere does not keep from entering what was settled before
        self._settled: list[Settlement] = []  # since the last checkpoint began
        self._postponed: list[Postponement] = []  # since then
        self._entered: dict[str, FeedState] = {}  # the feeds as the last one has entered them
        self._entering = 0  # those that the one under way enters
        self._under_way = False
        self._waiting: list[Deferred[None]] = []  # for the end of the one that is
        self._timer: CallLaterResult | None = None
        self.made = 0
        self.took = 0.0

    @property
    def error(self) -> Exception | None:
        """Why nothing more can be settled."""
        return self._error or (self._output.error if self._output else None)

    def fail(self, error: Exception) -> None:
        """Let nothing more be settled, because of *error*."""
        self._error = self.error or error

    def start(self) -> None:
        """Make one every so many seconds from now on."""
        self._timer = call_later(self._seconds, self._on_time)

    async def stop(self) -> None:
        """Make none any more, and wait for one that is under way."""
        if self._timer:
            self._timer.cancel()
        if self._under_way:
            await maybe_deferred_to_future(self.over())

    def add(self, settlement: Settlement) -> None:
        """Enter *settlement* at the next one."""
        self._settled.append(settlement)
        self._begin_if_half()

    def postpone(self, postponement: Postponement) -> None:
        """Enter *postponement* at the next one."""
        self._postponed.append(postponement)
        self._begin_if_half()

    def enter_postponed(self) -> None:
        """Begin one now if something is postponed: nothing else is to be done meanwhile."""
        if self._postponed:
            self._begin()

    @property
    def crowded(self) -> bool:
        """Whether there must be no more to settle until the one that is under way is `over`."""
        return self._under_way and self._entering + self._waiting_for_entry >= self._targets

    @property
    def _waiting_for_entry(self) -> int:
        return len(self._settled) + len(self._postponed)

    def over(self) -> Deferred[None]:
        """Fires when the one that is under way is over."""
        self._waiting.append(Deferred())
        return self._waiting[-1]

    async def make(self) -> None:
        """Enter everything; what goes wrong is the `error`."""
        if self._under_way:
            await maybe_deferred_to_future(self.over())
        self._begin()
        if self._under_way:
            await maybe_deferred_to_future(self.over())

    def _on_time(self) -> None:
        self._begin()
        self.start()

    def _begin_if_half(self) -> None:
        if self._waiting_for_entry * 2 >= self._targets:
            self._begin()

    def _begin(self) -> None:
        if not self._under_way and not self._failed:
            self._under_way = True
            deferred_from_coro(self._make())

    async def _make(self) -> None:
        began = time.monotonic()
        settled, self._settled = self._settled, []
        postponed, self._postponed = self._postponed, []
        self._entering = len(settled) + len(postponed)
        states = self._output.states() if self._output else {}
        try:
            if self._failures:
                self._failures.flush()
            await run_in_thread(self._sync)
            if self._output:
                states |= self._output.closed()  # meanwhile
            if settled or postponed or states != self._entered:
                self._ledger.settle(settled, states, postponed)
                self._entered = states
                self.made += 1
                self.took += time.monotonic() - began
        except Exception as e:  # noqa: BLE001 - whoever asks for the error is told
            # What is settled and not entered must not be in a feed that is then closed as whole.
            self._failed = True
            self.fail(e)
            if self._output:
                self._output.fail(e)
        finally:
            self._under_way = False
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)

    def _sync(self) -> None:
        for part in (self._output, self._failures, self._source.spool, self._ledger):
            if part:
                part.sync()
