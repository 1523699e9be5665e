"""The ledger against a model of it: what is claimed, what is settled, and the sum that always holds."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from scrapy_batcher.ledger import CLAIMED, PENDING, Ledger
from scrapy_batcher.outcome import FETCHED, Outcome
from scrapy_batcher.rows import Target

OUTCOMES = (
    Outcome(FETCHED, 200),
    Outcome("failed/http-404", 404, "404 Not Found"),
    Outcome("skipped/invalid", error="broken 'JSON'\0é"),
)


@pytest.fixture
def ledger():
    ledger = Ledger()
    yield ledger
    ledger.close()


def targets(*ids: int) -> list[Target]:
    return [Target(id, id + 1, f"http://h/{id}", {"n": id} if id % 2 else {}) for id in ids]


class LedgerMachine(RuleBasedStateMachine):
    """Loads, claims, settles and tallies in any order; the model is a dictionary from each target to its state."""

    loaded = Bundle("loaded")
    settled = Bundle("settled")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.model: dict[int, str] = {}

    def teardown(self) -> None:
        self.ledger.close()

    @rule(gaps=st.lists(st.integers(1, 3), max_size=5))
    def load(self, gaps):
        last = max(self.model, default=0)
        ids = [last := last + gap for gap in gaps]
        self.ledger.load(targets(*ids))
        self.model.update(dict.fromkeys(ids, PENDING))

    @rule()
    def load_what_is_there(self):
        if self.model:
            with pytest.raises(Exception, match="UNIQUE"):
                self.ledger.load(targets(max(self.model) + 1, min(self.model)))

    @rule(target=loaded)
    def claim(self):
        pending = [id for id, state in self.model.items() if state == PENDING]
        claimed = self.ledger.claim()
        assert claimed == (targets(min(pending))[0] if pending else None)
        if claimed:
            self.model[claimed.id] = CLAIMED
        return claimed

    @rule(target=settled, claimed=consumes(loaded), outcome=st.sampled_from(OUTCOMES), attempts=st.integers(0, 9))
    def settle(self, claimed, outcome, attempts):
        if claimed:
            self.ledger.settle(claimed, outcome, attempts)
            self.model[claimed.id] = outcome.name
        return claimed

    @rule(outcome=st.sampled_from(OUTCOMES))
    def settle_without_a_claim(self, outcome):
        pending = [id for id, state in self.model.items() if state == PENDING]
        if pending:
            self.ledger.settle(targets(pending[-1])[0], outcome, 0)
            self.model[pending[-1]] = outcome.name

    @rule(done=settled, outcome=st.sampled_from(OUTCOMES))
    def settle_twice(self, done, outcome):
        if done:
            with pytest.raises(ValueError, match=f"target {done.id} cannot be settled as {outcome.name}"):
                self.ledger.settle(done, outcome, 1)

    @rule()
    def settle_what_is_not_there(self):
        with pytest.raises(ValueError, match="not pending or claimed"):
            self.ledger.settle(targets(max(self.model, default=0) + 1)[0], OUTCOMES[0], 1)

    @invariant()
    def the_sum_holds(self):
        states = list(self.model.values())
        assert self.ledger.tally() == {state: states.count(state) for state in set(states)}


LedgerMachine.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)
TestLedger = LedgerMachine.TestCase


def test_a_claim_is_the_target_that_was_loaded(ledger):
    """A claimed target has all that its row had, columns of any JSON type included."""
    target = Target(1, 7, "http://h/\u00e9", {"name": "x\0y", "n": [1, {"a": None}], "f": 0.1, "": True, "big": 10**30})
    ledger.load([target])
    assert ledger.claim() == target


def test_a_load_that_fails_enters_nothing(ledger):
    """A slice of rows is entered whole or not at all, and the ledger works on."""

    def broken():
        yield from targets(1, 2)
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        ledger.load(broken())
    assert ledger.tally() == {}
    ledger.load(targets(1, 2, 3))
    assert [ledger.claim().id for _ in range(3)] == [1, 2, 3]
    assert ledger.claim() is None


def test_a_claim_looks_at_one_target_only(ledger):
    """Neither a claim nor a settlement scans the list, however long it is."""
    ledger.load(targets(*range(1, 2000)))
    statements = []
    ledger._db.set_trace_callback(statements.append)
    ledger.settle(ledger.claim(), OUTCOMES[0], 1)
    ledger._db.set_trace_callback(None)
    assert len(statements) == 2
    for statement in statements:
        plan = ledger._db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        assert not [step for *_, step in plan if step.startswith("SCAN")]


def test_fingerprints_are_seen_once(ledger):
    """A fingerprint is new the first time only."""
    assert [ledger.see(fingerprint) for fingerprint in (b"a", b"b", b"a", b"", b"")] == [True, True, False, True, False]


def test_ledgers_share_nothing():
    """Two batches in one process have a ledger each."""
    one, other = Ledger(), Ledger()
    one.load(targets(1))
    assert other.claim() is None
    one.close()
    other.close()
