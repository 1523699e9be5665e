"""How far jobs are, each and all together: read from their ledgers, also while they run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from scrapy_batcher.batch.progress import Totals, table
from scrapy_batcher.redact import one_line, redact_url
from scrapy_batcher.reports.job import Job, opened, rate_of, seconds_of
from scrapy_batcher.reports.survey import Survey, survey
from scrapy_batcher.reports.words import duration, rate
from scrapy_batcher.throttling.limiters import HOST

_HOSTS = 3  # that are named, of those with the most to do

_URL_LENGTH = 200  # characters of a URL that are shown

_NAME_LENGTH = 4096  # those of a path: all of them


def status(jobdirs: Sequence[str], clock: Callable[[], float] = time.time) -> Iterator[str]:
    """The lines that tell of the jobs in *jobdirs*, each once, and, if they are several, of all together.

    :param clock: the Unix time
    :raises LedgerError: when in one of them there is no job that can be read
    :raises JobDirError: when it cannot be told whether a process works on one
    """
    jobs, surveys = [], []
    with opened(jobdirs) as ledgers:
        for name, ledger in ledgers.items():
            with ledger.snapshot():
                jobs.append(Job.read(name, ledger))
                surveys.append(survey([ledger.lanes.hosts()], clock(), _HOSTS))
    now = clock()
    for job, hosts in zip(jobs, surveys, strict=True):
        part = f", shard {job.shard}" if job.shard.count > 1 else ""
        yield f"{one_line(job.name, _NAME_LENGTH)}{part}: {job.state}"
        yield from table(job.totals)
        yield from _speed([job], now)
        yield from _waits(job, hosts, now)
    if len(jobs) > 1:
        together = Totals.together(job.totals for job in jobs)
        yield f"All {len(jobs)} jobs: {_states(jobs)}"
        yield from table(together)
        yield from _speed(jobs, now)
        yield from _what_is_not_whole(jobs)


def _states(jobs: Sequence[Job]) -> str:
    states = Counter(job.state for job in jobs)
    if len(states) == 1:
        return jobs[0].state
    return ", ".join(f"{number} {state}" for state, number in states.items())


def _speed(jobs: Sequence[Job], now: float) -> Iterator[str]:
    """How fast *jobs* are together, and when those that run will be at their end."""
    seconds = seconds_of(jobs, now)
    if not seconds:
        return
    line = f"{rate(rate_of(jobs, now)):>10} targets a second, in {duration(seconds)}"
    runs = [job.runs.number for job in jobs if job.runs.number]
    if sum(runs) > len(runs):
        line += f" of {sum(runs)} runs"
    lately = sum(job.rate_lately(now) or 0.0 for job in jobs)
    if any(job.is_running for job in jobs):
        line += f"; {rate(lately)} in the last minute"
    pending = sum(job.totals.pending for job in jobs)
    if pending and lately and all(job.totals.complete and (job.is_running or not job.totals.pending) for job in jobs):
        line += f"; about {duration(max(pending / lately, 1.0))} to go"
    yield line


def _waits(job: Job, hosts: Survey, now: float) -> Iterator[str]:
    """Where it is that *job* has still to go."""
    if hosts.count:
        resting = f", {hosts.resting:,} of these resting" if hosts.resting else ""
        has = "host" if hosts.count == 1 else "hosts"
        yield f"{hosts.count:>10,} {has}, {hosts.pending:,} with pending targets{resting}"
    for host in hosts.largest:
        resting = f", resting for {duration(host.due - now)}" if host.due > now else ""
        yield f"{host.pending:>10,} pending: {one_line(host.host.removeprefix(HOST), _URL_LENGTH)}{resting}"
    if job.oldest:
        target, first, due = job.oldest
        tried = f", first tried {duration(max(now - first, 0.0))} ago" if first else ""
        waits = f", to be tried again in {duration(due - now)}" if due and due > now else ""
        file = f", in {one_line(target.file, _NAME_LENGTH)}" if target.file else ""
        url = one_line(redact_url(target.url), _URL_LENGTH)
        yield f"{target.line:>10,} is the line of the oldest that is pending{file}: {url}{tried}{waits}"


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
