"""Hosts that ask for rest, or cannot be reached, are left alone: fake answers, and a clock that is moved."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    NotSupported,
    ResponseDataLossError,
)
from scrapy.http import Response
from scrapy.settings import Settings
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from scrapy_batcher.config import Config
from scrapy_batcher.throttling.hosts import Hosts
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limits import Limits

A, B = "host:a", "host:b"
NOW = 784111777.0  # Unix time at which the clock begins


class World:
    """Hosts with a moved clock; of each wait that is drawn the longest comes."""

    def __init__(self, *, adapt: bool = False, **settings: object) -> None:
        self.clock = Clock()
        self.limits = Limits(
            {"*": Limit(), "host:*": Limit(concurrency=4)},
            adapt=adapt,
            now=self.clock.seconds,
            later=self.clock.callLater,
        )
        self.hosts = Hosts(
            Config.from_settings(Settings(settings)),
            self.limits,
            uniform=lambda: 1.0,
            clock=lambda: NOW + self.clock.seconds(),
        )

    def answer(self, status: int, host: str = A, **headers: str) -> float:
        """Have *host* answer, with these *headers*, their names with _ for -; seconds that it then rests."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self.hosts.answered(host, Response("http://a", status=status, headers=fields), 0.5)
        return self.rest(host)

    def fail(self, exception: Exception | None = None, host: str = A) -> float:
        self.hosts.failed(host, exception or DownloadConnectionRefusedError("refused"))
        return self.rest(host)

    def rest(self, host: str = A) -> float:
        return self.limits.wait((host,))

    def rests(self, number: int, host: str = A, status: int | None = None) -> list[float]:
        """So many rests in a row, each begun when the one before is over, by an answer or a failure."""
        seconds = []
        for _ in range(number):
            self.clock.advance(self.rest(host))
            seconds.append(self.answer(status, host) if status else self.fail(host=host))
        return seconds


@pytest.mark.parametrize("status", [429, 503])
def test_a_host_says_how_long_it_wants_to_rest(status):
    """In seconds or as a date, which counts from the response's own, or else from now."""
    assert World().answer(status, Retry_After="7") == 7
    assert World().answer(status, Retry_After=formatdate(NOW + 60, usegmt=True)) == 60
    dates = {"Retry_After": formatdate(NOW + 3660, usegmt=True), "Date": formatdate(NOW + 3600, usegmt=True)}
    assert World().answer(status, **dates) == 60


@pytest.mark.parametrize("status", [200, 204, 301, 403, 404, 500, 502])
def test_other_answers_are_no_reason_to_rest(status):
    assert World().answer(status) == 0


@pytest.mark.parametrize("status", [429, 503])
def test_a_host_that_does_not_say_rests_longer_each_time(status):
    """Twice as long, up to BATCHER_REST_MAX."""
    assert World().rests(11, status=status) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    world = World(BATCHER_REST_SECONDS=0.25, BATCHER_REST_MAX=2)
    assert world.rests(6, status=status) == [0.25, 0.5, 1, 2, 2, 2]


def test_each_host_rests_for_itself():
    world = World()
    assert world.rests(3, A, 503) == [1, 2, 4]
    assert world.rests(2, B, 503) == [1, 2]


def test_several_answers_of_one_moment_are_one_rest():
    """Those that were under way together when the host had enough: the next rest is the second."""
    world = World()
    assert [world.answer(503) for _ in range(4)] == [1, 1, 1, 1]
    world.clock.advance(0.5)
    assert world.answer(429) == 0.5
    world.clock.advance(0.5)
    assert [world.answer(503) for _ in range(4)] == [2, 2, 2, 2]


def test_the_longest_of_several_rests_that_are_asked_for_counts():
    """Also when one of them did not ask."""
    world = World()
    assert [world.answer(429, Retry_After=seconds) for seconds in ("5", "60", "10")] == [5, 60, 60]
    assert world.answer(503) == 60
    world = World()
    assert world.answer(503) == 1
    assert world.answer(503, Retry_After="20") == 20


def test_a_rest_that_is_asked_for_is_one_of_those_in_a_row():
    world = World()
    assert world.answer(429, Retry_After="5") == 5
    assert world.rests(2, status=429) == [2, 4]


def test_a_good_answer_is_a_new_beginning():
    """Of an answer that is no reason to rest, that is: a page that is not there is one too."""
    for status in (200, 404, 500):
        world = World()
        assert world.rests(4, status=503) == [1, 2, 4, 8]
        world.clock.advance(8)
        assert world.answer(status) == 0
        assert world.rests(2, status=503) == [1, 2]


def test_after_a_rest_one_at_a_time_until_the_host_answers_well():
    world = World()
    assert world.answer(503) == 1
    world.clock.advance(1)
    assert [world.limits.reserve(ticket, (A,)) for ticket in "pq"] == [True, False]
    world.answer(200)
    assert [world.limits.reserve(ticket, (A,)) for ticket in "qrst"] == [True, True, True, False]


def test_no_rest_is_longer_than_what_is_kept():
    """BATCHER_RETRY_AFTER_MAX is for those that are asked for, whatever asks."""
    assert World().answer(429, Retry_After="86400") == 3600
    assert World(BATCHER_RETRY_AFTER_MAX=10).answer(429, Retry_After="60") == 10
    assert World(BATCHER_RETRY_AFTER_MAX=10).answer(200, RateLimit='"default";r=0;t=60') == 10
    assert World(BATCHER_RETRY_AFTER_MAX=600, BATCHER_REST_MAX=5).answer(429, Retry_After="60") == 60


def test_a_good_answer_may_say_that_nothing_remains():
    """Then the host rests before it has to say no; and this is no rest of those that become longer."""
    world = World()
    assert world.answer(200, RateLimit='"default";r=3;t=30') == 0
    assert world.answer(200, RateLimit='"default";r=0;t=30') == 30
    assert world.answer(200, RateLimit='"default";r=0;t=10') == 30
    world.clock.advance(30)
    assert world.answer(503) == 1
    assert World().answer(200, Retry_After="30") == 30
    assert World().answer(200, RateLimit_Remaining="0", RateLimit_Reset="30") == 30


def test_no_rest_at_all():
    """With BATCHER_REST off nothing is a reason."""
    world = World(BATCHER_REST=False)
    assert world.answer(429) == world.answer(503, Retry_After="60") == 0
    assert world.answer(200, RateLimit='"default";r=0;t=30') == 0
    assert world.fail() == 0
    assert world.limits.statistics()["*"].rest == 0
    assert [world.limits.reserve(ticket, (A,)) for ticket in "pqrst"] == [True, True, True, True, False]


def test_other_statuses_ask_for_rest():
    """Those of BATCHER_REST_STATUSES, and no others."""
    world = World(BATCHER_REST_STATUSES="403, 429")
    assert world.answer(503) == 0
    assert world.answer(403) == 1
    assert World(BATCHER_REST_STATUSES=[]).answer(429) == 0


# -- hosts that cannot be reached --------------------------------------------------------------------------------------

FAILURES = [CannotResolveHostError, DownloadConnectionRefusedError, DownloadFailedError, DownloadTimeoutError]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_host_that_cannot_be_reached_rests_longer_each_time(failure):
    """Up to BATCHER_FAILING_REST_MAX."""
    assert World().fail(failure("x")) == 1
    assert World().rests(7) == [1, 2, 4, 8, 10, 10, 10]
    assert World(BATCHER_FAILING_REST_MAX=3).rests(4) == [1, 2, 3, 3]


@pytest.mark.parametrize(
    "exception",
    [IgnoreRequest("x"), NotSupported("x"), ResponseDataLossError("x"), DownloadCancelledError("x"), ValueError("x")],
)
def test_other_failures_say_nothing_of_the_host(exception):
    world = World(BATCHER_FAILING_GIVE_UP=1)
    assert world.fail(exception) == 0
    assert not world.hosts.is_given_up(A)


def test_several_failures_of_one_moment_are_one_rest():
    world = World()
    assert [world.fail() for _ in range(4)] == [1, 1, 1, 1]
    assert world.rests(2) == [2, 4]


def test_a_host_that_answers_again_is_a_new_beginning_too():
    world = World()
    assert world.rests(3) == [1, 2, 4]
    world.answer(200)
    world.clock.advance(4)
    assert world.rests(2) == [1, 2]


def test_a_host_is_given_up():
    """After BATCHER_FAILING_GIVE_UP failures in a row; what is left for it then need not wait for a rest to end."""
    world = World(BATCHER_FAILING_GIVE_UP=3)
    for given_up in (False, False, True, True):
        world.clock.advance(world.rest())
        rest = world.fail()
        assert world.hosts.is_given_up(A) == given_up
        assert (rest == 0) == given_up
    assert not world.hosts.is_given_up(B)


def test_a_host_is_not_given_up_any_more_when_it_answers():
    """And may fail as often as in the beginning."""
    world = World(BATCHER_FAILING_GIVE_UP=2)
    world.fail()
    world.answer(200)
    world.fail()
    assert not world.hosts.is_given_up(A)
    world.fail()
    assert world.hosts.is_given_up(A)
    world.answer(200)
    assert not world.hosts.is_given_up(A)
    world.fail()
    assert not world.hosts.is_given_up(A)


def test_no_host_is_given_up_unless_that_is_asked_for():
    world = World()
    for _ in range(1000):
        world.fail()
    assert not world.hosts.is_given_up(A)


def test_hosts_are_given_up_without_rests_too():
    world = World(BATCHER_FAILING_GIVE_UP=2, BATCHER_REST=False)
    world.fail()
    assert not world.hosts.is_given_up(A)
    world.fail()
    assert world.hosts.is_given_up(A)


# -- hosts that ask for rest again and again ---------------------------------------------------------------------------


def paced(**settings: object) -> World:
    """A world in which a host has rested for 10 seconds, answered 5 times in 5 seconds, and rested for 10 again."""
    world = World(**settings)
    world.answer(429, Retry_After="10")
    world.clock.advance(10)
    for _ in range(5):
        world.clock.advance(1)
        world.answer(200)
    assert world.answer(429, Retry_After="10") == 10
    world.clock.advance(10)
    return world


def pace(world: World) -> float:
    """Seconds from one request to the next."""
    Deferred.fromCoroutine(world.limits.acquire("p", (A,)))
    world.limits.release("p")
    return world.rest()


def test_a_host_that_asks_again_gets_a_pace():
    """No more in the long run than it has answered between two rests, the second of them counted in."""
    assert pace(paced()) == 15 / 5


def test_a_host_that_asks_once_gets_no_pace():
    world = World()
    world.answer(429, Retry_After="10")
    world.clock.advance(10)
    for _ in range(10):
        world.answer(200)
    assert pace(world) == 0


def test_a_host_that_has_answered_little_between_two_rests_gets_no_pace():
    """Nothing is known of it yet."""
    world = World()
    world.answer(429, Retry_After="10")
    world.clock.advance(10)
    for _ in range(2):
        world.answer(200)
    world.answer(429, Retry_After="10")
    world.clock.advance(10)
    assert pace(world) == 0


def test_a_pace_becomes_slower_with_each_rest_and_faster_with_each_answer():
    """Faster more and more quickly, and never slower than BATCHER_REST_MAX."""
    world = paced()
    world.answer(429, Retry_After="10")
    world.clock.advance(10)
    slower = pace(world)
    assert 3 < slower < 3.5
    paces = []
    for _ in range(3):
        for _ in range(100):
            world.answer(200)
        world.clock.advance(10)
        paces.append(pace(world))
    assert slower > paces[0] > paces[1] > paces[2] > 1
    assert slower / paces[0] < paces[0] / paces[1] < paces[1] / paces[2]
    assert pace(paced(BATCHER_REST_MAX=2)) == 2


def test_a_host_that_answers_well_for_long_has_no_pace_any_more():
    """And is a host like any other."""
    world = paced()
    for _ in range(1001):
        world.answer(200)
    assert pace(world) == 0
    assert world.answer(429, Retry_After="10") == 10
    world.clock.advance(10)
    assert pace(world) == 0


# -- how much they bear, and how many are remembered -------------------------------------------------------------------


@pytest.mark.parametrize("rest", [True, False])
def test_who_asks_for_rest_or_fails_is_asked_for_less_at_once(rest):
    """With BATCHER_ADAPTIVE, and with rests or without."""
    for bad in (World.fail, lambda world: world.answer(429)):
        world = World(adapt=True, BATCHER_REST=rest)
        width = world.limits.width(A)
        width.value = 4.0
        bad(world)
        assert width.value == 2


def test_who_answers_well_is_asked_for_more_at_once():
    """When it was asked for as many as it may be."""
    world = World(adapt=True)
    Deferred.fromCoroutine(world.limits.acquire("one", (A,)))
    for _ in range(10):
        world.answer(200)
    assert world.limits.width(A).value == 2
    for _ in range(10):
        world.answer(404)
    assert world.limits.width(A).value == 2


def test_not_all_hosts_of_the_world_are_remembered():
    """Those that were in trouble last are."""
    world = World(BATCHER_FAILING_GIVE_UP=1)
    for number in range(10_001):
        world.fail(host=f"host:{number}")
    assert [world.hosts.is_given_up(f"host:{number}") for number in (0, 1, 10_000)] == [False, True, True]
