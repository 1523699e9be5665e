"""What a report tells of jobs, shards of one list for instance, taken together: facts, read at one moment each."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from scrapy_batcher.batch.progress import Totals
from scrapy_batcher.jobs.history import bucket_start
from scrapy_batcher.jobs.ledger import Ledger
from scrapy_batcher.jobs.records import Record
from scrapy_batcher.outcome import FETCHED
from scrapy_batcher.reports.job import Job, opened, rate_of, seconds_of
from scrapy_batcher.reports.survey import Survey, survey
from scrapy_batcher.url import host_in

_HOSTS = 10  # of each kind
_EXAMPLES = 5  # of each outcome, at most
_SOME = 3  # of each, though they have the same error
_LOOKED_AT = 1000  # targets in each outcome, among which the examples are
_SPANS = 60  # at most, into which the time is divided

_ITS_OWN = re.compile(r"\w+://\S+|\d+")  # in an error: URLs and numbers

_ROUND = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds of a span


@dataclass(frozen=True)
class Reason:
    """How many targets ended in an *outcome*, and some of them, with different errors where there are."""

    outcome: str
    count: int
    examples: list[Record]


@dataclass(frozen=True)
class Span:
    """A part of the time that jobs took: from one Unix time to another.

    :param settled: targets that ended in it, by the kind of their outcome: ``fetched``, ``failed``, ``skipped``
    :param ended: those that had an outcome at its end, since it began or before
    """

    start: float
    end: float
    settled: Counter[str]
    ended: Counter[str]


@dataclass(frozen=True)
class Report:
    """The facts.

    :param now: the Unix time at which they were read
    :param totals: what became of the targets of all *jobs*
    :param seconds: for how long at least one of them was worked on
    :param rate: how many targets were settled in a second of that
    :param spans: the time from the beginning to the end, or to now, in parts
    :param latencies: how many responses there were of each latency (`history.bucket_of`)
    :param reasons: the outcomes that are not ``fetched``, most of them first
    """

    jobs: list[Job]
    now: float
    totals: Totals
    seconds: float
    rate: float
    spans: list[Span]
    latencies: dict[int, int]
    hosts: Survey
    reasons: list[Reason]

    @classmethod
    def of(cls, jobdirs: Sequence[str], clock: Callable[[], float] = time.time) -> Report:
        """The report of the jobs in *jobdirs*, each once.

        :param clock: the Unix time
        :raises LedgerError: when in one of them there is no job that can be read
        :raises JobDirError: when it cannot be told whether a process works on one
        """
        with opened(jobdirs) as ledgers, ExitStack() as snapshots:
            for ledger in ledgers.values():
                snapshots.enter_context(ledger.snapshot())
            jobs = [Job.read(name, ledger) for name, ledger in ledgers.items()]
            now = clock()
            latencies: Counter[int] = Counter()
            for ledger in ledgers.values():
                latencies.update(ledger.history.latencies())
            totals = Totals.together(job.totals for job in jobs)
            return cls(
                jobs,
                now,
                totals,
                seconds_of(jobs, now),
                rate_of(jobs, now),
                _spans(jobs, now),
                dict(latencies),
                survey([ledger.lanes.hosts() for ledger in ledgers.values()], now, _HOSTS),
                [
                    Reason(outcome, count, _examples(list(ledgers.values()), outcome))
                    for outcome, count in sorted(totals.outcomes.items(), key=lambda entry: -entry[1])
                    if outcome != FETCHED
                ],
            )

    def latency(self, part: float) -> float:
        """The latency, in seconds, that so large a *part* of the responses had at most; about, as they are counted in
        buckets."""
        wanted = part * sum(self.latencies.values())
        for bucket, number in sorted(self.latencies.items()):
            if wanted <= number:
                start, end = bucket_start(bucket), bucket_start(bucket + 1)
                return start + (end - start) * wanted / number
            wanted -= number
        return 0.0


def _examples(ledgers: Sequence[Ledger], outcome: str) -> list[Record]:
    """Targets that ended in *outcome*: of the errors among the first of them, those that most have, each once; and some
    more when there are few."""
    records = [record for ledger in ledgers for record in next(ledger.records.ended(outcome, _LOOKED_AT), [])]
    errors = [_error(record) for record in records]
    first = dict(zip(reversed(errors), reversed(records), strict=True))
    examples = [first[error] for error, _ in Counter(errors).most_common(_EXAMPLES)]
    others = (record for record in records if record not in examples)
    return examples + list(islice(others, max(_SOME - len(examples), 0)))


def _error(record: Record) -> str:
    """The error of *record* without its host, URLs and numbers, with which each would be another."""
    return _ITS_OWN.sub("", (record.outcome.error or "").replace(host_in(record.target.url), ""))


def _spans(jobs: Sequence[Job], now: float) -> list[Span]:
    """The time that *jobs* took, in parts of the same length, but for the first and the last."""
    periods = sorted(period for job in jobs for period in job.periods)
    if not periods:
        return []
    longest = max(job.period for job in jobs)
    begin = min(job.runs.begun for job in jobs if job.periods)
    if not 0 < begin < periods[0].start + longest:  # the clock was set back since, or no run was begun
        begin = float(periods[0].start)
    end = now if any(job.is_running for job in jobs) else max(job.runs.heard for job in jobs)
    end = max(end, periods[-1].start + 1.0, begin + 1.0)
    seconds = _length(end - begin, longest)
    settled: Counter[tuple[int, str]] = Counter()
    again: Counter[tuple[int, str]] = Counter()
    for period in periods:
        place = period.start // seconds, _kind(period.outcome)
        settled[place] += period.settled
        again[place] += period.again
    return list(_filled(settled, again, seconds, begin, end))


def _filled(
    settled: Counter[tuple[int, str]],
    again: Counter[tuple[int, str]],
    seconds: int,
    begin: float,
    end: float,
) -> Iterator[Span]:
    ended: Counter[str] = Counter()
    for number in range(int(begin // seconds), int(end // seconds) + 1):
        here = Counter({kind: settled[number, kind] for kind in ("fetched", "failed", "skipped")})
        ended = Counter({kind: ended[kind] + more - again[number, kind] for kind, more in here.items()})
        start = max(number * seconds, begin)
        if start < end:
            yield Span(start, min((number + 1) * seconds, end), here, ended)


def _length(seconds: float, period: int) -> int:
    """How long the spans are that divide *seconds*, of which a ledger's periods of so many fall into one each."""
    least = math.ceil(seconds / _SPANS / period)
    if period == 1 and least <= _ROUND[-1]:
        return next(length for length in _ROUND if length >= least)
    return least * period


def _kind(outcome: str) -> str:
    return outcome.partition("/")[0]
