"""At most N downloads in flight in all and at most n per host, whoever asked for them.

Example 7 of the batching walk-through this project grew from: Twisted's `DeferredSemaphore`, here inside Scrapy.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.http import Response
from scrapy.statscollectors import StatsCollector
from scrapy.utils.asyncio import CallLaterResult, call_later
from scrapy.utils.conf import build_component_list
from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.httpobj import urlparse_cached
from scrapy.utils.misc import load_object
from scrapy.utils.python import global_object_name
from twisted.internet.defer import DeferredSemaphore

from scrapy_batcher.config import Config, ConfigError

logger = logging.getLogger(__name__)

_SEARCH_INTERVAL = 0.1  # seconds between two looks for permits whose request is gone

#: Scrapy writes a request's host into ``meta["download_slot"]``, and what copies its meta, a redirect to another host
#: for one, takes that along. Beside it we write what Scrapy wrote, to tell it from a slot that a spider chose.
_WRITTEN_KEY = "batcher_written_slot"


@dataclass(frozen=True)
class SemaphoreStatistics:
    """A look at a semaphore: its limit, who holds a permit, how many wait for one."""

    limit: int
    holders: frozenset[Hashable]
    waiting: int


class HolderSemaphore:
    """A `DeferredSemaphore` that knows who holds its permits, so that only a holder can give one back, and only once.

    Keeping the borrowers instead of a count is the idea of Trio's ``CapacityLimiter``.

    :param limit: permits there are, at least 1
    """

    def __init__(self, limit: int) -> None:
        self._semaphore = DeferredSemaphore(limit)
        self._holders: set[Hashable] = set()

    async def acquire(self, holder: Hashable) -> None:
        """Wait for a permit; who came first gets one first. Cancelled while waiting, it leaves no trace.

        :raises RuntimeError: when *holder* has one already
        """
        if holder in self._holders:
            raise RuntimeError(f"{holder!r} already holds a permit of {self!r}")
        granted = self._semaphore.acquire().addCallback(lambda _: self._holders.add(holder))
        if granted.called:
            return
        try:
            await maybe_deferred_to_future(granted)
        except BaseException:
            # Cancelled: still in the queue, or granted a permit after all in the moment between.
            granted.cancel()
            if holder in self._holders:
                self.release(holder)
            raise

    def release(self, holder: Hashable) -> None:
        """Give the permit of *holder* back; who waits longest gets it at once.

        :raises RuntimeError: when *holder* has none
        """
        if holder not in self._holders:
            raise RuntimeError(f"{holder!r} holds no permit of {self!r}")
        self._holders.remove(holder)
        self._semaphore.release()

    def has_capacity(self) -> bool:
        """Whether `acquire` would not wait."""
        return self._semaphore.tokens > 0

    @property
    def idle(self) -> bool:
        """Whether nobody holds a permit or waits for one."""
        return not self._holders and not self._semaphore.waiting

    def statistics(self) -> SemaphoreStatistics:
        return SemaphoreStatistics(self._semaphore.limit, frozenset(self._holders), len(self._semaphore.waiting))

    def __repr__(self) -> str:
        look = self.statistics()
        return f"<{type(self).__name__} {len(look.holders)} of {look.limit} held, {look.waiting} waiting>"


@dataclass(slots=True)
class _Permit:
    """What a request holds: one permit of its host and one of the whole."""

    host: str
    downloading: bool = False  # between request_reached_downloader and request_left_downloader


class SemaphoreMiddleware:
    """A downloader middleware that lets a request pass only with a permit, and takes the permit back when the download
    is over, however it ends. Order it last, nearest the downloader: ``{"scrapy_batcher.SemaphoreMiddleware": 1000}``.

    :param limit: downloads in flight in all, 0 for no limit
    :param host_limit: downloads in flight per host
    :param slot_limits: other limits, by host or by the name of a download slot (``request.meta["download_slot"]``)
    """

    def __init__(
        self, crawler: Crawler, stats: StatsCollector, limit: int, host_limit: int, slot_limits: Mapping[str, int]
    ) -> None:
        self._crawler = crawler
        self._stats = stats
        self._host_limit = host_limit
        self._slot_limits = slot_limits
        self._total = HolderSemaphore(limit or sys.maxsize)
        self._hosts: dict[str, HolderSemaphore] = {}  # those in use only: a million hosts must cost nothing
        self._permits: dict[Request, _Permit] = {}  # by identity: the copies of a retry or a redirect hold none
        self._waited = 0.0  # seconds, by all requests together
        self._followed = False  # by middlewares that process requests after us, and may keep them from the downloader
        self._search: CallLaterResult | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> SemaphoreMiddleware:
        try:
            config = Config.from_settings(crawler.settings)
        except ConfigError as e:
            raise NotConfigured(str(e)) from e
        if not config.enabled:
            raise NotConfigured
        middleware = cls(crawler, crawler.stats, config.concurrency, config.host_concurrency, config.slot_concurrency)
        for handler, signal in (
            (middleware.spider_opened, signals.spider_opened),
            (middleware.request_reached_downloader, signals.request_reached_downloader),
            (middleware.request_left_downloader, signals.request_left_downloader),
            (middleware.spider_closed, signals.spider_closed),
        ):
            crawler.signals.connect(handler, signal)
        return middleware

    def spider_opened(self) -> None:
        order = build_component_list(
            self._crawler.settings.get_component_priority_dict_with_base("DOWNLOADER_MIDDLEWARES")
        )
        classes = [load_object(path) for path in order]
        for later in classes[classes.index(type(self)) + 1 :]:
            if hasattr(later, "process_request") and self._crawler.get_downloader_middleware(later):
                self._followed = True
                logger.warning(
                    "%s is ordered after SemaphoreMiddleware: what it downloads, or waits for, while it processes a "
                    "request does so with a permit in hand, and at a limit of 1 waits for ever. "
                    "Give SemaphoreMiddleware the highest order in DOWNLOADER_MIDDLEWARES.",
                    global_object_name(later),
                )

    # -- a request takes a permit, and loses it --------------------------------------------------------------

    async def process_request(self, request: Request) -> None:
        if request in self._permits:
            return  # a middleware behind us sent it round again: it still has its permit
        host = self._key(request)
        if host not in self._hosts:
            self._hosts[host] = HolderSemaphore(self._slot_limits.get(host, self._host_limit))
        if self._hosts[host].has_capacity() and self._total.has_capacity():
            await self._acquire(request, host)
        else:
            with self._waiting_counted():
                await self._acquire(request, host)

    def request_reached_downloader(self, request: Request) -> None:
        if permit := self._permits.get(request):
            permit.downloading = True
            if request.meta.get("download_slot") == urlparse_cached(request).hostname:
                request.meta[_WRITTEN_KEY] = request.meta["download_slot"]

    def request_left_downloader(self, request: Request) -> None:
        self._release(request)

    # These two also run for requests that never passed process_request (answered from a cache, refused before us), and
    # for one that was cancelled while its download goes on in the background. Only a request that a middleware behind
    # us kept from the downloader loses its permit here.

    def process_response(self, request: Request, response: Response) -> Response:
        self._release_unless_downloading(request)
        return response

    def process_exception(self, request: Request, exception: Exception) -> None:
        self._release_unless_downloading(request)

    def _key(self, request: Request) -> str:
        """Whose permit *request* needs: that of its URL's host, or of the download slot that its spider chose."""
        host = urlparse_cached(request).hostname or ""
        slot = request.meta.get("download_slot")
        return host if slot in (None, request.meta.get(_WRITTEN_KEY)) else str(slot)

    async def _acquire(self, request: Request, host: str) -> None:
        semaphore = self._hosts[host]
        try:
            # The host's first: who waits for a slow host must not keep the others from the whole.
            await semaphore.acquire(request)
            try:
                await self._total.acquire(request)
            except BaseException:
                semaphore.release(request)
                raise
        finally:
            self._forget_if_idle(host)
        self._permits[request] = _Permit(host)
        self._stats.max_value("batcher/permits/peak", len(self._permits))
        if self._followed:
            self._search = self._search or call_later(_SEARCH_INTERVAL, self._find_lost_permits)

    def _release_unless_downloading(self, request: Request) -> None:
        permit = self._permits.get(request)
        if permit and not permit.downloading:
            self._release(request)

    def _release(self, request: Request) -> None:
        if permit := self._permits.pop(request, None):
            self._total.release(request)
            self._hosts[permit.host].release(request)
            self._forget_if_idle(permit.host)

    def _forget_if_idle(self, host: str) -> None:
        if (semaphore := self._hosts.get(host)) and semaphore.idle:
            del self._hosts[host]

    @contextmanager
    def _waiting_counted(self) -> Iterator[None]:
        started = time.monotonic()
        self._stats.inc_value("batcher/permits/waits")
        try:
            yield
        finally:
            self._waited += time.monotonic() - started
            self._stats.set_value("batcher/permits/wait_seconds", self._waited)

    # -- with a middleware behind us -------------------------------------------------------------------------

    def _find_lost_permits(self) -> None:
        """Take back the permits of requests that never reached the downloader and that it no longer knows.

        Scrapy does not tell us of a request whose way a middleware behind us ended by returning another request or by
        raising, nor of one that was cancelled there. ``Downloader.active`` tells; it is not documented beyond the
        telnet console's status report (checked on Scrapy 2.18.0 and 2.19.0).
        """
        active = self._crawler.engine.downloader.active
        on_their_way = [request for request, permit in self._permits.items() if not permit.downloading]
        for request in on_their_way:
            if request not in active:
                self._release(request)
        self._search = call_later(_SEARCH_INTERVAL, self._find_lost_permits) if on_their_way else None

    def spider_closed(self) -> None:
        self._find_lost_permits()
        if self._search:
            self._search.cancel()

    # -- a look from outside ---------------------------------------------------------------------------------

    def statistics(self) -> dict[str, SemaphoreStatistics]:
        """Limit, holders (requests) and waiters of the whole, under ``"*"``, and of every host that is in use."""
        return {"*": self._total.statistics()} | {host: s.statistics() for host, s in self._hosts.items()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._total!r}, {len(self._hosts)} hosts>"
