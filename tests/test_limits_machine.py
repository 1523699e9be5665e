"""The limits, whatever is done with them in whatever order, against a model that keeps books of every beginning."""

from __future__ import annotations

import math
from itertools import takewhile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

import scrapy_batcher.throttling.limits
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limits import Limits

TOTAL = "*"
HOSTS = ("host:a", "host:b", "host:c")
NAMES = ("one", "two")
KEYS = (TOTAL, *HOSTS, *NAMES)

# Numbers whose sums are exact, so that the model's times are those of the limits.
LIMITS = st.builds(
    Limit,
    concurrency=st.sampled_from([1, 1, 2, 3, math.inf]),
    rate=st.sampled_from([math.inf, math.inf, 0.5, 1.0, 4.0]),
    burst=st.integers(1, 3),
    delay=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    jitter=st.sampled_from([0.0, 0.5]),
)
# Few, so that they meet.
WANTED = st.sampled_from(
    [("host:a",), ("host:a", "one"), ("host:a", "one", "two"), ("host:b",), ("host:b", "one"), ("host:c", "two")]
)


class LimitsMachine(RuleBasedStateMachine):
    """Holders are numbers, in the order in which they come; a ticket is the number of one that is about to come."""

    def __init__(self) -> None:
        super().__init__()
        # Deferreds are awaited as they are, so that every step is over when it returns.
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(scrapy_batcher.throttling.limits, "maybe_deferred_to_future", lambda deferred: deferred)
        self.clock = Clock()
        self.next = 0
        self.held: dict[int, tuple[str, ...]] = {}
        self.waiting: dict[int, tuple[str, ...]] = {}
        self.reserved: dict[int, tuple[str, ...]] = {}
        self.acquiring: dict[int, Deferred[None]] = {}
        self.granted: list[tuple[float, int]] = []  # since the last look: when, and who
        self.cancelled: list[int] = []
        self.begun: dict[str, list[float]] = {key: [] for key in KEYS}
        self.rests: dict[str, float] = dict.fromkeys(KEYS, 0.0)  # until when
        self.delayed: dict[str, float] = dict.fromkeys(KEYS, 0.0)  # until when
        self.recovering: set[str] = set()

    @initialize(limits=st.fixed_dictionaries(dict.fromkeys(KEYS, LIMITS)), uniform=st.sampled_from([0.0, 0.5, 1.0]))
    def begin(self, limits: dict[str, Limit], uniform: float) -> None:
        self.limit = limits
        self.uniform = uniform
        self.limits = Limits(limits, now=self.clock.seconds, later=self.clock.callLater, uniform=lambda: uniform)

    def teardown(self) -> None:
        for deferred in self.acquiring.values():
            deferred.cancel()
        self._patch.undo()

    # -- what is done with the limits ----------------------------------------------------------------------------------

    @rule(wanted=st.lists(WANTED, min_size=1, max_size=3))
    def acquire(self, wanted: list[tuple[str, ...]]) -> None:
        for keys in wanted:
            self._acquire(self._number(), keys)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = self._one_of(data, self.held)
        del self.held[holder]
        self.limits.release(holder)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_when_its_host_has_answered_well(self, data: st.DataObject) -> None:
        self._answered(self._one_of(data, self.held))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter = self._one_of(data, self.waiting)
        del self.waiting[waiter]
        self.acquiring[waiter].cancel()
        assert self.cancelled.pop() == waiter

    @rule(keys=WANTED)
    def reserve(self, keys: tuple[str, ...]) -> None:
        """A reservation is given when as many as have one, and one more, could begin; and none who wait come before."""
        ticket = self._number()
        could = self._could_reserve(keys)
        assert (self.limits.wait(keys) == 0) == could
        assert self.limits.reserve(ticket, keys) == could
        if could:
            self.reserved[ticket] = keys

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def come_with_a_reservation(self, data: st.DataObject) -> None:
        ticket = self._one_of(data, self.reserved)
        self._acquire(ticket, self.reserved.pop(ticket))

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), keys=WANTED)
    def hand_reservation_over(self, data: st.DataObject, keys: tuple[str, ...]) -> None:
        """It is as if one was cancelled, and another asked for."""
        old = self._one_of(data, self.reserved)
        keys = data.draw(st.sampled_from([keys, self.reserved.pop(old)]))
        ticket = self._number()
        could = self._could_reserve(keys)
        assert self.limits.reserve(ticket, keys, instead_of=old) == could
        if could:
            self.reserved[ticket] = keys

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def cancel_reservation(self, data: st.DataObject) -> None:
        ticket = self._one_of(data, self.reserved)
        del self.reserved[ticket]
        self.limits.cancel(ticket)

    @rule(seconds=st.sampled_from([0.125, 0.5, 1.0, 4.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(host=st.sampled_from(HOSTS), seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def rest(self, host: str, seconds: float) -> None:
        self.recovering.add(host)
        self.rests[host] = max(self.rests[host], self.clock.seconds() + seconds)
        self.limits.rest(host, seconds)

    @rule(key=st.sampled_from(KEYS), concurrency=st.integers(1, 4), delay=st.sampled_from([0.0, 0.5]))
    def change(self, key: str, concurrency: int, delay: float) -> None:
        old = self.limit[key]
        self.limit[key] = Limit(concurrency, old.rate, old.burst, delay, old.jitter)
        self.limits.change(key, concurrency=concurrency, delay=delay)

    @precondition(lambda self: self.next > 10)
    @rule()
    def end(self) -> None:
        """When all give back what they have, and time passes, everybody is served, and every permit is there again."""
        for ticket in self.reserved:
            self.limits.cancel(ticket)
        self.reserved.clear()
        while self.held or self.waiting:
            waiting = len(self.waiting)
            for holder in list(self.held):
                self._answered(holder)
                self._look()
            self.clock.advance(16)
            self._look()
            assert len(self.waiting) < waiting or not waiting
        self.clock.advance(16)
        assert not self.clock.getDelayedCalls()
        for host in HOSTS:
            self.recovering.discard(host)
            self.limits.recovered(host)
        for key in KEYS:
            self._can_all_be_had(key)

    def _can_all_be_had(self, key: str) -> None:
        """As many as *key* allows can have a reservation, so nobody has one, or holds anything."""
        for other in KEYS:
            self.limits.change(other, concurrency=3 if other == key else 9, rate=math.inf, delay=0)
        keys = ("host:a",) if key == TOTAL else (key,)
        tickets = ("p", "q", "r", "s")
        assert [self.limits.reserve(ticket, keys) for ticket in tickets] == [True, True, True, False]
        for ticket in tickets:
            self.limits.cancel(ticket)
        for other in KEYS:
            limit = self.limit[other]
            self.limits.change(other, concurrency=limit.concurrency, rate=limit.rate, delay=limit.delay)

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        self._look()
        self._nobody_waits_without_a_reason()
        self._agrees()

    def _look(self) -> None:
        """Each who was granted something could have it then, and did not take it from one who came earlier."""
        granted, self.granted = self.granted, []
        for time, holder in granted:
            keys = self.waiting[holder]
            for other in takewhile(holder.__ne__, self.waiting):
                assert not set(keys) & set(self.waiting[other]), f"{holder} overtook {other}"
            for key in (TOTAL, *keys):
                assert self._may_begin(key, time=time), f"{holder} could not begin under {key}"
                self._begin(key, time)
            self.held[holder] = self.waiting.pop(holder)

    def _nobody_waits_without_a_reason(self) -> None:
        """Who waits could not begin, or needs a key that one who came earlier waits for."""
        ahead: set[str] = set()
        for holder, keys in self.waiting.items():
            could = ahead.isdisjoint(keys) and all(self._may_begin(key) for key in (TOTAL, *keys))
            assert not could, f"{holder} could begin"
            ahead.update(keys)

    def _agrees(self) -> None:
        looks = self.limits.statistics()
        for key in KEYS:
            holders = {holder for holder, keys in self.held.items() if key in (TOTAL, *keys)}
            waiting = self._count(self.waiting, key)
            if key in looks:
                assert (looks[key].limit, looks[key].holders, looks[key].waiting) == (
                    self._capacity(key),
                    holders,
                    waiting,
                )
            else:
                assert not holders
                assert not waiting
        total = self.limit[TOTAL].concurrency
        assert repr(self.limits) == f"<Limits {len(self.held)} of {total} held, {len(self.waiting)} waiting>"

    # -- the model -----------------------------------------------------------------------------------------------------

    def _may_begin(self, key: str, *, time: float | None = None, ahead: int = 0) -> bool:
        """Whether one may begin under *key* after *ahead* others that begin at the same time."""
        now = self.clock.seconds() if time is None else time
        limit = self.limit[key]
        if self._count(self.held, key) + ahead >= self._capacity(key):
            return False
        if now < max(self.rests[key], self.delayed[key]) or (limit.delay and ahead):
            return False
        # In no window of time more than the burst, and what the rate allows in that time.
        begun = [*self.begun[key], *[now] * (ahead + 1)]
        return (
            all(
                len(begun) - i <= limit.burst + (limit.rate * (now - since) if now > since else 0)
                for i, since in enumerate(begun)
            )
            or limit.rate == math.inf
        )

    def _begin(self, key: str, time: float) -> None:
        limit = self.limit[key]
        self.begun[key].append(time)
        self.delayed[key] = max(self.delayed[key], time + limit.delay * (1 + limit.jitter * (2 * self.uniform - 1)))

    def _capacity(self, key: str) -> float:
        return 1 if key in self.recovering else self.limit[key].concurrency

    def _could_reserve(self, keys: tuple[str, ...]) -> bool:
        return not any(set(keys) & set(waited_for) for waited_for in self.waiting.values()) and all(
            self._may_begin(key, ahead=self._count(self.reserved, key)) for key in (TOTAL, *keys)
        )

    def _count(self, among: dict[int, tuple[str, ...]], key: str) -> int:
        return sum(key in (TOTAL, *keys) for keys in among.values())

    def _number(self) -> int:
        self.next += 1
        return self.next

    def _one_of(self, data: st.DataObject, numbers: dict[int, tuple[str, ...]]) -> int:
        return data.draw(st.sampled_from(sorted(numbers)))

    def _answered(self, holder: int) -> None:
        host = self.held.pop(holder)[0]
        self.recovering.discard(host)
        self.limits.recovered(host)
        self.limits.release(holder)

    def _acquire(self, holder: int, keys: tuple[str, ...]) -> None:
        self.waiting[holder] = keys
        acquiring = Deferred.fromCoroutine(self.limits.acquire(holder, keys))
        acquiring.addCallback(lambda _: self.granted.append((self.clock.seconds(), holder)))
        acquiring.addErrback(lambda failure: failure.trap(CancelledError) and self.cancelled.append(holder))
        self.acquiring[holder] = acquiring


LimitsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestLimitsMachine = LimitsMachine.TestCase
