"""A host that asks for rest, or does not answer, is left alone for a while; the others go on meanwhile.

tests/test_rest.py has what a response asks for.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from scrapy.utils.asyncio import sleep
from scrapy.utils.defer import deferred_from_coro
from twisted.internet.defer import Deferred

from scrapy_batcher import BatchSpider
from tests.crawling import Pages, crawl, finish, make_crawler, run, until, watched
from tests.mockserver import MockServer

BUSY = "127.0.0.2"  # the host that asks for rest
REFUSING = "http://127.0.0.3:1/"

ONE_EACH = {"CONCURRENT_REQUESTS_PER_DOMAIN": 1, "CONCURRENT_REQUESTS": 2}
LONG = {"BATCHER_REST_SECONDS": 3600, "BATCHER_REST_MAX": 3600, "BATCHER_FAILING_REST_MAX": 3600}


def hosts(server: MockServer) -> dict[str, int]:
    return server.control()["hosts"]


def pages(server: MockServer, host: str = "127.0.0.1", number: int = 6, query: str = "") -> list[str]:
    return [server.url(f"page/{host}-{n}{query}", host) for n in range(number)]


def done_count(crawler) -> int:
    return crawler.stats.get_value("batcher/outcomes/fetched", 0) if crawler.stats else 0


async def stop(crawler, done: Deferred) -> None:
    await deferred_from_coro(crawler.stop_async())
    await done


# -- it asks for it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "least"),
    [
        ("after=0.6", 0.6),
        ("after=0.6&status=503", 0.6),
        ("after=2&date=1", 1),  # as a date, which has whole seconds
        ("after=0.6&status=200", 0.6),
    ],
)
@ensureDeferred
async def test_retry_after(server: MockServer, urls, query: str, least: float) -> None:
    """Nothing is asked of a host before the time is over that it has asked for; then all of it is fetched."""
    path = urls(server.url(f"busy/a?{query}", BUSY), *pages(server, BUSY, 2), *pages(server))
    crawler = await run(BatchSpider, path, ONE_EACH)
    first, second, *_ = server.control()["times"][BUSY]
    assert second - first >= least
    assert crawler.totals.outcomes == {"fetched": 9}


@ensureDeferred
async def test_retry_after_for_an_ordinary_spider(server: MockServer) -> None:
    """An ordinary spider with the add-on leaves such a host alone too."""
    settings = {"ADDONS": {"scrapy_batcher.Addon": 300}, **ONE_EACH}
    asked = [server.url("busy/a?after=0.6", BUSY), *pages(server, BUSY, 2), *pages(server)]
    crawler = await crawl(Pages, asked, settings=settings)
    first, second, *_ = server.control()["times"][BUSY]
    assert second - first >= 0.6
    assert crawler.spider.statuses == [200] * 9


@pytest.mark.parametrize("query", ["after=3600", "after=3600&date=1", "status=503"])
@ensureDeferred
async def test_others_go_on(server: MockServer, urls, query: str) -> None:
    """While one host rests, with however many targets, all of the others is fetched, by few workers."""
    crawler = watched(BatchSpider, ONE_EACH | LONG)
    path = urls(server.url(f"busy/a?{query}", BUSY), *pages(server, BUSY, 30), *pages(server))
    done = Deferred.fromCoroutine(finish(crawler, path))
    await until(lambda: done_count(crawler) == 6)
    assert hosts(server) == {BUSY: 1, "127.0.0.1": 6}
    await stop(crawler, done)
    assert hosts(server)[BUSY] == 1
    assert crawler.totals.pending == 31


@ensureDeferred
async def test_others_go_on_for_an_ordinary_spider(server: MockServer) -> None:
    """While one host rests, an ordinary spider with the add-on fetches all of the others."""
    crawler = make_crawler(Pages, ADDONS={"scrapy_batcher.Addon": 300}, RETRY_TIMES=0, **ONE_EACH, **LONG)
    asked = [server.url("busy/a?after=3600", BUSY), *pages(server, BUSY, 30), *pages(server)]
    done = crawler.crawl(asked)
    await until(lambda: hosts(server) == {BUSY: 1, "127.0.0.1": 6})
    await stop(crawler, done)
    assert hosts(server)[BUSY] == 1


@ensureDeferred
async def test_those_under_way_together_ask_for_one_rest(server: MockServer, urls) -> None:
    """Several that are answered together let their host rest once; then one goes ahead, until it is answered."""
    settings = {
        "CONCURRENT_REQUESTS_PER_DOMAIN": 4,
        "BATCHER_REST_SECONDS": 0.6,
        "BATCHER_REST_MAX": 60,
        "RETRY_TIMES": 0,
    }
    crawler = watched(BatchSpider, settings)
    asked = [server.url(f"busy/{n}?gate=all", BUSY) for n in range(4)]
    done = Deferred.fromCoroutine(finish(crawler, urls(*asked, *pages(server, BUSY, 4, "?gate=next"))))
    await until(lambda: server.control()["in_flight"].get(BUSY) == 4)
    opened = server.control("open?gate=all")["times"][BUSY][3]
    await until(lambda: hosts(server)[BUSY] > 4)
    for _ in range(20):
        await deferred_from_coro(sleep(0.01))
    look = server.control()
    assert look["times"][BUSY][4] - opened >= 0.3
    assert look["in_flight"][BUSY] == 1
    server.control("open?gate=next")
    await done
    assert crawler.totals.outcomes == {"failed/http-429": 4, "fetched": 4}


# -- it does not say how long ------------------------------------------------------------------------------------------


@ensureDeferred
async def test_each_rest_is_longer(server: MockServer, urls) -> None:
    """Without a word how long, a host rests for half of BATCHER_REST_SECONDS at least, then for all of it."""
    settings = {"BATCHER_REST_SECONDS": 0.5, "BATCHER_REST_MAX": 60, "RETRY_TIMES": 2}
    crawler = await run(BatchSpider, urls(server.url("busy/a?times=2", BUSY)), settings)
    first, second, third = server.control()["times"][BUSY]
    assert second - first >= 0.25
    assert third - second >= 0.5
    assert crawler.totals.outcomes == {"fetched": 1}


@pytest.mark.parametrize(
    ("query", "settings"),
    [
        ("after=3600", {"BATCHER_REST": False}),
        ("after=3600", {"BATCHER_RETRY_AFTER_MAX": 0.01}),
        ("", {"BATCHER_REST": False, **LONG}),
        ("", {"BATCHER_REST_STATUSES": [420], **LONG}),
        ("status=404", LONG),
    ],
)
@ensureDeferred
async def test_no_rest(server: MockServer, urls, query: str, settings: dict[str, Any]) -> None:
    """BATCHER_REST, BATCHER_RETRY_AFTER_MAX and BATCHER_REST_STATUSES say when no rest is to be had, or a short one."""
    path = urls(server.url(f"busy/a?{query}", BUSY), *pages(server, BUSY))
    crawler = await run(BatchSpider, path, {"CONCURRENT_REQUESTS_PER_DOMAIN": 1, **settings})
    assert crawler.totals.fetched + crawler.totals.failed == 7
    assert crawler.totals.failed == (query == "status=404")


@ensureDeferred
async def test_a_status_of_one_s_own(server: MockServer, urls) -> None:
    """A status in BATCHER_REST_STATUSES asks for rest, also one that Scrapy does not retry."""
    settings = {"BATCHER_REST_STATUSES": [420], "BATCHER_REST_SECONDS": 1, "BATCHER_REST_MAX": 60, **ONE_EACH}
    crawler = await run(BatchSpider, urls(server.url("status/420", BUSY), *pages(server, BUSY, 1)), settings)
    first, second = server.control()["times"][BUSY]
    assert second - first >= 0.5
    assert crawler.totals.outcomes == {"failed/http-420": 1, "fetched": 1}


# -- it does not answer ------------------------------------------------------------------------------------------------


@ensureDeferred
async def test_a_host_that_refuses(server: MockServer, urls) -> None:
    """A host without a connection rests while all of the others is fetched, by few workers."""
    crawler = watched(BatchSpider, ONE_EACH | LONG)
    path = urls(*[REFUSING + str(n) for n in range(30)], *pages(server))
    done = Deferred.fromCoroutine(finish(crawler, path))
    await until(lambda: done_count(crawler) == 6)
    await until(lambda: crawler.stats.get_value("downloader/exception_count") == 1)
    await stop(crawler, done)
    assert crawler.stats.get_value("downloader/exception_count") == 1
    assert crawler.totals.pending == 30


@ensureDeferred
async def test_a_host_that_is_given_up(server: MockServer, urls, tmp_path, caplog) -> None:
    """After BATCHER_FAILING_GIVE_UP failures in a row what is left of a host is skipped, each with a line."""
    failures = tmp_path / "failures.jsonl"
    asked = [server.url(f"reset?{n}", BUSY) for n in range(10)]
    settings = {"BATCHER_FAILING_GIVE_UP": 3, "RETRY_TIMES": 0, **ONE_EACH}
    crawler = await run(BatchSpider, urls(*asked, *pages(server)), settings, failures=str(failures))
    assert crawler.totals.outcomes == {"failed/connection": 3, "skipped/host-gave-up": 7, "fetched": 6}
    assert hosts(server)[BUSY] == 3
    lines = [json.loads(line) for line in failures.read_text().splitlines()]
    assert sorted(line["url"] for line in lines) == sorted(asked)
    gave_up = [line for line in lines if line["outcome"] == "skipped/host-gave-up"]
    assert [(line["attempts"], line["error"]) for line in gave_up] == [
        (0, "its host has not answered, again and again")
    ] * 7
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("skipped/host-gave-up")]
    assert len(told) == 7


@ensureDeferred
async def test_given_up_between_two_attempts(server: MockServer, urls, tmp_path) -> None:
    """A retry that comes too late, as its host is given up, ends its target, with the attempts that there were."""
    failures = tmp_path / "failures.jsonl"
    settings = {"BATCHER_FAILING_GIVE_UP": 2, "RETRY_TIMES": 5, **ONE_EACH}
    path = urls(server.url("reset?1", BUSY), server.url("reset?2", BUSY))
    crawler = await run(BatchSpider, path, settings, failures=str(failures))
    assert crawler.totals.outcomes == {"skipped/host-gave-up": 2}
    lines = [json.loads(line) for line in failures.read_text().splitlines()]
    assert sum(line["attempts"] for line in lines) == hosts(server)[BUSY] == 2


@ensureDeferred
async def test_a_host_that_is_given_up_while_it_rests_for_long(server: MockServer, urls, monkeypatch) -> None:
    """What waits in the ledger for the rest of its host to be over ends when that is given up, not after the rest."""
    monkeypatch.setattr("scrapy_batcher.batch.turns._LONG", 0.1)
    settings = {
        "BATCHER_FAILING_GIVE_UP": 2,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 2,
        "CONCURRENT_REQUESTS": 3,
        "RETRY_TIMES": 0,
        **LONG,
    }
    crawler = watched(BatchSpider, settings)
    asked = [server.url("reset?0", BUSY), server.url("reset?gate=late", BUSY)]
    asked += [server.url(f"reset?{n}", BUSY) for n in range(2, 6)]
    done = Deferred.fromCoroutine(finish(crawler, urls(*asked, *pages(server))))
    await until(lambda: done_count(crawler) == 6)
    await until(lambda: crawler.stats.get_value("batcher/outcomes/failed/connection") == 1)
    server.control("open?gate=late")
    await until(lambda: crawler.stats.get_value("batcher/outcomes/skipped/host-gave-up") == 4)
    await done
    assert crawler.totals.outcomes == {"failed/connection": 2, "skipped/host-gave-up": 4, "fetched": 6}


@ensureDeferred
async def test_a_host_that_answers_in_between_is_not_given_up(server: MockServer, urls) -> None:
    """Only failures in a row count; an answer that is an error is an answer."""
    asked = [server.url(f"{('reset', 'reset', 'status/404', 'reset', 'page')[n % 5]}?{n}", BUSY) for n in range(10)]
    settings = {"BATCHER_FAILING_GIVE_UP": 3, "RETRY_TIMES": 0, **ONE_EACH}
    crawler = await run(BatchSpider, urls(*asked), settings)
    assert crawler.totals.outcomes == {"failed/connection": 6, "failed/http-404": 2, "fetched": 2}


# -- it is in the ledger -----------------------------------------------------------------------------------------------


def resting(job: Path) -> int:
    """How many lanes the ledger has resting."""
    ledger = sqlite3.connect(job / "ledger.sqlite")
    try:
        return ledger.execute("SELECT count(*) FROM lane WHERE due > 0").fetchone()[0]
    finally:
        ledger.close()


@ensureDeferred
async def test_a_rest_that_is_over(server: MockServer, urls, monkeypatch) -> None:
    """A host that rests for so long that it waits in the ledger is taken up from there when it is over."""
    monkeypatch.setattr("scrapy_batcher.batch.turns._LONG", 0.1)
    path = urls(server.url("busy/a?after=0.6", BUSY), *pages(server, BUSY, 30), *pages(server))
    crawler = await run(BatchSpider, path, ONE_EACH)
    first, second, *_ = server.control()["times"][BUSY]
    assert second - first >= 0.6
    assert crawler.totals.outcomes == {"fetched": 37}


@ensureDeferred
async def test_a_rest_goes_on_after_a_restart(server: MockServer, urls, tmp_path) -> None:
    """A host that rests for long is not asked by the next run either, until that is over."""
    job = tmp_path / "job"
    settings = {"JOBDIR": str(job), **ONE_EACH}
    asked = [server.url("busy/a?after=3600", BUSY), *pages(server, BUSY, 5)]
    crawler = watched(BatchSpider, settings)
    done = Deferred.fromCoroutine(finish(crawler, urls(*asked)))
    await until(lambda: hosts(server) == {BUSY: 1} and resting(job) == 1)
    await stop(crawler, done)

    crawler = watched(BatchSpider, settings)
    done = Deferred.fromCoroutine(finish(crawler, urls(*asked, *pages(server), *pages(server, BUSY, 2, "?more"))))
    await until(lambda: done_count(crawler) == 6)
    await stop(crawler, done)
    assert hosts(server) == {BUSY: 1, "127.0.0.1": 6}

    ledger = sqlite3.connect(job / "ledger.sqlite")
    ledger.execute("UPDATE lane SET due = 1 WHERE due > 0")
    ledger.execute("UPDATE target SET due = 1 WHERE due > 0")
    ledger.commit()
    ledger.close()
    crawler = await run(BatchSpider, urls(*asked, *pages(server), *pages(server, BUSY, 2, "?more")), settings)
    assert crawler.totals.outcomes == {"fetched": 14}
