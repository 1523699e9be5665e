"""Which target is worked on next: one whose host may start one now, and every host has its turn."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scrapy_batcher.jobs.lanes import Claim, Lanes, LaneState
from scrapy_batcher.throttling.limiters import Keys
from scrapy_batcher.throttling.limits import Limits
from scrapy_batcher.throttling.ring import Lane, Ring

_LANES = 100  # lanes that are looked up at a time
_LONGEST = 20  # lanes with the most targets that are looked up beside them
_TARGETS = 10  # targets of a lane that are
_TRIES = 10  # times that lanes are looked up, when none of those in the ring may begin one
_MOST = 1000  # lanes in the ring that need not wait
_LONG = 5.0  # seconds that a lane may have to wait in memory; beyond that it waits in the ledger
_PARKED = 1000  # targets that wait in memory, where what they have turned out to count for is full
_PARKED_EACH = 100  # those of them for the same limits, while more from where they came are on their way there
_AGAIN = 0.1  # seconds until it is looked whether they still are


@dataclass(eq=False)
class _Lane(Lane):
    """A lane of the ledger, or of targets that were parked.

    :param last: the id of the last target that was looked up
    """

    claims: deque[Claim] = field(default_factory=deque)
    last: int = 0


class Turns:
    """Gives claims out, in an order that is fair to the hosts.

    In memory is a ring of lanes, filled from the ledger as it goes round. A lane that is there only for its turn makes
    room for others after that; those with the longest way to go stay.

    :param clock: the Unix time
    """

    def __init__(self, lanes: Lanes, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._lanes = lanes
        self._limits = limits
        self._clock = clock
        self._ring: Ring[_Lane] = Ring(limits, self._rests_long)
        self._parked: Ring[_Lane] = Ring(limits)
        self._parking = 0  # targets that are parked
        self._led: OrderedDict[int, Keys] = OrderedDict()  # lanes whose targets were parked, and what for
        self._place = 0  # the lane up to which this round has come
        self._news = False  # whether there was one in this round that was not in the ring
        self._is_all = False  # whether all that could be are
        self._claims = 0  # since lanes were last looked up
        self._look = 0.0  # the Unix time at which it is looked what is due

    def close(self) -> None:
        self._ring.close()
        self._parked.close()

    def claim(self) -> Claim | None:
        """The next target to be worked on, with a reservation of the permits it needs, under the claim itself; ``None``
        when none may be begun now."""
        if self._parking and (claim := self._next(self._parked)):
            self._parking -= 1
            return claim
        if self._parking >= _PARKED:
            return None
        self._wake()
        self._claims += 1
        if self._claims > 2 * _LANES and not self._is_all:
            self._look_up()
        for _ in range(_TRIES):
            if claim := self._next(self._ring):
                self._lanes.claim(claim)
                return claim
            if self._is_all or self._limits.wait(()):
                break
            self._look_up()
        return None

    @property
    def soonest(self) -> float:
        """Seconds until it is worth while to ask for a claim again, though nothing has changed but the time."""
        soonest = self._parked.soonest
        if self._parking < _PARKED and not self._limits.wait(()):
            soonest = min(soonest, self._ring.soonest, self._look - self._clock(), math.inf if self._is_all else 0.0)
        return max(0.0, soonest)

    def added(self, lanes: Iterable[LaneState]) -> None:
        """*lanes* have more targets behind those they had."""
        for state in lanes:
            if lane := self._ring.get(state.id):
                lane.pending = state.pending
                self._ring.grown(lane)
            elif len(self._ring) < _MOST:
                self._ring.add(_Lane(state.id, state.keys, state.pending))
            else:
                self._miss()

    def reset(self) -> None:
        """Begin anew, as targets anywhere in the ledger became pending once more."""
        self._ring.close()
        self._ring = Ring(self._limits, self._rests_long)
        self._place, self._is_all = 0, False

    def park(self, claim: Claim, keys: Keys) -> None:
        """Give *claim* out once more when there are permits for *keys*, which it has turned out to count for."""
        lane = self._parked.get(keys)
        if lane is None:
            lane = _Lane(keys, keys, 0)
            self._parked.add(lane)
        lane.claims.append(claim)
        lane.pending += 1
        self._parking += 1
        self._led[claim.lane] = keys
        if len(self._led) > _MOST:
            self._led.popitem(last=False)

    # -- out of a ring ---------------------------------------------------------------------------------------

    def _next(self, ring: Ring[_Lane]) -> Claim | None:
        while lane := ring.next():
            if self._leads_to_a_crowd(lane):
                ring.put_aside(lane, _AGAIN)
            elif claim := self._first(lane):
                self._limits.reserve(claim, lane.keys)
                lane.pending -= 1
                if lane.pending > 0:
                    ring.served(lane)
                else:
                    ring.remove(lane)
                return claim
            else:
                ring.remove(lane)
        return None

    def _leads_to_a_crowd(self, lane: _Lane) -> bool:
        """Whether many that were of *lane* are parked, so that more of it would only join them."""
        keys = self._led.get(lane.id) if isinstance(lane.id, int) else None
        crowd = self._parked.get(keys) if keys else None
        return crowd is not None and crowd.pending >= _PARKED_EACH

    def _first(self, lane: _Lane) -> Claim | None:
        if not lane.claims and isinstance(lane.id, int):
            lane.claims.extend(self._lanes.targets(lane.id, lane.last, _TARGETS))
            if lane.claims:
                lane.last = lane.claims[-1].target.id
        return lane.claims.popleft() if lane.claims else None

    # -- between the ledger and the ring ---------------------------------------------------------------------

    def _look_up(self) -> None:
        """Bring the next lanes of the round into the ring, and have them served first."""
        self._claims = 0
        found = self._lanes.ready(self._place, _LANES)
        if not found:
            self._is_all = not self._place or not self._news
            self._place, self._news = 0, False
            return
        self._place = found[-1].id
        if len(self._ring) > _MOST:
            self._news = True
            for light in self._ring.lightest(len(found)):
                self._ring.remove(light)
        for state in self._lanes.longest(_LONGEST):
            if not self._ring.get(state.id):
                self._ring.add(_Lane(state.id, state.keys, state.pending))
        for state in reversed(found):
            if lane := self._ring.get(state.id):
                lane.pending = state.pending
                self._ring.prefer(lane)
            else:
                self._news = True
                self._ring.add(_Lane(state.id, state.keys, state.pending), first=True)

    def _wake(self) -> None:
        """Take up what is due in the ledger."""
        now = self._clock()
        if now < self._look:
            return
        soonest = self._lanes.soonest or math.inf
        if soonest <= now:
            for state in self._lanes.wake(now, _LANES):
                if lane := self._ring.get(state.id):
                    self._ring.remove(lane)
                if lane or len(self._ring) < _MOST:
                    self._ring.add(_Lane(state.id, state.keys, state.pending), first=True)
                else:
                    self._miss()
        self._look = now if soonest <= now else min(soonest, now + _AGAIN)

    def _miss(self) -> None:
        """There is a lane that is not in the ring, and this round may be past it: there has to be another."""
        self._is_all, self._news = False, True

    def _rests_long(self, lane: _Lane, seconds: float) -> bool:
        """Whether *lane* has to rest for so long that it waits in the ledger."""
        if not _LONG < seconds < math.inf:
            return False
        assert isinstance(lane.id, int)
        self._lanes.rest(lane.id, self._clock() + seconds)
        self._ring.remove(lane)
        return True
