"""Which targets can be claimed: those that count for the same limits make a lane, in the order of the list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from scrapy_batcher.jobs.database import Database
from scrapy_batcher.jobs.origins import Origins
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import FETCHED, Answer
from scrapy_batcher.throttling.limiters import Keys

_ENTER = """
INSERT INTO lane (hash, keys, pending) VALUES (?, ?, ?)
ON CONFLICT (hash) DO UPDATE SET pending = pending + excluded.pending
RETURNING id, keys, pending, due
"""

_LANES = "SELECT id, keys, pending FROM lane WHERE pending > 0 AND due = 0 AND id > ? ORDER BY id LIMIT ?"

_LONGEST = "SELECT id, keys, pending FROM lane WHERE pending > 9 AND due = 0 ORDER BY pending DESC LIMIT ?"

_CHANGE = """
UPDATE lane SET pending = pending + ?, waiting = waiting + ?, fetched = fetched + ?, failed = failed + ?,
    answers = answers + ?, seconds = seconds + ?
WHERE id = ? RETURNING id, keys, pending, due
"""

# Lanes of the same host, whatever else they count for, are together; as text is ordered in Python, too.
_HOSTS = """
SELECT CASE instr(keys, char(10)) WHEN 0 THEN keys ELSE substr(keys, 1, instr(keys, char(10)) - 1) END AS host,
    sum(pending + waiting), sum(fetched), sum(failed), sum(answers), sum(seconds), max(due)
FROM lane GROUP BY host ORDER BY host
"""

_REST_LANE = "UPDATE lane SET due = ? WHERE id = ?"

_WAKE_LANES = """
UPDATE lane SET due = 0 WHERE id IN (SELECT id FROM lane WHERE due > 0 AND due <= ? ORDER BY due LIMIT ?)
RETURNING id, keys, pending
"""

_TARGETS = """
SELECT id, line, url, columns, retries, first FROM target WHERE state = 'pending' AND lane = ? AND id > ?
ORDER BY id LIMIT ?
"""

_WAKE = """
UPDATE target SET state = 'pending', due = NULL
WHERE id IN (SELECT id FROM target WHERE state = 'waiting' AND due <= ? ORDER BY due LIMIT ?)
RETURNING lane
"""

_SOONEST = """
SELECT min(due) FROM (
    SELECT * FROM (SELECT due FROM target WHERE state = 'waiting' ORDER BY due LIMIT 1)
    UNION ALL SELECT * FROM (SELECT due FROM lane WHERE due > 0 ORDER BY due LIMIT 1)
)
"""


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A target that is to be worked on.

    :param lane: the `LaneState` it is of
    :param retries: how often it was tried before
    :param first: the Unix time at which it was tried first
    """

    target: Target
    lane: int
    retries: int = 0
    first: float | None = None


class LaneState(NamedTuple):
    """The targets that count for the limits under *keys*: how many are pending and not claimed."""

    id: int
    keys: Keys
    pending: int


class HostWork(NamedTuple):
    """What there is to do for a host, and was done.

    :param host: the key of its limit
    :param pending: targets without an outcome
    :param answers: responses, to all of them that were settled, the last one each
    :param seconds: that those took, together
    :param due: the Unix time until which it rests; of those that do so for more than a few seconds
    """

    host: str
    pending: int
    fetched: int
    failed: int
    answers: int
    seconds: float
    due: float


class LaneChanges:
    """What has happened to targets, by the id of their lane."""

    def __init__(self) -> None:
        # In the order of the columns: pending, waiting, fetched, failed, answers, seconds.
        self._more: defaultdict[int, list[float]] = defaultdict(lambda: [0, 0, 0, 0, 0, 0.0])

    def settled(self, lane: int, outcome: str, answer: Answer) -> None:
        """A pending target has ended in *outcome*."""
        more = self._more[lane]
        more[0] -= 1
        if answer.seconds is not None:
            more[4] += 1
            more[5] += answer.seconds
        if outcome == FETCHED:  # most are
            more[2] += 1
        else:
            self.ended(lane, outcome)

    def ended(self, lane: int, outcome: str, number: int = 1) -> None:
        """So many targets that were not pending are in *outcome*, or are no longer."""
        if outcome == FETCHED:
            self._more[lane][2] += number
        elif outcome.startswith("failed/"):
            self._more[lane][3] += number

    def taken_up(self, lane: int, outcome: str) -> None:
        """A target that had ended in *outcome* is pending once more."""
        self._more[lane][0] += 1
        self.ended(lane, outcome, -1)

    def postponed(self, lane: int) -> None:
        """A pending target has to wait until it is due."""
        self._more[lane][0] -= 1
        self._more[lane][1] += 1

    def woken(self, lane: int) -> None:
        """One that had to wait is pending."""
        self._more[lane][0] += 1
        self._more[lane][1] -= 1

    def __iter__(self) -> Iterator[tuple[float, ...]]:
        """The changes of each lane, and its id."""
        return ((*more, id) for id, more in self._more.items())


class Lanes:
    """Those of the ledger in *db*, and which of their targets a worker has.

    :param origins: where those are from
    """

    def __init__(self, db: Database, origins: Origins) -> None:
        self._db = db
        self._origins = origins
        self._claimed: dict[int, int] = {}  # targets that were given to a worker, with their lanes
        self._claims: Counter[int] = Counter()  # how many those are, by lane

    def enter(self, pending: Mapping[Keys, int]) -> tuple[dict[Keys, int], list[LaneState]]:
        """Enter that lanes have more pending targets.

        :param pending: how many, by the keys of the lane
        :returns: the lanes' ids, by their keys; and those lanes that do not rest
        """
        texts = [("\n".join(keys), number) for keys, number in pending.items()]
        found = self._changed(_ENTER, ((_hash(text), text, number) for text, number in texts))
        return {state.keys: state.id for state, _ in found}, [
            state for state, due in found if state.pending and not due
        ]

    def change(self, changes: LaneChanges) -> list[LaneState]:
        """Enter *changes*; returns those of the lanes that can be claimed of."""
        found = self._changed(_CHANGE, changes)
        return [state for state, due in found if state.pending and not due]

    def ready(self, after: int, most: int) -> list[LaneState]:
        """The lanes that do not rest, and have targets that can be claimed: at most *most*, with an id above *after*.
        They are numbered from 1, as they come up in the list."""
        while found := self._db.execute(_LANES, (after, most)):
            after = found[-1][0]
            if lanes := [lane for lane in map(self._lane, found) if lane.pending]:
                return lanes
        return []

    def longest(self, most: int) -> list[LaneState]:
        """Those of them that have the most targets: at most *most*, and none that has only a few."""
        return [lane for lane in map(self._lane, self._db.execute(_LONGEST, (most,))) if lane.pending]

    def targets(self, lane: int, after: int, most: int) -> list[Claim]:
        """The first pending targets of *lane* that are not claimed, with an id above *after*: at most *most*."""
        while found := self._db.execute(_TARGETS, (lane, after, most)):
            after = found[-1][0]
            claims = [
                Claim(self._origins.target(*target), lane, retries, first)
                for *target, retries, first in found
                if target[0] not in self._claimed
            ]
            if claims:
                return claims
        return []

    def claim(self, claim: Claim) -> None:
        """Give the target of *claim* to nobody else until it is settled or postponed."""
        self._claimed[claim.target.id] = claim.lane
        self._claims[claim.lane] += 1

    def let_go(self, id: int) -> None:
        """The target with this *id* is not claimed any more."""
        if (lane := self._claimed.pop(id, None)) is not None:
            self._claims[lane] -= 1
            if not self._claims[lane]:
                del self._claims[lane]

    def wake(self, now: float, most: int) -> list[LaneState]:
        """Make pending what is due, at the Unix time *now*: at most *most* targets, and as many lanes.

        :returns: the lanes that can be claimed of since
        """
        with self._db.transaction():
            changes = LaneChanges()
            for (lane,) in self._db.execute(_WAKE, (now, most)):
                changes.woken(lane)
            return self.change(changes) + [self._lane(row) for row in self._db.execute(_WAKE_LANES, (now, most))]

    @property
    def soonest(self) -> float | None:
        """The Unix time at which something is due next; ``None`` when nothing will be."""
        return self._db.execute(_SOONEST)[0][0]  # type: ignore[no-any-return]  # SQLite has no types

    def rest(self, lane: int, due: float) -> None:
        """Give nothing of *lane* to anybody before the Unix time *due*."""
        self._db.change(_REST_LANE, (due, lane))

    def hosts(self) -> Iterator[HostWork]:
        """Every host there is, in order."""
        return (HostWork(*row) for row in self._db.each(_HOSTS))

    def _changed(self, statement: str, values: Iterable[Sequence[Any]]) -> list[tuple[LaneState, float]]:
        return [(self._lane(row), due) for rows in self._db.execute_each(statement, values) for *row, due in rows]

    def _lane(self, row: Sequence[Any]) -> LaneState:
        id, keys, pending = row
        return LaneState(id, tuple(keys.split("\n")), pending - self._claims[id])


def _hash(text: str) -> int:
    """A number for *text*: 64 bits, so that no two lanes have the same in a list of any length. Their index is smaller
    than one of the texts."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), byteorder="big", signed=True)
