"""How a job's targets have ended, so far and at the close: counts, totals, and a summary for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scrapy_batcher.jobs.ledger import PENDING
from scrapy_batcher.outcome import FETCHED


class Counts:
    """How many targets a job has, and how they ended so far: what its ledger will say after the next checkpoint.

    :param tally: what the ledger counts now (`Ledger.tally`)
    :param complete: whether the list was read to its end
    :ivar read: targets that were read
    :ivar outcomes: how many ended in each outcome, by its name
    :ivar before: how many of them did so in earlier runs, less those that were taken up again
    :ivar unworked: outcomes that took no work in this run: those of earlier runs, less those that are tried again, and
        those of rows that are not even tried
    """

    def __init__(self, tally: Mapping[str, int], *, complete: bool) -> None:
        self.complete = complete
        self.read = sum(tally.values())
        self.outcomes = Counter({name: count for name, count in tally.items() if name != PENDING})
        self.before = Counter(self.outcomes)
        self.unworked = self.done

    def take_up(self, name: str, number: int) -> None:
        """Take *number* targets with the outcome *name* out of the counts, because they are tried again."""
        self.before[name] -= number
        self.unworked -= number

    @property
    def fetched_before(self) -> int:
        """Targets that earlier runs have fetched."""
        return self.before[FETCHED]

    @property
    def done(self) -> int:
        """Targets with an outcome."""
        return self.outcomes.total()

    @property
    def pending(self) -> int:
        """Targets without one."""
        return self.read - self.done

    @property
    def worked(self) -> int:
        """Outcomes that this run has worked for."""
        return self.done - self.unworked

    @property
    def failed(self) -> int:
        return _count(self.outcomes, "failed/")


@dataclass(frozen=True)
class Totals:
    """How the rows of a batch ended, over all runs of its job.

    :param read: rows read from the list
    :param outcomes: how many targets ended in each outcome, by its name
    :param pending: targets that were read and have no outcome, because the batch was closed first
    :param bytes: bytes in the bodies of the pages that this run fetched, after decompression
    :param seconds: from the start of this run to its end
    :param error: why the list was not read, or not worked through, to its end; ``None`` if it was
    :param fetched_before: targets that earlier runs of the job have fetched
    :param complete: whether the list was read to its end
    """

    read: int
    outcomes: Mapping[str, int]
    pending: int
    bytes: int
    seconds: float
    error: str | None = None
    fetched_before: int = 0
    complete: bool = True

    @classmethod
    def from_tally(
        cls,
        tally: Mapping[str, int],
        *,
        read: int,
        bytes: int,
        seconds: float,
        error: str | None,
        fetched_before: int = 0,
        complete: bool = True,
    ) -> Totals:
        """The totals from what the ledger counted (`Ledger.tally`)."""
        names = sorted(tally.keys() - {PENDING}, key=lambda name: (name != FETCHED, name))
        outcomes = {name: tally[name] for name in names}
        return cls(read, outcomes, tally.get(PENDING, 0), bytes, seconds, error, fetched_before, complete)

    @classmethod
    def together(cls, parts: Iterable[Totals]) -> Totals:
        """The totals of several jobs as one; its time is the longest of theirs."""
        parts = list(parts)
        tally: Counter[str] = Counter()
        for part in parts:
            tally.update({**part.outcomes, PENDING: part.pending})
        return cls.from_tally(
            tally,
            read=sum(part.read for part in parts),
            bytes=sum(part.bytes for part in parts),
            seconds=max((part.seconds for part in parts), default=0.0),
            error=next((part.error for part in parts if part.error), None),
            fetched_before=sum(part.fetched_before for part in parts),
            complete=all(part.complete for part in parts),
        )

    @property
    def fetched(self) -> int:
        return self.outcomes.get(FETCHED, 0)

    @property
    def failed(self) -> int:
        return _count(self.outcomes, "failed/")

    @property
    def skipped(self) -> int:
        return _count(self.outcomes, "skipped/")

    @property
    def adds_up(self) -> bool:
        """Whether every row that was read is accounted for."""
        return self.read == self.fetched + self.failed + self.skipped + self.pending


def _count(outcomes: Mapping[str, int], prefix: str) -> int:
    return sum(count for name, count in outcomes.items() if name.startswith(prefix))


def table(totals: Totals) -> list[str]:
    """The sum of *totals*, and a line for each outcome."""
    return [
        f"{totals.read:>10,} read = {totals.fetched:,} fetched + {totals.failed:,} failed "
        f"+ {totals.skipped:,} skipped + {totals.pending:,} pending",
        *(f"{count:>10,} {name}" for name, count in totals.outcomes.items()),
    ]


def summary(totals: Totals) -> str:
    """*totals* in a few lines, for the log."""
    fetched_now = totals.fetched - totals.fetched_before
    rate = fetched_now / totals.seconds if totals.seconds else 0.0
    end = (
        f"incomplete: {totals.error}"
        if totals.error
        else "closed early"
        if totals.pending or not totals.complete
        else "finished"
    )
    lines = [
        f"Batch {end}",
        *table(totals),
        f"{totals.seconds:>10,.2f} seconds, {rate:,.1f} pages per second, {totals.bytes:,} bytes"
        + (f" (this run, which fetched {fetched_now:,})" if totals.fetched_before else ""),
    ]
    return "\n".join(lines)
