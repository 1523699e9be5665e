"""Which target has made a request, or has the name of a file: the first one that did."""

from __future__ import annotations

from scrapy_batcher.jobs.database import Database

_SEE = """
INSERT INTO seen (fingerprint, id) VALUES (?, ?) ON CONFLICT (fingerprint) DO UPDATE SET id = seen.id RETURNING id
"""

_SEEN_BY = "SELECT id FROM seen WHERE fingerprint = ?"

_FORGET = "DELETE FROM seen WHERE fingerprint = ?"


class Seen:
    """What the targets of the ledger in *db* were the first to have, by a fingerprint of it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def see(self, fingerprint: bytes, id: int) -> bool:
        """Remember *fingerprint* as that of target *id*; whether it is no other target's already."""
        return self._db.execute(_SEE, (fingerprint, id)) == [(id,)]

    def by(self, fingerprint: bytes) -> int | None:
        """The target whose *fingerprint* is."""
        return next((id for (id,) in self._db.execute(_SEEN_BY, (fingerprint,))), None)

    def forget(self, fingerprint: bytes) -> None:
        """Let *fingerprint* be nobody's."""
        self._db.execute(_FORGET, (fingerprint,))
