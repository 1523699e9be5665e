"""The targets in a ledger, one by one, for those who only read them; also while a batch writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from scrapy_batcher.jobs.database import Database
from scrapy_batcher.jobs.origins import Origins
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import Outcome, is_among

_NEXT_STATE = "SELECT min(state) FROM target WHERE state > ?"

_OF_STATE = """
SELECT id, line, url, columns, state, status, error, attempts FROM target WHERE state = ? AND id > ?
ORDER BY id LIMIT ?
"""

_ALL = """
SELECT id, line, url, columns, CASE state WHEN 'waiting' THEN 'pending' ELSE state END, status, error, attempts
FROM target WHERE id > ? AND id <= ? ORDER BY id LIMIT ?
"""

_LAST = "SELECT coalesce(max(id), 0) FROM target"

_FIRST_OF_STATE = "SELECT id, line, url, columns, first, due FROM target WHERE state = ? ORDER BY id LIMIT 1"


class Record(NamedTuple):
    """A target, what became of it after how many *attempts*."""

    target: Target
    outcome: Outcome
    attempts: int


class Waiting(NamedTuple):
    """A target without an outcome.

    :param first: the Unix time at which it was tried first, if it was
    :param due: the one at which it is tried once more, if it has to wait for that
    """

    target: Target
    first: float | None
    due: float | None


class Records:
    """The targets of the ledger in *db*.

    :param origins: where those are from
    """

    def __init__(self, db: Database, origins: Origins) -> None:
        self._db = db
        self._origins = origins

    def failures(self, most: int, outcomes: Sequence[str] = ("failed", "skipped")) -> Iterator[list[Record]]:
        """The targets that were not fetched, by outcome: at most *most* at a time.

        :param outcomes: those that ended in one of these (`outcome.is_among`)
        """
        state = ""
        while state := self._db.execute(_NEXT_STATE, (state,))[0][0]:
            if is_among(state, outcomes):
                yield from self.ended(state, most)

    def ended(self, outcome: str, most: int) -> Iterator[list[Record]]:
        """The targets that ended in *outcome*, in the order of the list: at most *most* at a time."""
        last = 0
        while found := self._db.execute(_OF_STATE, (outcome, last, most)):
            last = found[-1][0]
            yield [self._record(*row) for row in found]

    def all(self, most: int) -> Iterator[list[Record]]:
        """All targets there are now, in the order of the list, those that are pending included: at most *most* at a
        time. Each is as it is when it comes up."""
        [(end,)] = self._db.execute(_LAST)
        last = 0
        while found := self._db.execute(_ALL, (last, end, most)):
            last = found[-1][0]
            yield [self._record(*row) for row in found]

    def oldest(self) -> Waiting | None:
        """The first target of the list that has no outcome."""
        found = [row for state in ("pending", "waiting") for row in self._db.execute(_FIRST_OF_STATE, (state,))]
        for *target, first, due in sorted(found)[:1]:
            return Waiting(self._origins.target(*target), first, due)
        return None

    def _record(self, *row: Any) -> Record:
        *target, state, status, error, attempts = row
        return Record(self._origins.target(*target), Outcome(state, status, error), attempts)
