"""Our downloader, and Scrapy's engine around it, do what Scrapy's own do: each test is for both.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

import time

import pytest
import scrapy.core.downloader
from pytest_twisted import ensureDeferred
from scrapy import Request, signals
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response
from scrapy.utils.asyncio import sleep

from scrapy_batcher import BatchSpider
from scrapy_batcher.adapters.downloader import Downloader
from tests.crawling import Pages, crawl, make_crawler, run
from tests.mockserver import MockServer

OWN = Downloader
SCRAPYS = scrapy.core.downloader.Downloader

both = pytest.mark.parametrize("downloader", [OWN, SCRAPYS])


class Various:
    """A downloader middleware that does everything that one may do, and what it may not, by the name of the page."""

    def process_request(self, request: Request) -> object:
        match request.url.rpartition("/")[2]:
            case "answered":
                return Response(request.url, status=299)
            case "awaited":
                return self.later(None)
            case "answered-later":
                return self.later(Response(request.url, status=298))
            case "another":
                return request.replace(url=request.url.replace("another", "one"))
            case "refused":
                raise IgnoreRequest
            case "wrong":
                return "a page"
            case "wrong-later":
                return self.later("a page")

    def process_response(self, request: Request, response: Response) -> object:
        match request.url.rpartition("/")[2]:
            case "replaced":
                return response.replace(status=297)
            case "replaced-later":
                return self.later(response.replace(status=296))
            case "sent-on":
                return request.replace(url=request.url.replace("sent-on", "one"))
            case "nothing":
                return None
            case "nothing-later":
                return self.later(None)
            case _:
                return response

    async def later(self, result: object) -> object:
        await sleep(0)
        return result


class OldStyle:
    """A downloader middleware of the time when a spider was passed."""

    def process_response(self, request: Request, response: Response, spider: scrapy.Spider) -> Response:
        response.flags.append(spider.name)
        return response


@both
@ensureDeferred
async def test_what_middlewares_return(server: MockServer, downloader: type) -> None:
    """A response, a request, nothing, each at once or later; anything else is an error, said to the errback."""
    expected = {
        "one": 200,
        "answered": 299,
        "awaited": 200,
        "answered-later": 298,
        "another": 200,
        "replaced": 297,
        "replaced-later": 296,
        "sent-on": 200,
        "refused": "IgnoreRequest",
        "wrong": "_InvalidOutput",
        "wrong-later": "_InvalidOutput",
        "nothing": "_InvalidOutput",
        "nothing-later": "_InvalidOutput",
    }
    for page, result in expected.items():
        settings = {"DOWNLOADER": downloader, "DOWNLOADER_MIDDLEWARES": {Various: 999}}
        crawler = await crawl(Pages, urls=[server.url(f"page/{page}")], settings=settings)
        assert [*crawler.spider.statuses, *crawler.spider.errors] == [result], page


@both
@ensureDeferred
async def test_a_middleware_that_wants_the_spider(server: MockServer, downloader: type) -> None:
    """It is told of as deprecated, and still gets it."""
    flags = []

    class Noting(Pages):
        def parse(self, response):
            flags.extend(response.flags)

    with pytest.warns(scrapy.exceptions.ScrapyDeprecationWarning, match="requires a spider argument"):
        await crawl(
            Noting,
            urls=[server.url("page/one")],
            settings={"DOWNLOADER": downloader, "DOWNLOADER_MIDDLEWARES": {OldStyle: 999}},
        )
    assert flags == ["pages"]


@both
@ensureDeferred
async def test_signals_of_a_download(server: MockServer, downloader: type) -> None:
    """Each download tells that it begins, what it brought, and that it is over; nothing of it is left."""
    crawler = make_crawler(Pages, DOWNLOADER=downloader, RETRY_ENABLED=False, CONCURRENT_REQUESTS=1)
    heard = []

    def listen(name: str):
        def note(request: Request) -> None:
            heard.append((request.url.rpartition("/")[2], name))

        crawler.signals.connect(note, getattr(signals, name))
        return note

    names = ["request_reached_downloader", "response_downloaded", "request_left_downloader", "response_received"]
    notes = [listen(name) for name in names]
    await crawler.crawl(urls=[server.url("page/one"), server.url("reset")])
    assert notes
    assert heard == [("one", name) for name in names] + [("reset", name) for name in (names[0], names[2])]
    inside = crawler.engine.downloader
    assert type(inside) is downloader
    assert not inside.active
    assert [(slot.active, slot.transferring, len(slot.queue)) for slot in inside.slots.values()] == [(set(), set(), 0)]


@both
@ensureDeferred
async def test_a_request_is_somewhere_all_the_time(server: MockServer, downloader: type) -> None:
    """The downloader has it until its result is handed on: a turn of the loop between, and the spider is idle."""
    crawler = make_crawler(Pages, DOWNLOADER=downloader)
    turns = []

    class Fetching(Pages):
        async def start(self):
            request = Request(server.url("page/one"))
            fetched = crawler.engine.downloader.fetch(request)
            while not fetched.called:
                turns.append(request in crawler.engine.downloader.active)
                await sleep(0)
            yield request

    crawler.spidercls = Fetching
    await crawler.crawl(urls=[])
    assert turns
    assert all(turns)
    assert crawler.spider.statuses == [200]


@both
@ensureDeferred
async def test_a_delay_is_kept(server: MockServer, downloader: type) -> None:
    """Requests to a slot with a delay wait for each other."""
    started = time.monotonic()
    settings = {"DOWNLOADER": downloader, "DOWNLOAD_DELAY": 0.1, "DOWNLOAD_DELAY_JITTER": 0}
    crawler = await crawl(Pages, urls=[server.url(f"page/{i}") for i in range(4)], settings=settings)
    assert crawler.spider.statuses == [200] * 4
    assert time.monotonic() - started >= 0.3


@both
@ensureDeferred
async def test_a_batch_on_either(server: MockServer, urls, downloader: type, caplog) -> None:
    """A project's own downloader is the one that a batch uses; the log and the stats are the same."""
    settings = {"DOWNLOADER": downloader} if downloader is SCRAPYS else {}
    caplog.set_level("DEBUG", "scrapy.core.engine")
    crawler = await run(BatchSpider, urls(server.url("redirect?to=/page/one"), server.url("status/404")), settings)
    assert type(crawler.engine.downloader) is downloader
    assert crawler.totals.outcomes == {"fetched": 1, "failed/http-404": 1}
    stats = crawler.stats.get_stats()
    assert stats["response_received_count"] == 2
    assert stats["downloader/request_count"] == 3
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Crawled")]
    assert sorted(line[:13] for line in lines) == ["Crawled (200)", "Crawled (404)"]


@both
@ensureDeferred
async def test_a_handler_that_gives_no_response(urls, downloader: type) -> None:
    """It is the target's failure, and not the batch's."""

    class Nothing:
        lazy = True

        async def download_request(self, request: Request) -> None:
            return None

        async def close(self) -> None:
            pass

    settings = {"DOWNLOADER": downloader, "DOWNLOAD_HANDLERS": {"http": Nothing}}
    crawler = await run(BatchSpider, urls("http://127.0.0.1/page"), settings)
    assert crawler.totals.outcomes == {"failed/other": 1}
