"""The accounts of a job: each outcome goes into the ledger, the stats, the log and the failures file, and adds up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from logging import LoggerAdapter
from typing import Any

from scrapy.statscollectors import StatsCollector
from twisted.internet.defer import Deferred

from scrapy_batcher.batch.checkpoints import Checkpoints
from scrapy_batcher.batch.failures import FailuresFile
from scrapy_batcher.batch.progress import Counts, Totals, summary
from scrapy_batcher.config import Config
from scrapy_batcher.jobs.database import LedgerError
from scrapy_batcher.jobs.lanes import Claim, LaneState
from scrapy_batcher.jobs.ledger import PENDING, Ledger, Postponement, Settlement
from scrapy_batcher.lists.lines import Mark
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.sources import Source
from scrapy_batcher.outcome import FETCHED, NO_ANSWER, Answer, Outcome, error_text, is_among, refusal
from scrapy_batcher.outputs.output import Lines, Output
from scrapy_batcher.throttling.limiters import Keys, UnknownLimitError
from scrapy_batcher.throttling.rules import Rules

_SLICE = 500  # targets taken from the ledger at a time: a few milliseconds


class Books:
    """What is known of the targets of one job, and written down of them.

    :param rules: which limits a target counts for
    :param log: where every target that was not fetched, and the totals, are told
    :param source: what the targets are read from
    :param output: the feeds, if they are kept in step with the ledger
    :param failures: the failures file, if one is asked for
    :param files: closes what is open for this
    :ivar counts: how far the job is
    :ivar bytes: in the bodies of the pages that this run has fetched
    :ivar lanes: which targets can be claimed
    """

    def __init__(
        self,
        config: Config,
        rules: Rules,
        stats: StatsCollector,
        log: LoggerAdapter[Any],
        ledger: Ledger,
        output: Output | None,
        failures: FailuresFile | None,
        source: Source,
        files: ExitStack,
    ) -> None:
        self._config = config
        self._rules = rules
        self._stats = stats
        self._log = log
        self._ledger = ledger
        self._output = output
        self._failures = failures
        self._source = source
        self._files = files
        self.lanes = ledger.lanes
        self.checkpoints = Checkpoints(ledger, output, failures, source, config)
        self.counts = Counts(ledger.tally(), complete=ledger.complete)  # the ledger's are checked against them
        self.bytes = 0
        for name, count in self.counts.outcomes.items():
            stats.set_value(f"batcher/outcomes/{name}", count)

    @property
    def pending(self) -> int:
        """Targets without an outcome."""
        return self.counts.pending

    @property
    def crowded(self) -> bool:
        """Whether nothing more may be claimed until `entered` fires."""
        return self.checkpoints.crowded

    def entered(self) -> Deferred[None]:
        """Fires when the checkpoint that is under way is over."""
        return self.checkpoints.over()

    @property
    def error(self) -> Exception | None:
        """Why nothing can be written down any more."""
        return self.checkpoints.error

    def fail(self, error: Exception) -> None:
        """Write nothing down any more, because of *error*."""
        self.checkpoints.fail(error)

    # -- the targets -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Tell where an earlier run has left the job, and begin to make checkpoints."""
        if (counts := self.counts).read:
            self._log.info(
                "Going on: %s of %s targets are done (%s fetched), %s are to come%s",
                *(f"{n:,}" for n in (counts.done, counts.read, counts.fetched_before, counts.pending)),
                "" if counts.complete else ", and what the list has behind them",
            )
        self.checkpoints.start()

    def load(self, rows: list[tuple[Target, Mark]]) -> list[LaneState]:
        """Enter the targets of *rows*, those that are not even tried with their outcome.

        :param rows: each with how far the list was read to have it
        :returns: the lanes that have more to be claimed since
        """
        judged = [self._judged(target) for target, _ in rows]
        lanes = self._ledger.load(judged, rows[-1][1])
        self.counts.read += len(rows)
        self.counts.complete = False
        for target, _, outcome in judged:
            if outcome:
                self._count(outcome.name, 1)
                self.counts.unworked += 1
                self._log.warning(outcome.describe(target, 0))
                self._record(target, outcome, 0)
        return lanes

    def _judged(self, target: Target) -> tuple[Target, Keys, Outcome | None]:
        """*target*, the keys it counts for, and why it is not even tried."""
        outcome = refusal(target, self._config)
        try:
            return target, () if outcome else self._rules.keys_for(target), outcome
        except UnknownLimitError as e:  # a mistake in the settings: once that is mended, it can be tried again
            return target, self._rules.site_of(target), Outcome("failed/other", error=error_text(e))
        except ValueError as e:
            return target, (), Outcome("skipped/invalid", error=error_text(e))

    def list_ended(self) -> None:
        """Enter that the list was read to its end, if it was."""
        if not (self._source.spool and self._source.spool.is_all):
            self._ledger.complete_list(self._source.mark)
            self.counts.complete = True
        elif not self.counts.complete:
            self._log.warning(
                "There was nothing on stdin, and an earlier run did not read it to its end: give it the same list again"
            )

    def see(self, fingerprint: bytes, target: Target) -> bool:
        """Remember the request with *fingerprint*; whether *target* is the first to make it."""
        return self._ledger.seen.see(fingerprint, target.id)

    def take_lines(self) -> tuple[Lines, bool]:
        """What the item that was just exported became, and whether that is all of it."""
        return self._output.take() if self._output else ([], True)

    def append(self, lines: Lines) -> None:
        """Put *lines*, of an item that belongs to no target, into the feeds."""
        if self._output:
            self._output.append(lines)

    def settle(
        self,
        claim: Claim,
        outcome: Outcome,
        attempts: int,
        *,
        lines: Lines | None = None,
        answer: Answer = NO_ANSWER,
        told: bool = False,
    ) -> None:
        """Put down what became of the target of *claim*.

        :param attempts: how often it was tried, before this claim too
        :param lines: what its items became in the feeds
        :param answer: its last response
        :param told: whether it is in the log already
        :raises Exception: when something cannot be written, then and ever after
        """
        if self.error:
            raise self.error
        target = claim.target
        # The lines last of what can fail: they must not be there without their settlement.
        self._record(target, outcome, attempts)
        self.append(lines or [])
        self.checkpoints.add(Settlement(target.id, outcome, attempts - claim.retries, time.time(), answer))
        self._count(outcome.name, 1)
        if outcome.name == FETCHED:
            self.bytes += answer.bytes
        elif not told:
            self._log.warning(outcome.describe(target, attempts))

    def postpone(self, claim: Claim, due: float, retries: int, first: float, lines: Lines) -> None:
        """Have the target of *claim* tried once more.

        :param due: the Unix time before which it is not
        :param retries: how often it was tried
        :param first: the Unix time at which it was tried first
        :param lines: what there is of it to be written already
        """
        if self.error:
            raise self.error
        self.append(lines)
        self.checkpoints.postpone(Postponement(claim.target.id, due, retries, first, retries - claim.retries))
        self._stats.inc_value("batcher/postponed")

    def enter_postponed(self) -> None:
        """Have what was postponed entered into the ledger, now rather than later: until then it cannot be due."""
        self.checkpoints.enter_postponed()

    def _record(self, target: Target, outcome: Outcome, attempts: int) -> None:
        if self._failures and outcome.name != FETCHED:
            self._failures.write(target, outcome, attempts)

    def take_up(self, outcomes: Iterable[str]) -> Iterator[None]:
        """Make targets pending once more, a slice at a step. To be called when nothing is pending, after a checkpoint.

        :param outcomes: those that ended in one of these; ``failed`` stands for all that begin with it
        """
        wanted = tuple(outcomes)
        taken = 0
        for name in sorted(self.counts.outcomes):
            if is_among(name, wanted):
                last = 0
                while ids := self._ledger.take_up(name, last, _SLICE):
                    last = ids[-1]
                    taken += len(ids)
                    self._count(name, -len(ids))
                    self.counts.take_up(name, len(ids))
                    yield
        if taken:
            self._log.info("Trying again what ended as %s: %s", ", ".join(wanted), f"{taken:,}")
        else:
            self._log.warning("No target ended as %s: there is nothing to try again", " or ".join(wanted))

    def _count(self, name: str, number: int) -> None:
        self.counts.outcomes[name] += number
        self._stats.inc_value(f"batcher/outcomes/{name}", number)

    # -- the files -------------------------------------------------------------------------------------------

    def restore_failures(self) -> Iterator[None]:
        """Make the failures file what the ledger says, a slice at a step. To be called right after a checkpoint."""
        if self._failures:
            self._failures.clear()
            for failures in self._ledger.records.failures(_SLICE):
                for failure in failures:
                    self._failures.write(*failure)
                yield

    async def checkpoint(self) -> None:
        """Enter all that is settled into the ledger; what goes wrong then is the `error`."""
        await self.checkpoints.make()

    async def close(self, seconds: float, error: str | None) -> Totals:
        """Make the last checkpoint, and tell the totals.

        :param seconds: how long this run took
        :param error: why the list was not worked through to its end
        """
        await self.checkpoint()
        tally: Mapping[str, int] = {**self.counts.outcomes, PENDING: self.pending}
        complete = False
        try:
            tally, complete = self._ledger.tally(), self._ledger.complete
        except LedgerError as e:
            self.fail(e)
        try:
            if self._failures:
                self._failures.close()
        except OSError as e:
            self.fail(e)
        if self.error:
            error = error or error_text(self.error)
        totals = Totals.from_tally(
            tally,
            read=self.counts.read,
            fetched_before=self.counts.fetched_before,
            complete=complete,
            bytes=self.bytes,
            seconds=seconds,
            error=error,
        )
        self._stats.set_value("batcher/rows", totals.read)
        self._stats.set_value("batcher/pending", totals.pending)
        self._stats.set_value("batcher/bytes", totals.bytes)
        (self._log.error if error else self._log.info)(summary(totals))
        if error and self._config.jobdir:
            self._log.info("Nothing of it is lost: once that is mended, the same command goes on from here")
        if not totals.adds_up or (not self.error and totals.outcomes != +self.counts.outcomes):
            self._log.error("The sum does not hold: the ledger has %s, its writer %s", totals, self.counts.outcomes)
        return totals

    async def shut(self) -> None:
        """Let go of the job, when Scrapy has closed the feeds."""
        await self.checkpoints.stop()
        if self._output:
            await self._output.close_own()
        if not self.error:
            self._ledger.history.end_run()
        self._files.close()
