"""The limits: who holds, who waits, who is about to come, and what happens in the moments between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from scrapy.utils.reactor import is_asyncio_reactor_installed
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

import scrapy_batcher.throttling.limits
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limiters import UnknownLimitError
from scrapy_batcher.throttling.limits import Limits

A, B, C = "host:a", "host:b", "host:c"

TWO = {"host:*": Limit(concurrency=2)}
ONE = {"host:*": Limit(concurrency=1)}


class Desk:
    """Limits with a moved clock, and a book of who was granted permits, and when."""

    def __init__(self, limits: dict[str, Limit], *, uniform: Callable[[], float] = lambda: 0.5, **options: Any) -> None:
        self.clock = Clock()
        self.limits = Limits(
            {"*": Limit(), "host:*": Limit(), **limits},
            now=self.clock.seconds,
            later=self.clock.callLater,
            uniform=uniform,
            **options,
        )
        self.granted: list[object] = []
        self.begun: list[float] = []
        self.waited: dict[object, bool] = {}
        self.errors: dict[object, BaseException] = {}
        self.asking: dict[object, Deferred[None]] = {}

    def ask(self, holder: object, *keys: str) -> None:
        self.asking[holder] = Deferred.fromCoroutine(self._acquire(holder, keys))
        self.asking[holder].addErrback(lambda failure: self.errors.update({holder: failure.value}))

    async def _acquire(self, holder: object, keys: tuple[str, ...]) -> None:
        self.waited[holder] = await self.limits.acquire(holder, keys)
        self.granted.append(holder)
        self.begun.append(self.clock.seconds())

    def advance(self, seconds: float, step: float = 0.125) -> None:
        for _ in range(int(seconds / step)):
            self.clock.advance(step)

    def holders(self, key: str) -> set[object]:
        return set(look.holders) if (look := self.limits.statistics().get(key)) else set()

    def waiting(self, key: str) -> int:
        return look.waiting if (look := self.limits.statistics().get(key)) else 0

    @property
    def is_home(self) -> bool:
        """Whether nobody holds anything, or waits."""
        return not any(look.holders or look.waiting for look in self.limits.statistics().values())


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    # Deferreds are awaited as they are, so that every step is over when it returns.
    monkeypatch.setattr(scrapy_batcher.throttling.limits, "maybe_deferred_to_future", lambda deferred: deferred)
    desks: list[Desk] = []

    def make(limits: dict[str, Limit] | None = None, **options: Any) -> Desk:
        desks.append(Desk(limits or {}, **options))
        return desks[-1]

    yield make
    for made in desks:
        for deferred in made.asking.values():
            deferred.cancel()


# -- one limit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nonsense", "complaint"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1, not 0"),
        ({"concurrency": math.nan}, "concurrency must be at least 1, not nan"),
        ({"burst": 0}, "burst must be at least 1, not 0"),
        ({"rate": 0}, "rate must be above 0, not 0"),
        ({"rate": -1.0}, "rate must be above 0, not -1.0"),
        ({"delay": -0.5}, "delay must be at least 0, not -0.5"),
        ({"jitter": -1}, "jitter must be at least 0, not -1"),
    ],
)
def test_a_limit_that_allows_nothing_cannot_be_made(nonsense, complaint):
    with pytest.raises(ValueError, match=complaint):
        Limit(**nonsense)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (Limit(), 0),
        (Limit(concurrency=4), 0.25),
        (Limit(concurrency=4, rate=0.5), 2),
        (Limit(concurrency=4, delay=3), 3),
    ],
)
def test_a_limit_tells_how_far_apart_downloads_begin(limit, seconds):
    """The tightest of its fields counts."""
    assert limit.seconds_each == seconds


# -- who holds, who waits ----------------------------------------------------------------------------------------------


def test_holders_not_counts(desk):
    """Who holds permits, and how many wait, is known for each key and for all together."""
    d = desk(TWO | {"*": Limit(concurrency=3)})
    for holder in "pqr":
        d.ask(holder, A)
    d.ask("s", B)
    d.ask("t", C)
    assert (d.holders(A), d.waiting(A)) == ({"p", "q"}, 1)
    assert (d.holders(B), d.waiting(B)) == ({"s"}, 0)
    assert (d.holders("*"), d.waiting("*")) == ({"p", "q", "s"}, 2)
    assert {key: look.limit for key, look in d.limits.statistics().items()} == {"*": 3, A: 2, B: 2, C: 2}
    assert repr(d.limits) == "<Limits 3 of 3 held, 2 waiting>"


def test_who_came_first_is_served_first(desk):
    d = desk(ONE)
    for holder in range(6):
        d.ask(holder, A)
    for holder in range(5):
        d.limits.release(holder)
        assert d.holders(A) == {holder + 1}
    assert d.granted == [0, 1, 2, 3, 4, 5]


def test_permits_that_are_not_held_cannot_be_given_back(desk):
    """Not by a stranger, not twice, not by one who waits; and nothing changes by the attempt."""
    d = desk(ONE)
    d.ask("p", A)
    d.ask("q", A)
    for holder in ("stranger", "q"):
        with pytest.raises(RuntimeError, match=f"'{holder}' holds no permits of <Limits 1 of inf held, 1 waiting>"):
            d.limits.release(holder)
    d.limits.release("p")
    with pytest.raises(RuntimeError, match="'p' holds no permits"):
        d.limits.release("p")
    assert d.holders(A) == {"q"}


def test_who_holds_or_waits_cannot_ask_again(desk):
    d = desk(ONE)
    d.ask("p", A)
    d.ask("q", A)
    for holder in ("p", "q"):
        refused: list[Any] = []
        Deferred.fromCoroutine(d.limits.acquire(holder, (B,))).addErrback(refused.append)
        assert refused[0].check(RuntimeError)
    assert (d.holders(A), d.waiting(A), d.holders(B)) == ({"p"}, 1, set())


def test_acquire_tells_whether_there_was_a_wait(desk):
    d = desk(ONE)
    d.ask("p", A)
    d.ask("q", A)
    d.limits.release("p")
    assert d.waited == {"p": False, "q": True}


def test_a_cancelled_waiter_leaves_no_trace(desk):
    """It is not counted any more, is never granted anything, and who came after it moves up."""
    d = desk(ONE)
    for holder in "pqr":
        d.ask(holder, A)
    d.asking["q"].cancel()
    assert isinstance(d.errors["q"], CancelledError)
    assert (d.waiting(A), d.waiting("*")) == (1, 1)
    d.limits.release("p")
    assert d.holders(A) == {"r"}
    d.limits.release("r")
    assert d.is_home
    d.ask("q", A)  # it may come again
    assert d.holders(A) == {"q"}


def test_who_waited_behind_a_cancelled_waiter_moves_up_at_once(desk):
    """What only the cancelled one's turn kept it from, it gets without anybody's giving back anything."""
    d = desk(ONE)
    d.ask("p", A)
    d.ask("q", A, B)
    d.ask("r", B)
    assert d.holders(B) == set()
    d.asking["q"].cancel()
    assert d.holders(B) == {"r"}


@pytest.mark.skipif(not is_asyncio_reactor_installed(), reason="the moment in question exists between asyncio's turns")
@ensureDeferred
async def test_granted_a_moment_too_late() -> None:
    """A waiter that is cancelled in the same turn in which it is granted its permits gives them back."""

    async def scenario() -> None:
        limits = Limits({"host:*": Limit(concurrency=1), "name": Limit(concurrency=1)})
        keys = (A, "name")
        assert not await limits.acquire("first", keys)
        cancelled_first = asyncio.ensure_future(limits.acquire("second", keys))
        granted_first = asyncio.ensure_future(limits.acquire("third", keys))
        patient = asyncio.ensure_future(limits.acquire("fourth", keys))
        await asyncio.sleep(0)
        cancelled_first.cancel()
        limits.release("first")
        granted_first.cancel()
        assert await patient
        assert cancelled_first.cancelled()
        assert granted_first.cancelled()
        assert limits.statistics()["name"].holders == {"fourth"}
        limits.release("fourth")
        assert not any(look.holders or look.waiting for look in limits.statistics().values())

    await Deferred.fromFuture(asyncio.ensure_future(scenario()))


@ensureDeferred
async def test_closed_while_it_waits() -> None:
    """A waiter whose coroutine is closed, not cancelled, leaves the queue as well."""
    limits = Limits({"host:*": Limit(concurrency=1)})
    await limits.acquire("first", (A,))
    waiter = limits.acquire("second", (A,))
    waiter.send(None)
    assert limits.statistics()[A].waiting == 1
    waiter.close()
    assert limits.statistics()[A].waiting == 0
    limits.release("first")
    assert list(limits.statistics()) == ["*"]


# -- under several keys ------------------------------------------------------------------------------------------------


def test_all_or_none(desk):
    """Who has to wait for one of its keys holds none of the others meanwhile."""
    d = desk({"x": Limit(concurrency=1), "y": Limit(concurrency=1)})
    d.ask("p", A, "x")
    d.ask("q", B, "x", "y")
    assert [d.holders(key) for key in ("*", A, B, "x", "y")] == [{"p"}, {"p"}, set(), {"p"}, set()]
    d.limits.release("p")
    assert [d.holders(key) for key in ("*", A, B, "x", "y")] == [{"q"}, set(), {"q"}, {"q"}, {"q"}]
    d.limits.release("q")
    assert d.is_home


def test_nobody_is_overtaken_under_a_key(desk):
    """Who needs a key that one who came earlier waits for comes after it, though the key itself is free: so a request
    with many keys is not put off for ever by those with few."""
    d = desk({"x": Limit(concurrency=1)})
    d.ask("p", A, "x")
    d.ask("q", B, "x")
    d.ask("r", B)
    d.ask("s", C)
    assert d.granted == ["p", "s"]
    d.limits.release("p")
    assert d.granted == ["p", "s", "q", "r"]


def test_everything_is_for_who_can_use_it_now(desk):
    """One that waits for its host does not keep others from the permits of the whole."""
    d = desk(ONE | {"*": Limit(concurrency=3)})
    for holder, key in (("p", A), ("q", A), ("r", B), ("s", C), ("t", "host:d")):
        d.ask(holder, key)
    assert d.granted == ["p", "r", "s"]
    d.limits.release("r")
    assert d.granted == ["p", "r", "s", "t"]
    d.limits.release("p")
    assert d.granted == ["p", "r", "s", "t", "q"]


def test_a_star_is_for_each_name_that_has_no_limit_of_its_own(desk):
    d = desk(TWO | {"host:a": Limit(concurrency=1), "site:*": Limit(concurrency=3)})
    keys = [A, B, C, "site:one", "site:two"]
    for number in range(20):
        d.ask(number, keys[number % 5])
    assert [len(d.holders(key)) for key in keys] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize("key", ["name", "", "site:a", "host"])
def test_an_unknown_limit(desk, key):
    """A limit that is not there is named, with those that are; and who asked for it holds nothing."""
    d = desk({"x": Limit()})
    sentence = f"there is no limit {key!r}; give it one in BATCHER_LIMITS, which has *, host:*, x"
    for asks in (
        lambda: d.limits.wait((A, key)),
        lambda: d.limits.reserve("p", (A, key)),
        lambda: d.limits.limit(key),
        lambda: d.limits.change(key, concurrency=2),
    ):
        with pytest.raises(UnknownLimitError) as raised:
            asks()
        assert str(raised.value) == sentence
    d.ask("p", A, key)
    assert str(d.errors["p"]) == sentence
    assert d.is_home
    assert d.limits.wait((A,)) == 0


def test_a_limit_can_be_added(desk):
    """It counts from then on, and does not take the place of one that is there."""
    d = desk()
    assert d.limits.add("x", Limit(concurrency=1)) == Limit(concurrency=1)
    assert d.limits.add("x", Limit(concurrency=2)) == Limit(concurrency=1)
    d.ask("p", A, "x")
    d.ask("q", A, "x")
    assert d.granted == ["p"]


# -- so many a second --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "begun"),
    [
        (Limit(rate=1), [0, 1, 2, 3, 4, 5]),
        (Limit(rate=4), [0, 0.25, 0.5, 0.75, 1, 1.25]),
        (Limit(rate=30 / 60), [0, 2, 4, 6, 8, 10]),
        (Limit(rate=1, burst=3), [0, 0, 0, 1, 2, 3]),
        (Limit(rate=0.5, burst=2), [0, 0, 2, 4, 6, 8]),
        (Limit(rate=1, burst=6), [0, 0, 0, 0, 0, 0]),
        (Limit(rate=2, delay=1), [0, 1, 2, 3, 4, 5]),
        (Limit(delay=0.75), [0, 0.75, 1.5, 2.25, 3, 3.75]),
    ],
)
@pytest.mark.parametrize("key", ["*", "host:*", A, "x"])
def test_to_the_second(desk, key, limit, begun):
    """Downloads begin as soon as rate, burst and delay allow it, and not before; however long they take."""
    d = desk({"x": Limit()} | {key: limit})
    for holder in range(6):
        d.ask(holder, A, "x")
    d.advance(12)
    assert d.begun == begun


@pytest.mark.parametrize("key", ["*", "host:*", "x"])
def test_what_ends_soon_does_not_begin_sooner(desk, key):
    """Rate and delay count from one beginning to the next, though nobody holds or waits for anything in between."""
    for limit in (Limit(rate=1), Limit(delay=1)):
        d = desk({"x": Limit()} | {key: limit})
        for holder in range(80):
            d.ask(holder, A, "x")
            if holder in d.granted:
                d.limits.release(holder)
            else:
                d.asking[holder].cancel()
            d.advance(0.125)
        assert d.begun == list(range(10))


def test_a_burst_comes_back_with_time(desk):
    """What was not begun for a while may be begun at once, up to the burst."""
    d = desk({"host:*": Limit(rate=1, burst=3)})
    for holder in range(4):
        d.ask(holder, A)
    d.advance(3)  # 4 begun, the last at 1: two seconds ago
    for holder in range(4, 8):
        d.ask(holder, A)
    d.advance(20)
    for holder in range(8, 12):
        d.ask(holder, A)
    d.advance(5)
    assert d.begun == [0, 0, 0, 1, 3, 3, 4, 5, 23, 23, 23, 24]


def test_each_host_has_its_rate(desk):
    d = desk({"host:*": Limit(rate=1)})
    for holder in range(6):
        d.ask(holder, (A, B)[holder % 2])
    d.advance(3)
    assert d.begun == [0, 0, 1, 1, 2, 2]


def test_a_rate_of_everything_and_of_a_host(desk):
    """Both are kept, and what one host leaves of the whole is for the others."""
    d = desk({"*": Limit(rate=2), A: Limit(rate=0.5)})
    for holder in ("a0", "a1", "a2", "b0", "b1", "b2", "b3"):
        d.ask(holder, f"host:{holder[0]}")
    d.advance(5)
    assert dict(zip(d.granted, d.begun, strict=True)) == {
        "a0": 0, "b0": 0.5, "b1": 1, "b2": 1.5, "a1": 2, "b3": 2.5, "a2": 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("jitter", "uniform", "seconds"),
    [(0.0, 0, 2), (0.5, 0, 1), (0.5, 0.5, 2), (0.5, 1, 3), (1.0, 0, 0), (1.0, 1, 4), (2.0, 0, 0), (2.0, 1, 6)],
)
def test_a_delay_has_its_jitter(desk, jitter, uniform, seconds):
    """It is so much of the delay shorter or longer at most, and never negative."""
    d = desk({"host:*": Limit(delay=2, jitter=jitter)}, uniform=lambda: uniform)
    for holder in range(3):
        d.ask(holder, A)
    d.advance(13)
    assert d.begun == [0, seconds, 2 * seconds]


def test_the_time_until_one_may_begin_is_known(desk):
    """It is infinite when another has to end before, or to begin."""
    d = desk({"host:*": Limit(concurrency=2, rate=0.5)})
    assert d.limits.wait((A,)) == 0
    d.ask("p", A)
    d.advance(0.5)
    assert d.limits.wait((A,)) == 1.5
    assert d.limits.statistics()[A].rest == 1.5
    assert d.limits.wait((B,)) == d.limits.wait(()) == 0
    d.ask("q", A)
    assert d.limits.wait((A,)) == math.inf  # another waits
    d.advance(1.5)
    assert d.limits.wait((A,)) == math.inf  # both hold
    assert d.limits.statistics()[A].rest == 0
    d.limits.release("p")
    assert d.limits.wait((A,)) == 2


# -- who is about to come ----------------------------------------------------------------------------------------------


def test_reservations_count_against_each_other(desk):
    """No more are given than permits could be."""
    d = desk(TWO | {"*": Limit(concurrency=3)})
    assert [d.limits.reserve(ticket, (A,)) for ticket in "pqr"] == [True, True, False]
    assert [d.limits.reserve(ticket, (B,)) for ticket in "st"] == [True, False]
    assert d.limits.wait((A,)) == d.limits.wait(()) == math.inf


def test_a_reservation_is_no_permit(desk):
    """Nobody waits for it who comes for permits."""
    d = desk(ONE)
    assert d.limits.reserve("p", (A,))
    d.ask("q", A)
    assert d.granted == ["q"]
    d.ask("p", A)
    assert d.granted == ["q"]
    d.limits.release("q")
    assert d.granted == ["q", "p"]


def test_a_reservation_ends_when_its_holder_comes(desk):
    """Whether it has to wait or not, and also when it comes for other keys."""
    d = desk(TWO)
    for ticket in "pq":
        assert d.limits.reserve(ticket, (A,))
    d.ask("p", A)
    assert d.limits.wait((A,)) == math.inf
    d.ask("q", B)
    assert d.limits.wait((A,)) == 0
    d.limits.release("p")
    d.limits.release("q")
    assert [d.limits.reserve(ticket, (A,)) for ticket in "pqr"] == [True, True, False]


def test_a_reservation_ends_when_it_is_cancelled(desk):
    """A stranger's, or one that was cancelled before, is nothing to cancel."""
    d = desk(ONE)
    assert d.limits.reserve("p", (A,))
    d.limits.cancel("stranger")
    assert not d.limits.reserve("q", (A,))
    d.limits.cancel("p")
    d.limits.cancel("p")
    assert [d.limits.reserve(ticket, (A,)) for ticket in "qr"] == [True, False]


def test_a_reservation_is_not_given_before_those_who_wait(desk):
    d = desk({"x": Limit(concurrency=1)})
    d.ask("p", A, "x")
    d.ask("q", B, "x")
    assert not d.limits.reserve("r", (B,))
    assert d.limits.reserve("s", (C,))


def test_a_reservation_is_not_given_before_its_time(desk):
    d = desk({"host:*": Limit(rate=1)})
    d.ask("p", A)
    assert not d.limits.reserve("q", (A,))
    d.advance(0.875)
    assert not d.limits.reserve("q", (A,))
    d.advance(0.125)
    assert d.limits.reserve("q", (A,))


def test_with_a_rate_as_many_have_reservations_as_the_burst_is(desk):
    d = desk({"host:*": Limit(rate=1, burst=3)})
    assert [d.limits.reserve(ticket, (A,)) for ticket in "pqrs"] == [True, True, True, False]
    assert d.limits.wait((A,)) == 1


def test_with_a_delay_only_one_has_a_reservation(desk):
    """When the next may begin is not known before it has begun."""
    d = desk({"host:*": Limit(delay=1)})
    assert [d.limits.reserve(ticket, (A,)) for ticket in "pq"] == [True, False]
    assert d.limits.wait((A,)) == math.inf
    d.ask("p", A)
    assert d.limits.wait((A,)) == 1


# -- what changes ------------------------------------------------------------------------------------------------------


def test_nothing_begins_while_a_host_rests(desk):
    """Nothing of it, to the second; what is under way goes on, and a shorter rest does not end a longer one."""
    d = desk()
    d.ask("p", A)
    d.limits.rest(A, 3)
    d.limits.rest(A, 1)
    d.ask("q", A)
    d.ask("r", B)
    assert d.granted == ["p", "r"]
    assert d.limits.statistics()[A].limit == 1
    d.limits.release("p")
    assert d.limits.statistics()[A].rest == 3
    d.advance(2.875)
    assert d.granted == ["p", "r"]
    d.advance(0.125)
    assert d.granted == ["p", "r", "q"]


def test_after_a_rest_one_at_a_time_until_the_host_has_recovered(desk):
    d = desk({"host:*": Limit(concurrency=5)})
    d.limits.rest(A, 1)
    for holder in range(9):
        d.ask(holder, A)
    d.advance(9)
    assert (d.granted, d.begun) == ([0], [1])
    d.limits.release(0)
    assert d.granted == [0, 1]
    d.limits.recovered(A)
    d.limits.release(1)
    assert d.granted == [0, 1, 2, 3, 4, 5, 6]


def test_recovering_is_not_forgotten_while_nothing_is_under_way(desk):
    """Nor is a rest."""
    d = desk()
    d.ask("p", A)
    d.limits.rest(A, 5)
    d.limits.release("p")
    assert d.limits.wait((A,)) == 5
    d.advance(60)
    d.ask("q", A)
    d.limits.release("q")
    d.ask("r", A)
    d.ask("s", A)
    assert d.granted == ["p", "q", "r"]


def test_a_rest_can_be_ended(desk):
    """Then as many may begin as the limit says."""
    d = desk(TWO)
    d.limits.rest(A, 60)
    for holder in "pqr":
        d.ask(holder, A)
    d.limits.end_rest(B)
    assert d.granted == []
    d.limits.end_rest(A)
    assert d.granted == ["p", "q"]


def test_who_needs_other_keys_does_not_wait_for_a_host_that_rests(desk):
    d = desk({"x": Limit(concurrency=1)})
    d.limits.rest(A, 60)
    d.ask("p", A)
    d.ask("q", B, "x")
    assert d.granted == ["q"]


def test_a_new_site_is_asked_once_first(desk):
    """Until what had to be known of it is known; names of one's own are not asked anything."""
    d = desk(TWO | {"x": Limit(), "robots:*": Limit()})
    d.ask("p", "robots:a", "x")
    d.ask("q", "robots:b", "x")
    assert d.granted == ["p", "q"]
    assert d.limits.wait(("robots:a",)) == math.inf
    d.limits.known("robots:a")
    assert d.limits.wait(("robots:a",)) == 0
    d.ask("r", "robots:a", "x")
    d.ask("s", "robots:a", "x")
    d.ask("t", "robots:b", "x")
    assert d.granted == ["p", "q", "r", "s"]


def test_a_raised_limit_is_for_those_who_wait(desk):
    """At once, and in their order."""
    d = desk(ONE)
    for holder in range(5):
        d.ask(holder, A)
    d.limits.change(A, concurrency=3)
    assert d.granted == [0, 1, 2]
    d.limits.change("*", concurrency=1)
    d.limits.change(A, concurrency=9)
    assert d.granted == [0, 1, 2]
    d.limits.change("*", concurrency=4)
    assert d.granted == [0, 1, 2, 3]


@pytest.mark.parametrize("key", ["*", A])
def test_a_lowered_limit_takes_nothing_away(desk, key):
    """Nothing new begins until less is in use than it allows."""
    d = desk({"host:*": Limit(concurrency=4)})
    for holder in range(4):
        d.ask(holder, A)
    d.limits.change(key, concurrency=2)
    d.ask("p", A)
    assert d.limits.statistics()[key].limit == 2
    for holder in range(3):
        assert len(d.granted) == 4
        d.limits.release(holder)
    assert d.holders(A) == {3, "p"}


def test_a_changed_delay_counts_from_the_next_beginning(desk):
    d = desk()
    d.limits.change(A, delay=2, jitter=0)
    for holder in range(3):
        d.ask(holder, A)
    d.advance(2)
    d.limits.change(A, delay=0.5)
    d.advance(4)
    assert d.begun == [0, 2, 4]
    d.ask("p", A)
    d.ask("q", A)
    assert d.begun == [0, 2, 4, 6]
    d.advance(0.5)
    assert d.begun == [0, 2, 4, 6, 6.5]


def test_a_pace_is_kept_beside_the_limit(desk):
    """Whichever is slower counts, from one beginning to the next; until there is none."""
    d = desk({"host:*": Limit(delay=1)})
    d.limits.pace(A, 2)
    d.limits.pace(B, 0.5)
    for holder in range(6):
        d.ask(holder, (A, B)[holder % 2])
    d.advance(4)
    assert list(zip(d.granted, d.begun, strict=True)) == [(0, 0), (1, 0), (3, 1), (2, 2), (5, 2), (4, 4)]
    d.limits.pace(A, 0)
    for holder in "pqr":
        d.ask(holder, A)
    d.advance(4)
    assert d.begun[6:] == [6, 7, 8]


def test_with_a_pace_only_one_has_a_reservation(desk):
    d = desk()
    d.limits.pace(A, 2)
    assert [d.limits.reserve(ticket, (A,)) for ticket in "pq"] == [True, False]


def test_a_change_of_all_hosts(desk):
    """It is for those that are in use and those to come, and not for those that have a limit of their own."""
    d = desk({"host:*": Limit(concurrency=1), B: Limit(concurrency=1)})
    for key in (A, B):
        for number in range(3):
            d.ask((key, number), key)
    d.limits.change("host:*", concurrency=2)
    for number in range(3):
        d.ask((C, number), C)
    assert [len(d.holders(key)) for key in (A, B, C)] == [2, 1, 2]


def test_a_change_that_cannot_be_changes_nothing(desk):
    d = desk(TWO)
    with pytest.raises(ValueError, match="concurrency must be at least 1, not 0"):
        d.limits.change(A, concurrency=0)
    with pytest.raises(TypeError, match="colour"):
        d.limits.change(A, colour=1)
    assert d.limits.limit(A) == Limit(concurrency=2)


def test_listeners_are_told_what_more_may_be_had_of(desk):
    """And not of what takes something."""
    d = desk(ONE | {"x": Limit(concurrency=1), "robots:*": Limit()})
    told: list[tuple[str, ...]] = []

    def newly_told() -> list[tuple[str, ...]]:
        news = told.copy()
        told.clear()
        return news

    d.limits.listen(told.append)
    d.ask("p", A, "x")
    d.ask("q", B, "x")
    assert d.limits.reserve("r", (C,))
    d.limits.rest(C, 1)
    assert newly_told() == []
    d.asking["q"].cancel()
    assert newly_told() == [(B, "x")]
    d.limits.release("p")
    assert newly_told() == [(A, "x")]
    d.limits.cancel("r")
    assert newly_told() == [(C,)]
    assert d.limits.reserve("r", (A, "x"))
    assert d.limits.reserve("s", (A, "x"), instead_of="r")
    d.ask("s", A, "x")
    assert newly_told() == []
    assert d.limits.reserve("t", (B,))
    assert d.limits.reserve("u", (C,), instead_of="t") is False
    assert newly_told() == [(B,)]
    assert d.limits.reserve("t", (B,))
    d.ask("t")
    assert newly_told() == [(B,)]
    d.limits.recovered(C)
    d.limits.recovered(C)
    assert newly_told() == [(C,)]
    d.limits.known("robots:c")
    d.limits.known("robots:c")
    assert newly_told() == [("robots:c",)]
    d.limits.change("host:*", concurrency=2)
    assert newly_told() == [("host:*",)]
    for seconds in (3, 5, 2):  # told of what is faster only
        d.limits.pace(C, seconds)
    assert newly_told() == [(C,)]
    d.limits.end_rest(C)
    assert newly_told() == [(C,)]
    d.limits.change(B, delay=1)
    assert d.limits.reserve("u", (B,))
    newly_told()
    d.ask("u", B)
    assert newly_told() == [(B,)]  # who comes next need not wait any more until it begins, but for the delay
    d.limits.unlisten(told.append)
    d.limits.release("s")
    assert newly_told() == []


# -- a million hosts ---------------------------------------------------------------------------------------------------


def test_idle_hosts_are_forgotten(desk):
    """What no longer makes a difference costs nothing."""
    d = desk()
    for number in range(20_000):
        d.ask(number, f"host:{number}")
        d.limits.release(number)
    assert list(d.limits.statistics()) == ["*"]


@pytest.mark.parametrize("limit", [Limit(rate=1), Limit(delay=1)])
def test_hosts_are_remembered_for_as_long_as_it_makes_a_difference(desk, limit):
    """A rate or a delay does so for a while."""
    d = desk({"host:*": limit})
    for number in range(20_000):
        d.ask(number, f"host:{number}")
        d.limits.release(number)
        d.clock.advance(1 / 64)
    assert d.limits.wait((f"host:{number}",)) == 1 - 1 / 64
    assert len(d.limits.statistics()) <= 1 + 1000 + 1


def test_what_is_learned_of_hosts_has_a_bound(desk):
    """The rests of many hosts are remembered, and how much many bear; not of all the world."""
    for adapt in (False, True):
        d = desk(adapt=adapt)
        for number in range(30_000):
            d.ask(number, f"host:{number}")
            d.limits.release(number)
            if not adapt:
                d.limits.rest(f"host:{number}", 3600)
        assert 10_000 < len(d.limits.statistics()) < 20_010
        assert d.limits.wait(("host:29999",)) == (0 if adapt else 3600)


def test_hosts_that_are_active_and_that_rest(desk: Callable[..., Desk]) -> None:
    """A host with something under way is active; one that was told to rest, and has nothing, rests until that is over.
    One that waits for its delay does neither, and what is no host is not counted."""
    d = desk({"host:*": Limit(delay=10, jitter=0), "name": Limit()})
    hosts = d.limits.hosts
    assert hosts(d.clock.seconds()) == (0, 0)
    for holder, keys in (("a1", (A,)), ("b1", (B, "name")), ("c1", (C,))):
        d.ask(holder, *keys)
    assert hosts(d.clock.seconds()) == (3, 0)
    d.limits.release("a1")
    assert hosts(d.clock.seconds()) == (2, 0)
    d.limits.rest(B, 60)
    d.limits.rest(C, 60)
    assert hosts(d.clock.seconds()) == (2, 0)
    d.limits.release("b1")
    assert hosts(d.clock.seconds()) == (1, 1)
    d.limits.release("c1")
    assert hosts(d.clock.seconds()) == (0, 2)
    d.clock.advance(60)
    assert hosts(d.clock.seconds()) == (0, 0)
