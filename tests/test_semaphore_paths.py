"""A permit is taken once and given back once, on every way a request can go: one test per way.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

import logging

import pytest
import scrapy
from pytest_twisted import ensureDeferred
from scrapy.crawler import Crawler
from scrapy.exceptions import IgnoreRequest
from scrapy.extensions.telnet import update_telnet_vars
from scrapy.http import HtmlResponse
from scrapy.utils.asyncio import sleep
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred

from scrapy_batcher import SemaphoreMiddleware, limits_of
from tests.crawling import Pages, crawl, make_crawler, semaphore_of, until
from tests.mockserver import MockServer


def limits(total: int, host: int, **more: object) -> dict[str, object]:
    return {
        "CONCURRENT_REQUESTS": total,
        "CONCURRENT_REQUESTS_PER_DOMAIN": host,
        "DOWNLOADER_MIDDLEWARES": {SemaphoreMiddleware: 1000},
        **more,
    }


def with_middleware(cls: type, order: int, total: int = 1, host: int = 1, **more: object) -> dict[str, object]:
    return limits(total, host, DOWNLOADER_MIDDLEWARES={SemaphoreMiddleware: 1000, cls: order}, **more)


def assert_all_given_back(crawler: Crawler) -> None:
    statistics = semaphore_of(crawler).statistics()
    assert not [look for look in statistics.values() if look.holders or look.waiting]


def waiting_for(semaphore: SemaphoreMiddleware, host: str = "127.0.0.1") -> int:
    statistics = semaphore.statistics()
    return statistics[f"host:{host}"].waiting if f"host:{host}" in statistics else 0


@ensureDeferred
async def test_exactly_the_limit(server: MockServer) -> None:
    """As many requests as the limit allows are on the server at once, in all and per host; the rest wait."""
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    urls = [server.url(f"page/{n}?gate=a", host) for n in range(4) for host in hosts]
    crawler = make_crawler(Pages, **limits(5, 2))
    done = crawler.crawl(urls)
    await until(lambda: sum(server.control()["in_flight"].values()) == 2 * 5)  # each under "*" and its host
    server.control("open?gate=a")
    await done
    assert crawler.spider.statuses == [200] * 12
    assert server.peak() == 5
    assert max(server.peak(host) for host in hosts) == 2
    assert_all_given_back(crawler)


@ensureDeferred
async def test_response(server: MockServer) -> None:
    """A response gives the permit back."""
    crawler = await crawl(Pages, [server.url(f"page/{n}") for n in range(20)], settings=limits(4, 2))
    assert crawler.spider.statuses == [200] * 20
    assert server.peak() <= 2
    assert_all_given_back(crawler)


@ensureDeferred
async def test_exception(server: MockServer) -> None:
    """A refused connection gives the permit back, also the one of its retry."""
    crawler = await crawl(Pages, ["http://127.0.0.1:1/"] * 3, settings=limits(1, 1))
    assert crawler.spider.errors == ["DownloadConnectionRefusedError"] * 3
    assert_all_given_back(crawler)


@ensureDeferred
async def test_timeout(server: MockServer) -> None:
    """A timeout gives the permit back, and the wait for a permit does not count towards it."""
    slow = [server.url("page/slow?gate=never")] * 2
    settings = limits(1, 1, DOWNLOAD_TIMEOUT=1, RETRY_ENABLED=False)
    crawler = await crawl(Pages, [*slow, server.url("page/1")], settings=settings)
    assert crawler.spider.errors == ["DownloadTimeoutError"] * 2
    assert crawler.spider.statuses == [200]
    assert_all_given_back(crawler)


@ensureDeferred
async def test_retry(server: MockServer) -> None:
    """A retry takes a permit of its own."""
    crawler = await crawl(Pages, [server.url(f"flaky/{n}") for n in range(5)], settings=limits(2, 1))
    assert crawler.spider.statuses == [200] * 5
    assert server.peak() == 1
    assert_all_given_back(crawler)


@ensureDeferred
async def test_redirect_to_another_host(server: MockServer) -> None:
    """A redirect counts where it leads, not where it came from."""
    to = server.url("page/1?delay=0.05", "127.0.0.2")
    crawler = await crawl(
        Pages,
        [server.url(f"redirect?to={to}")] * 6,
        settings=limits(6, 6, DOWNLOAD_SLOTS={"127.0.0.2": {"concurrency": 1}}),
    )
    assert crawler.spider.statuses == [200] * 6
    assert server.peak("127.0.0.2") == 1
    assert_all_given_back(crawler)


@ensureDeferred
async def test_cache_hit(server: MockServer, tmp_path) -> None:
    """A page from Scrapy's cache, which never asked for a permit, gives none back."""
    settings = limits(1, 1, HTTPCACHE_ENABLED=True, HTTPCACHE_DIR=str(tmp_path))
    urls = [server.url(f"page/{n}") for n in range(3)]
    await crawl(Pages, urls, settings=settings)
    crawler = await crawl(Pages, [*urls, server.url("page/new")], settings=settings)
    assert crawler.spider.statuses == [200] * 4
    assert crawler.stats.get_value("httpcache/hit") == 3
    assert_all_given_back(crawler)


@ensureDeferred
async def test_robots_txt(server: MockServer) -> None:
    """The request for robots.txt takes a permit like any other, and a limit of 1 is enough for both."""
    urls = [server.url("page/1"), server.url("page/private"), server.url("page/2")]
    crawler = await crawl(Pages, urls, settings=limits(1, 1, ROBOTSTXT_OBEY=True))
    assert crawler.spider.statuses == [200] * 2
    assert crawler.spider.errors == ["IgnoreRequest"]
    assert server.peak() == 1
    assert_all_given_back(crawler)


class Ignores:
    """Drops every second request before it is downloaded."""

    def process_request(self, request):
        if request.meta["number"] % 2:
            raise IgnoreRequest("odd")


@pytest.mark.parametrize("order", [500, 1100])
@ensureDeferred
async def test_ignored_before_and_after(server: MockServer, order: int) -> None:
    """A request that a middleware ignores, before us or behind us, leaves no permit behind."""
    crawler = await crawl(Pages, [server.url(f"page/{n}") for n in range(6)], settings=with_middleware(Ignores, order))
    assert crawler.spider.statuses == [200] * 3
    assert crawler.spider.errors == ["IgnoreRequest"] * 3
    assert_all_given_back(crawler)


class Answers:
    """Answers every second request itself."""

    def process_request(self, request):
        return HtmlResponse(request.url, status=203) if request.meta["number"] % 2 else None


@ensureDeferred
async def test_answered_after(server: MockServer) -> None:
    """A middleware behind us that answers gives the permit back."""
    crawler = await crawl(Pages, [server.url(f"page/{n}") for n in range(6)], settings=with_middleware(Answers, 1100))
    assert sorted(crawler.spider.statuses) == [200] * 3 + [203] * 3
    assert_all_given_back(crawler)


class Redirects:
    """Sends every second request elsewhere, as another request."""

    def process_request(self, request):
        if request.meta["number"] % 2 and "sent" not in request.meta:
            return request.replace(meta={**request.meta, "sent": True})
        return None


class SendsRound(Redirects):
    """Sends every second request round again, as it is."""

    def process_request(self, request):
        if request.meta["number"] % 2 and "sent" not in request.meta:
            request.meta["sent"] = True
            return request
        return None


@pytest.mark.parametrize("middleware", [Redirects, SendsRound])
@ensureDeferred
async def test_redirected_after(server: MockServer, middleware: type) -> None:
    """A middleware behind us that returns a request, of which nobody tells us, does not keep the permit for ever."""
    crawler = await crawl(
        Pages, [server.url(f"page/{n}") for n in range(6)], settings=with_middleware(middleware, 1100)
    )
    assert crawler.spider.statuses == [200] * 6
    assert server.peak() == 1
    assert_all_given_back(crawler)


class Raises:
    """Raises, and turns the exception into another one, of which nobody tells us."""

    def process_request(self, request):
        if request.meta["number"] % 2:
            raise ValueError("broken")

    def process_exception(self, request, exception):
        raise RuntimeError("worse")


@ensureDeferred
async def test_raised_after(server: MockServer) -> None:
    """A middleware behind us that raises, also while it handles that, does not keep the permit for ever."""
    crawler = await crawl(Pages, [server.url(f"page/{n}") for n in range(6)], settings=with_middleware(Raises, 1100))
    assert crawler.spider.statuses == [200] * 3
    assert crawler.spider.errors == ["RuntimeError"] * 3
    assert_all_given_back(crawler)


class ReplacesResponse:
    """Turns every second response into another request for it."""

    def process_response(self, request, response):
        if request.meta["number"] % 2 and "again" not in request.meta:
            return request.replace(meta={**request.meta, "again": True})
        return response


@pytest.mark.parametrize("order", [500, 1100])
@ensureDeferred
async def test_response_replaced(server: MockServer, order: int) -> None:
    """A middleware that answers a response with a request, before us or behind us, keeps no permit."""
    settings = with_middleware(ReplacesResponse, order)
    crawler = await crawl(Pages, [server.url(f"page/{n}") for n in range(6)], settings=settings)
    assert crawler.spider.statuses == [200] * 6
    assert_all_given_back(crawler)


class Inline(Pages):
    """Downloads once more from its callback."""

    async def parse(self, response):
        again = scrapy.Request(response.url + "?inline")
        self.statuses.append((await self.crawler.engine.download_async(again)).status)


@ensureDeferred
async def test_download_async_from_a_callback(server: MockServer) -> None:
    """What a callback downloads takes a permit, and a limit of 1 is enough."""
    crawler = await crawl(Inline, [server.url(f"page/{n}") for n in range(4)], settings=limits(1, 1))
    assert crawler.spider.statuses == [200] * 4
    assert server.peak() == 1
    assert_all_given_back(crawler)


class WithFiles(Pages):
    def parse(self, response):
        yield {"file_urls": [response.url + f"&file={n}" for n in range(3)]}


@ensureDeferred
async def test_media_pipeline(server: MockServer, tmp_path) -> None:
    """What a media pipeline downloads takes permits."""
    settings = limits(8, 2, ITEM_PIPELINES={"scrapy.pipelines.files.FilesPipeline": 1}, FILES_STORE=str(tmp_path))
    crawler = await crawl(WithFiles, [server.url(f"page/{n}?delay=0.02") for n in range(4)], settings=settings)
    assert crawler.stats.get_value("file_count") == 12
    assert server.peak() <= 2
    assert_all_given_back(crawler)


class Cancels(Pages):
    """Starts three downloads and cancels two: one that waits for a permit, one that is under way."""

    async def parse(self, response):
        async def download(path):
            return await self.crawler.engine.download_async(response.follow(path, callback=self.parse))

        semaphore = semaphore_of(self.crawler)
        under_way = deferred_from_coro(download("/page/a?gate=cancel"))
        waiting = deferred_from_coro(download("/page/b"))
        patient = deferred_from_coro(download("/page/c"))
        await maybe_deferred_to_future(Deferred.fromCoroutine(until(lambda: waiting_for(semaphore) == 2)))
        for deferred in (waiting, under_way):
            deferred.addErrback(lambda _: None)
            deferred.cancel()
        # It goes on in the background: its permit stays taken until the server has answered.
        for _ in range(20):
            await sleep(0)
        assert len(semaphore.statistics()["*"].holders) == 1
        assert waiting_for(semaphore) == 1
        self.server.control("open?gate=cancel")
        self.statuses.append((await maybe_deferred_to_future(patient)).status)
        self.statuses.append((await download("/page/d")).status)


def deferred_until(condition):
    return Deferred.fromCoroutine(until(condition))


@ensureDeferred
async def test_cancelled_download(server: MockServer) -> None:
    """A cancelled waiter leaves the queue; a cancelled download keeps its permit until it has really ended."""
    Cancels.server = server
    crawler = await crawl(Cancels, [server.url("page/1")], settings=limits(1, 1))
    assert crawler.spider.statuses == [200, 200]
    assert server.peak() == 1
    assert_all_given_back(crawler)


@pytest.mark.parametrize("how", ["stop_async", "close_spider_async"])
@ensureDeferred
async def test_closed_with_waiters(server: MockServer, how: str) -> None:
    """When the spider closes (Ctrl-C, CloseSpider), those who wait for a permit get it, end, and it is closed."""
    crawler = make_crawler(Pages, **limits(8, 1))
    done = crawler.crawl([server.url(f"page/{n}?gate=close") for n in range(20)])
    await until(lambda: crawler.crawling and crawler.spider and server.control()["in_flight"].get("*") == 1)
    await until(lambda: waiting_for(semaphore_of(crawler)) == 7)
    stop = crawler.stop_async() if how == "stop_async" else crawler.engine.close_spider_async(reason="enough")
    stopped = deferred_from_coro(stop)
    server.control("open?gate=close")
    await stopped
    await done
    assert crawler.spider.statuses == [200] * 8
    assert server.peak() == 1
    assert crawler.stats.get_value("finish_reason") == ("shutdown" if how == "stop_async" else "enough")
    assert_all_given_back(crawler)


@ensureDeferred
async def test_a_middleware_behind_us_is_warned_of(server: MockServer, caplog) -> None:
    """A middleware that processes requests behind ours is named in a warning when the spider opens; others are not."""
    with caplog.at_level(logging.WARNING, "scrapy_batcher"):
        await crawl(Pages, [server.url("page/1")], settings={**with_middleware(Answers, 1100)})
        assert "test_semaphore_paths.Answers is ordered after SemaphoreMiddleware" in caplog.text
        caplog.clear()
        await crawl(Pages, [server.url("page/1")], settings={**with_middleware(ReplacesResponse, 1100)})
        await crawl(Pages, [server.url("page/1")], settings={**with_middleware(Ignores, 900)})
        assert not [r for r in caplog.records if r.name.startswith("scrapy_batcher")]


@ensureDeferred
async def test_download_slots(server: MockServer) -> None:
    """A concurrency in DOWNLOAD_SLOTS holds for a host, and for a slot that a spider names."""

    class Slots(Pages):
        async def start(self):
            for number, url in enumerate(self.urls):
                meta = {"download_slot": ("api", "mine")[number % 2]} if url.startswith("http://127.0.1") else {}
                yield scrapy.Request(url, errback=self.on_error, dont_filter=True, meta=meta)

    # 2 of 127.0.0.1; of eight other hosts together 1 by the slot "api", and 3 by "mine", the default.
    settings = limits(16, 3, DOWNLOAD_SLOTS={"127.0.0.1": {"concurrency": 2}, "api": {"concurrency": 1}, "x": {}})
    urls = [server.url(f"page/{n}?gate=slots", f"127.0.1.{n}" if n else "127.0.0.1") for n in range(9)]
    crawler = make_crawler(Slots, **settings)
    done = crawler.crawl(urls + [urls[0]] * 3)
    await until(lambda: crawler.crawling and crawler.spider and server.control()["in_flight"].get("*") == 6)
    await until(lambda: semaphore_of(crawler).statistics()["*"].waiting == 6)
    server.control("open?gate=slots")
    await done
    assert crawler.spider.statuses == [200] * 12
    assert server.peak() == 6
    assert_all_given_back(crawler)


@ensureDeferred
async def test_statistics_and_stats(server: MockServer) -> None:
    """statistics() and repr() show limit, holders and waiters while it runs; Scrapy's stats keep peak, waits, time."""
    crawler = make_crawler(Pages, **limits(4, 1))
    done = crawler.crawl([server.url(f"page/{n}?gate=s") for n in range(3)])
    await until(lambda: crawler.crawling and crawler.spider and server.control()["in_flight"].get("*", 0) == 1)
    semaphore = semaphore_of(crawler)
    await until(lambda: waiting_for(semaphore) == 2)
    assert semaphore.statistics()["*"].limit == 4
    assert [r.url for r in semaphore.statistics()["host:127.0.0.1"].holders] == [server.url("page/0?gate=s")]
    assert "1 of 4 held" in repr(semaphore)
    server.control("open?gate=s")
    await done
    assert crawler.stats.get_value("batcher/permits/peak") == 1
    assert crawler.stats.get_value("batcher/permits/waits") == 2
    assert crawler.stats.get_value("batcher/permits/wait_seconds") > 0


@ensureDeferred
async def test_limits_are_at_hand_in_the_telnet_console(server: MockServer) -> None:
    crawler = await crawl(Pages, [server.url("page/1")], settings=limits(4, 1))
    variables: dict[str, object] = {}
    crawler.signals.send_catch_log(update_telnet_vars, telnet_vars=variables)
    assert variables["limits"] is limits_of(crawler) is semaphore_of(crawler).limits


@ensureDeferred
async def test_no_limit_in_all(server: MockServer) -> None:
    """CONCURRENT_REQUESTS = 0 means no limit in all, as it does to Scrapy; the hosts' limits hold."""
    crawler = await crawl(Pages, [server.url(f"page/{n}?delay=0.02") for n in range(10)], settings=limits(0, 3))
    assert crawler.spider.statuses == [200] * 10
    assert server.peak() <= 3


@ensureDeferred
async def test_memory_of_hosts(server: MockServer) -> None:
    """A host that is done with leaves nothing behind."""
    urls = [server.url("page/1", f"127.0.1.{n}") for n in range(1, 40)]
    crawler = await crawl(Pages, urls, settings=limits(8, 2))
    assert crawler.spider.statuses == [200] * 39
    assert list(semaphore_of(crawler).statistics()) == ["*"]
