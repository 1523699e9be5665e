"""How far jobs are, each and all together: read from their ledgers, also while they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from scrapy_batcher.database import LedgerError
from scrapy_batcher.jobdir import ledger_in
from scrapy_batcher.ledger import Ledger
from scrapy_batcher.lines import Mark
from scrapy_batcher.progress import Totals, table
from scrapy_batcher.shard import Shard


@dataclass(frozen=True)
class Job:
    """What the ledger of a job says.

    :param name: its directory, as it was given
    :param shard: the part of a list that it works on
    :param mark: how far it has read the list
    :param totals: what became of its targets so far
    """

    name: str
    shard: Shard
    mark: Mark
    totals: Totals

    @classmethod
    def read(cls, jobdir: str) -> Job:
        """The job in *jobdir*, as its last checkpoint has left it.

        :raises LedgerError: when there is none, or its ledger cannot be read
        """
        path = ledger_in(Path(jobdir))
        if not path.exists():
            raise LedgerError(f"{jobdir} has no job in it, as there is no {path.name}: name the JOBDIR of a batch")
        with closing(Ledger(path, read_only=True)) as ledger:
            complete = ledger.complete  # before the tally, which it then holds for
            tally = ledger.tally()
            totals = Totals.from_tally(
                tally, read=sum(tally.values()), bytes=0, seconds=0.0, error=None, complete=complete
            )
            return cls(jobdir, ledger.shard, ledger.mark, totals)


def status(jobdirs: Sequence[str]) -> Iterator[str]:
    """The lines that tell of the jobs in *jobdirs*, each once, and, if they are several, of all together.

    :raises LedgerError: when in one of them there is no job that can be read
    """
    jobs = [Job.read(jobdir) for jobdir in {Path(jobdir).resolve(): jobdir for jobdir in jobdirs}.values()]
    for job in jobs:
        part = f", shard {job.shard}" if job.shard.count > 1 else ""
        yield f"{job.name}{part}: {_state(job.totals)}"
        yield from table(job.totals)
    if len(jobs) > 1:
        together = Totals.together(job.totals for job in jobs)
        yield f"All {len(jobs)} jobs: {_state(together)}"
        yield from table(together)
        yield from _what_is_not_whole(jobs)


def _state(totals: Totals) -> str:
    if not totals.complete:
        return "not finished, and the list not read to its end"
    return "not finished" if totals.pending else "finished"


def _what_is_not_whole(jobs: Sequence[Job]) -> Iterator[str]:
    """Why the sum of *jobs* is not that of the list that they are shards of."""
    if all(job.shard.count == 1 for job in jobs):
        return
    divisions = sorted({f"{job.shard.count} by {job.shard.by}" for job in jobs})
    if len(divisions) > 1:
        yield f"They are not shards of one list, which is divided into {' and into '.join(divisions)}"
        return
    count, seen = jobs[0].shard.count, Counter(job.shard.number for job in jobs)
    if missing := [str(number) for number in range(1, count + 1) if number not in seen]:
        yield f"This is not the whole list: {_listed(missing, count)} not here"
    for number in sorted(number for number, times in seen.items() if times > 1):
        yield f"Shard {number}/{count} is here {seen[number]} times, and counted as often"
    if len({job.mark for job in jobs if job.totals.complete}) > 1:
        yield "They have not all read the same list, or it has grown since: run them again with the same one"


def _listed(numbers: Sequence[str], count: int) -> str:
    *others, last = numbers
    return f"shards {', '.join(others)} and {last} of {count} are" if others else f"shard {last} of {count} is"
