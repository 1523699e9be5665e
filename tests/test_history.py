"""The history of a job: what was settled when, how long the answers took, how long it was worked on."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_batcher.jobs.database import Database
from scrapy_batcher.jobs.history import History, Period, Runs, bucket_of, bucket_start
from scrapy_batcher.jobs.ledger import Ledger, Owner
from scrapy_batcher.outcome import NO_ANSWER, Answer

NOW = 1_700_000_000


class World:
    """A history whose time stands still unless it is moved."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ledger.belong(Owner("batch", "txt", "url"))
        self.now = float(NOW)
        self.history = History(self.ledger._db, lambda: self.now)


@pytest.fixture
def world():
    world = World()
    yield world
    world.ledger.close()


def test_periods(world):
    """What ended in the same outcome, in the same second, is counted together, with its bytes."""
    world.history.settled([
        ("fetched", NOW + 0.9, Answer(10, 0.1)), ("fetched", NOW + 0.1, Answer(5, 0.1)),
        ("failed/dns", NOW, NO_ANSWER), ("fetched", NOW + 1.0, Answer(7, 0.1)),
    ])  # fmt: skip
    world.history.settled([("fetched", NOW + 1.5, Answer(3, None))])
    assert world.history.periods() == [
        Period(NOW, "failed/dns", 1, 0, 0), Period(NOW, "fetched", 2, 0, 15), Period(NOW + 1, "fetched", 2, 0, 10)
    ]  # fmt: skip
    assert sum(world.history.latencies().values()) == 3, "those that were answered"


def test_what_is_tried_again(world):
    """What is taken up again counts from then on, and stays what it was before."""
    world.history.refused({"failed/other": 2, "skipped/invalid": 3})
    world.now += 10
    world.history.taken_up("failed/other", 2)
    assert world.history.periods() == [
        Period(NOW, "failed/other", 2, 0, 0), Period(NOW, "skipped/invalid", 3, 0, 0),
        Period(NOW + 10, "failed/other", 0, 2, 0),
    ]  # fmt: skip


def test_there_are_never_many_periods(world):
    """When there are too many they become twice as long, again and again, and nothing of what they hold is lost."""
    expected: Counter[str] = Counter()
    for second in range(0, 30_000, 3):
        outcome = "fetched" if second % 2 else "failed/dns"
        world.history.settled([(outcome, NOW + second, Answer(2, None))])
        expected[outcome] += 1
    periods = world.history.periods()
    assert world.history.seconds == 16, "of 10,000 times, two outcomes each, when they are 16 seconds apart"
    assert 2000 < len(periods) <= 4000
    for what in ("settled", "bytes"):
        found = Counter()
        for period in periods:
            found[period.outcome] += getattr(period, what)
        assert found == Counter({name: number * (2 if what == "bytes" else 1) for name, number in expected.items()})
    assert all(period.start % 16 == 0 for period in periods)
    assert periods[0].start <= NOW < periods[0].start + 16
    assert periods[-1].start <= NOW + 29_997 < periods[-1].start + 16


@given(st.floats(0, 1e9))
def test_a_latency_is_in_its_bucket(seconds):
    """Buckets are a fifth wide, from an eighth of a millisecond to four hours; beyond that the last ones have it."""
    bucket = bucket_of(seconds)
    assert -12 <= bucket <= 95
    if 0.000125 <= seconds < bucket_start(96):
        assert bucket_start(bucket) * 0.999999 <= seconds <= bucket_start(bucket + 1) * 1.000001
    assert 1.18 < bucket_start(bucket + 1) / bucket_start(bucket) < 1.2


def test_how_long_it_was_worked_on(world):
    """The times of all runs are added up, each to its end; of one that was killed, to its last checkpoint."""
    assert world.history.runs == Runs()
    assert not world.history.begin_run()
    world.now += 5
    world.history.settled([])
    assert world.history.runs == Runs(1, NOW, 5.0, NOW, NOW + 5)
    world.now += 2
    world.history.end_run()
    assert (world.history.runs.seconds, world.history.is_open) == (7.0, False)
    world.now += 1000
    assert not world.history.begin_run()
    world.now += 3
    world.history.settled([])
    world.now += 1000
    assert world.history.is_open
    assert world.history.begin_run(), "the last one was killed"
    world.now += 1
    world.history.end_run()
    assert world.history.runs == Runs(3, NOW, 11.0, NOW + 2010, NOW + 2011)


def test_a_clock_that_is_set_back(world):
    """A run never takes less than no time."""
    world.history.begin_run()
    world.now -= 100
    world.history.settled([])
    assert world.history.runs.seconds == 0
    world.history.begin_run()
    assert world.history.runs.seconds == 0


def test_it_is_of_the_transaction_that_it_is_entered_in(world):
    """What is entered with outcomes that cannot be is not there."""
    db: Database = world.ledger._db

    def enter() -> None:
        with db.transaction():
            world.history.settled([("fetched", NOW, Answer(1, 1.0))])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        enter()
    assert (world.history.periods(), world.history.latencies()) == ([], {})
