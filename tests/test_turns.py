"""Turns: lists of every shape are worked through nearly as fast as the limits allow, in a world where time is moved."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.task import Clock

import scrapy_batcher.batch.turns
from scrapy_batcher.batch.turns import Turns
from scrapy_batcher.jobs.lanes import Claim
from scrapy_batcher.jobs.ledger import Ledger, Postponement, Settlement
from scrapy_batcher.lists.lines import Mark, Place
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import FETCHED, Outcome
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limiters import Keys
from scrapy_batcher.throttling.limits import Limits

TOTAL, PER_HOST = 16, 2
LIMITED = "limited"  # a host that bears one at a time
SLICE = 100  # rows that are loaded at a time
BATCH = 50  # outcomes that are entered at a time
TICK = 1e-6  # seconds that pass at least, as a Unix time has no more digits
START = 1_700_000_000  # the Unix time at which a world begins


@dataclass(frozen=True)
class Page:
    """A page of *host*, which counts for the limits called *names*, too.

    :param seconds: that its host takes for it
    :param to: what it redirects to
    :param rest: seconds that its host asks to be left alone for with it
    """

    host: str
    seconds: float = 1.0
    names: tuple[str, ...] = ()
    to: Page | None = None
    rest: float = 0.0

    @property
    def keys(self) -> Keys:
        return (f"host:{self.host}", *self.names)


class World:
    """A list that is loaded and worked through: what is claimed is begun at once and ends after its seconds.

    :param pause: seconds between two slices of the list
    :param lag: seconds from a claim until what it is for takes its permits
    """

    def __init__(
        self,
        pages: Iterable[Page] = (),
        limits: Mapping[str, Limit] | None = None,
        *,
        path: Path | None = None,
        pause: float = 0.0,
        lag: float = 0.0,
    ) -> None:
        self.limit = {"*": Limit(TOTAL), "host:*": Limit(PER_HOST), f"host:{LIMITED}": Limit(1), **(limits or {})}
        self.pages = list(pages)
        self.pause = pause
        self.lag = lag
        self.clock = Clock()
        self.path = path
        self.numbers = count()
        self.loaded = 0
        self.settled: list[Settlement] = []
        self.postponed: list[Postponement] = []
        self.done = 0
        self.events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self.begun: list[tuple[float, int]] = []  # when, and which page
        self.under_way: dict[int, tuple[Claim, Page]] = {}
        self.redirected: dict[int, Page] = {}
        self.held: Counter[str] = Counter()
        self.reserved: Counter[str] = Counter()
        self.most_lanes = self.most_parked = self.looks = 0
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.path)
        self.limits = Limits(
            self.limit, now=self.clock.seconds, later=self.clock.callLater, uniform=random.Random(1).random
        )
        self.turns = Turns(self.ledger.lanes, self.limits, self.unix_time)

    def close(self) -> None:
        self.turns.close()
        self.ledger.close()

    def reopen(self) -> None:
        """Begin again as after a kill: what was not entered is forgotten."""
        self.close()
        for held in (self.events, self.settled, self.postponed, self.held, self.reserved, self.redirected):
            held.clear()
        self.under_way.clear()
        self.open()

    @property
    def now(self) -> float:
        return self.clock.seconds()

    def unix_time(self) -> float:
        return START + self.clock.seconds()

    def at(self, seconds: float, action: Callable[..., object], *values: Any) -> None:
        """Have something done in so many seconds."""
        heapq.heappush(self.events, (self.now + seconds, next(self.numbers), action, values))

    def page(self, id: int) -> Page:
        return self.pages[id - 1]

    # -- the list ------------------------------------------------------------------------------------------------------

    def load(self) -> bool:
        """Load the next slice; whether there was one."""
        rows = [
            (Target(id, id, f"http://{page.host}/{id}", {}), page.keys, None)
            for id, page in enumerate(self.pages[self.loaded : self.loaded + SLICE], start=self.loaded + 1)
        ]
        if rows:
            self.loaded += len(rows)
            self.turns.added(self.ledger.load(rows, Mark(self.loaded, Place(self.loaded, 0, 0))))
        return bool(rows)

    def load_on(self) -> None:
        if self.load():
            self.at(self.pause, self.load_on)

    # -- a claim becomes a page ----------------------------------------------------------------------------------------

    def claim(self) -> Claim | None:
        claim = self.turns.claim()
        if claim:
            page = self.redirected.pop(claim.target.id, None) or self.page(claim.target.id)
            self.count(self.reserved, page.keys, 1)
            self.at(self.lag, self.begin, claim, page) if self.lag else self.begin(claim, page)
        return claim

    def begin(self, claim: Claim, page: Page) -> None:
        assert claim.target.id not in self.under_way, "it is given to nobody twice"
        self.under_way[claim.target.id] = claim, page
        self.begun.append((self.now, claim.target.id))
        self.count(self.reserved, page.keys, -1)
        self.limits.cancel(claim)
        self.hold(claim, page.keys)
        self.at(page.seconds, self.end, claim, page)

    def hold(self, holder: object, keys: Keys) -> None:
        acquiring = self.limits.acquire(holder, keys)
        with suppress(StopIteration):
            acquiring.send(None)
        assert not acquiring.cr_frame, "it gets what was reserved for it, at once"
        self.count(self.held, keys, 1)

    def release(self, holder: object, keys: Keys) -> None:
        self.count(self.held, keys, -1)
        self.limits.release(holder)

    def count(self, counts: Counter[str], keys: Keys, number: int) -> None:
        for key in ("*", *keys):
            counts[key] += number
            assert self.held[key] + self.reserved[key] <= self.limit.get(key, self.limit["host:*"]).concurrency

    def end(self, claim: Claim, page: Page) -> None:
        self.let_go(claim, page)
        if page.to:
            self.park(claim, page.to)
        else:
            self.settle(claim)

    def let_go(self, claim: Claim, page: Page) -> None:
        if page.rest:
            self.limits.rest(page.keys[0], page.rest)
        else:
            self.limits.recovered(page.keys[0])
        self.release(claim, page.keys)
        del self.under_way[claim.target.id]

    def park(self, claim: Claim, to: Page) -> None:
        self.redirected[claim.target.id] = to
        self.turns.park(claim, to.keys)
        self.most_parked = max(self.most_parked, len(self.redirected))

    def settle(self, claim: Claim, outcome: str = FETCHED) -> None:
        self.settled.append(Settlement(claim.target.id, Outcome(outcome), 1, self.unix_time()))
        self.done += 1
        if len(self.settled) >= BATCH:
            self.enter()

    def postpone(self, claim: Claim, seconds: float) -> None:
        first = claim.first or self.unix_time()
        due = self.unix_time() + seconds
        self.postponed.append(Postponement(claim.target.id, due, claim.retries + 1, first, 1))

    def enter(self) -> None:
        """Make a checkpoint."""
        self.ledger.settle(self.settled, {}, self.postponed)
        self.settled, self.postponed = [], []

    # -- time ----------------------------------------------------------------------------------------------------------

    def run(self, until: float = math.inf) -> World:
        """Go on *until* then, or until all is done."""
        if not self.loaded:
            self.load_on()
        while self.now < until and (self.events or self.done < self.loaded):
            while self.events and self.events[0][0] <= self.now:
                _, _, action, values = heapq.heappop(self.events)
                action(*values)
            self.work()
            if self.postponed:
                self.enter()
            self.pass_time(until)
        self.enter()
        return self

    def work(self) -> None:
        """Claim all that can be."""
        for _ in range(1000):
            while self.claim():
                pass
            self.looks += 1
            self.most_lanes = max(self.most_lanes, len(self.turns._ring._lanes))
            if self.turns.soonest:
                return
        raise AssertionError("it is said to be worth while to ask again, and is not")

    def pass_time(self, until: float) -> None:
        """To when something happens, or it is worth while to ask for a claim."""
        event = self.events[0][0] if self.events else math.inf
        time = min(event, self.now + max(self.turns.soonest, TICK), until)
        assert time < 100_000, "nothing goes on"
        self.clock.advance(time - self.now)

    # -- what has come of it -------------------------------------------------------------------------------------------

    @property
    def ideal(self) -> float:
        """The seconds that it takes at least."""
        work: Counter[str] = Counter()
        steps = [*self.pages]
        for page in steps:
            for key in ("*", *page.keys):
                work[key] += page.seconds
            steps += [page.to] if page.to else []
        each = {key: self.limit.get(key, self.limit["host:*"]).seconds_each for key in work}
        return max((seconds * each[key] for key, seconds in work.items()), default=0.0)

    def firsts(self) -> dict[str, float]:
        """When each host had its first page."""
        return {self.page(id).host: time for time, id in reversed(self.begun)}

    def by_host(self) -> dict[str, list[int]]:
        """The pages that were begun, by host."""
        pages: dict[str, list[int]] = {}
        for _, id in self.begun:
            pages.setdefault(self.page(id).host, []).append(id)
        return pages


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(*args: Any, **options: Any) -> World:
        worlds.append(World(*args, **options))
        return worlds[-1]

    yield make
    for one in worlds:
        one.close()


# -- lists of every shape ----------------------------------------------------------------------------------------------


def pages(*sizes: tuple[str, int]) -> list[Page]:
    """So many pages of each host, of a second on average."""
    chance = random.Random(2)
    return [Page(host, chance.uniform(0.5, 1.5)) for host, size in sizes for _ in range(size)]


def shuffled(pages: list[Page]) -> list[Page]:
    return random.Random(3).sample(pages, len(pages))


def hosts(number: int, size: int) -> list[tuple[str, int]]:
    return [(f"h{n}", size) for n in range(number)]


def zipf(number: int, size: int) -> list[tuple[str, int]]:
    return [(f"h{n}", max(1, size // n)) for n in range(number, 0, -1)]


SHAPES = {
    "shuffled": shuffled(pages(*hosts(50, 40))),
    "by host": pages(*hosts(50, 40)),
    "90% on one host": shuffled(pages(("large", 900), *hosts(50, 2))),
    "90% on one host, which comes last": pages(*hosts(100, 1), ("large", 900)),
    "a host each": pages(*hosts(20_000, 1)),
    "one host": pages(("h", 500)),
    "Zipf, the largest last": pages(*zipf(300, 200)),
    "Zipf over many hosts, the largest last": pages(*zipf(3000, 600)),
    "many hosts, and then a large one": pages(*hosts(3000, 1), ("large", 400)),
    "half on a host that bears one": shuffled(pages((LIMITED, 300), *hosts(30, 10))),
    "half on a host that bears one, which comes last": pages(*hosts(30, 10), (LIMITED, 300)),
    "three pages": pages(("a", 1), ("b", 2)),
    "nothing": [],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_list_takes_hardly_longer_than_it_must(world, shape):
    """Whatever its shape; every page is begun once, those of a host in the order of the list, and what is known of the
    hosts does not take more memory for more of them."""
    w = world(SHAPES[shape]).run()
    assert w.ledger.tally() == ({FETCHED: len(w.pages)} if w.pages else {})
    assert all(ids == sorted(set(ids)) for ids in w.by_host().values())
    assert w.most_lanes <= 1300
    assert w.now <= 1.1 * w.ideal + 1.5


@pytest.mark.parametrize("limits", [{}, {"host:*": Limit(PER_HOST, delay=0.25)}], ids=["no delay", "delay"])
def test_what_is_claimed_and_on_its_way_is_counted_in(world, limits):
    """Nothing has to wait for its permits, though they are taken a while after a claim."""
    w = world(SHAPES["shuffled"], limits, lag=0.5).run()
    assert w.ledger.tally() == {FETCHED: 2000}
    assert w.now <= 1.1 * w.ideal * 1.5 + 1.5  # a page of one second takes as much longer


def test_a_list_is_worked_on_while_it_is_loaded(world):
    """A slice every two seconds; what is there is begun at once, and in the end it has taken no longer."""
    w = world(SHAPES["shuffled"], pause=2.0).run()
    assert [time for time, _ in w.begun[:TOTAL]] == [0.0] * TOTAL
    assert w.now <= 1.1 * w.ideal + 1.5


def test_a_list_that_comes_slowly_keeps_nobody_waiting(world):
    """Rows of hosts that are new, and of some whose earlier rows are done, are begun as they come."""
    w = world([Page(f"h{n % 70}", 0.5) for n in range(700)], {"*": Limit(1000)}, pause=1.0).run()
    assert [time for time, _ in w.begun] == [float(id // SLICE) for id in range(700)]


# -- hosts in comparison -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [shuffled, list], ids=["shuffled", "by host"])
@pytest.mark.parametrize(("number", "size"), [(50, 40), (1500, 3)])
def test_nobody_starves(world, order, number, size):
    """Of hosts that are alike, each has had its first page before half of the time is over."""
    w = world(order(pages(*hosts(number, size)))).run()
    assert max(w.firsts().values()) < w.now / 2


def test_small_hosts_do_not_wait_for_a_large_one(world):
    """Nor for those of which there are many pages ahead of theirs."""
    w = world(pages(("large", 1000), *hosts(50, 4), *[(f"g{n}", 100) for n in range(10)])).run()
    last = max(time for time, id in w.begun if w.page(id).host.startswith("h"))
    assert last < w.now / 10
    assert w.now <= 1.1 * w.ideal


def test_a_delay_keeps_all_hosts_busy(world):
    """Each of 200 hosts has a page a second."""
    w = world(shuffled([Page(f"h{n % 200}", 0.2) for n in range(2000)]), {"*": Limit(100), "host:*": Limit(2, delay=1)})
    w.run()
    begun: dict[str, list[float]] = {}
    for time, id in w.begun:
        begun.setdefault(w.page(id).host, []).append(time)
    assert {round(later - time, 3) for times in begun.values() for time, later in pairwise(times)} == {1.0}
    assert w.now == pytest.approx(9.2, abs=0.5)


def test_a_long_delay_is_kept_to_the_second(world):
    """That a host waits in the ledger meanwhile makes no difference."""
    w = world([Page(f"h{n % 20}", 0.5) for n in range(100)], {"*": Limit(100), "host:*": Limit(2, delay=16)}).run()
    assert [round(time, 3) for time, _ in w.begun] == [16.0 * (n // 20) for n in range(100)]


def test_limits_of_ones_own(world):
    """What counts for a name together is begun as often as that allows, and the rest beside it."""
    named = [Page(f"h{n % 40}", 1.0, ("name",)) for n in range(200)]
    w = world(shuffled(named + [Page(f"h{n % 60}", 1.0) for n in range(700)]), {"name": Limit(4)}).run()
    assert w.now <= 1.1 * w.ideal + 1.5


# -- memory ------------------------------------------------------------------------------------------------------------


def test_hosts_that_share_a_limit_take_hardly_longer_than_they_must(world):
    w = world([Page(f"h{n}", 0.125, ("name",)) for n in range(2500)], {"name": Limit(2)}).run()
    assert w.now <= 1.1 * w.ideal + 1.5


@pytest.mark.parametrize("rests", ["target", "lane"])
def test_what_is_due_all_at_once_waits_in_the_ledger(world, tmp_path, rests):
    """As when a job is gone on with the next day, of which many targets were to be tried once more."""
    w = world([Page(f"h{n}") for n in range(2500)], path=tmp_path / "ledger")
    while w.load():
        pass
    for lane in w.ledger.lanes.ready(0, 2500):
        if rests == "lane":
            w.ledger.lanes.rest(lane.id, START + 10)
        else:
            (claim,) = w.ledger.lanes.targets(lane.id, 0, 10)
            w.ledger.lanes.claim(claim)
            w.postpone(claim, 10)
    w.enter()
    w.reopen()
    w.clock.advance(86_400)
    w.run()
    assert w.ledger.tally() == {FETCHED: 2500}
    assert w.most_lanes <= 1300


def test_hosts_that_wait_are_few_in_memory(world):
    """Those that rest for seconds between two pages; for longer, they are in the ledger."""
    for delay in (4, 32):
        w = world([Page(f"h{n % 2000}", 0.25) for n in range(4000)], {"host:*": Limit(1, delay=delay)}).run()
        assert w.now <= 1.1 * w.ideal + 1.5
        assert w.most_lanes <= 1500


# -- rests -------------------------------------------------------------------------------------------------------------


def rested(size: int) -> list[Page]:
    """Hosts that ask for a long rest with their first page, and one that does not."""
    first = [Page(f"h{n}", rest=100) for n in range(200)]
    return first + [Page(f"h{n}") for n in range(200)] * size + [Page("other")] * 400


def test_hosts_that_rest_long_wait_in_the_ledger(world):
    """The others go on; when their time has come, they do."""
    w = world(rested(2), {"host:*": Limit(1), "host:other": Limit(2)}).run(until=30)
    assert len(w.turns._ring._lanes) == 1
    assert w.turns.soonest <= 1
    w.run()
    assert w.ledger.tally() == {FETCHED: 1000}
    later = sorted(time for time, id in w.begun if id > 200 and w.page(id).host != "other")
    assert 101 <= later[0] < 101.2
    assert w.now <= 210  # the other host takes 200


def test_hosts_rest_also_when_the_job_is_gone_on_with(world, tmp_path):
    w = world(rested(1), {"host:*": Limit(1), "host:other": Limit(2)}, path=tmp_path / "ledger").run(until=30)
    w.reopen()
    w.done = w.ledger.tally()[FETCHED]
    w.run(until=99)
    assert {w.page(id).host for time, id in w.begun if time > 30} == {"other"}
    w.run()
    assert w.ledger.tally() == {FETCHED: 800}


def test_a_short_rest_is_kept_in_memory(world):
    w = world([Page("a", rest=4), Page("a"), Page("b")], {"host:*": Limit(1)}).run(until=2)
    assert w.ledger.lanes.soonest is None
    w.run()
    assert sorted((round(time, 3), id) for time, id in w.begun) == [(0, 1), (0, 3), (5, 2)]


# -- targets that are tried once more ----------------------------------------------------------------------------------


def test_a_postponed_target_comes_back_when_it_is_due(world):
    """With how often it was tried and since when; those behind it do not wait for it, nor it for them."""
    w = world([Page("a")] * 40)
    w.load()
    first = w.claim()
    w.let_go(*w.under_way[first.target.id])
    w.events.clear()
    w.postpone(first, 5)
    w.enter()
    w.run(until=4.9)
    assert [id for _, id in w.begun] == [1, *range(2, 12)]
    w.run()
    again = [(time, id) for time, id in w.begun if id == 1][1:]
    assert again == [(pytest.approx(5, abs=1.1), 1)]
    assert w.now <= 21


def test_a_target_that_is_due_is_the_first_of_its_host(world):
    """Also when another of it is under way meanwhile."""
    w = world([Page("a", math.inf)] * 4, {"host:*": Limit(1)})
    w.load()
    assert w.claim().target.id == 1
    claim, page = w.under_way[1]
    w.let_go(claim, page)
    w.postpone(claim, 1)
    w.enter()
    assert w.claim().target.id == 2
    w.clock.advance(1)
    for next_id in (1, 3, 4):
        assert w.claim() is None
        (under_way,) = w.under_way.values()
        w.end(*under_way)
        assert w.claim().target.id == next_id


def test_a_postponed_target_has_its_tries_with_it(world, tmp_path):
    """Also when the job is gone on with; not before it is due."""
    w = world([Page("a")], path=tmp_path / "ledger")
    w.load()
    for tries in range(1, 4):
        claim = w.claim()
        w.let_go(*w.under_way[1])
        w.postpone(claim, 10)
        w.enter()
        w.reopen()
        assert w.claim() is None
        assert w.turns.soonest <= 10
        w.clock.advance(9.5)
        assert w.claim() is None
        w.clock.advance(0.5)
        claim = w.claim()
        assert (claim.retries, claim.first) == (tries, START)
        w.let_go(*w.under_way[1])
        w.turns.reset()
        w.reopen()


def test_what_failed_is_tried_again_from_the_beginning(world):
    """`reset` after all of it was made pending once more: each once, in the order of the list."""
    w = world([Page(f"h{n % 7}") for n in range(100)])
    w.settle = lambda claim: World.settle(w, claim, "failed/other" if claim.target.id % 3 else FETCHED)
    w.run()
    assert w.ledger.tally() == {FETCHED: 33, "failed/other": 67}
    w.begun.clear()
    del w.settle
    last = 0
    while ids := w.ledger.take_up("failed/other", last, 10):
        last = ids[-1]
        w.done -= len(ids)
    w.turns.reset()
    w.run()
    assert w.ledger.tally() == {FETCHED: 100}
    assert len(w.begun) == 67
    assert all(ids == sorted(ids) for ids in w.by_host().values())


# -- targets that turn out to count for something else -----------------------------------------------------------------


def test_parked_targets_come_first(world):
    """Before all that was not begun yet, and in their order; not before there is room where they lead."""
    to = Page("slow", 2)
    w = world([Page("a", to=to)] * 3 + [Page(f"h{n}") for n in range(20)], {"*": Limit(2), "host:*": Limit(1)})
    w.run()
    slow = [(time, id) for time, id in w.begun if id <= 3 and (time, id) != min(t for t in w.begun if t[1] == id)]
    assert [id for _, id in slow] == [1, 2, 3]
    assert w.ledger.tally() == {FETCHED: 23}
    assert w.now <= 1.1 * w.ideal + 2


def test_a_crowd_stops_what_leads_there_and_nothing_else(world):
    """A host that redirects all to a slow one is asked no faster than that one is."""
    redirects = [Page("from", 0.125, to=Page("slow", 2))] * 300
    w = world(shuffled(redirects + [Page(f"h{n % 50}", 0.5) for n in range(2000)]), {"host:slow": Limit(1)})
    w.run()
    assert max(time for time, id in w.begun if w.page(id).host.startswith("h")) < 1.1 * 1000 / (TOTAL - 1) + 2
    assert w.most_parked <= 110
    assert w.now <= 1.1 * w.ideal


def test_many_hosts_that_lead_to_a_slow_one_are_not_all_parked(world):
    """Nothing more is taken up while there are more of them than are kept in memory."""
    redirects = [Page(f"from{n}", 0.125, to=Page("slow", 1)) for n in range(1200)]
    w = world(shuffled(redirects + [Page(f"h{n % 50}", 0.5) for n in range(2000)]), {"host:slow": Limit(1)})
    w.run()
    assert w.most_parked <= 1100


def test_while_many_are_parked_nobody_looks_in_vain(world):
    """It is not worth while to ask again before something has ended, or time has passed."""
    redirects = [Page(f"from{n}", 0.125, to=Page("slow", 100)) for n in range(1100)]
    w = world(redirects, {"host:slow": Limit(1), "*": Limit(1000)})
    w.run(until=5)
    assert w.most_parked >= 1000
    assert w.claim() is None
    assert w.turns.soonest >= 0.05


def test_a_parked_target_can_be_parked_again(world):
    """It may be redirected twice."""
    w = world([Page("a", to=Page("b", to=Page("c")))] * 10 + [Page("b"), Page("c")]).run()
    assert w.ledger.tally() == {FETCHED: 12}
    assert len(w.begun) == 32


def test_a_parked_target_waits_for_a_host_that_rests(world):
    """In memory, and nothing else for it."""
    w = world([Page("a", rest=20), Page("b", to=Page("a")), *[Page("c")] * 20], {"host:*": Limit(1)}).run()
    assert [round(time, 3) for time, id in w.begun if id == 2] == [0, 21]
    assert [time for time, id in w.begun if id > 2] == list(range(20))


# -- when few lanes have room in memory --------------------------------------------------------------------------------

FEW = {"_LANES": 2, "_TARGETS": 2, "_TRIES": 2, "_MOST": 3, "_PARKED": 4, "_PARKED_EACH": 2}


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FEW.items():
        monkeypatch.setattr(scrapy_batcher.batch.turns, name, value)


@pytest.mark.parametrize("comes", ["loaded", "due"])
def test_a_lane_for_which_there_was_no_room_has_its_turn_later(world, little_room, comes):
    """Also when the round, of which all the rest was in memory, has passed it already."""
    w = world([Page(f"h{n}", math.inf) for n in (0, 0, 0, *[1, 2] * 9)], {"*": Limit(100), "host:*": Limit(100)})
    w.load()
    while w.turns._ring.get(1):
        w.claim()
    w.pages += [Page("h3", math.inf)] * 9
    w.load()
    assert len(w.turns._ring) == 3
    if comes == "loaded":
        w.pages.append(Page("h0", math.inf))
        w.load()
    else:
        claim, page = w.under_way[1]
        w.let_go(claim, page)
        w.postpone(claim, 1)
        w.enter()
        w.clock.advance(1)
    w.work()
    assert len(w.under_way) == len(w.pages)


def test_all_begins_anew_though_a_round_was_not_over(world, little_room):
    """`reset` in the middle of one; what was heard of by then is heard of once."""
    w = world([Page(f"h{n}", 1.0) for n in range(9)])
    w.load()
    listeners = len(w.limits._listeners)
    while w.done < 9:
        if claim := w.claim():
            w.end(*w.under_way[claim.target.id])
    w.enter()
    w.turns._place = 4
    w.ledger.take_up(FETCHED, 0, 9)
    w.turns.reset()
    assert len(w.limits._listeners) == listeners
    w.work()
    assert len(w.under_way) == 9


# -- whatever happens --------------------------------------------------------------------------------------------------

HOSTS = [f"h{n}" for n in range(7)]


class TurnsMachine(RuleBasedStateMachine):
    """Rows are loaded, pages end, are postponed and redirected, hosts rest, jobs are killed and gone on with. Few lanes
    have room in memory. Whoever asks for claims is given all that may be begun, each target once; and in the end there
    is nothing left."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        for name, value in FEW.items():
            self._patch.setattr(scrapy_batcher.batch.turns, name, value)
        self.folder = TemporaryDirectory()

    @initialize(
        total=st.integers(2, 6),
        delay=st.sampled_from([0, 0, 0.5, 8]),
        name=st.integers(1, 3),
    )
    def make(self, total: int, delay: float, name: int) -> None:
        limits = {"*": Limit(total), "host:*": Limit(2), "host:h0": Limit(1), "host:h1": Limit(1, delay=delay)}
        self.world = World([], limits | {"name": Limit(name)}, path=Path(self.folder.name) / "ledger")
        self.is_busy = False  # nobody asks for claims
        self.led: set[str] = set()  # hosts with pages that were redirected
        self.due: dict[int, float] = {}  # postponed targets

    def teardown(self) -> None:
        self.world.close()
        self.folder.cleanup()
        self._patch.undo()

    @rule(hosts=st.lists(st.sampled_from(HOSTS), min_size=1, max_size=6), names=st.sampled_from([(), (), ("name",)]))
    def load(self, hosts: list[str], names: tuple[str, ...]) -> None:
        self.world.pages += [Page(host, math.inf, names) for host in hosts]
        self.world.load()

    @rule()
    def be_busy_or_not(self) -> None:
        self.is_busy = not self.is_busy

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data(), number=st.integers(1, 3))
    def end(self, data: st.DataObject, number: int) -> None:
        for id in data.draw(st.lists(st.sampled_from(sorted(self.world.under_way)), max_size=number, unique=True)):
            self._end(id)

    def _end(self, id: int, rest: float = 0.0) -> Claim:
        claim, page = self.world.under_way[id]
        self.world.end(claim, replace(page, to=None, rest=rest))
        return claim

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data(), seconds=st.sampled_from([0.5, 4, 20]))
    def end_and_rest(self, data: st.DataObject, seconds: float) -> None:
        self._end(data.draw(st.sampled_from(sorted(self.world.under_way))), rest=seconds)

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data(), seconds=st.sampled_from([0.5, 4]))
    def postpone(self, data: st.DataObject, seconds: float) -> None:
        id = data.draw(st.sampled_from(sorted(self.world.under_way)))
        claim, page = self.world.under_way[id]
        self.world.let_go(claim, page)
        self.world.postpone(claim, seconds)

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data(), to=st.sampled_from(HOSTS[:3]))
    def redirect(self, data: st.DataObject, to: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.world.under_way)))
        claim, page = self.world.under_way[id]
        self.world.let_go(claim, page)
        self.world.park(claim, Page(to))
        self.led.add(self.world.page(id).host)

    @rule()
    def enter(self) -> None:
        """Make a checkpoint: until then, what was postponed cannot be due."""
        for postponement in self.world.postponed:
            self.due[postponement.id] = max(postponement.due, self.world.unix_time())
        self.world.enter()

    @rule(seconds=st.sampled_from([0.125, 0.5, 4, 16]))
    def advance(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule()
    def reopen(self) -> None:
        """After a kill; what was under way, or parked, is pending again."""
        world = self.world
        world.done -= len(world.settled)
        world.reopen()
        self.led.clear()

    @rule(again=st.booleans())
    def all(self, again: bool) -> None:
        """Go on to the end; and perhaps once more, with all that there was."""
        world = self.world
        for _ in range(40 + 10 * world.loaded):
            for id in list(world.under_way):
                self._end(id)
            self.enter()
            world.work()
            world.clock.advance(0.5)
        assert world.ledger.tally() == ({FETCHED: world.loaded} if world.loaded else {})
        if again:
            world.done = 0
            while ids := world.ledger.take_up(FETCHED, 0, 3):
                assert ids
            world.turns.reset()

    @invariant()
    def all_that_may_be_is_begun(self) -> None:
        world = self.world
        if self.is_busy:
            return
        world.work()
        parked = {page.keys for page in world.redirected.values()}
        assert all(map(world.limits.wait, parked)), "something parked may be begun"
        if len(world.redirected) >= FEW["_PARKED"]:
            return
        resting = {keys for (keys,) in world.ledger._db.execute("SELECT keys FROM lane WHERE due > 0")}
        outcomes = {settlement.id for settlement in world.settled}
        pending = "SELECT id, state = 'waiting' FROM target WHERE state IN ('pending', 'waiting')"
        for id, is_waiting in world.ledger._db.execute(pending):
            page = world.page(id)
            is_claimed = id in world.under_way or id in world.redirected or id in outcomes
            is_postponed = id in {p.id for p in world.postponed} or (
                is_waiting and self.due[id] > world.unix_time() - 0.125
            )
            may_be = not (is_claimed or is_postponed or "\n".join(page.keys) in resting or page.host in self.led)
            assert not may_be or world.limits.wait(page.keys), f"{id} may be begun: {page}"


TurnsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTurnsMachine = TurnsMachine.TestCase
