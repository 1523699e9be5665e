"""A job as its ledger has it: what became of its targets, whether it is worked on, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scrapy_batcher.batch.progress import Totals
from scrapy_batcher.jobs.database import LedgerError
from scrapy_batcher.jobs.history import Period, Runs
from scrapy_batcher.jobs.jobdir import is_worked_on, ledger_in
from scrapy_batcher.jobs.ledger import Ledger
from scrapy_batcher.jobs.records import Waiting
from scrapy_batcher.lists.lines import Mark
from scrapy_batcher.lists.shard import Shard
from scrapy_batcher.outcome import FETCHED

_LATELY = 60  # seconds


@dataclass(frozen=True)
class Job:
    """What the ledger of a job says at one moment.

    :param name: its directory, as it was given
    :param shard: the part of a list that it works on
    :param mark: how far it has read the list
    :param totals: what became of its targets so far; their seconds are those of all runs
    :param is_running: whether a process works on it
    :param is_open: whether a run was begun that has not ended in order
    :param runs: how often, and for how long, it was worked on
    :param period: seconds of each of the periods
    :param periods: what became of the targets when
    :param oldest: the first target of the list without an outcome
    """

    name: str
    shard: Shard
    mark: Mark
    totals: Totals
    is_running: bool
    is_open: bool
    runs: Runs
    period: int
    periods: list[Period]
    oldest: Waiting | None

    @classmethod
    def read(cls, name: str, ledger: Ledger) -> Job:
        """The job in the directory *name*, as the last checkpoint has left its *ledger*.

        :raises LedgerError: when that cannot be read
        :raises JobDirError: when it cannot be told whether a process works on it
        """
        is_running = is_worked_on(Path(name))  # before the ledger is looked at, which has the last word on the end
        history = ledger.history
        tally, runs, periods = ledger.tally(), history.runs, history.periods()
        totals = Totals.from_tally(
            tally,
            read=sum(tally.values()),
            bytes=sum(period.bytes for period in periods if period.outcome == FETCHED),
            seconds=runs.seconds,
            error=None,
            complete=ledger.complete,
        )
        return cls(
            name, ledger.shard, ledger.mark, totals, is_running, history.is_open,
            runs, history.seconds, periods, ledger.records.oldest(),
        )  # fmt: skip

    @property
    def state(self) -> str:
        """How it is with it, in a few words."""
        if self.is_running:
            state = "running"
        elif self.totals.complete and not self.totals.pending:
            return "finished"
        else:
            state = "not finished" + (", killed" if self.is_open else ", stopped" if self.runs.number else "")
        return state if self.totals.complete else f"{state}, and the list not read to its end"

    @property
    def settled(self) -> int:
        """How many targets were settled, each as often as it was."""
        return sum(period.settled for period in self.periods)

    def worked_on(self, now: float) -> tuple[float, float]:
        """From when to when it was worked on, in Unix time, up to *now* if it is; its runs as one at the end."""
        end = max(self.runs.heard, now) if self.is_running else self.runs.heard
        return self.runs.heard - self.runs.seconds, end

    def rate_lately(self, now: float) -> float | None:
        """How many are settled in a second, in the last minute or a little more; ``None`` when it does not run."""
        if not self.is_running:
            return None
        since = max((now - _LATELY) // self.period * self.period, self.runs.started)
        number = sum(period.settled for period in self.periods if period.start + self.period > since)
        return number / max(now - since, 1.0)


def seconds_of(jobs: Iterable[Job], now: float) -> float:
    """For how long at least one of *jobs* was worked on, up to the Unix time *now*. What several were at the same time,
    as shards are, counts once."""
    seconds = reached = 0.0
    for begin, end in sorted(job.worked_on(now) for job in jobs):
        seconds += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return seconds


def rate_of(jobs: Sequence[Job], now: float) -> float:
    """How many of the targets of *jobs* were settled in a second of that time."""
    seconds = seconds_of(jobs, now)
    return sum(job.settled for job in jobs) / seconds if seconds else 0.0


@contextmanager
def opened(jobdirs: Sequence[str]) -> Iterator[dict[str, Ledger]]:
    """The ledgers of the jobs in *jobdirs*, each once, by the name of its directory.

    :raises LedgerError: when in one of them there is no job that can be read; and at the end, when a batch has begun to
        write one meanwhile
    """
    paths = {jobdir: _found_in(jobdir) for jobdir in jobdirs}
    with ExitStack() as stack:
        ledgers = {}
        for name in {path.resolve(): jobdir for jobdir, path in paths.items()}.values():
            ledgers[name] = stack.enter_context(closing(Ledger(paths[name], read_only=True)))
        yield ledgers
        for ledger in ledgers.values():
            ledger.check()


def _found_in(jobdir: str) -> Path:
    path = ledger_in(Path(jobdir))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise LedgerError(f"{jobdir} has no job in it, as there is no {path.name}: name the JOBDIR of a batch") from e
    except OSError as e:
        raise LedgerError(f"{jobdir} cannot be looked into: {e.strerror}") from e
    return path
