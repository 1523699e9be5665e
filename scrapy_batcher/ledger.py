"""Which targets there are, which are due, and what became of each: an SQLite database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from scrapy_batcher.outcome import Outcome
from scrapy_batcher.rows import Target

PENDING = "pending"  # still to be fetched
CLAIMED = "claimed"  # a worker has it

# One column says where a target is: 'pending', 'claimed', or the name of its outcome. So the sum that must always
# hold is one GROUP BY, and the index that answers it is the one that finds the next claim.
_CREATE = """
CREATE TABLE target (
    id INTEGER PRIMARY KEY,
    line INTEGER NOT NULL,
    url TEXT NOT NULL,
    columns TEXT,
    state TEXT NOT NULL,
    status INTEGER,
    error TEXT,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX target_state ON target (state, id);
CREATE TABLE seen (fingerprint BLOB PRIMARY KEY) WITHOUT ROWID;
"""

_LOAD = "INSERT INTO target (id, line, url, columns, state) VALUES (?, ?, ?, ?, 'pending')"

_CLAIM = """
UPDATE target SET state = 'claimed'
WHERE id = (SELECT id FROM target WHERE state = 'pending' ORDER BY id LIMIT 1)
RETURNING id, line, url, columns
"""

_SETTLE = """
UPDATE target SET state = ?, status = ?, error = ?, attempts = ? WHERE id = ? AND state IN ('pending', 'claimed')
"""

_TALLY = "SELECT state, count(*) FROM target GROUP BY state"

_SEEN = "INSERT INTO seen (fingerprint) VALUES (?) ON CONFLICT DO NOTHING"


class Ledger:
    """The book of one batch, in SQLite's own temporary database: a file without a name, deleted when it is closed.

    `claim`, `settle` and `see` take microseconds, a `load` of a slice of rows a few milliseconds, however long the list
    is; a `tally` counts through an index, so it takes longer the longer the list.

    :raises sqlite3.Error: from every method, when the disk is full or cannot be written
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        # It is never read after a crash: no waiting for the disk, and a journal only so that a load can be taken back.
        self._db.execute("PRAGMA journal_mode = MEMORY")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_CREATE)

    def load(self, targets: Iterable[Target]) -> None:
        """Enter *targets*, each with an id that is not in the ledger yet, as pending: all of them, or none."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(_LOAD, ((t.id, t.line, t.url, _to_json(t)) for t in targets))

    def claim(self) -> Target | None:
        """The next pending target, which is then claimed; ``None`` when none is pending."""
        # Read to its end, or the statement stays open and holds its changes back.
        for id, line, url, columns in self._db.execute(_CLAIM).fetchall():
            return Target(id, line, url, json.loads(columns) if columns else {})
        return None

    def settle(self, target: Target, outcome: Outcome, attempts: int) -> None:
        """Enter what became of *target*, after *attempts* downloads.

        :raises ValueError: when it is settled already, or not in the ledger
        """
        settled = self._db.execute(_SETTLE, (outcome.name, outcome.status, outcome.error, attempts, target.id))
        if settled.rowcount != 1:
            raise ValueError(f"target {target.id} cannot be settled as {outcome.name}: it is not pending or claimed")

    def tally(self) -> dict[str, int]:
        """How many targets there are in each state: `PENDING`, `CLAIMED`, and every outcome there is."""
        return dict(self._db.execute(_TALLY).fetchall())

    def see(self, fingerprint: bytes) -> bool:
        """Remember *fingerprint*; whether it is new."""
        return self._db.execute(_SEEN, (fingerprint,)).rowcount == 1

    def close(self) -> None:
        self._db.close()


def _to_json(target: Target) -> str | None:
    return json.dumps(target.columns) if target.columns else None
