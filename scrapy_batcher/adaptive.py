"""How many requests at once a host bears, found out by asking more of it until it answers worse."""

from __future__ import annotations

import math

_SLOWER = 1.5  # times the latency of a host that is at ease
_SMOOTHING = 1 / 8  # of a new latency in the smoothed one, as in TCP's round-trip time (RFC 6298)
_FORGETTING = 1.002  # by how much, each time, the best latency is taken for worse: the host may have changed


class Width:
    """Grows by one a round while the host answers well, doubles in the beginning, and is halved when it does not: the
    additive increase and multiplicative decrease of TCP (Chiu and Jain, 1989).

    :ivar value: requests at once, at least 1
    """

    def __init__(self) -> None:
        self.value = 1.0
        self._is_starting = True
        self._best = math.inf  # seconds
        self._smoothed = 0.0  # seconds
        self._cut = -math.inf  # time of the last cut

    def answered(self, latency: float, now: float, *, in_flight: int, most: float) -> None:
        """The host has answered well.

        :param latency: seconds that took
        :param in_flight: requests at once, this one among them: a width that is not used is not tried
        :param most: what the width must not grow above
        """
        self._best = min(latency, self._best * _FORGETTING)
        self._smoothed += (latency - self._smoothed) * (_SMOOTHING if self._smoothed else 1)
        if self._smoothed > self._best * _SLOWER:
            self.cut(now)
        elif in_flight >= int(self.value):
            self.value = min(most, self.value + (1 if self._is_starting else 1 / self.value))

    def cut(self, now: float) -> None:
        """The host is asked too much: half of it. What was under way then says nothing new."""
        self._is_starting = False
        if now - self._cut > self._smoothed:
            self._cut = now
            self.value = max(1.0, self.value / 2)
