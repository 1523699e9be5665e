"""A response on our way through the spider, and on Scrapy's, ends in the same: most tests are for both.

Scrapy's way is taken when ``CONCURRENT_ITEMS`` is not 1. tests/test_reactors.py runs this file once more on another
reactor than asyncio's.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import scrapy
from pytest_twisted import ensureDeferred
from scrapy import signals
from scrapy.exceptions import CloseSpider, DropItem
from scrapy.spidermiddlewares.base import BaseSpiderMiddleware
from scrapy.utils.asyncio import sleep
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.reactor import is_asyncio_reactor_installed

from scrapy_batcher import BatchSpider
from scrapy_batcher.adapters.scraper import leaves_items
from tests.crawling import finish, run, watched
from tests.mockserver import MockServer

both = pytest.mark.parametrize("concurrent_items", [1, 2])


class Various(BatchSpider):
    """Puts out everything that a spider may, by the name of the page."""

    def parse(self, response: Any, **kwargs: Any) -> Any:
        page = response.url.rsplit("/", 1)[1]
        return getattr(self, page.replace("-", "_"))(response)

    def one(self, response):
        return [{"page": "one"}]

    def item(self, response):
        return {"page": "item"}

    def nothing(self, response):
        return None

    def none(self, response):
        return [None]

    def two(self, response):
        return [{"page": "two"}, {"page": "dropped"}]

    def further(self, response):
        return [scrapy.Request(response.urljoin("one"), callback=self.one)]

    def late(self, response):
        yield {"page": "late"}
        raise RuntimeError("no good")

    async def awaited(self, response):
        await sleep(0)
        return [{"page": "awaited"}]

    async def many(self, response):
        for i in range(3):
            await sleep(0)
            yield {"page": f"many-{i}"}

    def raises(self, response):
        raise RuntimeError("no good")


class Pipeline:
    async def process_item(self, item):
        await sleep(0)
        if item["page"] == "dropped":
            raise DropItem("not wanted")
        return item


@both
@ensureDeferred
async def test_what_callbacks_put_out(server: MockServer, urls, concurrent_items: int) -> None:
    """Items go through the pipelines, requests to the scheduler, errors to the log, whatever the callback is."""
    pages = ["one", "item", "nothing", "none", "two", "further", "late", "awaited", "many", "raises"]
    settings = {"CONCURRENT_ITEMS": concurrent_items, "ITEM_PIPELINES": {Pipeline: 1}, "DEPTH_STATS_VERBOSE": True}
    crawler = watched(Various, settings)
    items = []
    depths = []
    errors = []

    def item_scraped(item, response) -> None:
        items.append(item["page"])
        depths.append(response.meta["depth"])

    def item_dropped(item, exception) -> None:
        items.append(str(exception))

    def spider_error(failure, response) -> None:
        errors.append((response.url.rsplit("/", 1)[1], failure.type))

    crawler.signals.connect(item_scraped, signals.item_scraped)
    crawler.signals.connect(item_dropped, signals.item_dropped)
    crawler.signals.connect(spider_error, signals.spider_error)
    await finish(crawler, urls(*(server.url(f"page/{page}") for page in pages)))
    expected = ["one", "item", "two", "not wanted", "one", "late", "awaited", "many-0", "many-1", "many-2"]
    assert sorted(items) == sorted(expected)
    assert sorted(depths) == [0] * 8 + [1]
    assert sorted(errors) == [("late", RuntimeError), ("raises", RuntimeError)]
    assert crawler.totals.outcomes == {"fetched": 8, "failed/callback": 2}
    stats = crawler.stats.get_stats()
    assert stats["item_scraped_count"] == 9
    assert stats["item_dropped_count"] == 1
    assert stats["spider_exceptions/count"] == 2
    assert stats["request_depth_count/0"] == 9, "all but the one whose callback raised at once"
    assert stats["request_depth_count/1"] == 1
    scraper = crawler.engine.scraper
    assert (scraper.slot.active, scraper.slot.active_size, len(scraper.slot.queue)) == (set(), 0, 0)


class Marking(BaseSpiderMiddleware):
    def get_processed_item(self, item, response):
        return {**item, "marked": True}


class Wrapping:
    async def process_spider_output(self, response, result):
        async for it in result:
            yield {**it, "marked": True}


class Rescuing:
    def process_spider_exception(self, response, exception):
        return [{"page": "rescued", "marked": True}]


class Refusing:
    def process_spider_input(self, response):
        raise ValueError("not this one")


@both
@pytest.mark.parametrize(
    ("middleware", "page", "outcome", "items"),
    [
        (Marking, "one", "fetched", ["one"]),
        (Wrapping, "one", "fetched", ["one"]),
        (Rescuing, "raises", "fetched", ["rescued"]),
        (Refusing, "one", "failed/other", []),
    ],
)
@ensureDeferred
async def test_spider_middlewares_are_asked(
    server: MockServer, urls, concurrent_items: int, middleware: type, page: str, outcome: str, items: list[str]
) -> None:
    """What a project's own middleware does to items, and to errors, is done."""
    settings = {"CONCURRENT_ITEMS": concurrent_items, "SPIDER_MIDDLEWARES": {middleware: 500}}
    crawler = watched(Various, settings)
    scraped = []

    def item_scraped(item) -> None:
        assert item["marked"]
        scraped.append(item["page"])

    crawler.signals.connect(item_scraped, signals.item_scraped)
    await finish(crawler, urls(server.url(f"page/{page}")))
    assert crawler.totals.outcomes == {outcome: 1}
    assert scraped == items


@both
@ensureDeferred
async def test_a_callback_that_closes_the_spider(server: MockServer, urls, concurrent_items: int) -> None:
    """The spider is closed for the callback's reason, after the item that is under way."""

    class Closing(BatchSpider):
        def parse(self, response, **kwargs):
            yield {"page": "last"}
            raise CloseSpider("enough")

    settings = {"CONCURRENT_ITEMS": concurrent_items, "ITEM_PIPELINES": {Pipeline: 1}}
    crawler = await run(Closing, urls(server.url("page/one")), settings)
    assert crawler.stats.get_value("finish_reason") == "enough"
    assert crawler.stats.get_value("item_scraped_count") == 1


@ensureDeferred
async def test_a_callback_with_many(server: MockServer, urls) -> None:
    """It does not hold up the event loop to its end; with Scrapy it does, on another reactor than asyncio's."""
    turns = []

    class Many(BatchSpider):
        def parse(self, response, **kwargs):
            deferred_from_coro(self.count())
            for _ in range(100):
                turns.append("item")
                yield {"page": "many"}

        async def count(self) -> None:
            while turns.count("item") < 100:
                await sleep(0)
                turns.append("turn")

    crawler = await run(Many, urls(server.url("page/one")))
    assert crawler.stats.get_value("item_scraped_count") == 100
    assert turns.count("turn") > 5


@both
@ensureDeferred
async def test_pages_that_are_worked_on_count(server: MockServer, urls, concurrent_items: int) -> None:
    """What is in a pipeline counts for SCRAPER_SLOT_MAX_ACTIVE_SIZE: no more is taken up until it is through."""
    sizes = []

    class Looking:
        def __init__(self, crawler) -> None:
            self.crawler = crawler

        @classmethod
        def from_crawler(cls, crawler):
            return cls(crawler)

        async def process_item(self, item):
            await sleep(0)
            slot = self.crawler.engine.scraper.slot
            sizes.append((slot.active_size == max(item.length, 1024), slot.needs_backout(), len(slot.active)))
            return item

    settings = {
        "CONCURRENT_ITEMS": concurrent_items,
        "CONCURRENT_REQUESTS": 1,
        "ITEM_PIPELINES": {Looking: 1},
        "SCRAPER_SLOT_MAX_ACTIVE_SIZE": 2000,
    }
    crawler = await run(BatchSpider, urls(server.url("page/a?size=3000"), server.url("page/b")), settings)
    assert crawler.totals.outcomes == {"fetched": 2}
    assert sizes == [(True, True, 1), (True, False, 1)]


@both
@ensureDeferred
async def test_handlers_of_item_scraped(server: MockServer, urls, concurrent_items: int, caplog) -> None:
    """One that takes its time is waited for before the visit is over; one that raises is in the log, and keeps nobody
    from being told."""
    crawler = watched(Various, {"CONCURRENT_ITEMS": concurrent_items})
    told = []

    async def slow(item) -> None:
        await sleep(0.05)
        told.append("slow")

    def broken(item) -> None:
        raise RuntimeError("no good")

    async def broken_late(item) -> None:
        await sleep(0)
        raise RuntimeError("no good either")

    def last(item, **named: Any) -> None:
        assert named["signal"] is signals.item_scraped
        assert named["spider"] is crawler.spider
        told.append("last")

    def over() -> None:
        told.append("over")

    for handler in (slow, broken, broken_late, last):
        crawler.signals.connect(handler, signals.item_scraped)
    crawler.signals.connect(over, signals.spider_closed)
    await finish(crawler, urls(server.url("page/one")))
    assert told == ["last", "slow", "over"]
    errors = [record for record in caplog.records if record.getMessage().startswith("Error caught on signal handler")]
    assert [str(record.exc_info[1]) for record in errors] == ["no good", "no good either"]


@ensureDeferred
async def test_no_task_for_each_handler(server: MockServer, urls) -> None:
    """With the spider as it comes, a page is taken from its response to its item in the task of its visit."""
    if not is_asyncio_reactor_installed():
        pytest.skip("another reactor has no tasks")
    tasks = []

    class Looking:
        def process_item(self, item):
            tasks.append(asyncio.current_task())
            return item

    def item_scraped(item) -> None:
        tasks.append(asyncio.current_task())

    class Parsing(BatchSpider):
        def parse(self, response, **kwargs):
            tasks.append(asyncio.current_task())
            return super().parse(response, **kwargs)

    crawler = watched(Parsing, {"ITEM_PIPELINES": {Looking: 1}})
    crawler.signals.connect(item_scraped, signals.item_scraped)
    await finish(crawler, urls(server.url("page/one")))
    assert len(tasks) == 3
    assert len(set(tasks)) == 1


@ensureDeferred
async def test_scrapys_own_middlewares_leave_items(server: MockServer, urls) -> None:
    """None of those that Scrapy switches on has anything to do with items: one item goes past them."""
    crawler = await run(BatchSpider, urls(server.url("page/one")))
    assert [leaves_items(middleware) for middleware in crawler.engine.scraper.spidermw.middlewares] == [True] * 6
    assert not any(leaves_items(middleware) for middleware in (Marking(crawler), Wrapping()))


class Returning(BatchSpider):
    """Has a callback that Scrapy warns of."""

    def parse(self, response):
        yield {"page": "parsed"}
        return "too much"


class Bare(BatchSpider):
    """Leaves it to Scrapy which method a page is for."""

    def make_request(self, target):
        return super().make_request(target).replace(callback=None)

    def parse(self, response):
        yield {"page": "parsed"}


@both
@ensureDeferred
async def test_a_generator_that_returns_something(server: MockServer, urls, concurrent_items: int) -> None:
    """It is warned of, and what it has put out before is an item."""
    with pytest.warns(UserWarning, match='is a generator and includes a "return" statement'):
        crawler = await run(Returning, urls(server.url("page/one")), {"CONCURRENT_ITEMS": concurrent_items})
    assert crawler.stats.get_value("item_scraped_count") == 1


@both
@ensureDeferred
async def test_a_request_without_a_callback(server: MockServer, urls, concurrent_items: int) -> None:
    """It is for ``parse``."""
    crawler = await run(Bare, urls(server.url("page/one")), {"CONCURRENT_ITEMS": concurrent_items})
    assert crawler.totals.outcomes == {"fetched": 1}
    assert crawler.stats.get_value("item_scraped_count") == 1
