"""The ring: whose turn it is, who is not looked at while it has to wait, and nobody who may begin is left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

import scrapy_batcher.throttling.limits
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limiters import Keys
from scrapy_batcher.throttling.limits import Limits
from scrapy_batcher.throttling.ring import Lane, Ring

A, B, C = "host:a", "host:b", "host:c"


class Round:
    """A ring on limits with a moved clock; what has its turn begins at once, and ends when it is told to."""

    def __init__(self, limits: dict[str, Limit], take_out: Callable[..., bool] = lambda lane, seconds: False) -> None:
        self.clock = Clock()
        self.limits = Limits(
            {"*": Limit(), "host:*": Limit(), **limits},
            now=self.clock.seconds,
            later=self.clock.callLater,
            uniform=lambda: 0.5,
        )
        self.ring: Ring[Lane] = Ring(self.limits, take_out)
        self.begun: Counter[str] = Counter()

    def add(self, id: str, *keys: str, pending: int = 100, first: bool = False) -> Lane:
        lane = Lane(id, keys, pending)
        self.ring.add(lane, first=first)
        return lane

    def turn(self) -> str | None:
        """Who has the next turn. It is the holder of what it begins, with a number from 1: ``a1``, ``a2``."""
        lane = self.ring.next()
        if lane is None:
            return None
        self.begun[lane.id] += 1
        ticket = f"{lane.id}{self.begun[lane.id]}"
        assert self.limits.reserve(ticket, lane.keys)
        lane.pending -= 1
        if lane.pending:
            self.ring.served(lane)
        else:
            self.ring.remove(lane)
        self.hold(ticket, *lane.keys)
        return lane.id

    def turns(self, most: int = 1000) -> str:
        """Who has them, until nobody has."""
        return "".join(iter(lambda: self.turn() or "", "")) if most == 1000 else "".join(map(str, self._some(most)))

    def _some(self, most: int) -> list[str | None]:
        return [self.turn() for _ in range(most)]

    def hold(self, holder: str, *keys: str) -> None:
        with pytest.raises(StopIteration):  # nobody waits
            self.limits.acquire(holder, keys).send(None)

    def holds(self, holder: str) -> bool:
        return holder in self.limits.statistics()["*"].holders

    def end(self, *holders: str) -> None:
        for holder in holders:
            self.limits.release(holder)


# -- whose turn it is --------------------------------------------------------------------------------------------------


def test_every_lane_has_its_turn_before_any_has_two():
    r = Round({})
    for id in "abcdef":
        r.add(id, f"host:{id}")
    turns = r.turns(60)
    assert [set(turns[i : i + 6]) for i in range(0, 60, 6)] == [set("abcdef")] * 10


def test_every_second_turn_is_the_longest_lanes():
    """The others go round without it, for as long as it is the longest."""
    r = Round({"host:*": Limit(concurrency=100)})
    for id in "abc":
        r.add(id, f"host:{id}")
    r.add("z", "host:z", pending=110)
    assert r.turns(12) == "azbzczazbzcz"


@pytest.mark.parametrize(
    ("limit", "pending", "longer"),
    [
        (Limit(concurrency=5), 130, True),  # 26 s, where the other takes 20
        (Limit(concurrency=5), 90, False),
        (Limit(concurrency=50, delay=0.125), 200, True),
        (Limit(concurrency=50, delay=0.125), 120, False),
        (Limit(), 2000, False),
    ],
)
def test_a_lane_is_as_long_as_it_takes(limit, pending, longer):
    """Fewer pages are more when fewer of them may be begun at once, or a second."""
    r = Round({A: Limit(concurrency=50), B: limit})
    r.add("x", C, pending=1)
    r.add("a", A, pending=1000)
    r.add("b", B, pending=pending)
    assert r.turns(2) == ("xb" if longer else "xa")


def test_a_lane_that_has_grown_may_be_the_longest():
    """However much it has grown by."""
    for pending in (103, 128, 200):
        r = Round({"host:*": Limit(concurrency=1000)})
        r.add("a", A, pending=100)
        r.add("b", B, pending=100)
        r.add("c", C, pending=3).pending = pending
        r.ring.grown(r.ring.get("c"))
        assert r.turns(4) == "acbc"


def test_a_lane_that_is_added_first_is_the_next_in_the_round():
    r = Round({"host:*": Limit(concurrency=100)})
    r.add("z", "host:z", pending=1000)
    r.add("a", A)
    r.add("b", B, first=True)
    assert r.turns(6) == "bzazbz"


def test_a_lane_can_be_preferred():
    """But not one that has to wait."""
    r = Round({"host:*": Limit(concurrency=100), C: Limit(concurrency=1)})
    a = r.add("a", A)
    r.add("b", B)
    c = r.add("c", C, pending=5)
    r.add("z", "host:z", pending=10_000)
    assert r.turns(8) == "azbzczaz"
    r.ring.prefer(a)
    r.ring.prefer(c)
    assert r.turns(4) == "azbz"


def test_the_lightest_are_those_with_the_shortest_way_to_go():
    """Of those that need not wait."""
    r = Round({A: Limit(concurrency=1), B: Limit(concurrency=1), "host:*": Limit(concurrency=10)})
    for id, pending in (("a", 1), ("b", 4), ("c", 50), ("d", 30), ("e", 100)):
        r.add(id, f"host:{id}", pending=pending + 1)
    r.hold("one", A)
    for _ in range(2):  # one of them goes round
        r.ring.next()
    assert [lane.id for lane in r.ring.lightest(3)] == ["d", "b", "c"]
    assert len(r.ring) == 4


def test_a_ring_is_empty_when_all_is_done():
    r = Round({})
    r.add("a", A, pending=2)
    r.add("b", B, pending=1)
    assert sorted(r.turns()) == ["a", "a", "b"]
    assert len(r.ring) == 0
    assert r.ring.get("a") is None
    assert r.ring.soonest == math.inf


def test_lanes_that_are_gone_are_not_kept():
    """However many come and go beside one that is always the longest."""
    r = Round({"host:*": Limit(concurrency=100_000)})
    r.add("z", "host:z", pending=100_000)
    for n in range(3000):
        r.add("a", f"host:{n}", pending=1, first=True)
        assert r.turns(2) == "az"
    assert len(r.ring._lanes) == len(r.ring._ready) == 1
    assert len(r.ring._longest) < 200


# -- who has to wait ---------------------------------------------------------------------------------------------------


def test_a_lane_that_is_full_is_not_looked_at_until_there_is_room():
    r = Round({A: Limit(concurrency=1)})
    r.add("a", A)
    r.add("b", B, pending=1000)
    looks = Counter()
    wait = r.limits.wait

    def watch(keys: Keys) -> float:
        looks[keys] += 1
        return wait(keys)

    r.limits.wait = watch
    assert sorted(r.turns(2)) == ["a", "b"]
    assert r.turns(50) == "b" * 50
    assert looks[(A,)] <= 3
    looks.clear()
    assert r.turns(50) == "b" * 50
    assert not looks[(A,)]
    r.end("a1")
    assert r.turns(1) == "a"


def test_a_lane_goes_on_when_one_of_its_own_has_ended():
    """Before the others: it has waited for its turn."""
    r = Round({"*": Limit(concurrency=4), A: Limit(concurrency=1)})
    r.add("a", A)
    r.add("b", B)
    assert Counter(r.turns()) == {"a": 1, "b": 3}
    r.end("b1", "a1")
    assert r.turns() == "ab"
    r.end("b2")
    assert r.turns() == "b"


def test_a_lane_goes_on_when_a_reservation_is_cancelled():
    r = Round({"host:*": Limit(concurrency=1)})
    r.add("a", A)
    assert r.limits.reserve("ticket", (A,))
    assert r.turn() is None
    r.limits.cancel("ticket")
    assert r.turns() == "a"


def test_a_lane_that_rests_goes_on_when_its_time_has_come():
    """A second after the last began; it is known how long that is."""
    r = Round({"host:*": Limit(concurrency=3, delay=1)})
    r.add("a", A)
    r.add("b", B)
    assert sorted(r.turns()) == ["a", "b"]
    assert r.ring.soonest == 1
    r.clock.advance(0.75)
    r.limits.rest(B, 2)
    assert r.turn() is None
    assert r.ring.soonest == 0.25
    r.clock.advance(0.25)
    assert r.turns() == "a"
    assert r.ring.soonest == 1
    r.end("b1")
    r.limits.recovered(B)
    r.clock.advance(1.75)
    assert sorted(r.turns()) == ["a", "b"]


def test_it_is_known_when_anything_may_begin():
    r = Round({"*": Limit(delay=2)})
    r.add("a", A)
    assert r.turns() == "a"
    assert r.ring.soonest == 2
    r.clock.advance(2)
    r.hold("another", B)
    assert r.turn() is None
    assert r.ring.soonest == 2


def test_a_lane_that_has_to_rest_can_be_taken_out():
    """Of one that is full it is not known how long that takes: it stays."""
    asked = []
    r = Round({A: Limit(concurrency=1)}, lambda lane, seconds: asked.append((lane.id, seconds)) or seconds == 9)
    r.add("a", A)
    r.add("b", B)
    r.hold("one", A)
    r.limits.rest(B, 5)
    assert r.turn() is None
    assert r.turn() is None
    assert sorted(asked) == [("a", math.inf), ("b", 5)]
    r.end("one")
    r.limits.rest(A, 9)
    r.ring._take_out = lambda lane, seconds: r.ring.remove(lane) is None
    assert r.turn() is None
    assert r.ring.get("a") is None
    assert r.ring.get("b")
    r.clock.advance(9)
    assert r.turns(1) == "b"


def test_a_lane_can_be_put_aside():
    r = Round({})
    lane = r.add("a", A)
    r.ring.put_aside(lane, 0.5)
    assert r.turn() is None
    assert len(r.ring) == 0
    r.clock.advance(0.5)
    assert r.turns(1) == "a"


def test_a_lane_that_is_removed_while_it_waits_does_not_come_back():
    r = Round({"host:*": Limit(concurrency=1), B: Limit(concurrency=1, delay=1)})
    full, resting = r.add("a", A), r.add("b", B)
    assert sorted(r.turns()) == ["a", "b"]
    r.end("b1")
    assert r.turn() is None
    r.ring.remove(full)
    r.ring.remove(resting)
    r.end("a1")
    r.clock.advance(5)
    assert r.turn() is None
    again = r.add("b", B, pending=7)
    assert r.turns() == "b"
    assert again.pending == 6


def test_a_ring_that_is_closed_hears_nothing_any_more():
    r = Round({"host:*": Limit(concurrency=1)})
    r.add("a", A)
    assert r.turns() == "a"
    r.ring.close()
    r.end("a1")
    assert r.turn() is None


# -- several keys, and several lanes under one -------------------------------------------------------------------------


def test_lanes_with_a_key_in_common_take_turns():
    """Who has waited longest for it is the first to go on."""
    r = Round({"name": Limit(concurrency=1)})
    for id in "abc":
        r.add(id, f"host:{id}", "name")
    got = [r.turns()]
    for _ in range(8):
        r.end(got[-1] + str(r.begun[got[-1]]))
        got.append(r.turns())
    assert "".join(got) in ("abcabcabc", "acbacbacb")


def test_a_lane_waits_for_all_of_its_keys():
    """And does not keep those that need fewer of them from going on."""
    r = Round({"host:*": Limit(concurrency=1), "name": Limit(concurrency=1)})
    r.add("a", A, "name")
    r.add("b", A)
    r.hold("one", A)
    r.hold("other", "name")
    assert r.turn() is None
    r.end("one")
    assert r.turns() == "b"
    r.end("other")
    assert r.turn() is None
    r.end("b1")
    assert r.turns() == "a"


def test_all_the_room_that_comes_at_once_is_used():
    """As many lanes go on as can, also when one has no more to do than that."""
    for pending in (1, 2):
        r = Round({"name": Limit(concurrency=1)})
        for id in "abcdef":
            r.add(id, f"host:{id}", "name", pending=pending)
        assert len(r.turns()) == 1
        r.limits.change("name", concurrency=4)
        assert len(r.turns()) == 3


def test_room_that_one_cannot_use_goes_to_another():
    """What is meanwhile taken from the lane that it was for, or has to rest, does not keep others waiting."""
    for seconds in (0, 3):
        r = Round({"host:*": Limit(concurrency=1), "name": Limit(concurrency=1)})
        r.add("a", A, "name")
        r.add("b", A)
        r.hold("one", A)
        assert r.turn() is None
        if seconds:
            r.limits.rest("name", seconds)
        r.end("one")
        if not seconds:
            r.hold("other", "name")
        assert r.turns() == "b"


def test_room_that_comes_when_everything_is_full_is_not_forgotten():
    """One waits for the total limit, and gets what is given back; then there is room for the lane, and in all."""
    r = Round({"*": Limit(concurrency=2), "host:*": Limit(concurrency=1)})
    r.add("a", A)
    r.hold("one", A)
    assert r.turn() is None
    r.hold("two", B)
    waiting = r.limits.acquire("three", (C,))
    waiting.send(None)
    r.end("one")
    assert r.holds("three")
    waiting.close()
    r.end("two")
    assert r.turns() == "a"


@pytest.mark.parametrize("other", [A, B])
def test_a_lane_goes_on_behind_one_who_got_what_he_waited_for(other):
    """By the passing of time, or when another key that he needs was given back."""
    r = Round({A: Limit(concurrency=3, delay=1), B: Limit(concurrency=1)})
    r.hold("one", other)
    waiting = r.limits.acquire("two", (A, B) if other == B else (A,))
    waiting.send(None)
    r.add("a", A)
    assert r.turn() is None
    if other == B:
        r.end("one")
    else:
        r.clock.advance(1)
    assert r.holds("two")
    assert r.turn() is None
    r.clock.advance(1)
    assert r.turns() == "a"
    waiting.close()


# -- whatever happens --------------------------------------------------------------------------------------------------

KEYS = [(A,), (B,), (A, "name"), (B, "name")]
LIMITS = st.builds(Limit, concurrency=st.integers(1, 2), delay=st.sampled_from([0.0, 0.0, 0.5]))


class RingMachine(RuleBasedStateMachine):
    """Lanes come and go, others take permits beside them, hosts rest and limits change; lanes are asked for meanwhile,
    and no lane that may begin is left out when there is said to be none."""

    def __init__(self) -> None:
        super().__init__()
        # Deferreds are awaited as they are, so that every step is over when it returns.
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(scrapy_batcher.throttling.limits, "maybe_deferred_to_future", lambda deferred: deferred)
        self.clock = Clock()
        self.numbers = count(1)
        self.lanes: dict[Keys, Lane] = {}
        self.aside: dict[Keys, float] = {}  # until when
        self.reserved: list[tuple[int, Keys]] = []
        self.keys: dict[int, Keys] = {}
        self.is_asleep = False
        self.crowded: Keys | None = None
        self.acquiring: dict[int, Deferred[Any]] = {}

    @initialize(total=st.integers(1, 4), limits=st.fixed_dictionaries(dict.fromkeys((A, B, "name"), LIMITS)))
    def make(self, total: int, limits: dict[str, Limit]) -> None:
        self.limits = Limits(
            {**limits, "*": Limit(total)}, now=self.clock.seconds, later=self.clock.callLater, uniform=lambda: 0.5
        )
        self.ring: Ring[Lane] = Ring(self.limits)

    def teardown(self) -> None:
        for acquiring in self.acquiring.values():
            acquiring.cancel()
        self._patch.undo()

    @rule(keys=st.sampled_from(KEYS), pending=st.integers(1, 3), first=st.booleans())
    def add(self, keys: Keys, pending: int, first: bool) -> None:
        """Add a lane; or let it grow, or take it away, when there is one already."""
        if keys not in self.lanes:
            self.lanes[keys] = Lane(keys, keys, pending)
            self.ring.add(self.lanes[keys], first=first)
        elif pending > 1:
            self.lanes[keys].pending += pending
            self.ring.grown(self.lanes[keys])
        else:
            self.ring.remove(self.lanes.pop(keys))
            self.aside.pop(keys, None)

    @rule()
    def sleep_or_wake_up(self) -> None:
        """Who asks for turns may be busy."""
        self.is_asleep = not self.is_asleep

    @rule(keys=st.sampled_from(KEYS))
    def crowd(self, keys: Keys) -> None:
        """Let one lane be put aside when it has its turn."""
        self.crowded = keys if keys != self.crowded else None

    @invariant()
    def turns(self) -> None:
        """Who has them may begin; who may begin has one."""
        if self.is_asleep:
            return
        while lane := self.ring.next():
            assert self.lanes[lane.id] is lane
            assert self.aside.pop(lane.id, 0) <= self.clock.seconds()
            if lane.keys == self.crowded:
                self.ring.put_aside(lane, 0.25)
                self.aside[lane.id] = self.clock.seconds() + 0.25
            else:
                self.begin(lane)
        self.nobody_is_left_out()

    def begin(self, lane: Lane) -> None:
        claim, request = next(self.numbers), next(self.numbers)
        assert self.limits.reserve(claim, lane.keys)
        lane.pending -= 1
        if lane.pending:
            self.ring.served(lane)
        else:
            self.ring.remove(lane)
            del self.lanes[lane.id]
        self.limits.cancel(claim)
        assert self.limits.reserve(request, lane.keys)
        self.reserved.append((request, lane.keys))

    def nobody_is_left_out(self) -> None:
        rests = []
        for lane in self.lanes.values():
            wait = max(self.limits.wait(lane.keys), self.aside.get(lane.id, 0) - self.clock.seconds())
            assert wait > 0, f"{lane} may begin"
            rests.append(wait)
        assert 0 < self.ring.soonest <= min((wait for wait in rests if wait < math.inf), default=math.inf)

    @precondition(lambda self: self.reserved)
    @rule()
    def come(self) -> None:
        request, keys = self.reserved.pop(0)
        self._acquire(request, keys)

    @rule(keys=st.sampled_from(KEYS))
    def another_comes(self, keys: Keys) -> None:
        self._acquire(next(self.numbers), keys)

    def _acquire(self, holder: int, keys: Keys) -> None:
        self.keys[holder] = keys
        self.acquiring[holder] = Deferred.fromCoroutine(self.limits.acquire(holder, keys))
        self.acquiring[holder].addErrback(lambda failure: failure.trap(CancelledError) and None)

    @precondition(lambda self: self.acquiring)
    @rule(data=st.data(), is_well=st.booleans())
    def end(self, data: st.DataObject, is_well: bool) -> None:
        """One gives back what it has, or waits no longer."""
        holder = data.draw(st.sampled_from(sorted(self.acquiring)))
        acquiring = self.acquiring.pop(holder)
        if holder not in self.limits.statistics()["*"].holders:
            acquiring.cancel()
            return
        if is_well:
            self.limits.recovered(self.keys[holder][0])
        self.limits.release(holder)

    @rule(seconds=st.sampled_from([0.125, 0.5, 4.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(key=st.sampled_from((A, B, "name")), seconds=st.sampled_from([0.25, 1.0]))
    def rest(self, key: str, seconds: float) -> None:
        self.limits.rest(key, seconds)

    @rule(key=st.sampled_from(("*", A, B, "name")), concurrency=st.integers(1, 4))
    def change(self, key: str, concurrency: int) -> None:
        self.limits.change(key, concurrency=concurrency)

    @invariant()
    def each_lane_is_somewhere(self) -> None:
        assert len(self.ring._lanes) == len(self.lanes)
        assert len(self.ring) <= len(self.lanes)


RingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRingMachine = RingMachine.TestCase
