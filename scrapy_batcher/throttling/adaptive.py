"""How many requests at once a host bears, found out by asking more of it until it answers worse."""

from __future__ import annotations

import math

_SLOWER = 1.5  # times the latency of a host that is at ease
_FEWEST = 10  # answers of which a mean is made: single ones differ too much
_FORGETTING = 1.01  # by how much, each time, the best mean is taken for worse: the host may have changed


class Width:
    """Grows by one from look to look while the host answers well, doubles in the beginning, and is halved when it does
    not: the additive increase and multiplicative decrease of TCP (Chiu and Jain, 1989), by mean latencies.

    :ivar value: requests at once, at least 1
    """

    def __init__(self) -> None:
        self.value = 1.0
        self._is_starting = True
        self._best = math.inf  # seconds: the least mean latency
        self._mean = 0.0  # seconds: the last one
        self._cut = -math.inf  # time of the last cut
        self._begin_to_look()

    def _begin_to_look(self) -> None:
        self._answers = 0
        self._seconds = 0.0
        self._is_tried = False  # whether as many requests as that were under way: a width that is not used says nothing

    def answered(self, latency: float, now: float, *, in_flight: int, most: float) -> None:
        """The host has answered well.

        :param latency: seconds that took
        :param in_flight: requests at once, this one among them
        :param most: what the width must not grow above
        """
        self._answers += 1
        self._seconds += latency
        self._is_tried = self._is_tried or in_flight >= int(self.value)
        if self._answers < max(_FEWEST, 2 * self.value):
            return
        self._mean = self._seconds / self._answers
        self._best = min(self._mean, self._best * _FORGETTING)
        if self._mean > self._best * _SLOWER:
            self.cut(now)
        elif self._is_tried:
            self.value = min(most, self.value * 2 if self._is_starting else self.value + 1)
        self._begin_to_look()

    def cut(self, now: float) -> None:
        """The host is asked too much: half of it. What was under way then says nothing new."""
        self._is_starting = False
        if now - self._cut > self._mean:
            self._cut = now
            self.value = max(1.0, self.value / 2)
            self._begin_to_look()
