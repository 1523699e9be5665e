"""Which limits a request counts for, and which ones a target will."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.robotstxt import RobotParser
from scrapy.utils.httpobj import urlparse_cached

from scrapy_batcher.config import Config
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.throttling.hosts import Hosts
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limiters import HOST, ROBOTS, TOTAL, Keys
from scrapy_batcher.throttling.limits import Limits
from scrapy_batcher.url import host_in, host_of
from scrapy_batcher.values import ConfigError

LIMITS_KEY = "batcher_limits"
"""The key of ``request.meta`` that holds the names of further limits that a request counts for."""

_LIMITS_PLACE = f"request.meta[{LIMITS_KEY!r}]"

#: Scrapy writes a request's host into ``meta["download_slot"]``, and what copies its meta, a redirect to another host
#: for one, takes that along. Beside it we write what Scrapy wrote, to tell it from a slot that a spider chose.
_WRITTEN_KEY = "batcher_written_slot"


class Rules:
    """Those of one crawler.

    :param limits: what the crawler's requests count for, alone or together with those of other crawlers
    :ivar hosts: what was heard of the hosts
    """

    def __init__(self, config: Config, limits: Limits) -> None:
        self.limits = limits
        self.hosts = Hosts(config, limits)
        self._config = config
        self._obeys = config.obeys_robots

    def host_of(self, request: Request) -> str:
        """The key of where *request* goes: its URL's host, or the download slot that its spider chose."""
        slot = request.meta.get("download_slot")
        return HOST + (host_of(request) if slot in (None, request.meta.get(_WRITTEN_KEY)) else str(slot))

    def keys_of(self, request: Request) -> Keys:
        """The keys that *request* counts for.

        :raises ValueError: when its names are none, or there is no limit of such a name
        """
        names = list(_names(request.meta.get(LIMITS_KEY), _LIMITS_PLACE))
        if function := self._config.limits_function:
            names += _names(function(request), "what BATCHER_LIMITS_FUNCTION returns")
        robots = self._obeys and not request.meta.get("dont_obey_robotstxt")
        site = _site(self.host_of(request), urlparse_cached(request).netloc if robots else None)
        return self._with_names(site, names)

    def known_keys_of(self, request: Request) -> Keys:
        """The keys that *request* counts for; none when that cannot be told: the middleware will say why."""
        try:
            return self.keys_of(request)
        except Exception:  # noqa: BLE001 - of a function of the project's, which the middleware asks again
            return ()

    def passed_robots(self, request: Request) -> None:
        """*request* has passed the middleware that asks for robots.txt: those that follow find it there."""
        if self._obeys and not request.meta.get("dont_obey_robotstxt"):
            self.limits.known(ROBOTS + urlparse_cached(request).netloc)

    def keys_for(self, target: Target) -> Keys:
        """The keys that the request for *target* will count for, as far as the list tells.

        :raises ValueError: when there is no limit of a name in its column
        """
        return self._with_names(self.site_of(target), self.names_of(target))

    def site_of(self, target: Target) -> Keys:
        """Those of them that its URL tells."""
        return _site(HOST + host_in(target.url), _netloc(target.url) if self._obeys else None)

    def names_of(self, target: Target) -> list[str]:
        """The names in the column of *target* that is for them, separated by commas."""
        column = self._config.limits_column
        value = target.columns.get(column) if column else None
        if value is None:
            return []
        names = value.split(",") if isinstance(value, str) else _names(value, f"the column {column}")
        return [name.strip() for name in names if name.strip()]

    def note_slot(self, request: Request) -> None:
        """Remember what Scrapy has written into the meta of *request*, which has reached the downloader."""
        slot = request.meta.get("download_slot")
        if slot is not None and slot == host_of(request):
            request.meta[_WRITTEN_KEY] = slot

    def keep_crawl_delay(self, request: Request, robots: RobotParser) -> None:
        """Begin no more often than *robots* allows with what goes where *request* does."""
        delay = robots.crawl_delay(self._config.robots_user_agent) or 0.0
        host = self.host_of(request)
        limit = self.limits.limit(host)
        if delay > limit.delay * (1 - limit.jitter):
            delay = min(delay, self._config.retry_after_max)
            longer = max(delay, limit.delay)
            self.limits.change(host, delay=longer, jitter=1 - delay / longer)

    def _with_names(self, site: Keys, names: list[str]) -> Keys:
        if not names:
            return site
        for name in names:
            self.limits.limit(name)
        return tuple(dict.fromkeys(key for key in (*site, *names) if key != TOTAL))


def rules_of(crawler: Crawler, config: Config) -> Rules:
    """The rules of *crawler*, made when they are first asked for.

    :raises ConfigError: if its limits are shared, and one differs from another crawler's
    """
    rules = _rules.get(crawler)
    if rules is None:
        limits = _shared_limits(crawler, config) if config.limits_shared else _new_limits(config)
        rules = _rules[crawler] = Rules(config, limits)
    return rules


def leave(crawler: Crawler) -> None:
    """*crawler* is over: it shares its limits with nobody any more."""
    _sharing.discard(crawler)


def limits_of(crawler: Crawler) -> Limits:
    """The limits of *crawler*. Use them to look at limits, change them, and let hosts rest, while it runs.

    :raises KeyError: if it has none, because no part of scrapy-batcher is on
    """
    return _rules[crawler].limits


_rules: WeakKeyDictionary[Crawler, Rules] = WeakKeyDictionary()

_sharing: WeakSet[Crawler] = WeakSet()  # crawlers that have their limits together, until they are over


def _shared_limits(crawler: Crawler, config: Config) -> Limits:
    limits = next((limits_of(other) for other in _sharing), None) or _new_limits(config)
    for key, limit in config.limits.items():
        if (theirs := limits.add(key, limit)) != limit:
            raise ConfigError(f"BATCHER_LIMITS_SHARED: the limit {key!r} is {limit} here, {theirs} in another spider")
    _sharing.add(crawler)
    return limits


def _new_limits(config: Config) -> Limits:
    return Limits({**config.limits, f"{ROBOTS}*": Limit()}, adapt=config.adaptive)


def _names(value: Any, where: str) -> Iterable[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, (Mapping, type)):
        names = list(value)
        if all(isinstance(name, str) for name in names):
            return names
    raise ValueError(f"{where} must be a list of names of limits, not {value!r}")


def _site(host: str, netloc: str | None) -> Keys:
    """
    :param netloc: the network location whose robots.txt counts, if one does
    """
    return (host,) if netloc is None else (host, ROBOTS + netloc)


def _netloc(url: str) -> str:
    """Host and port in *url* as a request to it will have them; empty when there are none."""
    try:
        return urlparse_cached(Request(url)).netloc
    except ValueError:
        return ""
