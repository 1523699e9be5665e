"""Whose turn it is: of many lanes, each with work for the same limits, one that may begin some now."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from scrapy_batcher.throttling.limiters import Keys
from scrapy_batcher.throttling.limits import Limits


@dataclass(eq=False)
class Lane:
    """Work that counts for the same limits, in its own order.

    :param id: tells it from others
    :param keys: those of the limits, beside the one that all count for
    :param pending: how many are in it
    :param each: how many seconds apart its work can begin, if each takes one second
    :param length: how long that takes, as it was noted last
    :param note: the number of that note
    :param aside: a number, the lower the longer it has been put aside
    """

    id: Hashable
    keys: Keys
    pending: int
    each: float = field(default=0.0, init=False, repr=False)
    length: float = field(default=0.0, init=False, repr=False)
    aside: int = field(default=0, init=False, repr=False)
    note: int = field(default=0, init=False, repr=False)


L = TypeVar("L", bound=Lane)


class Ring(Generic[L]):
    """Lanes, and which of them have to wait.

    Every second turn goes round, so that each lane has one before any has two; the others go to the lane that has the
    longest way to go, or the last of it would be left over when all the rest is done. A lane that has to wait is put
    aside until it need not, so that nobody looks at it meanwhile.

    :param take_out: asked with a lane and the seconds it has to wait, whether it has taken the lane out instead
    """

    def __init__(self, limits: Limits, take_out: Callable[[L, float], bool] = lambda lane, seconds: False) -> None:
        self._limits = limits
        self._take_out = take_out
        self._lanes: dict[Hashable, L] = {}
        self._ready: OrderedDict[Hashable, L] = OrderedDict()  # in turn
        self._longest: list[tuple[float, int, L]] = []  # a heap; of each lane the latest note counts, if it is ready
        self._full: dict[str, OrderedDict[Hashable, L]] = {}  # waiting for another's end, under each of their keys
        self._freed: dict[str, None] = {}  # keys of those, of which there may be more, in the order of that
        self._resting: list[tuple[float, int, L]] = []  # a heap, by the time when they may go on
        self._numbers = count()  # so that a heap never compares lanes
        self._is_round = True  # whether the next turn is one that goes round
        limits.listen(self._changed)

    def close(self) -> None:
        self._limits.unlisten(self._changed)

    def __len__(self) -> int:
        """How many lanes need not wait, as far as that is known."""
        return len(self._ready)

    def get(self, id: Hashable) -> L | None:
        return self._lanes.get(id)

    def add(self, lane: L, *, first: bool = False) -> None:
        """Give *lane* a place in the round: the last, or the *first*."""
        self._lanes[lane.id] = lane
        lane.each = max((self._limits.limit(key).seconds_each for key in lane.keys), default=0.0)
        self._make_ready(lane, first=first)

    def remove(self, lane: L) -> None:
        del self._lanes[lane.id]
        self._put_out(lane)

    def prefer(self, lane: L) -> None:
        """Let *lane* be the next in turn, unless it has to wait."""
        if lane.id in self._ready:
            self._ready.move_to_end(lane.id, last=False)

    def grown(self, lane: L) -> None:
        """*lane* has more to do now."""
        if lane.id in self._ready and self._length(lane) >= 2 * lane.length:
            self._note_length(lane)

    def next(self) -> L | None:
        """The lane that has the next turn; ``None`` when all have to wait. It stays where it is."""
        if self._limits.wait(()):
            return None
        self._wake()
        while (self._freed and self._let_in()) or self._ready:
            lane = self._first_in_turn() if self._is_round else self._first_by_length()
            assert lane, "one is ready"
            wait = self._limits.wait(lane.keys)
            if not wait:
                self._is_round = not self._is_round
                return lane
            if not self._take_out(lane, wait):
                self.put_aside(lane, wait)
        return None

    def served(self, lane: L) -> None:
        """*lane* has had its turn, and has more to do."""
        self._ready.move_to_end(lane.id)
        self._note_length(lane)

    def put_aside(self, lane: L, seconds: float) -> None:
        """Let *lane* wait so long; without end, until another gives back what it needs."""
        self._put_out(lane)
        if seconds < math.inf:
            heapq.heappush(self._resting, (self._limits.now() + seconds, next(self._numbers), lane))
        else:
            lane.aside = next(self._numbers)
            for key in lane.keys:
                self._full.setdefault(key, OrderedDict())[lane.id] = lane

    @property
    def soonest(self) -> float:
        """Seconds until a lane may go on that rests, or until any may; infinite when that is not known."""
        everything = self._limits.wait(())
        return everything or (self._resting[0][0] - self._limits.now() if self._resting else math.inf)

    def lightest(self, number: int) -> list[L]:
        """So many of the lanes that need not wait, those that have the shortest way to go."""
        return heapq.nsmallest(number, self._ready.values(), key=self._length)

    # -- lanes that are ready --------------------------------------------------------------------------------

    def _make_ready(self, lane: L, *, first: bool) -> None:
        self._ready[lane.id] = lane
        if first:
            self._ready.move_to_end(lane.id, last=False)
        self._note_length(lane)

    def _length(self, lane: L) -> float:
        return lane.pending * lane.each

    def _note_length(self, lane: L) -> None:
        lane.note, lane.length = next(self._numbers), self._length(lane)
        heapq.heappush(self._longest, (-lane.length, lane.note, lane))
        if len(self._longest) > 100 + 8 * len(self._ready):
            self._longest = [(length, note, lane) for length, note, lane in self._longest if self._counts(note, lane)]
            heapq.heapify(self._longest)

    def _counts(self, note: int, lane: L) -> bool:
        """Whether this is the latest note of a lane that is ready."""
        return note == lane.note and self._ready.get(lane.id) is lane

    def _first_in_turn(self) -> L | None:
        return next(iter(self._ready.values()), None)

    def _first_by_length(self) -> L | None:
        while self._longest:
            _, note, lane = self._longest[0]
            if self._counts(note, lane):
                return lane
            heapq.heappop(self._longest)
        return None

    # -- lanes that wait -------------------------------------------------------------------------------------

    def _put_out(self, lane: L) -> None:
        """Take *lane* from wherever it is; what is left of it in a heap is passed over."""
        self._ready.pop(lane.id, None)
        for key in lane.keys:
            if lanes := self._full.get(key):
                lanes.pop(lane.id, None)
                if not lanes:
                    del self._full[key]

    def _wake(self) -> None:
        now = self._limits.now()
        while self._resting and self._resting[0][0] <= now:
            _, _, lane = heapq.heappop(self._resting)
            self._back(lane)

    def _changed(self, keys: Keys) -> None:
        for key in keys:
            if key in self._full:
                self._freed[key] = None

    def _let_in(self) -> bool:
        """Of the lanes that wait for a key of which there is more, let the one that has waited longest go on, if it
        can; whether there is one. These keys are looked at again, until none can."""
        if first := min(
            filter(None, map(self._first_of, list(self._freed))), key=lambda lane: lane.aside, default=None
        ):
            self._back(first)
        return first is not None

    def _first_of(self, key: str) -> L | None:
        """The first lane that waits for *key* and can go on."""
        if self._limits.wait((key,)) < math.inf:
            for lane in self._full.get(key, {}).values():
                if self._limits.wait(lane.keys) < math.inf:
                    return lane
        del self._freed[key]
        return None

    def _back(self, lane: L) -> None:
        if self._lanes.get(lane.id) is lane and lane.id not in self._ready:
            self._put_out(lane)
            self._make_ready(lane, first=True)
