"""How many requests at once a host bears is found out: simulated hosts, and a clock that is moved."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.http import Response
from scrapy.settings import Settings
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

import scrapy_batcher.throttling.limits
from scrapy_batcher.config import Config
from scrapy_batcher.throttling.adaptive import Width
from scrapy_batcher.throttling.hosts import Hosts
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limits import Limits

HOST = "host:a"


class SimulatedHost:
    """Works on *capacity* requests at once, each of which takes it *seconds*; the others wait in its queue.

    :param refuses: whether the others are answered with 429 instead
    """

    def __init__(self, clock: Clock, capacity: int, *, refuses: bool = False) -> None:
        self.clock = clock
        self.capacity = capacity
        self.refuses = refuses
        self.seconds = 0.25
        self.working = 0
        self.queue: deque[Deferred[int]] = deque()

    def get(self) -> Deferred[int]:
        """The status of the response, when it comes."""
        answer: Deferred[int] = Deferred()
        if self.working < self.capacity:
            self._work(answer)
        elif self.refuses:
            self.clock.callLater(self.seconds / 10, answer.callback, 429)
        else:
            self.queue.append(answer)
        return answer

    def _work(self, answer: Deferred[int]) -> None:
        self.working += 1
        self.clock.callLater(self.seconds, self._answer, answer)

    def _answer(self, answer: Deferred[int]) -> None:
        self.working -= 1
        while self.queue and self.working < self.capacity:
            self._work(self.queue.popleft())
        answer.callback(200)


class Crowd:
    """Always more who want something of a host than its limit allows, and a note of how many may be at once."""

    def __init__(self, capacity: int, *, limit: int = 60, rest: bool = False, refuses: bool = False) -> None:
        self.clock = Clock()
        self.host = SimulatedHost(self.clock, capacity, refuses=refuses)
        self.limits = Limits(
            {"*": Limit(), "host:*": Limit(concurrency=limit)},
            adapt=True,
            now=self.clock.seconds,
            later=self.clock.callLater,
        )
        config = Config.from_settings(Settings({"BATCHER_REST": rest}))
        self.hosts = Hosts(config, self.limits, uniform=lambda: 0.5, clock=self.clock.seconds)
        self.statuses: list[int] = []
        self.crowd = [Deferred.fromCoroutine(self._want(number)) for number in range(limit + 5)]

    async def _want(self, number: int) -> None:
        while True:
            await self.limits.acquire(number, (HOST,))
            began = self.clock.seconds()
            status = await self.host.get()
            self.statuses.append(status)
            self.hosts.answered(HOST, Response("http://a", status=status), self.clock.seconds() - began)
            self.limits.release(number)

    def run(self, seconds: int) -> float:
        """How many may be at once, on the average of the last half of so many seconds, in which `statuses` came."""
        widths = []
        for second in range(seconds):
            if second == seconds // 2:
                widths.clear()
                self.statuses.clear()
            for _ in range(64):
                self.clock.advance(1 / 64)
                look = self.limits.statistics()[HOST]
                assert 1 <= look.limit <= self.limits.limit(HOST).concurrency
                widths.append(look.limit)
        return sum(widths) / len(widths)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deferreds are awaited as they are, so that every step is over when it returns."""
    monkeypatch.setattr(scrapy_batcher.throttling.limits, "maybe_deferred_to_future", lambda deferred: deferred)


@pytest.mark.parametrize("capacity", [1, 2, 5, 20])
def test_a_host_that_becomes_slow(capacity):
    """Of a host that is slower for more at once so many are asked as it bears, and most of what it can do is done."""
    crowd = Crowd(capacity)
    assert capacity / 2 <= crowd.run(60) <= capacity * 2
    assert len(crowd.statuses) >= 0.75 * 30 * capacity / crowd.host.seconds


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("capacity", [2, 5, 20])
def test_a_host_that_refuses(capacity, rest):
    """Of a host that answers 429 when it is asked for more at once so many are asked as it bears, with rests or
    without, and few are refused."""
    crowd = Crowd(capacity, refuses=True, rest=rest)
    assert capacity / 2 <= crowd.run(60) <= capacity * 2
    assert crowd.statuses.count(429) <= len(crowd.statuses) / 4


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize(("before", "after"), [(20, 4), (4, 20)])
def test_a_host_that_changes(before, after, refuses):
    """That a host bears less than it did, or more, is found out too."""
    crowd = Crowd(before, refuses=refuses)
    assert before / 2 <= crowd.run(30) <= before * 2
    crowd.host.capacity = after
    assert after / 2 <= crowd.run(60) <= after * 2


def test_a_host_that_bears_more_than_the_limit():
    """It is asked for as many as the limit says, and no more; also when that is lowered."""
    crowd = Crowd(50, limit=8)
    assert crowd.run(10) == 8
    crowd.limits.change(HOST, concurrency=3)
    assert crowd.run(10) == 3


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0.001, 100), st.floats(0, 10), st.integers(0, 60), st.booleans()), max_size=100),
)
def test_never_below_one_and_never_above_the_limit(most, answers):
    """Whatever a host answers, and how fast."""
    width, now = Width(), 0.0
    assert width.value == 1
    for latency, seconds, in_flight, is_good in answers:
        now += seconds
        if is_good:
            width.answered(latency, now, in_flight=in_flight, most=most)
        else:
            width.cut(now)
        assert 1 <= width.value <= most


def look(width: Width, latency: float = 1.0, now: float = 0.0, in_flight: int = 100) -> float:
    """The width, after as many answers as are looked at together."""
    for _ in range(max(10, 2 * int(width.value))):
        width.answered(latency, now, in_flight=in_flight, most=100)
    return width.value


def test_a_width_doubles_in_the_beginning_and_then_grows_by_one():
    """From one look to the next."""
    width = Width()
    assert [look(width, now=float(number)) for number in range(3)] == [2, 4, 8]
    width.cut(4.0)
    assert [look(width, now=float(number)) for number in range(5, 8)] == [5, 6, 7]


def test_a_width_that_is_not_used_does_not_grow():
    """What was not tried is not known."""
    width = Width()
    look(width)
    look(width)
    assert [look(width, in_flight=3) for _ in range(3)] == [4, 4, 4]


def test_what_was_under_way_together_cuts_once():
    """Many bad answers of one moment are one word."""
    width = Width()
    for _ in range(4):
        look(width)
    for _ in range(16):
        width.cut(10.0)
    assert width.value == 8
    width.cut(11.5)
    assert width.value == 4


def test_a_host_that_answers_slower_and_slower_is_asked_for_less():
    width = Width()
    look(width)
    look(width)
    assert look(width, latency=1.4) == 8
    assert look(width, latency=1.6, now=10.0) == 4


def test_latencies_that_differ_do_not_keep_the_width_down():
    """Half as long, or one and a half times, at random: that is no host which is asked too much."""
    random = Random(7)
    for spread in (0.2, 0.5):
        width = Width()
        for number in range(2000):
            width.answered(random.uniform(1 - spread, 1 + spread), float(number), in_flight=100, most=20)
        assert width.value >= 15
