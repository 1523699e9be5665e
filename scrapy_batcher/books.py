"""The accounts of a batch: each outcome goes into the ledger, the stats, the log and the failures file, and adds up."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from logging import LoggerAdapter
from typing import Any

from scrapy.statscollectors import StatsCollector

from scrapy_batcher.config import Config
from scrapy_batcher.failures import FailuresFile
from scrapy_batcher.ledger import PENDING, Ledger
from scrapy_batcher.outcome import FETCHED, Outcome, error_text, refusal
from scrapy_batcher.progress import Totals, summary
from scrapy_batcher.rows import Target


class Books:
    """Opens a ledger, and is the only one that writes to it.

    :param log: where every target that was not fetched, and the totals, are told
    :param failures: the failures file, if one is asked for
    :raises OSError, sqlite3.Error: from every method, when the ledger or the failures file cannot be written
    """

    def __init__(
        self, config: Config, stats: StatsCollector, log: LoggerAdapter[Any], failures: FailuresFile | None
    ) -> None:
        self._config = config
        self._stats = stats
        self._log = log
        self._failures = failures
        self._counts: Counter[str] = Counter()  # outcomes, counted here to check the ledger's own count against
        self._read = 0
        self._bytes = 0
        if failures:
            failures.start()
        self._ledger = Ledger()

    def claim(self) -> Target | None:
        """The next target to be worked on, ``None`` when none is pending."""
        return self._ledger.claim()

    def see(self, fingerprint: bytes) -> bool:
        """Remember the request with *fingerprint*; whether it is new."""
        return self._ledger.see(fingerprint)

    def load(self, targets: list[Target]) -> None:
        """Enter *targets*; those that are not even tried are settled at once."""
        self._read += len(targets)
        self._ledger.load(targets)
        for target in targets:
            if outcome := refusal(target, self._config):
                self.settle(target, outcome)

    def settle(self, target: Target, outcome: Outcome, attempts: int = 0, *, size: int = 0, told: bool = False) -> None:
        """Enter what became of *target*.

        :param attempts: how often it was tried
        :param size: bytes in the body of its last response
        :param told: whether it is in the log already
        """
        self._ledger.settle(target, outcome, attempts)
        self._counts[outcome.name] += 1
        self._stats.inc_value(f"batcher/outcomes/{outcome.name}")
        if outcome.name == FETCHED:
            self._bytes += size
            return
        if not told:
            self._log.warning(outcome.describe(target, attempts))
        if self._failures:
            self._failures.write(target, outcome, attempts)

    def close(self, seconds: float, error: str | None) -> Totals:
        """Close the ledger and the failures file, and tell the totals.

        :param seconds: how long the batch took
        :param error: why it was not worked through to its end
        """
        tally: Mapping[str, int] = {**self._counts, PENDING: self._read - self._counts.total()}
        try:
            tally = self._ledger.tally()
            self._ledger.close()
            if self._failures:
                self._failures.close()
        except (OSError, sqlite3.Error) as e:
            error = error or error_text(e)
        totals = Totals.from_tally(tally, read=self._read, bytes=self._bytes, seconds=seconds, error=error)
        self._stats.set_value("batcher/rows", totals.read)
        self._stats.set_value("batcher/pending", totals.pending)
        self._stats.set_value("batcher/bytes", totals.bytes)
        (self._log.error if error else self._log.info)(summary(totals))
        if not totals.adds_up or totals.outcomes != self._counts:
            self._log.error("The sum does not hold: the ledger has %s, its writer %s", totals, dict(self._counts))
        return totals
