"""The ledger against a model of it: what is claimed and settled, what a crash leaves, and the sum that always holds."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scrapy_batcher.database import LedgerError
from scrapy_batcher.ledger import PENDING, FeedState, Ledger, Owner, Settlement
from scrapy_batcher.lines import START, Mark, Place
from scrapy_batcher.outcome import FETCHED, Outcome
from scrapy_batcher.rows import Target

OUTCOMES = (
    Outcome(FETCHED, 200),
    Outcome("failed/http-404", 404, "404 Not Found"),
    Outcome("skipped/invalid", error="broken 'JSON'\0é"),
)
OWNER = Owner("batch", "csv", "url")

feed_states = st.builds(FeedState, st.integers(0, 2**40), st.sampled_from([None, ["url", "ü,\n"]]), st.booleans())


@pytest.fixture
def ledger():
    ledger = Ledger()
    ledger.belong(OWNER)
    yield ledger
    ledger.close()


def targets(*ids: int) -> list[Target]:
    return [Target(id, id + 1, f"http://h/{id}", {"n": id} if id % 2 else {}) for id in ids]


def pending(*ids: int) -> list[tuple[Target, None]]:
    return [(target, None) for target in targets(*ids)]


def mark_at(rows: int) -> Mark:
    return Mark(rows, Place(rows + 1, rows * 10, rows * 7 % 2**32))


class LedgerMachine(RuleBasedStateMachine):
    """Loads, claims, settles, crashes, resumes, grows and retries in any order; the model has each target's state."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.lives = 0
        self.ledger = Ledger(self.folder / "ledger")
        self.ledger.belong(OWNER)
        self.states: dict[int, str] = {}
        self.attempts: Counter[int] = Counter()
        self.claimed: list[int] = []
        self.feeds: dict[str, FeedState] = {}
        self.mark = START
        self.complete = False

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    def of(self, state: str) -> list[int]:
        return [id for id, other in self.states.items() if other == state]

    @rule(outcomes=st.lists(st.sampled_from([None, *OUTCOMES[1:]]), min_size=1, max_size=5))
    def load(self, outcomes):
        ids = range(len(self.states) + 1, len(self.states) + 1 + len(outcomes))
        self.mark, self.complete = mark_at(ids[-1]), False
        self.ledger.load(zip(targets(*ids), outcomes, strict=True), self.mark)
        self.states |= {id: o.name if o else PENDING for id, o in zip(ids, outcomes, strict=True)}

    @precondition(lambda self: self.states)
    @rule()
    def load_what_is_there(self):
        with pytest.raises(LedgerError, match="UNIQUE"):
            self.ledger.load(pending(len(self.states) + 1, 1), mark_at(99))

    @rule()
    def read_to_its_end(self):
        self.ledger.complete_list()
        self.complete = True

    @rule()
    def claim(self):
        due = sorted(set(self.of(PENDING)) - set(self.claimed))
        claimed = self.ledger.claim()
        assert claimed == (targets(due[0])[0] if due else None)
        if claimed:
            self.claimed.append(claimed.id)

    @rule(data=st.data(), paths=st.dictionaries(st.sampled_from(["/a", "/ü"]), feed_states))
    def settle(self, data, paths):
        some = data.draw(st.lists(st.sampled_from(self.claimed), unique=True)) if self.claimed else []
        settlements = [
            Settlement(id, data.draw(st.sampled_from(OUTCOMES)), data.draw(st.integers(0, 3))) for id in some
        ]
        self.ledger.settle(settlements, paths)
        self.feeds |= paths
        for id, outcome, attempts in settlements:
            self.states[id] = outcome.name
            self.attempts[id] += attempts
            self.claimed.remove(id)

    @rule(data=st.data())
    def settle_what_cannot_be(self, data):
        """All of a checkpoint or nothing of it, feeds included."""
        done = [id for id, state in self.states.items() if state != PENDING]
        wrong = data.draw(st.sampled_from([*done, len(self.states) + 1]))
        with pytest.raises(ValueError, match=f"target {wrong} cannot be settled as fetched"):
            self.ledger.settle(
                [Settlement(id, OUTCOMES[0], 1) for id in [*self.claimed, wrong]], {"/never": FeedState(1)}
            )

    @rule(outcome=st.sampled_from(OUTCOMES[1:]), most=st.integers(1, 3), data=st.data())
    def take_up(self, outcome, most, data):
        after = data.draw(st.integers(0, len(self.states)))
        expected = sorted(id for id in self.of(outcome.name) if id > after)[:most]
        assert self.ledger.take_up(outcome.name, after, most) == expected
        self.states |= dict.fromkeys(expected, PENDING)

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

    @invariant()
    def the_sum_holds(self):
        assert self.ledger.tally() == Counter(self.states.values())
        assert (self.ledger.mark, self.ledger.complete) == (self.mark, self.complete)
        assert self.ledger.feeds() == self.feeds

    @invariant()
    def failures_are_what_was_not_fetched(self):
        found = [failure for slice in self.ledger.failures(2) for failure in slice]
        assert all(target == targets(target.id)[0] for target, _, _ in found)
        assert {target.id: (outcome.name, attempts) for target, outcome, attempts in found} == {
            id: (state, self.attempts[id]) for id, state in self.states.items() if state not in (PENDING, FETCHED)
        }


LedgerMachine.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=30)
TestLedger = LedgerMachine.TestCase


def test_a_claim_is_the_target_that_was_loaded(ledger):
    """A claimed target has all that its row had, columns of any JSON type included."""
    target = Target(1, 7, "http://h/\u00e9", {"name": "x\0y", "n": [1, {"a": None}], "f": 0.1, "": True, "big": 10**30})
    ledger.load([(target, None)], mark_at(1))
    assert ledger.claim() == target


def test_a_load_that_fails_enters_nothing(ledger):
    """A slice of rows is entered whole or not at all, its mark included, and the ledger works on."""

    def broken():
        yield from pending(1, 2)
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        ledger.load(broken(), mark_at(2))
    assert ledger.tally() == {}
    assert ledger.mark == START
    ledger.load(pending(1, 2, 3), mark_at(3))
    assert [ledger.claim().id for _ in range(3)] == [1, 2, 3]
    assert ledger.claim() is None


def test_nothing_scans_the_list(ledger):
    """Neither a claim nor a settlement nor a retry scans the list, however long it is."""
    ledger.load(pending(*range(1, 2000)), mark_at(1999))
    statements = []
    ledger._db._connection.set_trace_callback(statements.append)
    ledger.settle([Settlement(ledger.claim().id, OUTCOMES[1], 1)], {})
    ledger.take_up(OUTCOMES[1].name, 0, 10)
    ledger.see(b"x", 1)
    ledger._db._connection.set_trace_callback(None)
    plans = [
        step
        for statement in statements
        if not statement.startswith(("BEGIN", "COMMIT"))
        for *_, step in ledger._db.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    assert len(plans) >= 3
    assert not [step for step in plans if step.startswith("SCAN")]


def test_fingerprints_are_seen_once(ledger):
    """A request is new for the target that made it first, also when that makes it again, and for no other."""
    assert [ledger.see(b"a", 1), ledger.see(b"a", 2), ledger.see(b"", 2), ledger.see(b"a", 1)] == [
        True,
        False,
        True,
        True,
    ]


def test_ledgers_share_nothing():
    """Two batches in one process, without job directories, have a ledger each."""
    one, other = Ledger(), Ledger()
    one.load(pending(1), mark_at(1))
    assert other.claim() is None
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
    ledger.settle([Settlement(1, OUTCOMES[0], 1)], {})
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
            "was written by a newer scrapy-batcher: it has version 99, where this one knows 1. Upgrade",
        ),
    ],
)
def test_another_database(tmp_path, statements, sentence):
    """A database that is no ledger, or one of a newer version, is refused by its name, and left as it is."""
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
    with pytest.raises(LedgerError, match=f"the ledger {tmp_path}/no/ledger cannot be used: unable to open"):
        Ledger(tmp_path / "no" / "ledger")
