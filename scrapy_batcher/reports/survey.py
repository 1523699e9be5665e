"""Which hosts have the most to do, are slowest, and fail most: of any number of hosts, in flat memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from scrapy_batcher.jobs.lanes import HostWork

_by_host = attrgetter("host")


@dataclass(frozen=True)
class Survey:
    """What there is to say of the hosts of a list.

    :param count: how many there are
    :param pending: how many of them have pending targets
    :param resting: how many of them rest, for more than a few seconds
    :param largest: those with the most pending targets, the first has most
    :param slowest: those that took longest to answer, on average
    :param worst: those of which most targets failed
    """

    count: int
    pending: int
    resting: int
    largest: list[HostWork]
    slowest: list[HostWork]
    worst: list[HostWork]


class _Top:
    """The hosts with the highest ranks, none without one: at most *most*."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, HostWork]] = []
        self._offers = 0  # of two with the same rank the first one is kept

    def offer(self, rank: float, host: HostWork) -> None:
        if rank <= 0 or (len(self._heap) == self._most and rank <= self._heap[0][0]):
            return
        self._offers += 1
        entry = (rank, -self._offers, host)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)

    def sorted(self) -> list[HostWork]:
        return [host for _, _, host in sorted(self._heap, reverse=True)]


def survey(jobs: Iterable[Iterator[HostWork]], now: float, most: int) -> Survey:
    """Look at all hosts once.

    :param jobs: the hosts of each job, in order; those of several that are the same are taken together
    :param now: the Unix time, by which it is told who rests
    :param most: how many of them to name
    """
    largest, slowest, worst = _Top(most), _Top(most), _Top(most)
    count = pending = resting = 0
    for host in _together(heapq.merge(*jobs, key=_by_host)):
        count += 1
        if host.pending:
            pending += 1
            resting += host.due > now
            largest.offer(host.pending, host)
        if host.answers:
            slowest.offer(host.seconds / host.answers, host)
        worst.offer(host.failed, host)
    return Survey(count, pending, resting, largest.sorted(), slowest.sorted(), worst.sorted())


def _together(hosts: Iterator[HostWork]) -> Iterator[HostWork]:
    for _, same in groupby(hosts, key=_by_host):
        first, *others = same
        for other in others:
            first = HostWork(
                first.host,
                first.pending + other.pending,
                first.fetched + other.fetched,
                first.failed + other.failed,
                first.answers + other.answers,
                first.seconds + other.seconds,
                max(first.due, other.due),
            )
        yield first
