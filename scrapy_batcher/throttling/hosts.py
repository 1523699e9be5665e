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
from scrapy_batcher.outcome import outcome_of
from scrapy_batcher.throttling.limits import Limits
from scrapy_batcher.throttling.rest import asked_rest, backoff

_FAILING = ("failed/dns", "failed/refused", "failed/connection", "failed/timeout")

_MOST = 10_000  # hosts in trouble that are remembered

# How a host that has asked for rest is asked faster again: with each answer by a part of the pace that grows with the
# answers since, up to the _FASTEST; more carefully when it is known what was too fast; and without a pace when all is
# _WELL for so many answers. So a host that bears so much and no more is seldom made to refuse, and one that bears more
# is found out: twice as fast takes 80 answers, or 370.
_QUICKLY, _CAREFULLY, _FASTEST = 0.0002, 0.00001, 0.02
_WELL = 1000
_BACK = 1.05  # times the pace that was too fast, for the next

_ENOUGH = 3  # answers between two rests, for it to be known how many it bears


@dataclass(slots=True)
class _Trouble:
    """A host that asks for rest, or does not answer.

    :param rests: how many it has had, in a row
    :param until: the time at which the last of them is over
    :param failures: how often it has not answered, in a row
    :param has_asked: whether it has asked for a rest
    :param good: answers since the last that it has asked for
    :param pace: seconds from one request to the next since then
    :param faster: how much faster, for each of the answers
    """

    rests: int = 0
    until: float = -math.inf
    failures: int = 0
    has_asked: bool = False
    good: int = 0
    pace: float = 0.0
    faster: float = _QUICKLY


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
                self._slow_down(host, asked)
            return
        self._relax(host)
        self._limits.recovered(host)
        if latency is not None:
            self._limits.answered_in(host, latency)
        if asked:
            self._limits.rest(host, min(asked, self._config.retry_after_max))

    def failed(self, host: str, exception: Exception) -> None:
        """A download from *host* ended in *exception*."""
        if outcome_of(exception).name not in _FAILING:
            return
        self._cut(host)
        if self._config.rest:
            self._rest(self._trouble(host), host, None, self._config.failing_rest_max)
        if self._config.failing_give_up:
            trouble = self._trouble(host)
            trouble.failures += 1
            if trouble.failures >= self._config.failing_give_up:
                self._limits.end_rest(host)

    def is_given_up(self, host: str) -> bool:
        """Whether *host* has not answered for so often that nothing more is to be asked of it."""
        trouble = self._troubles.get(host)
        return trouble is not None and 0 < self._config.failing_give_up <= trouble.failures

    def _slow_down(self, host: str, asked: float | None) -> None:
        """*host* asks for rest, for the seconds it has *asked*. From the second time on it is then asked no more often
        than it has answered since the last, this rest counted in: so much it bears in the long run. Once there is a
        pace, a little more slowly than at that."""
        trouble = self._trouble(host)
        since = trouble.until if trouble.has_asked else math.inf
        if self._rest(trouble, host, asked, self._config.rest_max):
            if trouble.pace:
                trouble.pace, trouble.faster = trouble.pace * _BACK, _CAREFULLY
            elif trouble.good >= _ENOUGH and since < math.inf:
                trouble.pace = (trouble.until - since) / trouble.good
            trouble.pace = min(trouble.pace, self._config.rest_max)
            self._limits.pace(host, trouble.pace)
            trouble.has_asked, trouble.good, trouble.failures = True, 0, 0

    def _relax(self, host: str) -> None:
        """*host* has answered well. It may be asked a little more often then, with each answer a little more so."""
        if not (trouble := self._troubles.get(host)):
            return
        trouble.rests = trouble.failures = 0
        trouble.good += 1
        if not trouble.has_asked or trouble.good > _WELL:
            del self._troubles[host]
            trouble.pace = 0.0
        trouble.pace *= 1 - min(trouble.faster * trouble.good, _FASTEST)
        self._limits.pace(host, trouble.pace)

    def _rest(self, trouble: _Trouble, host: str, asked: float | None, most: float) -> bool:
        """Let *host* rest for the seconds it has *asked*; or, if it has not, for longer than the last time.

        Those that were under way together are answered together: that is one rest.

        :param most: the longest rest that is not asked for
        :returns: whether this is another rest than the last
        """
        now = self._limits.now()
        is_new = now >= trouble.until
        if not is_new and asked is None:
            return False
        trouble.rests += is_new
        if asked is None:
            seconds = backoff(trouble.rests, self._config.rest_seconds, most, self._uniform)
        else:
            seconds = min(asked, self._config.retry_after_max)
        trouble.until = max(trouble.until, now + seconds)
        self._limits.rest(host, seconds)
        return is_new

    def _cut(self, host: str) -> None:
        if width := self._limits.width(host):
            width.cut(self._limits.now())

    def _trouble(self, host: str) -> _Trouble:
        trouble = self._troubles.setdefault(host, _Trouble())
        self._troubles.move_to_end(host)
        if len(self._troubles) > _MOST:
            self._troubles.popitem(last=False)
        return trouble
