"""What was heard of the hosts lately, and what follows: who asks for rest, or cannot be reached, is left alone."""

from __future__ import annotations

import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from scrapy.http import Response

from scrapy_batcher.config import Config
from scrapy_batcher.limits import Limits
from scrapy_batcher.outcome import outcome_of
from scrapy_batcher.rest import asked_rest, backoff

_FAILING = ("failed/dns", "failed/refused", "failed/connection", "failed/timeout")

_MOST = 10_000  # hosts in trouble that are remembered


@dataclass(slots=True)
class _Trouble:
    """A host that asks for rest, or does not answer.

    :param rests: how many it has had, in a row
    :param until: the time at which the last of them is over
    :param failures: how often it has not answered, in a row
    """

    rests: int = 0
    until: float = -math.inf
    failures: int = 0


class Hosts:
    """Lets the hosts rest that should, in *limits*, and finds out how many requests at once they bear. A host is known
    by its key there.

    :param uniform: a random number from 0 to 1
    :param clock: the Unix time
    """

    def __init__(
        self,
        config: Config,
        limits: Limits,
        *,
        uniform: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._limits = limits
        self._uniform = uniform
        self._clock = clock
        self._troubles: OrderedDict[str, _Trouble] = OrderedDict()

    def answered(self, host: str, response: Response, latency: float | None) -> None:
        """*host* has answered.

        :param latency: seconds until it did
        """
        asked = asked_rest(response.headers, self._clock()) if self._config.rest else None
        if response.status in self._config.rest_statuses:
            self._cut(host)
            if self._config.rest:
                self._rest(host, asked)
            return
        self._troubles.pop(host, None)
        self._limits.recovered(host)
        if latency is not None:
            self._limits.answered_in(host, latency)
        if asked:
            self._limits.rest(host, min(asked, self._config.retry_after_most))

    def failed(self, host: str, exception: Exception) -> None:
        """A download from *host* ended in *exception*."""
        if outcome_of(exception).name not in _FAILING:
            return
        self._cut(host)
        if self._config.rest:
            self._rest(host, None, most=self._config.failing_rest_most)
        if self._config.failing_give_up:
            trouble = self._trouble(host)
            trouble.failures += 1
            if trouble.failures >= self._config.failing_give_up:
                self._limits.end_rest(host)

    def is_given_up(self, host: str) -> bool:
        """Whether *host* has not answered for so often that nothing more is to be asked of it."""
        trouble = self._troubles.get(host)
        return trouble is not None and 0 < self._config.failing_give_up <= trouble.failures

    def _rest(self, host: str, asked: float | None, most: float | None = None) -> None:
        """Let *host* rest for the seconds it has *asked*; or, if it has not, for longer than the last time.

        Those that were under way together are answered together: that is one rest.
        """
        trouble, now = self._trouble(host), self._limits.now()
        if now >= trouble.until:
            trouble.rests += 1
        elif asked is None:
            return
        if asked is None:
            seconds = backoff(trouble.rests, self._config.rest_seconds, most or self._config.rest_most, self._uniform)
        else:
            seconds = min(asked, self._config.retry_after_most)
        trouble.until = max(trouble.until, now + seconds)
        self._limits.rest(host, seconds)

    def _cut(self, host: str) -> None:
        if width := self._limits.width(host):
            width.cut(self._limits.now())

    def _trouble(self, host: str) -> _Trouble:
        trouble = self._troubles.setdefault(host, _Trouble())
        self._troubles.move_to_end(host)
        if len(self._troubles) > _MOST:
            self._troubles.popitem(last=False)
        return trouble
