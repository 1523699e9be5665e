"""The ledger against a model of it: what is claimed and settled, what a crash leaves, and the sum that always holds."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scrapy_batcher.jobs.database import LedgerError
from scrapy_batcher.jobs.history import bucket_of
from scrapy_batcher.jobs.lanes import Claim, LaneState
from scrapy_batcher.jobs.ledger import PENDING, FeedState, Ledger, Owner, Postponement, Settlement
from scrapy_batcher.lists.lines import START, Mark, Place
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.shard import WHOLE, Shard
from scrapy_batcher.outcome import FETCHED, NO_ANSWER, Answer, Outcome
from scrapy_batcher.throttling.limiters import Keys

OUTCOMES = (
    Outcome(FETCHED, 200),
    Outcome("failed/http-404", 404, "404 Not Found"),
    Outcome("failed/other", error="broken 'JSON'\0é"),
)
REFUSED = Outcome("failed/limit", error="there is no limit of that name")
INVALID = Outcome("skipped/invalid", error="it has no host")
OWNER = Owner("batch", "csv", "url")
NOW = 1_700_000_000
A, B, C = ("host:a",), ("host:b",), ("host:b", "a name, \u00fc")

ROWS = st.tuples(st.sampled_from([A, B, C]), st.sampled_from([None, None, REFUSED])) | st.just(((), INVALID))

ANSWERS = st.just(NO_ANSWER) | st.builds(Answer, st.integers(0, 2**40), st.floats(0, 1e6))

feed_states = st.builds(FeedState, st.integers(0, 2**40), st.sampled_from([None, ["url", "ü,\n"]]), st.booleans())


@pytest.fixture
def ledger():
    ledger = Ledger()
    ledger.belong(OWNER)
    yield ledger
    ledger.close()


def targets(*ids: int) -> list[Target]:
    return [Target(id, id + 1, f"http://h/{id}", {"n": id} if id % 2 else {}) for id in ids]


def pending(*ids: int, keys: Keys = A) -> list[tuple[Target, Keys, None]]:
    return [(target, keys, None) for target in targets(*ids)]


def mark_at(rows: int) -> Mark:
    return Mark(rows, Place(rows + 1, rows * 10, rows * 7 % 2**32))


def ids(claims: Iterable[Claim]) -> list[int]:
    return [claim.target.id for claim in claims]


def claim(ledger: Ledger, most: int = 100) -> list[Claim]:
    """Claim all that can be, by lane: at most *most*."""
    claims = []
    for lane in ledger.lanes.ready(0, 1000):
        claims += ledger.lanes.targets(lane.id, 0, most - len(claims))
    for one in claims:
        ledger.lanes.claim(one)
    return claims


def fetched(*ids: int) -> list[Settlement]:
    return [Settlement(id, OUTCOMES[0], 1, NOW) for id in ids]


class LedgerMachine(RuleBasedStateMachine):
    """Loads, claims, settles, postpones, wakes, rests, crashes, resumes, grows and retries in any order; the model has
    each target's state, and that of each lane. Dues have their own fractions, so that it is known which comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.lives = 0
        self.ledger = Ledger(self.folder / "ledger")
        self.ledger.belong(OWNER)
        self.now = NOW
        self.states: dict[int, str] = {}
        self.keys: dict[int, Keys] = {}
        self.lanes: dict[Keys, int] = {}  # their ids, once there is something pending in them
        self.dues: dict[int, float] = {}  # of targets that wait
        self.rests: dict[Keys, float] = {}  # of lanes that do
        self.tries: dict[int, tuple[int, float]] = {}
        self.attempts: Counter[int] = Counter()
        self.bytes: Counter[str] = Counter()  # by outcome
        self.latencies: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()  # by lane
        self.claimed: set[int] = set()
        self.feeds: dict[str, FeedState] = {}
        self.mark = START
        self.complete = False

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    def of(self, *states: str) -> list[int]:
        return [id for id, state in self.states.items() if state in states]

    def due_in(self, keys: Keys) -> list[int]:
        """What can be claimed of a lane, unless that rests."""
        return [id for id in self.of(PENDING) if self.keys[id] == keys and id not in self.claimed]

    def lane(self, keys: Keys) -> LaneState:
        return LaneState(self.lanes[keys], keys, len(self.due_in(keys)))

    @property
    def ready(self) -> list[LaneState]:
        """In the order in which they came up in the list."""
        awake = [self.lane(keys) for keys in self.lanes if keys not in self.rests]
        return sorted(lane for lane in awake if lane.pending)

    # -- what is done with the ledger ----------------------------------------------------------------------------------

    @rule(rows=st.lists(ROWS, min_size=1))
    def load(self, rows):
        """Lanes are numbered as they come up, also of what may be pending later; those are returned that can be claimed
        of."""
        ids = range(len(self.states) + 1, len(self.states) + 1 + len(rows))
        self.mark, self.complete = mark_at(ids[-1]), False
        loaded = [(target, *row) for target, row in zip(targets(*ids), rows, strict=True)]
        lanes = self.ledger.load(loaded, self.mark)
        self.states |= {target.id: outcome.name if outcome else PENDING for target, _, outcome in loaded}
        self.keys |= {target.id: keys for target, keys, _ in loaded}
        keys = dict.fromkeys(keys for keys, _ in rows if keys)
        for one in keys:
            self.lanes.setdefault(one, len(self.lanes) + 1)
        assert lanes == [lane for lane in map(self.lane, keys) if lane in self.ready]

    @precondition(lambda self: self.states)
    @rule()
    def load_what_is_there(self):
        with pytest.raises(LedgerError, match="UNIQUE"):
            self.ledger.load(pending(len(self.states) + 1, 1), mark_at(99))

    @rule()
    def read_to_its_end(self):
        self.ledger.complete_list(self.mark)
        self.complete = True

    @rule(after=st.integers(0, 2), most=st.integers(1, 3))
    def look_for_lanes(self, after, most):
        """The next that can be claimed of, of those with the next ids."""
        expected = [lane for lane in self.ready if lane.id > after]
        found = self.ledger.lanes.ready(after, most)
        assert found == expected[: len(found)]
        assert len(found) <= most
        assert found or not expected

    @precondition(lambda self: self.lanes)
    @rule(most=st.integers(1, 5), data=st.data())
    def claim(self, most, data):
        """The next of a lane, with what is known of their tries; whether they are claimed is the caller's affair."""
        keys = data.draw(st.sampled_from(sorted(self.lanes)))
        after = data.draw(st.sampled_from([0, 0, *self.states]))
        expected = [id for id in self.due_in(keys) if id > after]
        claims = self.ledger.lanes.targets(self.lanes[keys], after, most)
        assert ids(claims) == expected[: len(claims)]
        assert len(claims) <= most
        assert claims or not expected
        for one in claims:
            assert one.target == targets(one.target.id)[0]
            assert one.lane == self.lanes[keys]
            assert (one.retries, one.first) == self.tries.get(one.target.id, (0, None))
        for one in claims[: data.draw(st.sampled_from([most, most, most // 2]))]:
            self.ledger.lanes.claim(one)
            self.claimed.add(one.target.id)

    @rule(data=st.data(), paths=st.dictionaries(st.sampled_from(["/a", "/ü"]), feed_states))
    def settle(self, data, paths):
        some = data.draw(st.sets(st.sampled_from(sorted(self.claimed)), min_size=1)) if self.claimed else ()
        settlements, postponements = [], []
        for id in some:
            attempts = data.draw(st.integers(0, 3))
            if outcome := data.draw(st.sampled_from([None, *OUTCOMES])):
                answer = data.draw(ANSWERS)
                settlements.append(Settlement(id, outcome, attempts, self.now, answer))
                self.bytes[outcome.name] += answer.bytes
                if answer.seconds is not None:
                    self.latencies[bucket_of(answer.seconds)] += 1
                    self.answers[self.lanes[self.keys[id]]] += 1
                self.states[id] = outcome.name
            else:
                due = self.now + data.draw(st.integers(0, 3)) + id / 1024
                postponements.append(Postponement(id, due, attempts + 1, self.now - 1.5, attempts))
                self.states[id], self.dues[id], self.tries[id] = "waiting", due, (attempts + 1, self.now - 1.5)
            self.attempts[id] += attempts
            self.claimed.remove(id)
        self.ledger.settle(settlements, paths, postponements)
        self.feeds |= paths

    @rule(data=st.data(), is_postponed=st.booleans())
    def settle_what_cannot_be(self, data, is_postponed):
        """All of a checkpoint or nothing of it, feeds included."""
        done = [id for id, state in self.states.items() if state != PENDING]
        wrong = data.draw(st.sampled_from([*done, len(self.states) + 1]))
        settlements = fetched(*self.claimed, *([] if is_postponed else [wrong]))
        postponements = [Postponement(wrong, 1.5, 1, 1.5, 1)] if is_postponed else []
        with pytest.raises(ValueError, match=f"target {wrong} cannot be entered"):
            self.ledger.settle(settlements, {"/never": FeedState(1)}, postponements)

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(most=st.integers(1, 3))
    def wake(self, most):
        """What is due first comes first; a lane that rests goes on resting, whatever is due in it."""
        due = sorted((due, id) for id, due in self.dues.items() if due <= self.now)[:most]
        over = sorted((due, keys) for keys, due in self.rests.items() if due <= self.now)[:most]
        woken = {self.keys[id] for _, id in due} - self.rests.keys() | {keys for _, keys in over}
        found = self.ledger.lanes.wake(self.now, most)
        for _, id in due:
            self.states[id] = PENDING
            del self.dues[id]
        for _, keys in over:
            del self.rests[keys]
        assert sorted(found) == sorted(map(self.lane, woken))

    @precondition(lambda self: self.lanes)
    @rule(data=st.data(), seconds=st.integers(0, 3))
    def rest(self, data, seconds):
        keys = data.draw(st.sampled_from(sorted(self.lanes)))
        self.rests[keys] = self.now + seconds + self.lanes[keys] / 1024
        self.ledger.lanes.rest(self.lanes[keys], self.rests[keys])

    @rule(outcome=st.sampled_from([*OUTCOMES[1:], REFUSED]), most=st.integers(1, 3), data=st.data())
    def take_up(self, outcome, most, data):
        """It is as if they had never been tried, but for the count of their attempts."""
        after = data.draw(st.integers(0, len(self.states)))
        expected = sorted(id for id in self.of(outcome.name) if id > after)[:most]
        assert self.ledger.take_up(outcome.name, after, most) == expected
        self.states |= dict.fromkeys(expected, PENDING)
        for id in expected:
            self.tries.pop(id, None)

    @rule()
    def crash(self):
        """What the disk has while the ledger is open is what the next process finds."""
        self.lives += 1
        life = self.folder / str(self.lives)
        life.mkdir()
        for name in os.listdir(self.ledger._db._path.parent):
            if name.startswith("ledger"):
                shutil.copy(self.ledger._db._path.parent / name, life)
        self.ledger.close()
        self.ledger = Ledger(life / "ledger")
        assert self.ledger.belong(Owner("other", "txt", "link") if self.states else OWNER) == OWNER
        self.claimed.clear()

    @rule()
    def close_and_open(self):
        path = self.ledger._db._path
        self.ledger.close()
        self.ledger = Ledger(path)
        self.claimed.clear()

    @rule()
    def end(self):
        """When all rests are over, all that is not claimed can be had, each once, and nothing is left."""
        self.now += 100
        while self.ledger.lanes.soonest is not None:
            self.ledger.lanes.wake(self.now, 2)
        self.states |= dict.fromkeys(self.of("waiting"), PENDING)
        self.dues.clear()
        self.rests.clear()
        left = set(self.of(PENDING)) - self.claimed
        got = []
        while claims := claim(self.ledger, most=3):
            got += ids(claims)
            self.ledger.settle(fetched(*ids(claims)), {})
        assert sorted(got) == sorted(left)
        self.states |= dict.fromkeys(got, FETCHED)
        self.attempts.update(got)

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def the_sum_holds(self):
        """What waits is pending, too."""
        assert self.ledger.tally() == Counter(PENDING if s == "waiting" else s for s in self.states.values())
        assert (self.ledger.mark, self.ledger.complete) == (self.mark, self.complete)
        assert self.ledger.feeds() == self.feeds

    @invariant()
    def lanes_know_how_many_they_have(self):
        counted = Counter(self.lanes[self.keys[id]] for id in self.of(PENDING))
        lanes = self.ledger._db.execute("SELECT id, pending FROM lane WHERE pending != 0")
        assert dict(lanes) == dict(+counted)

    @invariant()
    def lanes_know_what_became_of_theirs(self):
        def counted(*states: str) -> Counter[int]:
            return Counter(self.lanes[self.keys[id]] for id in self.of(*states))

        states = {
            "waiting": ["waiting"],
            "fetched": [FETCHED],
            "failed": ["failed/http-404", "failed/other", "failed/limit"],
        }
        for column, those in states.items():
            lanes = self.ledger._db.execute(f"SELECT id, {column} FROM lane WHERE {column} != 0")
            assert dict(lanes) == dict(counted(*those)), column
        assert dict(self.ledger._db.execute("SELECT id, answers FROM lane WHERE answers != 0")) == dict(self.answers)
        assert sum(host.pending for host in self.ledger.lanes.hosts()) == len(self.of(PENDING, "waiting"))

    @invariant()
    def the_history_adds_up(self):
        """What was settled, less what was tried again, is what there is of each outcome."""
        counts, bytes = Counter(), Counter()
        for period in self.ledger.history.periods():
            counts[period.outcome] += period.settled - period.again
            bytes[period.outcome] += period.bytes
        assert +counts == Counter(s for s in self.states.values() if s not in (PENDING, "waiting"))
        assert +bytes == +self.bytes
        assert self.ledger.history.latencies() == self.latencies

    @invariant()
    def it_is_known_when_something_is_due(self):
        assert self.ledger.lanes.soonest == min([*self.dues.values(), *self.rests.values()], default=None)

    @invariant()
    def failures_are_what_was_not_fetched(self):
        found = [failure for slice in self.ledger.records.failures(2) for failure in slice]
        assert all(target == targets(target.id)[0] for target, _, _ in found)
        assert {target.id: (outcome.name, attempts) for target, outcome, attempts in found} == {
            id: (state, self.attempts[id])
            for id, state in self.states.items()
            if state not in (PENDING, "waiting", FETCHED)
        }


LedgerMachine.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=40)
TestLedger = LedgerMachine.TestCase


def test_a_claim_is_the_target_that_was_loaded(ledger):
    """A claimed target has all that its row had, columns of any JSON type included."""
    target = Target(1, 7, "http://h/\u00e9", {"name": "x\0y", "n": [1, {"a": None}], "f": 0.1, "": True, "big": 10**30})
    ledger.load([(target, A, None)], mark_at(1))
    assert [one.target for one in claim(ledger)] == [target]


def test_a_lane_is_what_counts_for_the_same_limits(ledger):
    """A host with a further name is another lane than the host, or than the host with another name."""
    rows = pending(1, 4) + pending(2, keys=C) + pending(3, keys=B) + pending(5, keys=("host:b", "other"))
    lanes = ledger.load(rows, mark_at(5))
    assert [(lane.keys, lane.pending) for lane in lanes] == [(A, 2), (C, 1), (B, 1), (("host:b", "other"), 1)]
    assert [ids(ledger.lanes.targets(lane.id, 0, 10)) for lane in lanes] == [[1, 4], [2], [3], [5]]


def test_what_is_claimed_is_given_to_nobody_else(ledger):
    """Not until it is settled, or postponed and due; lanes of which all is claimed are not ready."""
    (lane,) = ledger.load(pending(1, 2, 3), mark_at(3))
    assert ids(claim(ledger, most=2)) == [1, 2]
    assert ledger.lanes.ready(0, 10) == [lane._replace(pending=1)]
    assert ids(claim(ledger)) == [3]
    assert claim(ledger) == ledger.lanes.ready(0, 10) == ledger.lanes.targets(lane.id, 0, 10) == []
    ledger.settle(fetched(3), {}, [Postponement(1, 10.0, 1, 0.5, 1)])
    assert ledger.tally() == {FETCHED: 1, PENDING: 2}
    assert claim(ledger) == []
    assert ledger.lanes.wake(9.9, 10) == []
    assert ledger.lanes.wake(10.0, 10) == [lane._replace(pending=1)]
    assert [(one.target.id, one.retries, one.first) for one in claim(ledger)] == [(1, 1, 0.5)]


def test_what_is_taken_up_has_its_tries_before_it(ledger):
    """It is as new, but for the count of its attempts."""
    ledger.load(pending(1), mark_at(1))
    claim(ledger)
    ledger.settle([], {}, [Postponement(1, 10.0, 2, 0.5, 2)])
    ledger.lanes.wake(10.0, 1)
    claim(ledger)
    ledger.settle([Settlement(1, OUTCOMES[1], 1, NOW)], {})
    assert ledger.take_up(OUTCOMES[1].name, 0, 10) == [1]
    assert [(one.retries, one.first) for one in claim(ledger)] == [(0, None)]
    ledger.settle([Settlement(1, OUTCOMES[1], 3, NOW)], {})
    assert [attempts for slice in ledger.records.failures(9) for *_, attempts in slice] == [6]


def test_claims_of_another_process_are_not_claimed(tmp_path):
    """What a process that was killed had claimed the next one gets, and what it had postponed when it is due."""
    for life in ([1, 2, 3], [1, 3], []):
        ledger = Ledger(tmp_path / "ledger")
        if life == [1, 2, 3]:
            ledger.load(pending(1, 2, 3), mark_at(3))
            assert ids(claim(ledger)) == life
            ledger.settle([], {}, [Postponement(2, 50.0, 1, 0.5, 1)])
        else:
            assert ids(claim(ledger)) == [1, 3]
            assert ledger.lanes.soonest == 50.0
        ledger.close()


def test_a_lane_rests_whatever_happens_to_its_targets(ledger):
    """Loaded, postponed or taken up, they are not to be had before it has rested."""
    (lane,) = ledger.load(pending(1, 2), mark_at(2))
    claim(ledger)
    ledger.lanes.rest(lane.id, 100.0)
    ledger.settle([Settlement(2, OUTCOMES[1], 1, NOW)], {}, [Postponement(1, 10.0, 1, 0.5, 1)])
    assert ledger.load(pending(3), mark_at(3)) == []
    assert ledger.lanes.wake(50.0, 10) == []
    assert ledger.take_up(OUTCOMES[1].name, 0, 10) == [2]
    assert claim(ledger) == []
    assert ledger.lanes.soonest == 100.0
    assert ledger.lanes.wake(100.0, 10) == [lane._replace(pending=3)]
    assert ids(claim(ledger)) == [1, 2, 3]


def test_a_load_that_fails_enters_nothing(ledger):
    """A slice of rows is entered whole or not at all, its mark and lanes included, and the ledger works on."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        ledger.load([*pending(1), (Target(2, 3, "http://h/2", {"n": object()}), B, None)], mark_at(2))
    assert ledger.tally() == {}
    assert ledger.mark == START
    assert ledger.lanes.ready(0, 10) == []
    assert [lane.pending for lane in ledger.load(pending(1, 2, 3), mark_at(3))] == [3]
    assert ids(claim(ledger)) == [1, 2, 3]
    assert claim(ledger) == []


def test_a_checkpoint_that_fails_leaves_claims_as_they_are(ledger):
    """What it was to enter is claimed as before, and can be entered without what was wrong."""
    (lane,) = ledger.load(pending(1, 2), mark_at(2))
    claim(ledger, most=1)
    with pytest.raises(ValueError, match="target 9 cannot be entered"):
        ledger.settle(fetched(1, 9), {})
    assert ledger.lanes.ready(0, 10) == [lane._replace(pending=1)]
    assert ids(claim(ledger)) == [2]
    ledger.settle(fetched(1, 2), {})
    assert ledger.tally() == {FETCHED: 2}


@pytest.mark.parametrize("hosts", [1, 10**6])
def test_nothing_takes_longer_for_a_longer_list(hosts):
    """SQLite does the same steps for a list that is ten times as long, but for a `tally`."""

    def steps(rows: int) -> int:
        ledger = Ledger()
        ledger.load([(t, (f"host:{t.id % hosts}",), None) for t in targets(*range(1, rows))], mark_at(rows))
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        ledger._db._connection.set_progress_handler(step, 1)
        ledger.load(pending(rows, rows + 1, keys=("host:1",)), mark_at(rows + 1))
        lane = ledger.lanes.ready(0, 2)[-1]
        (first, second) = claims = [one for id in (lane.id, 1) for one in ledger.lanes.targets(id, 0, 2)][:2]
        for one in claims:
            ledger.lanes.claim(one)
        failed = Settlement(first.target.id, OUTCOMES[1], 1, NOW)
        ledger.settle([failed], {}, [Postponement(second.target.id, 10.0, 1, 0.5, 1)])
        ledger.take_up(OUTCOMES[1].name, 0, 10)
        ledger.lanes.rest(lane.id, 20.0)
        assert ledger.lanes.soonest == 10.0
        assert ledger.lanes.wake(30.0, 10)
        ledger.seen.see(b"x", 1)
        ledger._db._connection.set_progress_handler(None, 1)
        ledger.close()
        return count

    assert 100 < steps(3000) <= steps(300) + 50


def test_fingerprints_are_seen_once(ledger):
    """A request is new for the target that made it first, also when that makes it again, and for no other."""
    assert [ledger.seen.see(b"a", 1), ledger.seen.see(b"a", 2), ledger.seen.see(b"", 2), ledger.seen.see(b"a", 1)] == [
        True,
        False,
        True,
        True,
    ]
    assert [ledger.seen.by(b"a"), ledger.seen.by(b"b")] == [1, None]
    ledger.seen.forget(b"a")
    assert ledger.seen.see(b"a", 2)


def test_ledgers_share_nothing():
    """Two batches in one process, without job directories, have a ledger each."""
    one, other = Ledger(), Ledger()
    one.load(pending(1), mark_at(1))
    assert other.lanes.ready(0, 10) == []
    one.close()
    other.close()


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_reader_sees_what_was_entered(tmp_path):
    """Who reads the file while it is written sees whole checkpoints, and neither waits nor is waited for."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.belong(OWNER)
    ledger.load(pending(1, 2), mark_at(2))
    reader = sqlite3.connect(f"file:{tmp_path / 'ledger'}?mode=ro", uri=True)
    states = "SELECT state FROM target ORDER BY id"
    assert reader.execute(states).fetchall() == [("pending",), ("pending",)]
    reading = reader.execute(states)
    reading.fetchone()
    ledger.settle([Settlement(1, OUTCOMES[0], 1, NOW)], {})
    reading.fetchall()
    assert reader.execute(states).fetchall() == [("fetched",), ("pending",)]
    reader.close()
    ledger.close()


def test_the_log_of_sqlite_does_not_grow(tmp_path):
    """`sync` moves what was entered into the database, so that SQLite's write-ahead log begins anew."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.belong(OWNER)
    log = tmp_path / "ledger-wal"
    sizes = []
    for start in range(1, 60_000, 1000):
        ledger.load(pending(*range(start, start + 1000)), mark_at(start + 999))
        ledger.sync()
        sizes.append(log.stat().st_size)
    assert max(sizes) < 12_000_000
    assert min(sizes[-15:]) < 1_000_000
    ledger.close()


@pytest.mark.parametrize(
    ("statements", "sentence"),
    [
        (
            ["CREATE TABLE cookies (x)"],
            "is a database, but no ledger; it was left as it is: restore it",
        ),
        (
            ["PRAGMA user_version = 99"],
            "was written by a newer scrapy-batcher: it has version 99, where this one knows 3. Upgrade",
        ),
        (
            ["PRAGMA user_version = 2"],
            "was written by an older scrapy-batcher: it has version 2, where this one knows 3. Finish the job",
        ),
    ],
)
def test_another_database(tmp_path, statements, sentence):
    """A database that is no ledger, or one of another version, is refused by its name, and left as it is."""
    path = tmp_path / "ledger"
    if "cookies" not in statements[0]:
        Ledger(path).close()
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError) as refused:
        Ledger(path)
    assert sentence in str(refused.value)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before


def test_a_list_ends_behind_its_last_row_in_a_shard(ledger):
    """What is read of a list to its end counts as read, though no row of it was entered: it is that list from then."""
    ledger.complete_list(mark_at(7))
    assert (ledger.mark, ledger.complete, ledger.tally()) == (mark_at(7), True, {})
    assert ledger.belong(OWNER._replace(shard="2/8")) == OWNER


def test_whose_shard_it_is():
    """A ledger tells its shard; one that nothing has begun with is of the whole list."""
    ledger = Ledger()
    assert ledger.shard == WHOLE
    ledger.belong(OWNER._replace(shard="2/8", shard_by="url"))
    assert ledger.shard == Shard(2, 8, "url")
    ledger.close()


def test_an_empty_file(tmp_path):
    """A ledger that was emptied is no new one."""
    path = tmp_path / "ledger"
    path.touch()
    with pytest.raises(LedgerError, match=f"{path} is empty; it was left as it is: restore it, or name another"):
        Ledger(path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("damage", ["no database", "torn"])
def test_a_damaged_file(tmp_path, damage):
    """A damaged file is named, and neither deleted nor replaced."""
    path = tmp_path / "ledger"
    ledger = Ledger(path)
    ledger.belong(OWNER)
    ledger.load(pending(*range(1, 3000)), mark_at(2999))
    ledger.close()
    whole = path.read_bytes()
    path.write_bytes(b"This is no database." * 400 if damage == "no database" else whole[:8192] + b"\xff" * 40_000)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=f"the ledger {path} cannot be used: .*; it was left as it is: restore it"):
        Ledger(path).tally()
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there(tmp_path):
    """A file that cannot be made is named."""
    with pytest.raises(LedgerError, match=f"the ledger {tmp_path}/no/ledger cannot be used: .*is there room for it"):
        Ledger(tmp_path / "no" / "ledger")


def test_one_that_may_not_be_read(tmp_path):
    """Who only reads is not asked for room."""
    (tmp_path / "ledger").mkdir()
    with pytest.raises(LedgerError, match=f"the ledger {tmp_path}/ledger cannot be used: unable .*; may it be read"):
        Ledger(tmp_path / "ledger", read_only=True)
