"""Which targets there are, which are due, and what became of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scrapy_batcher.jobs.database import Database
from scrapy_batcher.jobs.history import History
from scrapy_batcher.jobs.lanes import LaneChanges, Lanes, LaneState
from scrapy_batcher.jobs.origins import Origins
from scrapy_batcher.jobs.records import Records
from scrapy_batcher.jobs.seen import Seen
from scrapy_batcher.lists.lines import START, Mark, Place
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.shard import WHOLE, Shard
from scrapy_batcher.outcome import NO_ANSWER, Answer, Outcome
from scrapy_batcher.throttling.limiters import Keys

PENDING = "pending"  # without an outcome

_WAITING = "waiting"  # without an outcome, until it is due

_OWNER = "SELECT spider, format, url_field, shard, shard_by FROM list"

_CHANGE_OWNER = "UPDATE list SET spider = ?, format = ?, url_field = ?, shard = ?, shard_by = ?"

_ENTER_OWNER = "INSERT INTO list (spider, format, url_field, shard, shard_by) VALUES (?, ?, ?, ?, ?)"

_MARK = "SELECT targets, lines, length, crc FROM list"

_ENTER_MARK = "UPDATE list SET targets = ?, lines = ?, length = ?, crc = ?, complete = 0"

_COMPLETE = "SELECT complete FROM list WHERE complete = 1"

_ENTER_COMPLETE = "UPDATE list SET targets = ?, lines = ?, length = ?, crc = ?, complete = 1"

_LOAD = "INSERT INTO target (id, line, url, columns, lane, state, status, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

_SETTLE = """
UPDATE target SET state = ?, status = ?, error = ?, attempts = attempts + ? WHERE id = ? AND state = 'pending'
RETURNING lane
"""

_POSTPONE = """
UPDATE target SET state = 'waiting', due = ?, retries = ?, first = ?, attempts = attempts + ?
WHERE id = ? AND state = 'pending' RETURNING lane
"""

_TAKE_UP = """
UPDATE target SET state = 'pending', status = NULL, error = NULL, retries = 0, first = NULL
WHERE id IN (SELECT id FROM target WHERE state = ? AND id > ? ORDER BY id LIMIT ?)
RETURNING id, lane
"""

_TALLY = "SELECT state, count(*) FROM target GROUP BY state"

_FEEDS = "SELECT path, length, columns, closed FROM feed"

_ENTER_FEED = """
INSERT INTO feed (path, length, columns, closed) VALUES (?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE SET length = excluded.length, columns = excluded.columns, closed = excluded.closed
"""


class Owner(NamedTuple):
    """What a ledger belongs to: a spider, how it reads its list, and which part of it.

    :param shard: ``2/8``, or ``1/1`` for the whole list
    :param shard_by: what keeps rows together in a shard
    """

    spider: str
    format: str
    url_field: str
    shard: str = str(WHOLE)
    shard_by: str = WHOLE.by


class Settlement(NamedTuple):
    """What became of the target *id*, after *attempts* more downloads, at the Unix time *at*."""

    id: int
    outcome: Outcome
    attempts: int
    at: float
    answer: Answer = NO_ANSWER


class Postponement(NamedTuple):
    """The target *id* is to be tried once more, after *attempts* more downloads.

    :param due: the Unix time before which it is not
    :param retries: how often it was tried then
    :param first: the Unix time at which it was tried first
    """

    id: int
    due: float
    retries: int
    first: float
    attempts: int


class FeedState(NamedTuple):
    """How much of a feed is settled.

    :param length: bytes of its file
    :param columns: of a CSV file whose header this job has written: the item's fields, and their titles there
    :param closed: whether nothing was written behind that; not while a batch runs, nor after one that was killed
    """

    length: int
    columns: dict[str, str] | None = None
    closed: bool = False


class Ledger:
    """The book of one job, in the file at *path*, or in a temporary one.

    `settle` and `load` take microseconds for each target, however many there are; a `tally` counts
    through an index, so it takes longer the longer the list.

    :raises LedgerError: from every method, when its file cannot be used
    """

    def __init__(self, path: Path | None = None, *, read_only: bool = False) -> None:
        self._db = Database(path, read_only=read_only)
        self._origins = Origins(self._db)
        self.lanes = Lanes(self._db, self._origins)
        self.seen = Seen(self._db)
        self.history = History(self._db)
        self.records = Records(self._db, self._origins)
        self.snapshot = self._db.snapshot
        self.check = self._db.check
        self.sync, self.close = self._db.sync, self._db.close

    # -- the list ----------------------------------------------------------------------------------------------

    def belong(self, owner: Owner) -> Owner:
        """What the ledger belongs to; that is *owner* when it has nothing of a list yet."""
        with self._db.transaction():
            if self.mark != START:
                return Owner(*self._db.execute(_OWNER)[0])
            if not self._db.change(_CHANGE_OWNER, owner):
                self._db.change(_ENTER_OWNER, owner)
        return owner

    @property
    def shard(self) -> Shard:
        """The part of the list that it is of; the whole one, if nothing has begun."""
        for _, _, _, *shard in self._db.execute(_OWNER):
            return Shard.parse(*shard)
        return WHOLE

    @property
    def mark(self) -> Mark:
        """How far the list was read."""
        for targets, *place in self._db.execute(_MARK):
            return Mark(targets, Place(*place))
        return START

    @property
    def complete(self) -> bool:
        """Whether the list was read to its end, as it was then."""
        return bool(self._db.execute(_COMPLETE))

    def load(self, rows: Sequence[tuple[Target, Keys, Outcome | None]], mark: Mark) -> list[LaneState]:
        """Enter *rows*, all of them or none: targets with an id that is not in the ledger yet.

        :param rows: each with the keys of the limits it counts for, if it may ever be pending; as pending, or with the
            outcome of one that is not even tried
        :param mark: how far the list was read, to behind the last of them
        :returns: the lanes of those that can be claimed, with how many of *rows* each has
        """
        pending: Counter[Keys] = Counter()
        refused = Counter(outcome.name for _, _, outcome in rows if outcome)
        for _, keys, outcome in rows:
            if keys:
                pending[keys] += outcome is None
        with self._db.transaction():
            ids, ready = self.lanes.enter(pending)
            if refused:
                self.history.refused(refused)
                self.lanes.change(_refusals(rows, ids))
            self._db.change_many(_LOAD, (_row(target, ids.get(keys, 0), outcome) for target, keys, outcome in rows))
            self._origins.enter(target for target, _, _ in rows)
            self._db.change(_ENTER_MARK, (mark.rows, *mark.place))
        return ready

    def complete_list(self, mark: Mark) -> None:
        """Enter that the list was read to its end.

        :param mark: how far that is: in a shard, farther than to its last row
        """
        self._db.change(_ENTER_COMPLETE, (mark.rows, *mark.place))

    # -- the targets -------------------------------------------------------------------------------------------

    def settle(
        self,
        settlements: Sequence[Settlement],
        feeds: Mapping[str, FeedState],
        postponements: Sequence[Postponement] = (),
    ) -> None:
        """Enter what became of targets, and how much of the feeds stands for them: all of it, or nothing.

        :raises ValueError: when one of them is not pending, or not in the ledger
        """
        settled = [(s.outcome.name, s.outcome.status, s.outcome.error, s.attempts, s.id) for s in settlements]
        waiting = [(p.due, p.retries, p.first, p.attempts, p.id) for p in postponements]
        changes = LaneChanges()
        with self._db.transaction():
            for settlement, lanes in zip(settlements, self._db.execute_each(_SETTLE, settled), strict=True):
                changes.settled(_lane(settlement.id, lanes), settlement.outcome.name, settlement.answer)
            for postponement, lanes in zip(postponements, self._db.execute_each(_POSTPONE, waiting), strict=True):
                changes.postponed(_lane(postponement.id, lanes))
            self.lanes.change(changes)
            self.history.settled((s.outcome.name, s.at, s.answer) for s in settlements)
            self._enter_feeds(feeds)
        for id in (*(s.id for s in settlements), *(p.id for p in postponements)):
            self.lanes.let_go(id)

    def take_up(self, outcome: str, after: int, most: int) -> list[int]:
        """Make at most *most* targets pending once more that ended in *outcome*, and have an id above *after*.

        :returns: their ids, in order
        """
        with self._db.transaction():
            found = self._db.execute(_TAKE_UP, (outcome, after, most))
            changes = LaneChanges()
            for _, lane in found:
                changes.taken_up(lane, outcome)
            self.lanes.change(changes)
            self.history.taken_up(outcome, len(found))
        return sorted(id for id, _ in found)

    def tally(self) -> dict[str, int]:
        """How many targets there are in each state: `PENDING`, and every outcome there is."""
        tally = Counter(dict(self._db.execute(_TALLY)))
        tally[PENDING] += tally.pop(_WAITING, 0)
        return dict(+tally)

    # -- the feeds ---------------------------------------------------------------------------------------------

    def enter_feed(self, path: str, state: FeedState) -> None:
        """Enter how much of the feed at *path* is settled; that is on the disk when this returns.

        A feed that is opened must be known to be open, also after a power failure, before anything is written to it.
        """
        with self._db.durable(), self._db.transaction():
            self._enter_feeds({path: state})

    def feeds(self) -> dict[str, FeedState]:
        """The feeds that this job has written, by path from the job directory."""
        return {
            path: FeedState(length, json.loads(columns) if columns else None, bool(closed))
            for path, length, columns, closed in self._db.execute(_FEEDS)
        }

    def _enter_feeds(self, feeds: Mapping[str, FeedState]) -> None:
        for path, (length, columns, closed) in feeds.items():
            self._db.change(_ENTER_FEED, (path, length, json.dumps(columns) if columns else None, closed))


def _lane(id: int, found: Sequence[tuple[int]]) -> int:
    """The lane of the target *id*, as it was *found* when that was changed."""
    if not found:
        raise ValueError(f"what became of target {id} cannot be entered: it is not pending")
    return found[0][0]


def _refusals(rows: Sequence[tuple[Target, Keys, Outcome | None]], lanes: Mapping[Keys, int]) -> LaneChanges:
    """What lanes have more of, by those of *rows* that are not even tried and count for limits."""
    changes = LaneChanges()
    for _, keys, outcome in rows:
        if keys and outcome:
            changes.ended(lanes[keys], outcome.name)
    return changes


def _row(target: Target, lane: int, outcome: Outcome | None) -> tuple[Any, ...]:
    columns = json.dumps(target.columns) if target.columns else None
    state = (outcome.name, outcome.status, outcome.error) if outcome else (PENDING, None, None)
    return target.id, target.line, target.url, columns, lane, *state
