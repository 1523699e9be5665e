"""The queue of ordinary spiders gives out what may be downloaded now, and is on the disk what Scrapy's own is.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import scrapy
from pytest_twisted import ensureDeferred
from scrapy.core.engine import ExecutionEngine
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.http import HtmlResponse
from scrapy.pqueues import ScrapyPriorityQueue
from scrapy.settings.default_settings import SCHEDULER_PRIORITY_QUEUE as SCRAPY_S
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.misc import load_object

from scrapy_batcher import LimitsPriorityQueue, limits_of
from tests.crawling import Pages, crawl, make_crawler, semaphore_of, until
from tests.mockserver import MockServer

ADDON = {"ADDONS": {"scrapy_batcher.Addon": 300}}
HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


@pytest.fixture
def no_heartbeat(monkeypatch) -> None:
    """Nothing is asked of the scheduler only because some time has passed."""
    monkeypatch.setattr(ExecutionEngine, "_SLOT_HEARTBEAT_INTERVAL", 3600.0)


def pages(server: MockServer, host: str, number: int, query: str = "") -> list[str]:
    return [server.url(f"page/{host}-{n}{query}", host) for n in range(number)]


def hosts(server: MockServer) -> dict[str, int]:
    return server.control()["hosts"]


def order(server: MockServer) -> list[str]:
    return [path.rpartition("/")[2] for path in server.control()["order"]]


def enqueued(crawler) -> int:
    return crawler.stats.get_value("scheduler/enqueued", 0) if crawler.stats else 0


def assert_nothing_taken(crawler) -> None:
    statistics = semaphore_of(crawler).statistics()
    assert not [look for look in statistics.values() if look.holders or look.waiting]
    for host in HOSTS:
        assert limits_of(crawler).wait((f"host:{host}",)) == 0, "nor reserved"


# -- what may run now --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2])
@ensureDeferred
async def test_exactly_the_limit(server: MockServer, limit: int) -> None:
    """As many requests as the limit allows are on the server at once, of each host."""
    listed = [url for host in HOSTS for url in pages(server, host, 6, "?gate=g")]
    crawler = make_crawler(Pages, CONCURRENT_REQUESTS_PER_DOMAIN=limit, CONCURRENT_REQUESTS=16, **ADDON)
    done = crawler.crawl(listed)
    await until(lambda: server.control()["in_flight"].get("*") == 3 * limit and enqueued(crawler) == 18)
    server.control("open?gate=g")
    await done
    assert crawler.spider.statuses == [200] * 18
    assert [server.peak(host) for host in HOSTS] == [limit] * 3
    assert_nothing_taken(crawler)


@ensureDeferred
async def test_a_full_host_does_not_hold_up_others(server: MockServer, no_heartbeat) -> None:
    """While one host is full, with many more requests than are made at once, and all of them first, others are done."""
    settings = {"CONCURRENT_REQUESTS": 4, "CONCURRENT_REQUESTS_PER_DOMAIN": 2, **ADDON}
    crawler = make_crawler(Pages, **settings)
    listed = [*pages(server, HOSTS[0], 50, "?gate=g"), *pages(server, HOSTS[1], 20), *pages(server, HOSTS[2], 20)]
    done = crawler.crawl(listed)
    await until(lambda: hosts(server) == {HOSTS[0]: 2, HOSTS[1]: 20, HOSTS[2]: 20})
    assert not [look for look in semaphore_of(crawler).statistics().values() if look.waiting]
    server.control("open?gate=g")
    await done
    assert crawler.spider.statuses == [200] * 90
    assert_nothing_taken(crawler)


@ensureDeferred
async def test_many_hosts(server: MockServer, no_heartbeat) -> None:
    """With many hosts at once each is fetched to its end."""
    listed = [server.url(f"page/{n}", f"127.0.1.{n % 50 + 1}") for n in range(200)]
    crawler = await crawl(Pages, listed, settings={"CONCURRENT_REQUESTS_PER_DOMAIN": 1, **ADDON})
    assert crawler.spider.statuses == [200] * 200
    assert_nothing_taken(crawler)


@ensureDeferred
async def test_a_delay_does_not_wait_for_the_heartbeat(server: MockServer, no_heartbeat) -> None:
    """When all hosts wait for their delay, the scheduler is asked again as soon as one of them may."""
    listed = [url for host in HOSTS for url in pages(server, host, 4)]
    settings = {"DOWNLOAD_DELAY": 0.1, "DOWNLOAD_DELAY_JITTER": 0, **ADDON}
    crawler = await crawl(Pages, listed, settings=settings)
    assert crawler.spider.statuses == [200] * 12


@ensureDeferred
async def test_a_delay_of_autothrottle(server: MockServer, no_heartbeat) -> None:
    """With AutoThrottle, which sets the delays itself, all is fetched."""
    settings = {"AUTOTHROTTLE_ENABLED": True, "AUTOTHROTTLE_START_DELAY": 0.1, **ADDON}
    crawler = await crawl(Pages, [url for host in HOSTS for url in pages(server, host, 3)], settings=settings)
    assert crawler.spider.statuses == [200] * 9


# -- the order ---------------------------------------------------------------------------------------------------------


class Ordered(scrapy.Spider):
    """Schedules a gated page, then others, of which the next is gated, too; the first one's page yields more."""

    name = "ordered"

    async def start(self):
        yield scrapy.Request(self.url("first?gate=first"))
        for priority in (0, 5, -5, 0, 7, 5):
            self.number += 1
            gate = "?gate=second" if priority == 7 else ""
            yield scrapy.Request(self.url(f"{priority}/{self.number}{gate}"), priority=priority)

    def __init__(self, server: MockServer) -> None:
        super().__init__()
        self.server, self.number = server, 0

    def url(self, rest: str) -> str:
        return self.server.url(f"page/{rest}")

    def parse(self, response):
        if response.url.endswith("first?gate=first"):
            for priority in (0, 6, 0):
                self.number += 1
                yield scrapy.Request(self.url(f"more/{priority}/{self.number}"), priority=priority)


@ensureDeferred
async def test_the_order_within_a_host_is_scrapy_s(server: MockServer) -> None:
    """Of one host, requests come by priority, those of callbacks before those of the start: as with Scrapy's queue."""
    orders = []
    for addon in ({}, ADDON):
        server.control("clear")
        crawler = make_crawler(Ordered, CONCURRENT_REQUESTS=1, **addon)
        done = crawler.crawl(server)
        for gate, count in (("first", 7), ("second", 10)):
            await until(lambda: crawler.stats and enqueued(crawler) == count)  # noqa: B023 - it is over before the next
            server.control(f"open?gate={gate}")
        await done
        orders.append(server.control()["order"])
    assert orders[0] == orders[1]
    assert len(orders[0]) == 10


@ensureDeferred
async def test_a_cold_host_has_its_turn(server: MockServer) -> None:
    """A host of which there was nothing yet need not wait until all of another is done."""

    class Follows(Pages):
        def parse(self, response):
            super().parse(response)
            if response.url.endswith("-0"):
                yield scrapy.Request(server.url("page/cold", HOSTS[1]))

    settings = {"CONCURRENT_REQUESTS": 1, **ADDON}
    crawler = await crawl(Follows, pages(server, HOSTS[0], 30), settings=settings)
    assert crawler.spider.statuses == [200] * 31
    found = order(server)
    assert found.index("cold") - found.index(f"{HOSTS[0]}-0") < 5


# -- on the disk -------------------------------------------------------------------------------------------------------


class Stops(scrapy.Spider):
    """Requests its pages once for all runs, with priorities, and stops after some."""

    name = "stops"

    def __init__(self, urls: list[str], pages: int = 0, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.urls, self.left, self.names = urls, pages, list(names)
        self.failed: list[str] = []

    async def start(self):
        for number, url in enumerate(self.urls):
            meta = {"batcher_limits": self.names} if self.names else {}
            yield scrapy.Request(url, priority=number % 3, errback=self.on_error, meta=meta)

    def parse(self, response):
        self.left -= 1
        is_last = self.left == 0  # before the yield, during which other pages may come
        if "more" not in response.url:
            yield response.follow(response.url + "-more", errback=self.on_error, meta=self.meta_of(response))
        if is_last:
            raise CloseSpider("enough")

    def meta_of(self, response):
        return {"batcher_limits": self.names} if self.names else {}

    def on_error(self, failure):
        self.failed.append(str(failure.value))


@pytest.mark.parametrize(
    "runs",
    [
        [ADDON, ADDON, ADDON],
        [{}, ADDON, {}],
        [ADDON, {}, ADDON],
        [ADDON, {"BATCHER_ENABLED": False, **ADDON}, ADDON],
    ],
)
@ensureDeferred
async def test_resumed(server: MockServer, tmp_path, runs: list[dict[str, Any]]) -> None:
    """Stopped and gone on with, with our queue or Scrapy's in each run, everything is fetched, once."""
    listed = [url for host in HOSTS for url in pages(server, host, 8)]
    settings = {"JOBDIR": str(tmp_path / "job"), "CONCURRENT_REQUESTS": 2}
    for addon in runs[:-1]:
        crawler = await crawl(Stops, listed, pages=15, settings=settings | addon)
        assert crawler.stats.get_value("finish_reason") == "enough"
        assert crawler.stats.get_value("scheduler/enqueued/memory") is None
    crawler = await crawl(Stops, listed, settings=settings | runs[-1])
    assert crawler.stats.get_value("finish_reason") == "finished"
    assert Counter(server.control()["hits"].values()) == {1: 48}
    assert not [path for path in Path(tmp_path / "job" / "requests.queue").iterdir() if path.is_dir()]


@ensureDeferred
async def test_resumed_with_names(server: MockServer, tmp_path) -> None:
    """Requests that count for names of limits as well, whatever is in these, are kept by our queue and Scrapy's."""
    listed = [url for host in HOSTS for url in pages(server, host, 8)]
    settings = {"JOBDIR": str(tmp_path / "job"), "BATCHER_LIMITS": {"a/b": 1}, "CONCURRENT_REQUESTS": 2}
    for addon in (ADDON, ADDON, {}):
        await crawl(Stops, listed, pages=10, names=("a/b",), settings=settings | addon)
    assert server.peak() <= 2
    await crawl(Stops, listed, names=("a/b",), settings=settings | ADDON)
    assert Counter(server.control()["hits"].values()) == {1: 48}


@ensureDeferred
async def test_resumed_without_a_name(server: MockServer, tmp_path) -> None:
    """Requests of a job that count for a limit which is gone end in their errback; the others are fetched."""
    listed = [url for host in HOSTS for url in pages(server, host, 4)]
    settings = {"JOBDIR": str(tmp_path / "job"), "CONCURRENT_REQUESTS": 2, **ADDON}
    await crawl(Stops, listed, pages=5, names=("a",), settings=settings | {"BATCHER_LIMITS": {"a": 2}})
    asked = sum(server.control()["hits"].values())
    crawler = await crawl(Stops, [*listed, server.url("page/plain")], settings=settings)
    assert crawler.stats.get_value("finish_reason") == "finished"
    assert "/page/plain" in server.control()["hits"]
    assert crawler.spider.failed
    assert all("there is no limit 'a'" in message for message in crawler.spider.failed)
    assert sum(server.control()["hits"].values()) - asked == 2, "the plain one, and what it leads to"


# -- whose queue it is -------------------------------------------------------------------------------------------------


class Counting(ScrapyPriorityQueue):
    """A project's own."""

    popped = 0

    def pop(self):
        Counting.popped += 1
        return super().pop()


@ensureDeferred
async def test_a_queue_of_the_project(server: MockServer) -> None:
    """A SCHEDULER_PRIORITY_QUEUE that the project sets stays, and the limits hold with it."""
    settings = {"SCHEDULER_PRIORITY_QUEUE": Counting, "CONCURRENT_REQUESTS_PER_DOMAIN": 2, **ADDON}
    crawler = await crawl(Pages, pages(server, HOSTS[0], 8), settings=settings)
    assert crawler.spider.statuses == [200] * 8
    assert Counting.popped >= 8
    assert server.peak() <= 2


@pytest.mark.parametrize(("enabled", "expected"), [(True, LimitsPriorityQueue), (False, load_object(SCRAPY_S))])
@ensureDeferred
async def test_switched_off(server: MockServer, enabled: bool, expected: type) -> None:
    """With BATCHER_ENABLED=False the queue is Scrapy's own."""
    crawler = await crawl(Pages, pages(server, HOSTS[0], 4), settings={"BATCHER_ENABLED": enabled, **ADDON})
    assert crawler.spider.statuses == [200] * 4
    assert load_object(crawler.settings["SCHEDULER_PRIORITY_QUEUE"]) is expected


@ensureDeferred
async def test_by_hand_without_the_middleware(server: MockServer, no_heartbeat) -> None:
    """The queue alone, without the middleware that holds the limits, still gives everything out."""
    crawler = await crawl(Pages, pages(server, HOSTS[0], 8), settings={"SCHEDULER_PRIORITY_QUEUE": LimitsPriorityQueue})
    assert crawler.spider.statuses == [200] * 8


# -- requests that never come to the middleware ------------------------------------------------------------------------


class Drops:
    """Ends the way of three requests in four before they come to the downloader, each in its own way."""

    def process_request(self, request):
        kind = request.meta["number"] % 4
        if kind == 1:
            raise IgnoreRequest("not this one")
        if kind == 2:
            return HtmlResponse(request.url, status=203)
        if kind == 3 and "again" not in request.meta:
            return request.replace(meta={**request.meta, "again": True, "number": 0})
        return None


@ensureDeferred
async def test_dropped_by_a_middleware(server: MockServer, no_heartbeat) -> None:
    """A request that a middleware drops, answers or replaces gives its reservation back."""
    settings = {"DOWNLOADER_MIDDLEWARES": {Drops: 100}, "CONCURRENT_REQUESTS_PER_DOMAIN": 1, **ADDON}
    crawler = await crawl(Pages, pages(server, HOSTS[0], 12), settings=settings)
    assert sorted(crawler.spider.statuses) == [200] * 6 + [203] * 3
    assert crawler.spider.errors == ["IgnoreRequest"] * 3
    assert server.peak() == 1
    assert_nothing_taken(crawler)


@ensureDeferred
async def test_from_the_cache(server: MockServer, tmp_path, no_heartbeat) -> None:
    """A page from Scrapy's cache gives its reservation back."""
    settings = {"HTTPCACHE_ENABLED": True, "HTTPCACHE_DIR": str(tmp_path), "CONCURRENT_REQUESTS_PER_DOMAIN": 1, **ADDON}
    await crawl(Pages, pages(server, HOSTS[0], 8), settings=settings)
    crawler = await crawl(Pages, pages(server, HOSTS[0], 9), settings=settings)
    assert crawler.spider.statuses == [200] * 9
    assert crawler.stats.get_value("httpcache/hit") == 8
    assert_nothing_taken(crawler)


@ensureDeferred
async def test_filtered_offsite(server: MockServer, no_heartbeat) -> None:
    """A request that Scrapy filters as offsite, without a word to anybody, gives its reservation back."""

    class Onsite(Pages):
        allowed_domains = ["127.0.0.1"]  # noqa: RUF012 - as Scrapy documents it

        async def start(self):
            for url in self.urls:
                yield scrapy.Request(url)

    listed = [*pages(server, HOSTS[1], 6), *pages(server, HOSTS[0], 6)]
    crawler = await crawl(Onsite, listed, settings={"CONCURRENT_REQUESTS_PER_DOMAIN": 1, **ADDON})
    assert crawler.spider.statuses == [200] * 6
    assert hosts(server) == {HOSTS[0]: 6}
    assert_nothing_taken(crawler)


@ensureDeferred
async def test_a_retry(server: MockServer, no_heartbeat) -> None:
    """Retries and redirects of an ordinary spider go through the scheduler, and are given out like the others."""
    flaky = [server.url(f"flaky/{n}") for n in range(4)]
    listed = [*flaky, *(server.url(f"redirect?to={url}") for url in pages(server, HOSTS[1], 4))]
    crawler = await crawl(Pages, listed, settings={"CONCURRENT_REQUESTS_PER_DOMAIN": 1, **ADDON})
    assert crawler.spider.statuses == [200] * 8
    assert_nothing_taken(crawler)


@ensureDeferred
async def test_closed_while_it_waits(server: MockServer, no_heartbeat) -> None:
    """A spider that is stopped while all of its hosts wait closes at once, and nothing more is asked for."""
    settings = {"DOWNLOAD_DELAY": 3600, "DOWNLOAD_DELAY_JITTER": 0, **ADDON}
    crawler = make_crawler(Pages, **settings)
    done = crawler.crawl([url for host in HOSTS for url in pages(server, host, 4)])
    await until(lambda: hosts(server) == dict.fromkeys(HOSTS, 1) and len(crawler.spider.statuses) == 3)
    await deferred_from_coro(crawler.stop_async())
    await done
    assert hosts(server) == dict.fromkeys(HOSTS, 1)
    assert crawler.stats.get_value("finish_reason") == "shutdown"
