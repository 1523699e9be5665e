"""When targets were settled, and how long the answers took: a few thousand rows, however long the list and the job."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from scrapy_batcher.jobs.database import Database
from scrapy_batcher.outcome import Answer

_MOST = 4000  # rows of periods; when there are more, each period becomes twice as long

_STEPS = 4  # buckets of latency in which it doubles, so that each is a fifth wider than the one before
_LOWEST, _HIGHEST = -12, 95  # buckets: an eighth of a millisecond, and four hours

_SECONDS = "SELECT coalesce(max(period), 1) FROM list"

_WIDEN = "UPDATE list SET period = ?"

_PERIODS = "SELECT start, outcome, settled, again, bytes FROM period ORDER BY start, outcome"

_COUNT = "SELECT count(*) FROM period"

_ENTER = """
INSERT INTO period (start, outcome, settled, again, bytes) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (start, outcome) DO UPDATE SET
    settled = period.settled + excluded.settled, again = period.again + excluded.again,
    bytes = period.bytes + excluded.bytes
"""

_JOIN = """
INSERT INTO period (start, outcome, settled, again, bytes)
SELECT start - start % ?, outcome, settled, again, bytes FROM period WHERE start % ? <> 0
ON CONFLICT (start, outcome) DO UPDATE SET
    settled = period.settled + excluded.settled, again = period.again + excluded.again,
    bytes = period.bytes + excluded.bytes
"""

_DROP = "DELETE FROM period WHERE start % ? <> 0"

_LATENCIES = "SELECT bucket, answers FROM latency ORDER BY bucket"

_ENTER_LATENCY = """
INSERT INTO latency (bucket, answers) VALUES (?, ?)
ON CONFLICT (bucket) DO UPDATE SET answers = latency.answers + excluded.answers
"""

_RUNNING = "SELECT running FROM list WHERE running = 1"

_RUNS = "SELECT runs, begun, seconds, started, heard FROM list"

_BEGIN_RUN = """
UPDATE list SET
    running = 1, runs = runs + 1, begun = CASE WHEN runs = 0 THEN ? ELSE begun END,
    seconds = seconds + CASE WHEN heard > started THEN heard - started ELSE 0 END, started = ?, heard = ?
"""

_HEAR = "UPDATE list SET heard = ?"

_END_RUN = "UPDATE list SET running = 0, heard = ?"


class Period(NamedTuple):
    """What became of targets in one outcome, in the time that begins with the Unix time *start*.

    :param settled: how many ended in it then
    :param again: how many that had ended in it were taken up again then
    :param bytes: in the bodies of those that ended in it
    """

    start: int
    outcome: str
    settled: int
    again: int
    bytes: int


class Runs(NamedTuple):
    """How often, and for how long, a job was worked on.

    :param number: runs that were begun
    :param begun: the Unix time at which the first of them was; the last one at *started*
    :param seconds: that all of them took, the last one up to its last checkpoint, at *heard*
    """

    number: int = 0
    begun: float = 0.0
    seconds: float = 0.0
    started: float = 0.0
    heard: float = 0.0


class History:
    """That of the ledger in *db*. What is entered belongs into the transaction of the outcomes that it counts.

    :param clock: the Unix time
    """

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    # -- runs ------------------------------------------------------------------------------------------------

    def begin_run(self) -> bool:
        """Enter that a run is on its way; whether one was, which has not ended in order."""
        was_killed, now = self.is_open, self._clock()
        with self._db.durable():
            self._db.change(_BEGIN_RUN, (now, now, now))
        return was_killed

    def end_run(self) -> None:
        """Enter that the run has ended in order."""
        self._db.change(_END_RUN, (self._clock(),))

    @property
    def is_open(self) -> bool:
        """Whether a run was begun that has not ended in order: it is on its way, or was killed."""
        return bool(self._db.execute(_RUNNING))

    @property
    def runs(self) -> Runs:
        for number, begun, seconds, started, heard in self._db.execute(_RUNS):
            return Runs(number, begun, seconds + max(heard - started, 0.0), started, heard)
        return Runs()

    # -- targets ---------------------------------------------------------------------------------------------

    def settled(self, settled: Iterable[tuple[str, float, Answer]]) -> None:
        """Enter what became of targets: the outcome of each, the Unix time, and the last response to it."""
        seconds = self.seconds
        counts: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        latencies: Counter[int] = Counter()
        for outcome, at, answer in settled:
            count = counts[int(at) // seconds * seconds, outcome]
            count[0] += 1
            count[1] += answer.bytes
            if answer.seconds is not None:
                latencies[bucket_of(answer.seconds)] += 1
        self._db.change_many(_ENTER, ((*key, number, 0, bytes) for key, (number, bytes) in counts.items()))
        self._db.change_many(_ENTER_LATENCY, latencies.items())
        self._db.change(_HEAR, (self._clock(),))
        self._join()

    def refused(self, outcomes: Mapping[str, int]) -> None:
        """Enter that so many targets ended in each outcome now, as they were read from the list."""
        self._enter({outcome: (number, 0) for outcome, number in outcomes.items()})

    def taken_up(self, outcome: str, number: int) -> None:
        """Enter that so many targets that had ended in *outcome* are pending once more, from now on."""
        self._enter({outcome: (0, number)})

    def _enter(self, counts: Mapping[str, tuple[int, int]]) -> None:
        start = int(self._clock()) // self.seconds * self.seconds
        self._db.change_many(_ENTER, ((start, outcome, *numbers, 0) for outcome, numbers in counts.items()))
        self._join()

    def _join(self) -> None:
        """Make the periods twice as long, as often as there are too many of them."""
        while self._db.execute(_COUNT)[0][0] > _MOST:
            seconds = self.seconds * 2
            self._db.change(_JOIN, (seconds, seconds))
            self._db.change(_DROP, (seconds,))
            self._db.change(_WIDEN, (seconds,))

    @property
    def seconds(self) -> int:
        """How long a period is: 1, or a power of 2. Each begins at a multiple of it."""
        return self._db.execute(_SECONDS)[0][0]  # type: ignore[no-any-return]  # SQLite has no types

    def periods(self) -> list[Period]:
        """What became of the targets in each, for those in which something did: in order, and a few thousand at most.

        For each outcome, all that is *settled* in it less what is tried *again* are as many targets as there are.
        """
        return [Period(*row) for row in self._db.execute(_PERIODS)]

    def latencies(self) -> dict[int, int]:
        """How many responses there were of each latency (`bucket_of`): to all that was settled, the last one each."""
        return dict(self._db.execute(_LATENCIES))


def bucket_of(seconds: float) -> int:
    """The bucket of a latency. They are as wide, in proportion, whatever the latency is."""
    milliseconds = max(seconds * 1000, 2 ** (_LOWEST / _STEPS))
    return min(math.floor(math.log2(milliseconds) * _STEPS), _HIGHEST)


def bucket_start(bucket: int) -> float:
    """The shortest latency in *bucket*, in seconds."""
    return float(2 ** (bucket / _STEPS) / 1000)
