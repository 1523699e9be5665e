"""Whose turn it is: of many lanes, each with work for the same limits, one that may begin some now."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from scrapy_batcher.limiters import Keys
from scrapy_batcher.limits import Limits


@dataclass(eq=False)
class Lane:
    """Work that counts for the same limits, in its own order.

    :param id: tells it from others
    :param keys: those of the limits, beside the one that all count for
    :param pending: how many are in it
    :param each: how many seconds apart its work can begin, if each takes one second
    :param note: the number of the latest note of how long it is
    """

    id: Hashable
    keys: Keys
    pending: int
    each: float = field(default=0.0, init=False, repr=False)
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
        self._resting: list[tuple[float, int, L]] = []  # a heap, by the time when they may go on
        self._numbers = count()  # so that a heap never compares lanes
        self._is_round = False
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
        lane.each = self._limits.seconds_each(lane.keys)
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
        if lane.id in self._ready and lane.pending & (lane.pending - 1) == 0:
            self._note_length(lane)

    def next(self) -> L | None:
        """The lane that has the next turn; ``None`` when all have to wait. It stays where it is."""
        if self._limits.wait(()):
            return None
        self._wake()
        self._is_round = not self._is_round
        while lane := self._first_in_turn() if self._is_round else self._first_by_length():
            wait = self._limits.wait(lane.keys)
            if not wait:
                return lane
            if not self._take_out(lane, wait):
                self.put_aside(lane, wait)
        return None

    def served(self, lane: L) -> None:
        """*lane* has had its turn, and has more to do."""
        self._ready.move_to_end(lane.id)
        self._note_length(lane)
        # Where there was room for one there may be room for one more.
        self._changed(lane.keys)

    def put_aside(self, lane: L, seconds: float) -> None:
        """Let *lane* wait so long; without end, until another gives back what it needs."""
        self._put_out(lane)
        if seconds < float("inf"):
            heapq.heappush(self._resting, (self._limits.now() + seconds, next(self._numbers), lane))
        else:
            for key in lane.keys:
                self._full.setdefault(key, OrderedDict())[lane.id] = lane

    @property
    def soonest(self) -> float:
        """Seconds until a lane may go on that rests, or until any may; infinite when that is not known."""
        everything = self._limits.wait(())
        return everything or (self._resting[0][0] - self._limits.now() if self._resting else float("inf"))

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
        lane.note = next(self._numbers)
        heapq.heappush(self._longest, (-self._length(lane), lane.note, lane))
        if len(self._longest) > 100 + 8 * len(self._lanes):
            self._longest = [note for note in self._longest if note[1] == note[2].note]
            heapq.heapify(self._longest)

    def _first_in_turn(self) -> L | None:
        return next(iter(self._ready.values()), None)

    def _first_by_length(self) -> L | None:
        while self._longest:
            _, number, lane = self._longest[0]
            if number == lane.note and self._ready.get(lane.id) is lane:
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
        """Of the lanes that wait for one of *keys*, let the first go on that can."""
        for key in keys:
            lanes = self._full.get(key)
            if not lanes or self._limits.wait((key,)) == float("inf"):
                continue
            for lane in lanes.values():
                if self._limits.wait(lane.keys) < float("inf"):
                    self._back(lane)
                    break

    def _back(self, lane: L) -> None:
        if self._lanes.get(lane.id) is lane and lane.id not in self._ready:
            self._put_out(lane)
            self._make_ready(lane, first=True)
