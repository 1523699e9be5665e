"""A visit is over when all of it is over, and ends in exactly one outcome, on every way it can go.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import scrapy
from pytest_twisted import ensureDeferred
from scrapy import signals
from scrapy.core.engine import ExecutionEngine
from scrapy.exceptions import CloseSpider, DropItem, IgnoreRequest
from scrapy.utils.asyncio import sleep
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.reactor import is_asyncio_reactor_installed
from twisted.internet.defer import CancelledError, Deferred

from scrapy_batcher import BatchSpider, StartError
from scrapy_batcher.batch.failures import FailuresFile
from scrapy_batcher.signals import batch_finished
from tests.crawling import Pages, crawl, finish, run, until, watched
from tests.mockserver import MockServer


@pytest.fixture
def urls(tmp_path: Path):
    """Writes a list, and gives its path."""

    def write(*urls: str) -> str:
        path = tmp_path / "urls.txt"
        path.write_text("".join(f"{url}\n" for url in urls))
        return str(path)

    return write


class Failing(BatchSpider):
    """Fails in its callback in every way there is, by the name of the page."""

    def parse(self, response):
        what = response.url.rsplit("/", 1)[1]
        if what == "raises":
            raise RuntimeError("no good")
        if what == "raises-late":
            yield {"page": what}
            raise RuntimeError("no good either")
        yield {"page": what}
        if what == "two":
            yield {"page": "dropped"}


class Pipeline:
    """Drops and breaks, by the name of the page, after a while."""

    async def process_item(self, item):
        await sleep(0.01)
        if item["page"] == "dropped":
            raise DropItem("not wanted")
        if item["page"] == "broken":
            raise OSError("the database is gone")
        return item


class Filter:
    def process_request(self, request):
        if "filtered" in request.url:
            raise IgnoreRequest("not today")


@ensureDeferred
async def test_one_outcome_each(server: MockServer, urls, caplog) -> None:
    """Whatever happens to a target, it ends in one outcome, which is counted once."""
    expected = {
        "page/one": "fetched",
        "page/two": "fetched",
        "redirect?to=/page/three": "fetched",
        "flaky/x": "fetched",
        "page/raises": "failed/callback",
        "page/raises-late": "failed/callback",
        "page/broken": "failed/pipeline",
        "page/dropped": "skipped/dropped",
        "page/filtered": "skipped/filtered",
        "status/404": "failed/http-404",
        "status/500": "failed/http-500",
        "loop": "failed/redirect-loop",
        "truncated": "failed/truncated",
        "reset": "failed/connection",
        "garbage": "failed/connection",
        "page/slow?gate=never": "failed/timeout",
        "page/large?size=5000": "failed/too-large",
    }
    settings = {
        "ITEM_PIPELINES": {Pipeline: 1},
        "DOWNLOADER_MIDDLEWARES": {Filter: 10},
        "DOWNLOAD_TIMEOUT": 2,
        "DOWNLOAD_MAXSIZE": 4000,
    }
    path = urls(
        *map(server.url, expected),
        "http://127.0.0.1:1/refused",
        server.url("page/tls").replace("http:", "https:"),
        "mailto:a@b",
        "file:///etc/passwd",
        "nothing",
        server.url("page/" + "x" * 3000),
    )
    failures = str(Path(path).with_name("failures.jsonl"))
    crawler = await run(Failing, path, settings, failures=failures)
    by_url = {row["url"]: row for row in map(json.loads, Path(failures).read_text().splitlines())}
    outcomes = {
        page: by_url[server.url(page)]["outcome"] if server.url(page) in by_url else "fetched" for page in expected
    }
    assert outcomes == expected
    others = {name: count for name, count in crawler.totals.outcomes.items() if name not in expected.values()}
    assert others == {"failed/refused": 1, "failed/tls": 1, "skipped/unsupported-scheme": 2, "skipped/invalid": 1}
    assert crawler.totals.outcomes["skipped/filtered"] == 2, "a middleware's, and a URL beyond URLLENGTH_LIMIT"
    assert crawler.totals.read == len(expected) + 6
    for name, count in crawler.totals.outcomes.items():
        assert crawler.stats.get_value(f"batcher/outcomes/{name}") == count
    assert by_url[server.url("reset")]["attempts"] == 2
    assert by_url[server.url("status/500")] | {"attempts": 2, "status": 500} == by_url[server.url("status/500")]
    assert by_url[server.url("status/404")] | {"attempts": 1, "status": 404} == by_url[server.url("status/404")]
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith(("failed/", "skipped/"))]
    assert len(told) == crawler.totals.failed + crawler.totals.skipped, "one line each"


@ensureDeferred
async def test_robots_txt(server: MockServer, urls) -> None:
    """A page that robots.txt forbids is skipped/robots."""
    # One at a time: of several that wait for the same robots.txt, Scrapy lets some through whatever it says.
    settings = {"ROBOTSTXT_OBEY": True, "CONCURRENT_REQUESTS": 1}
    crawler = await run(BatchSpider, urls(server.url("page/1"), server.url("page/private")), settings)
    assert crawler.totals.outcomes == {"fetched": 1, "skipped/robots": 1}
    assert "/page/private" not in server.control()["hits"]


@ensureDeferred
async def test_a_job_ends_with_its_pipelines(server: MockServer, urls) -> None:
    """A worker takes the next target only when all items of its last one are through the pipelines."""
    alive = []

    class Slow:
        async def process_item(self, item):
            alive.append(1)
            await sleep(0.02)
            alive.append(-1)
            return item

    path = urls(*(server.url(f"page/{n}") for n in range(6)))
    crawler = await run(BatchSpider, path, {"ITEM_PIPELINES": {Slow: 1}, "CONCURRENT_REQUESTS": 1})
    assert crawler.totals.fetched == 6
    assert alive == [1, -1] * 6


@ensureDeferred
async def test_never_more_requests_than_workers(server: MockServer, urls) -> None:
    """With N workers, N requests are on their way at once, no more; and as many while there are targets."""
    crawler = watched(BatchSpider, {"CONCURRENT_REQUESTS": 3, "CONCURRENT_REQUESTS_PER_DOMAIN": 8})
    done = Deferred.fromCoroutine(finish(crawler, urls(*(server.url(f"page/{n}?gate=w") for n in range(10)))))
    await until(lambda: server.control()["in_flight"].get("*") == 3)
    assert len(crawler.engine.downloader.active) == 3
    server.control("open?gate=w")
    await done
    assert server.peak() == 3
    assert crawler.totals.fetched == 10


@ensureDeferred
async def test_ends_without_the_heartbeat(server: MockServer, urls, monkeypatch) -> None:
    """The spider closes when its batch is over, not at the engine's next heartbeat."""
    monkeypatch.setattr(ExecutionEngine, "_SLOT_HEARTBEAT_INTERVAL", 3600.0)
    assert (await run(BatchSpider, urls(server.url("page/1")))).totals.fetched == 1
    assert (await run(BatchSpider, urls("# an empty list"))).totals.read == 0


@ensureDeferred
async def test_further_requests(server: MockServer, urls) -> None:
    """Requests that a callback yields are made through Scrapy's scheduler, and the spider stays open for them."""

    class Follows(BatchSpider):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.followed: list[str] = []

        def parse(self, response):
            yield response.follow("/page/next", callback=self.parse_next, meta=response.meta, dont_filter=True)

        def parse_next(self, response):
            self.followed.append(response.url)
            yield {"next": response.url}

    crawler = await run(
        Follows, urls(*(server.url(f"page/{n}?delay=0.01") for n in range(30))), {"CONCURRENT_REQUESTS": 4}
    )
    assert len(crawler.spider.followed) == 30
    assert crawler.totals.fetched == 30
    assert crawler.stats.get_value("item_scraped_count") == 30
    assert server.peak() <= 4


@ensureDeferred
async def test_further_requests_do_not_wait_for_the_poll(server: MockServer, urls, monkeypatch) -> None:
    """Workers that wait because Scrapy is full of further requests go on as soon as it has room."""
    monkeypatch.setattr("scrapy_batcher.cooperator._POLL", 3600.0)

    class Follows(BatchSpider):
        def parse(self, response):
            for n in range(3):
                yield response.follow(f"/page/next-{n}", callback=self.parse_next, dont_filter=True)

        def parse_next(self, response):
            yield {"next": response.url}

    crawler = await run(Follows, urls(*(server.url(f"page/{n}") for n in range(20))), {"CONCURRENT_REQUESTS": 2})
    assert crawler.totals.fetched == 20
    assert crawler.stats.get_value("item_scraped_count") == 60


@ensureDeferred
async def test_failures_of_a_copy_are_not_the_visit_s(server: MockServer, urls) -> None:
    """A copy of its request that a callback yields fails for itself, while the visit is still in the pipelines."""

    class Copies(BatchSpider):
        def parse(self, response):
            yield response.request.replace(
                url="http://127.0.0.1:1/", dont_filter=True, meta={**response.meta, "dont_retry": 1}
            )
            yield {"page": "one"}

    class WaitsForTheFailure:
        def __init__(self, crawler) -> None:
            self.crawler = crawler

        @classmethod
        def from_crawler(cls, crawler):
            return cls(crawler)

        async def process_item(self, item):
            while not self.crawler.stats.get_value("downloader/exception_count"):
                await sleep(0.01)
            await sleep(0.1)
            return item

    crawler = await run(Copies, urls(server.url("page/1")), {"ITEM_PIPELINES": {WaitsForTheFailure: 1}})
    assert crawler.totals.outcomes == {"fetched": 1}


@ensureDeferred
async def test_a_cancelled_download(server: MockServer, urls) -> None:
    """A download that somebody cancels fails its target, and no other; its worker goes on."""

    class Cancels:
        async def process_request(self, request):
            if "cancelled" in request.url:
                raise (asyncio.CancelledError if is_asyncio_reactor_installed() else CancelledError)

    pages = [server.url(f"page/{'cancelled' if n % 5 == 0 else n}") for n in range(20)]
    crawler = await run(BatchSpider, urls(*pages), {"CONCURRENT_REQUESTS": 2, "DOWNLOADER_MIDDLEWARES": {Cancels: 10}})
    assert crawler.totals.outcomes == {"fetched": 16, "failed/other": 4}


@ensureDeferred
async def test_close_spider(server: MockServer, urls) -> None:
    """When the spider is closed, what is in flight is finished and settled, and nothing else is started."""

    class Closes(BatchSpider):
        def parse(self, response):
            if response.url.endswith("/10"):
                raise CloseSpider("enough")
            return super().parse(response)

    crawler = await run(Closes, urls(*(server.url(f"page/{n}") for n in range(2000))), {"CONCURRENT_REQUESTS": 4})
    assert crawler.stats.get_value("finish_reason") == "enough"
    assert 11 <= crawler.totals.fetched < 100
    assert crawler.totals.pending == crawler.totals.read - crawler.totals.fetched
    assert crawler.totals.fetched == sum(server.control()["hits"].values())
    assert crawler.stats.get_value("item_scraped_count") == crawler.totals.fetched - 1
    assert crawler.totals.error is None


@pytest.mark.parametrize("how", ["stop_async", "close_spider_async"])
@ensureDeferred
async def test_closed_between_two_retries(server: MockServer, urls, how: str) -> None:
    """A target whose retry is still to come when the spider closes stays pending, and the spider closes cleanly."""
    crawler = watched(BatchSpider, {"CONCURRENT_REQUESTS": 2, "RETRY_TIMES": 3})

    def close(response) -> None:
        if not stopped and response.status == 503:
            stop = crawler.stop_async() if how == "stop_async" else crawler.engine.close_spider_async(reason="shutdown")
            stopped.append(deferred_from_coro(stop))

    stopped: list[Any] = []
    crawler.signals.connect(close, signals.response_downloaded)
    await finish(crawler, urls(server.url("flaky/a?times=3"), server.url("page/1?delay=0.05")))
    assert stopped
    assert (crawler.totals.fetched, crawler.totals.pending) == (1, 1)
    assert crawler.totals.failed == 0
    assert server.control()["hits"]["/flaky/a"] == 1
    assert crawler.stats.get_value("finish_reason") == "shutdown"


@ensureDeferred
async def test_closed_while_it_waits_for_rows(server: MockServer, urls, monkeypatch) -> None:
    """A batch whose source has nothing more to give yet closes when it is told to."""
    read_end, write_end = os.pipe()
    stdin = os.fdopen(read_end)
    monkeypatch.setattr(sys, "stdin", stdin)
    os.write(write_end, f"{server.url('page/1')}\n".encode())
    crawler = watched(BatchSpider)
    done = Deferred.fromCoroutine(finish(crawler, "-"))
    await until(lambda: crawler.crawling and server.control()["hits"].get("/page/1") == 1)
    await until(lambda: crawler.stats.get_value("batcher/outcomes/fetched") == 1)
    await deferred_from_coro(crawler.stop_async())
    await done
    os.close(write_end)
    stdin.close()
    assert crawler.totals.fetched == crawler.totals.read == 1


@ensureDeferred
async def test_paused(server: MockServer, urls) -> None:
    """A paused engine claims nothing; unpaused, it goes on."""
    crawler = watched(BatchSpider, {"CONCURRENT_REQUESTS": 1})
    crawler.signals.connect(pause := lambda: crawler.engine.pause(), signals.engine_started)
    done = Deferred.fromCoroutine(finish(crawler, urls(server.url("page/1"))))
    await until(lambda: crawler.crawling and crawler.engine.paused)
    for _ in range(20):
        await deferred_from_coro(sleep(0.01))
    assert server.control()["hits"] == {}
    crawler.engine.unpause()
    await done
    assert crawler.totals.fetched == 1
    assert pause


@ensureDeferred
async def test_a_source_that_breaks_off(server: MockServer, tmp_path, caplog) -> None:
    """What was read before the list broke off is finished; then the batch ends as incomplete, with the reason."""
    path = tmp_path / "urls.txt.gz"
    lines = "".join(f"{server.url(f'page/{n}')}\n" for n in range(5000))
    path.write_bytes(gzip.compress(lines.encode())[:4000])
    crawler = await run(BatchSpider, str(path))
    assert 0 < crawler.totals.fetched < 5000
    assert crawler.totals.fetched == crawler.totals.read
    assert crawler.totals.pending == 0
    assert "urls.txt.gz broke off after line" in crawler.totals.error
    assert crawler.stats.get_value("finish_reason") == "incomplete"
    assert "Batch incomplete" in caplog.text


@ensureDeferred
async def test_a_source_that_breaks_off_while_the_spider_closes(server: MockServer, tmp_path) -> None:
    """A batch that is incomplete and is being closed as well is closed once, cleanly."""

    class Closes(BatchSpider):
        def parse(self, response):
            raise CloseSpider("enough")

    path = tmp_path / "urls.txt.gz"
    lines = "".join(f"{server.url(f'page/{n}')}\n" for n in range(5000))
    path.write_bytes(gzip.compress(lines.encode())[:1000])
    crawler = await run(Closes, str(path), {"CONCURRENT_REQUESTS": 2})
    assert crawler.stats.get_value("finish_reason") == "enough"
    assert crawler.totals.fetched == 2


@ensureDeferred
async def test_a_ledger_that_cannot_be_written(server: MockServer, urls, monkeypatch, caplog) -> None:
    """When an outcome cannot be written down no more is fetched, and the batch ends as incomplete, with the reason."""

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FailuresFile, "write", full)
    path = urls(*(server.url(f"status/{404 if n == 5 else 200}") for n in range(1000)))
    crawler = watched(BatchSpider, {"CONCURRENT_REQUESTS": 2})
    with caplog.at_level(logging.ERROR):
        await finish(crawler, path, failures=str(Path(path).with_name("failures.jsonl")))
    assert "No space left on device" in crawler.totals.error
    assert sum(server.control()["hits"].values()) < 20
    assert crawler.stats.get_value("finish_reason") == "incomplete"


@ensureDeferred
async def test_make_request(server: MockServer, urls) -> None:
    """A subclass makes its own request; one that raises, or makes none, fails that target and no other."""

    class Own(BatchSpider):
        def make_request(self, target):
            if target.line == 2:
                raise KeyError("no key")
            if target.line == 3:
                return None
            if target.line == 4:
                raise ValueError("no URL for that one")
            return scrapy.Request(target.url, method="POST", headers={"X-Line": str(target.line)})

    crawler = await run(Own, urls(*(server.url(f"page/{n}") for n in range(1, 6))))
    assert crawler.totals.outcomes == {"fetched": 2, "failed/other": 2, "skipped/invalid": 1}
    assert server.control("look?path=/page/5")["headers"]["X-Line"] == "5"


@ensureDeferred
async def test_on_failure(server: MockServer, urls) -> None:
    """A subclass handles failures its own way, also by yielding items; the outcome stays what it was."""

    class Own(BatchSpider):
        def on_failure(self, failure):
            yield {"failed": failure.request.meta["batcher_target"].url, "with": failure.type.__name__}

    crawler = await run(Own, urls(server.url("status/404"), "http://127.0.0.1:1/"))
    assert crawler.totals.outcomes == {"failed/http-404": 1, "failed/refused": 1}
    assert crawler.stats.get_value("item_scraped_count") == 2


@ensureDeferred
async def test_an_error_in_on_failure(server: MockServer, urls) -> None:
    """An exception in the errback does not hide why the target failed."""

    class Own(BatchSpider):
        def on_failure(self, failure):
            raise RuntimeError("in the errback")

    crawler = await run(Own, urls(server.url("status/404"), server.url("page/1")))
    assert crawler.totals.outcomes == {"failed/http-404": 1, "fetched": 1}


@ensureDeferred
async def test_duplicates(server: MockServer, urls) -> None:
    """Duplicate rows are all fetched, unless a setting skips them."""
    path = urls(*[server.url("page/1")] * 3, server.url("page/2"))
    assert (await run(BatchSpider, path)).totals.outcomes == {"fetched": 4}
    crawler = await run(BatchSpider, path, {"BATCHER_SKIP_DUPLICATES": True})
    assert crawler.totals.outcomes == {"fetched": 2, "skipped/duplicate": 2}


@ensureDeferred
async def test_further_schemes(server: MockServer, tmp_path, urls) -> None:
    """A scheme that BATCHER_SCHEMES adds is fetched."""
    (tmp_path / "page.txt").write_text("local")
    crawler = await run(BatchSpider, urls(f"file://{tmp_path}/page.txt", "ftp://x/"), {"BATCHER_SCHEMES": "http,file"})
    assert crawler.totals.outcomes == {"fetched": 1, "skipped/unsupported-scheme": 1}


@ensureDeferred
async def test_async_handlers_of_batch_finished(server: MockServer, urls) -> None:
    """A handler of batch_finished may be a coroutine; the spider closes after it."""
    crawler = watched(BatchSpider)
    seen = []

    async def handler(totals, spider) -> None:
        await sleep(0.01)
        seen.append((totals.fetched, spider is crawler.spider, crawler.engine.spider is not None))

    crawler.signals.connect(handler, batch_finished)
    await finish(crawler, urls(server.url("page/1")))
    assert seen == [(1, True, True)]


@ensureDeferred
async def test_other_spiders_are_left_alone(server: MockServer) -> None:
    """An ordinary spider in a project with the add-on runs as ever, with the limits held."""
    settings = {"ADDONS": {"scrapy_batcher.Addon": 300}, "CONCURRENT_REQUESTS_PER_DOMAIN": 2}
    crawler = await crawl(Pages, [server.url(f"page/{n}?delay=0.01") for n in range(10)], settings=settings)
    assert crawler.spider.statuses == [200] * 10
    assert server.peak() <= 2
    assert crawler.settings.getint("CONCURRENT_ITEMS") == 100


@pytest.mark.parametrize(
    "off", [{"EXTENSIONS": {"scrapy_batcher.CooperatorExtension": None}}, {"BATCHER_ENABLED": False}]
)
@ensureDeferred
async def test_the_spider_without_the_extension(server: MockServer, urls, off) -> None:
    """Without the extension the spider still fetches its list, through Scrapy's scheduler."""
    path = urls(
        server.url("page/1"),
        "no url",
        "file:///etc/passwd",
        *(server.url(f"page/{n}?delay=0.01") for n in range(2, 40)),
        server.url("status/404"),
    )
    crawler = await crawl(BatchSpider, urls=path, settings={**off, "CONCURRENT_REQUESTS": 2})
    assert crawler.stats.get_value("item_scraped_count") == 39
    assert crawler.stats.get_value("finish_reason") == "finished"


@ensureDeferred
async def test_refused(urls, tmp_path, server: MockServer) -> None:
    """What keeps a batch from starting is raised to whoever awaits the crawl."""
    path = urls(server.url("page/1"))
    for settings, kwargs, sentence in (
        ({}, {}, "there is no list of URLs: pass -a urls=FILE"),
        ({}, {"urls": str(tmp_path / "nowhere.txt")}, "nowhere.txt cannot be read: No such file"),
        ({"CONCURRENT_REQUESTS": 0}, {"urls": path}, "CONCURRENT_REQUESTS is 0"),
        ({"BATCHER_FIELDS": ["stauts"]}, {"urls": path}, "BATCHER_FIELDS has 'stauts'"),
        ({}, {"urls": path, "failures": path}, "is the list itself"),
        ({}, {"urls": path, "failures": str(tmp_path / "no" / "f.jsonl")}, "cannot be written"),
        ({}, {"urls": path, "failures": "/dev/full"}, "/dev/full cannot be written: it is not a file"),
        ({"FEEDS": {path: {"format": "jsonl"}}}, {"urls": path}, "is the list itself, which it would spoil"),
        ({"FEEDS": {"f": {"format": "jsonl"}}}, {"urls": path, "failures": "f"}, "f is a feed too"),
    ):
        with pytest.raises(StartError) as error:
            await crawl(BatchSpider, settings=settings, **kwargs)
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)
