"""At most N downloads in flight in total, and at most n per host, whoever asked for them.

Example 7 of the batching walk-through this project grew from: Twisted's `DeferredSemaphore`, here inside Scrapy.
"""

from __future__ import annotations

import logging
import time
from enum import Enum

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.extensions.telnet import update_telnet_vars
from scrapy.http import Response
from scrapy.robotstxt import RobotParser
from scrapy.utils.asyncio import CallLaterResult, call_later
from scrapy.utils.conf import build_component_list
from scrapy.utils.misc import load_object
from scrapy.utils.python import global_object_name

from scrapy_batcher.adapters.engine import Engine
from scrapy_batcher.config import Config
from scrapy_batcher.throttling.limiters import LimiterStatistics
from scrapy_batcher.throttling.rules import Rules, leave, rules_of
from scrapy_batcher.values import ConfigError

logger = logging.getLogger(__name__)

_SEARCH_INTERVAL = 0.1  # seconds between two looks for permits whose request is gone


class _Stage(Enum):
    """How far a request with permits has come."""

    ON_ITS_WAY = "to the downloader"
    DOWNLOADING = "in the downloader"
    ANSWERED = "there, and has brought a response"
    FAILED = "has left it without one"


_ELSEWHERE = (_Stage.ON_ITS_WAY, _Stage.FAILED)


class SemaphoreMiddleware:
    """A downloader middleware that lets a request pass only with a permit for each limit it counts for. It takes the
    permits back when the download is over, however that ends. Order it last, nearest the downloader:
    ``{"scrapy_batcher.SemaphoreMiddleware": 1000}``.

    :param rules: which limits a request counts for, and how hosts that ask for rest are treated
    """

    def __init__(self, crawler: Crawler, config: Config, rules: Rules) -> None:
        self._crawler = crawler
        self._config = config
        self._rules = rules
        self.limits = rules.limits
        self._engine = Engine(crawler)
        self._stats = crawler.stats
        self._permits: dict[Request, _Stage] = {}  # of those that have some, by identity: copies have none
        self._peak = 0  # of how many there were
        self._expected: set[Request] = set()  # those that have a reservation
        self._waited = 0.0  # seconds, by all requests together
        self._followed = False  # by middlewares that process requests after us, and may keep them from the downloader
        self._search: CallLaterResult | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> SemaphoreMiddleware:
        try:
            config = Config.from_settings(crawler.settings)
            if not config.enabled:
                raise NotConfigured
            middleware = cls(crawler, config, rules_of(crawler, config))
        except ConfigError as e:
            raise NotConfigured(str(e)) from e
        for handler, signal in (
            (middleware.spider_opened, signals.spider_opened),
            (middleware.request_reached_downloader, signals.request_reached_downloader),
            (middleware.response_downloaded, signals.response_downloaded),
            (middleware.request_left_downloader, signals.request_left_downloader),
            (middleware.robots_parsed, signals.robots_parsed),
            (middleware.spider_closed, signals.spider_closed),
            (middleware.update_telnet_vars, update_telnet_vars),
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

    # -- a request takes permits, and loses them ---------------------------------------------------------------

    async def process_request(self, request: Request) -> None:
        if request in self._permits:
            return  # a middleware behind us sent it round again: it still has its permits
        keys = self._rules.keys_of(request)
        self._expected.discard(request)
        self._rules.passed_robots(request)
        started = time.monotonic()
        if await self.limits.acquire(request, keys):
            self._waited += time.monotonic() - started
            self._stats.inc_value("batcher/permits/waits")
            self._stats.set_value("batcher/permits/wait_seconds", self._waited)
        self._permits[request] = _Stage.ON_ITS_WAY
        if len(self._permits) > self._peak:
            self._peak = len(self._permits)
            self._stats.set_value("batcher/permits/peak", self._peak)
        if self._followed:
            self._begin_search()

    def request_reached_downloader(self, request: Request) -> None:
        if request in self._permits:
            self._permits[request] = _Stage.DOWNLOADING
            self._engine.open_slot(request, keep_delay=self._config.autothrottle)
            self._rules.note_slot(request)

    def response_downloaded(self, request: Request, response: Response) -> None:
        host, latency = self._rules.host_of(request), request.meta.get("download_latency")
        self._rules.hosts.answered(host, response, latency)
        if request in self._permits:
            self._permits[request] = _Stage.ANSWERED

    def request_left_downloader(self, request: Request) -> None:
        if self._permits.get(request) is _Stage.DOWNLOADING:
            # Its host may have to rest before another is let through: process_exception comes next.
            self._permits[request] = _Stage.FAILED
            self._begin_search()
        else:
            self._release(request)

    # These two also run for requests that never passed process_request (answered from a cache, refused before us: they
    # lose their reservation here), and for one that was cancelled while its download goes on in the background. Only a
    # request that a middleware behind us kept from the downloader loses its permits here.

    def process_response(self, request: Request, response: Response) -> Response:
        self._end_unless_downloading(request)
        return response

    def process_exception(self, request: Request, exception: Exception) -> None:
        if self._permits.get(request) is _Stage.FAILED:
            self._rules.hosts.failed(self._rules.host_of(request), exception)
        self._end_unless_downloading(request)

    def robots_parsed(self, robotparser: RobotParser, request: Request) -> None:
        self._rules.keep_crawl_delay(request, robotparser)

    def _end_unless_downloading(self, request: Request) -> None:
        if self._permits.get(request) in _ELSEWHERE:
            self._release(request)
        self._expect_no_more(request)

    def _expect_no_more(self, request: Request) -> None:
        if request in self._expected:
            self._expected.discard(request)
            self.limits.cancel(request)

    def _release(self, request: Request) -> None:
        if self._permits.pop(request, None) is not None:
            self.limits.release(request)

    # -- requests that do not come, and those that do not come back --------------------------------------------

    def expect(self, request: Request) -> None:
        """Reserve the permits that *request*, which is about to be downloaded, will need."""
        keys = self._rules.known_keys_of(request)
        if keys and self.limits.reserve(request, keys):
            self._expected.add(request)
            self._begin_search()

    def _begin_search(self) -> None:
        self._search = self._search or call_later(_SEARCH_INTERVAL, self._find_lost)

    def _find_lost(self) -> None:
        """Take back the permits and reservations of requests that never reached the downloader and that it no longer
        knows.

        Scrapy does not tell us of a request whose way a middleware ended by returning another request or a response,
        or by raising, nor of one that was cancelled there.
        """
        elsewhere = [request for request, stage in self._permits.items() if stage in _ELSEWHERE]
        for request in elsewhere:
            if not self._engine.is_active(request):
                self._release(request)
        for request in list(self._expected):
            if not self._engine.is_active(request):
                self._expect_no_more(request)
        is_anything = elsewhere or self._expected
        self._search = call_later(_SEARCH_INTERVAL, self._find_lost) if is_anything else None

    def spider_closed(self) -> None:
        leave(self._crawler)
        self._find_lost()
        if self._search:
            self._search.cancel()

    # -- a look from outside ---------------------------------------------------------------------------------

    def statistics(self) -> dict[str, LimiterStatistics]:
        """The state of every limit that is in use, by key: ``"*"``, ``"host:…"``, and names of your own."""
        return self.limits.statistics()

    def update_telnet_vars(self, telnet_vars: dict[str, object]) -> None:
        telnet_vars["limits"] = self.limits

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.limits!r}>"
