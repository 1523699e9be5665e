"""What a host asks for in its robots.txt, and the delays that the project sets, hold for every request."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from scrapy.core.engine import ExecutionEngine
from scrapy.utils.defer import deferred_from_coro
from twisted.internet.defer import Deferred

from scrapy_batcher import BatchSpider
from tests.crawling import Pages, crawl, finish, make_crawler, run, until, watched
from tests.mockserver import MockServer

ADDON = {"ADDONS": {"scrapy_batcher.Addon": 300}}
OBEY = {"ROBOTSTXT_OBEY": True}


def half_private(server: MockServer, host: str = "127.0.0.1", number: int = 12) -> list[str]:
    return [server.url(f"page/{'private' if n % 2 else 'public'}-{n}", host) for n in range(number)]


def pages(server: MockServer, host: str = "127.0.0.1", number: int = 4) -> list[str]:
    return [server.url(f"page/{host}-{n}", host) for n in range(number)]


def asked(server: MockServer) -> set[str]:
    """What was asked of the server that its robots.txt forbids."""
    return {path for path in server.control()["hits"] if path.startswith("/page/private")}


def slow_robots(server: MockServer, *hosts: str, **robots: object) -> None:
    for host in hosts:
        query = "&".join(f"{name}={value}" for name, value in robots.items())
        server.control(f"robots?host={host}&{query}")


async def counts(kind: str, urls, listed: list[str], settings: dict[str, Any]) -> tuple[int, int, int]:
    """How many of *listed* are fetched, refused by robots.txt, and neither, by a spider of that *kind*."""
    if kind == "batch":
        crawler = await run(BatchSpider, urls(*listed), settings)
        found = crawler.totals.outcomes
        done, refused = found.get("fetched", 0), found.get("skipped/robots", 0)
    else:
        crawler = await crawl(Pages, listed, settings={**ADDON, **settings})
        done = crawler.spider.statuses.count(200)
        refused = crawler.spider.errors.count("IgnoreRequest")
    return done, refused, len(listed) - done - refused


# -- robots.txt --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@pytest.mark.parametrize(
    "settings",
    [
        {"CONCURRENT_REQUESTS_PER_DOMAIN": 8},
        {"CONCURRENT_REQUESTS_PER_DOMAIN": 1},
        {"CONCURRENT_REQUESTS": 1, "CONCURRENT_REQUESTS_PER_DOMAIN": 1},
        {"BATCHER_ADAPTIVE": True},
    ],
)
@ensureDeferred
async def test_one_host(server: MockServer, urls, kind: str, settings: dict[str, Any]) -> None:
    """Nothing that robots.txt forbids is asked for, however many wait for it, with any limit."""
    slow_robots(server, "127.0.0.1", slow=0.1)
    assert await counts(kind, urls, half_private(server), settings | OBEY) == (6, 6, 0)
    assert not asked(server)
    assert server.control()["hits"]["/robots.txt"] == 1


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_many_hosts(server: MockServer, urls, kind: str) -> None:
    """The same with many hosts at once, in a list that goes round them."""
    hosts = [f"127.0.1.{n}" for n in range(1, 21)]
    slow_robots(server, *hosts, slow=0.1)
    listed = [url for row in zip(*(half_private(server, host, 4) for host in hosts), strict=True) for url in row]
    assert await counts(kind, urls, listed, OBEY) == (40, 40, 0)
    assert not asked(server)
    assert server.control()["hits"]["/robots.txt"] == 20


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_a_host_of_which_everything_is_forbidden(server: MockServer, urls, kind: str) -> None:
    """Where no page is allowed, all are refused; no limit is left taken by them."""
    slow_robots(server, "127.0.0.1", slow=0.1, disallow="/")
    assert await counts(kind, urls, half_private(server), OBEY) == (0, 12, 0)
    assert set(server.control()["hits"]) == {"/robots.txt"}


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_redirects_to_another_host(server: MockServer, urls, kind: str) -> None:
    """Many that are redirected at once to a host that was not asked yet wait for its robots.txt."""
    slow_robots(server, "127.0.0.2", slow=0.2)
    listed = [server.url(f"redirect?to={to}&gate=all") for to in half_private(server, "127.0.0.2")]
    settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 16, "CONCURRENT_REQUESTS": 32} | OBEY
    result = Deferred.fromCoroutine(counts(kind, urls, listed, settings))
    await until(lambda: server.control()["in_flight"].get("127.0.0.1") == 12)
    server.control("open?gate=all")
    assert await result == (6, 6, 0)
    assert not asked(server)


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_two_ports_of_a_host(server: MockServer, urls, kind: str) -> None:
    """Each port of a host has a robots.txt of its own, which is waited for as well."""
    other = MockServer()
    try:
        for one in (server, other):
            slow_robots(one, "127.0.0.1", slow=0.2)
        listed = [*half_private(server), *half_private(other)]
        settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 16, "CONCURRENT_REQUESTS": 32} | OBEY
        assert await counts(kind, urls, listed, settings) == (12, 12, 0)
        assert not asked(server)
        assert not asked(other)
    finally:
        other.close()


@ensureDeferred
async def test_a_slot_of_several_hosts(server: MockServer) -> None:
    """Hosts that a spider has put into one download slot have a robots.txt each, which is waited for."""

    class OneSlot(Pages):
        async def start(self):
            async for request in super().start():
                request.meta["download_slot"] = "mine"
                yield request

    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    slow_robots(server, *hosts, slow=0.2)
    listed = [url for host in hosts for url in half_private(server, host)]
    settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 16, "CONCURRENT_REQUESTS": 32} | OBEY | ADDON
    crawler = await crawl(OneSlot, listed, settings=settings)
    assert crawler.spider.statuses.count(200) == 18
    assert not asked(server)


# -- delays ------------------------------------------------------------------------------------------------------------


def seconds_between(server: MockServer, host: str = "127.0.0.1", *, robots: bool = False) -> float:
    """Between the first page of *host* and its last, of all it was asked for."""
    times = server.control()["times"][host][robots:]
    return times[-1] - times[0]


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_crawl_delay(server: MockServer, urls, kind: str, monkeypatch) -> None:
    """A Crawl-delay in robots.txt is kept, each by its own host."""
    monkeypatch.setattr(ExecutionEngine, "_SLOT_HEARTBEAT_INTERVAL", 3600.0)
    slow_robots(server, "127.0.0.1", delay=0.25)
    slow_robots(server, "127.0.0.2", delay=0.1)
    listed = [*pages(server), *pages(server, "127.0.0.2", 8), *pages(server, "127.0.0.3")]
    assert await counts(kind, urls, listed, OBEY) == (16, 0, 0)
    # One delay less than there are: the first page may have been long on its way.
    assert seconds_between(server, robots=True) >= 2 * 0.25
    assert seconds_between(server, "127.0.0.2", robots=True) >= 6 * 0.1


@ensureDeferred
async def test_the_longer_of_two_delays(server: MockServer, urls) -> None:
    """A Crawl-delay that is shorter than DOWNLOAD_DELAY changes nothing."""
    slow_robots(server, "127.0.0.1", delay=0.01)
    await run(BatchSpider, urls(*pages(server)), {"DOWNLOAD_DELAY": 0.2, "DOWNLOAD_DELAY_JITTER": 0} | OBEY)
    assert seconds_between(server, robots=True) >= 2 * 0.2


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_download_delay(server: MockServer, urls, kind: str, monkeypatch) -> None:
    """DOWNLOAD_DELAY is kept by each host for itself."""
    monkeypatch.setattr(ExecutionEngine, "_SLOT_HEARTBEAT_INTERVAL", 3600.0)
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    listed = [url for host in hosts for url in pages(server, host)]
    settings = {"DOWNLOAD_DELAY": 0.2, "DOWNLOAD_DELAY_JITTER": 0, "CONCURRENT_REQUESTS_PER_DOMAIN": 1}
    assert await counts(kind, urls, listed, settings) == (12, 0, 0)
    assert min(seconds_between(server, host) for host in hosts) >= 2 * 0.2


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_a_delay_does_not_hold_up_others(server: MockServer, urls, kind: str) -> None:
    """While one host waits for its delay, all of the others is fetched, though its pages come first and are more."""
    settings = {
        "DOWNLOAD_SLOTS": {"127.0.0.2": {"delay": 3600}},
        "DOWNLOAD_DELAY_JITTER": 0,
        "CONCURRENT_REQUESTS": 2,
    }
    listed = [*pages(server, "127.0.0.2", 30), *pages(server, number=10)]
    if kind == "batch":
        crawler = watched(BatchSpider, settings)
        done = Deferred.fromCoroutine(finish(crawler, urls(*listed)))
    else:
        crawler = make_crawler(Pages, **ADDON, **settings)
        done = crawler.crawl(listed)
    await until(lambda: server.control()["hosts"] == {"127.0.0.2": 1, "127.0.0.1": 10})
    await deferred_from_coro(crawler.stop_async())
    await done
    assert server.control()["hosts"]["127.0.0.2"] == 1
