"""The scheduler's queue for ordinary spiders: it gives out what may be downloaded now, one host after another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.pqueues import DownloaderAwarePriorityQueue, QueueProtocol
from scrapy.utils.asyncio import CallLaterResult, call_later

from scrapy_batcher.adapters.engine import Engine
from scrapy_batcher.config import Config
from scrapy_batcher.semaphore import SemaphoreMiddleware
from scrapy_batcher.throttling.limiters import HOST, Keys, UnknownLimitError
from scrapy_batcher.throttling.ring import Lane, Ring
from scrapy_batcher.throttling.rules import rules_of


class LimitsPriorityQueue(DownloaderAwarePriorityQueue):
    """A class for ``SCHEDULER_PRIORITY_QUEUE`` that asks our limits which request may begin.

    Scrapy's own queue takes a host whose requests wait for a permit for idle, and prefers it. It also looks at every
    host each time. This one does not look at a host that is full, or rests, until that is over. On disk it is the same
    as Scrapy's: a queue for each host, and for each priority in it.

    It uses these undocumented parts of ``DownloaderAwarePriorityQueue``, checked on Scrapy 2.18.0 and 2.19.0:
    ``pqueues``, ``pqfactory()``, and ``key`` of the queues that it makes. tests/test_queue.py fails if one goes away.
    """

    def __init__(
        self,
        crawler: Crawler,
        downstream_queue_cls: type[QueueProtocol],
        key: str,
        slot_startprios: dict[str, Iterable[int]] | None = None,
        *,
        start_queue_cls: type[QueueProtocol] | None = None,
    ) -> None:
        super().__init__(crawler, downstream_queue_cls, key, slot_startprios, start_queue_cls=start_queue_cls)
        self._rules = rules_of(crawler, Config.from_settings(crawler.settings))
        self._semaphore = crawler.get_downloader_middleware(SemaphoreMiddleware)
        self._engine = Engine(crawler)
        self._ring: Ring[Lane] = Ring(self._rules.limits)
        self._timer: CallLaterResult | None = None
        self._is_waiting = False  # since a request was asked for, and none may begin
        for slot, queue in self.pqueues.items():
            self._ring.add(Lane(slot, self._keys(slot), len(queue)))
        self._rules.limits.listen(self._room)

    def push(self, request: Request) -> None:
        slot = self._slot(request)
        queue = self.pqueues.get(slot)
        if queue is None:
            queue = self.pqueues[slot] = self.pqfactory(slot)
        queue.push(request)  # this may fail: it may not be possible to write it
        if lane := self._ring.get(slot):
            lane.pending += 1
            self._ring.grown(lane)
        else:
            self._ring.add(Lane(slot, self._keys(slot), 1))

    def pop(self) -> Request | None:
        lane = self._ring.next()
        self._wait_if(lane is None)
        if lane is None:
            return None
        queue = self.pqueues[str(lane.id)]
        request = queue.pop()
        lane.pending -= 1
        if request and self._semaphore:
            self._semaphore.expect(request)
        if lane.pending > 0:
            self._ring.served(lane)
        else:
            self._ring.remove(lane)
            del self.pqueues[str(lane.id)]
            queue.close()
            if self.key:
                with suppress(OSError):  # as Scrapy does it: what is not empty stays
                    Path(queue.key).rmdir()
        return request

    def peek(self) -> Request | None:
        lane = self._ring.next()
        return self.pqueues[str(lane.id)].peek() if lane else None

    def close(self) -> dict[str, list[int]]:
        self._wait_if(False)
        self._ring.close()
        self._rules.limits.unlisten(self._room)
        return super().close()

    def _slot(self, request: Request) -> str:
        """What tells the queue of *request* from others: Scrapy's own download slot, unless it has further keys."""
        keys = self._rules.known_keys_of(request) or (self._rules.host_of(request),)
        return "\n".join((keys[0].removeprefix(HOST), *keys[1:]))

    def _keys(self, slot: str) -> Keys:
        host, *names = slot.split("\n")
        try:
            for name in names:
                self._rules.limits.limit(name)
        except UnknownLimitError:  # of an earlier run: the middleware will say so, of each request
            names = []
        return (HOST + host, *names)

    def _wait_if(self, is_waiting: bool) -> None:
        """The engine asks again when a download ends; when time or another spider makes room, it has to be told."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._is_waiting = is_waiting and bool(self.pqueues)
        if self._is_waiting and (soonest := self._ring.soonest) < math.inf:
            self._timer = call_later(max(0.0, soonest), self._ask)

    def _room(self, keys: Keys) -> None:
        if self._is_waiting:
            self._ask()

    def _ask(self) -> None:
        self._engine.ask_scheduler()
