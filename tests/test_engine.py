"""The few things of Scrapy's engine that are not documented, and that a batch needs: this fails when one goes away.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

from pytest_twisted import ensureDeferred
from scrapy import Request, signals
from scrapy.utils.defer import deferred_from_coro

from scrapy_batcher.adapters.engine import Engine
from tests.crawling import Pages, make_crawler, until
from tests.mockserver import MockServer


@ensureDeferred
async def test_the_engine_as_a_batch_sees_it(server: MockServer) -> None:
    """Held, the engine closes only when it is let go; meanwhile it says that it closes, and does what it is given."""
    crawler = make_crawler(Pages, CONCURRENT_REQUESTS=1)
    engine = Engine(crawler)
    closed = []
    crawler.signals.connect(note := lambda: closed.append(1), signals.spider_closed)
    crawler.signals.connect(hold := lambda: engine.hold(), signals.spider_opened)
    done = crawler.crawl([server.url("page/1?gate=e")])
    await until(lambda: server.control()["in_flight"].get("*") == 1)
    assert engine.full, "one request of one is under way"
    assert not engine.closing
    closing = deferred_from_coro(crawler.engine.close_spider_async(reason="enough"))
    await until(lambda: engine.closing)
    server.control("open?gate=e")
    await until(lambda: crawler.spider.statuses == [200])
    await until(lambda: not engine.full)
    # Nothing of Scrapy's own is under way, so without us it would close now; a download and its callback still work.
    request = Request(server.url("page/2"), callback=crawler.spider.parse)
    response = await deferred_from_coro(engine.download(request))
    await deferred_from_coro(engine.scrape(response, request))
    assert crawler.spider.statuses == [200, 200]
    assert not closed
    engine.let_go()
    await closing
    await done
    assert closed == [1]
    engine.let_go()
    assert note
    assert hold


@ensureDeferred
async def test_paused_is_full(server: MockServer) -> None:
    """A paused engine takes no more work."""
    crawler = make_crawler(Pages)
    engine = Engine(crawler)
    done = crawler.crawl([server.url("page/1?gate=p")])
    await until(lambda: server.control()["in_flight"].get("*") == 1)
    assert not engine.full
    crawler.engine.pause()
    assert engine.full
    crawler.engine.unpause()
    server.control("open?gate=p")
    await done
