"""Limits under names of one's own, rates, limits that change while it runs, and those of several spiders together.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import scrapy
from pytest_twisted import ensureDeferred
from scrapy import signals
from scrapy.utils.defer import deferred_from_coro
from twisted.internet.defer import Deferred, DeferredList

from scrapy_batcher import BatchSpider, StartError, limits_of
from tests.crawling import Pages, crawl, finish, make_crawler, run, semaphore_of, until, watched
from tests.mockserver import MockServer

ADDON = {"ADDONS": {"scrapy_batcher.Addon": 300}}


def in_flight(server: MockServer, *hosts: str) -> int:
    look = server.control()["in_flight"]
    return sum(look.get(host, 0) for host in hosts or ("*",))


def pages(server: MockServer, hosts: list[str], number: int, gate: str = "") -> list[str]:
    query = f"?gate={gate}" if gate else ""
    return [server.url(f"page/{host}-{n}{query}", host) for n in range(number) for host in hosts]


def name_of(url: str) -> str | None:
    """Hosts 127.0.1.… count for ``a``, 127.0.2.… for ``b``, others for nothing."""
    return {"1": "a", "2": "b"}.get(url.split(".")[2])


def names_of(request: scrapy.Request) -> list[str]:
    return [name] if (name := name_of(request.url)) else []


class Named(BatchSpider):
    def make_request(self, target):
        request = super().make_request(target)
        request.meta["batcher_limits"] = names_of(request)
        return request


class NamedPages(Pages):
    async def start(self):
        async for request in super().start():
            request.meta["batcher_limits"] = request.meta.get("names", names_of(request))
            yield request


def by_meta(urls: list[str], tmp_path: Path) -> tuple[type, dict[str, Any], str]:
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls))
    return Named, {}, str(path)


def by_column(urls: list[str], tmp_path: Path) -> tuple[type, dict[str, Any], str]:
    path = tmp_path / "urls.jsonl"
    path.write_text("\n".join(json.dumps({"url": url, "limits": name_of(url)}) for url in urls))
    return BatchSpider, {"BATCHER_LIMITS_COLUMN": "limits"}, str(path)


def by_function(urls: list[str], tmp_path: Path) -> tuple[type, dict[str, Any], str]:
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls))
    return BatchSpider, {"BATCHER_LIMITS_FUNCTION": "tests.test_named_limits.names_of"}, str(path)


# -- names -------------------------------------------------------------------------------------------------------------

A, B = [f"127.0.1.{n}" for n in range(1, 5)], [f"127.0.2.{n}" for n in range(1, 5)]


@pytest.mark.parametrize("how", [by_meta, by_column, by_function])
@ensureDeferred
async def test_a_name_over_many_hosts(server: MockServer, tmp_path, how) -> None:
    """As many as the limit says are in flight over all hosts of a name; others are fetched meanwhile."""
    listed = [*pages(server, A, 5, "a"), *pages(server, B, 5, "b"), *pages(server, ["127.0.0.1"], 5)]
    spider, settings, path = how(listed, tmp_path)
    settings |= {"BATCHER_LIMITS": {"a": 2, "b": {"concurrency": 3}}, "CONCURRENT_REQUESTS": 6}
    crawler = watched(spider, settings)
    done = Deferred.fromCoroutine(finish(crawler, path))
    await until(lambda: server.control()["hosts"].get("127.0.0.1") == 5 and in_flight(server) == 5)
    assert (in_flight(server, *A), in_flight(server, *B)) == (2, 3)
    server.control("open?gate=b")
    await until(lambda: crawler.stats.get_value("batcher/outcomes/fetched") == 25)
    assert in_flight(server) == in_flight(server, *A) == 2
    server.control("open?gate=a")
    await done
    assert crawler.totals.outcomes == {"fetched": 45}
    assert server.peak() <= 6
    assert not [look for look in semaphore_of(crawler).statistics().values() if look.holders or look.waiting]


@pytest.mark.parametrize("how", [by_meta, by_column, by_function])
@ensureDeferred
async def test_never_above_a_name(server: MockServer, tmp_path, how) -> None:
    """While pages come and go, never more than the limit are in flight over all hosts of a name."""
    spider, settings, path = how(pages(server, A, 8), tmp_path)
    crawler = await run(spider, path, settings | {"BATCHER_LIMITS": {"a": 3}})
    assert crawler.totals.outcomes == {"fetched": 32}
    assert server.peak() <= 3


@ensureDeferred
async def test_a_name_of_an_ordinary_spider(server: MockServer) -> None:
    """The requests of an ordinary spider count for the names in their meta; the queue gives others out meanwhile."""
    crawler = make_crawler(NamedPages, BATCHER_LIMITS={"a": 2}, CONCURRENT_REQUESTS=4, **ADDON)
    done = crawler.crawl([*pages(server, A, 5, "a"), *pages(server, ["127.0.0.1"], 10)])
    await until(lambda: server.control()["hosts"].get("127.0.0.1") == 10 and in_flight(server) == 2)
    server.control("open?gate=a")
    await done
    assert crawler.spider.statuses == [200] * 30


@ensureDeferred
async def test_several_names(server: MockServer, tmp_path) -> None:
    """A row that names several limits takes a permit of each, and none while one of them is full."""
    path = tmp_path / "urls.csv"
    rows = [(server.url(f"page/{n}?gate=g", A[n % 4]), ("a,b", "b", " a , ")[n % 3]) for n in range(12)]
    path.write_text("url,limits\n" + "".join(f'{url},"{names}"\n' for url, names in rows))
    settings = {"BATCHER_LIMITS": {"a": 1, "b": 4}, "BATCHER_LIMITS_COLUMN": "limits"}
    crawler = watched(BatchSpider, settings)
    done = Deferred.fromCoroutine(finish(crawler, str(path)))
    await until(lambda: in_flight(server) >= 4)
    looks = semaphore_of(crawler).statistics()
    assert len(looks["a"].holders) == 1
    assert len(looks["b"].holders) == 4
    server.control("open?gate=g")
    await done
    assert crawler.totals.outcomes == {"fetched": 12}


@ensureDeferred
async def test_a_pattern_of_names(server: MockServer, tmp_path) -> None:
    """One limit under ``proxy:*`` is for each name that begins so."""
    path = tmp_path / "urls.jsonl"
    rows = [{"url": server.url(f"page/{n}?gate=g", A[n % 4]), "limits": f"proxy:{n % 3}"} for n in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    crawler = watched(BatchSpider, {"BATCHER_LIMITS": {"proxy:*": 2}, "BATCHER_LIMITS_COLUMN": "limits"})
    done = Deferred.fromCoroutine(finish(crawler, str(path)))
    await until(lambda: in_flight(server) == 6)
    server.control("open?gate=g")
    await done
    assert server.peak() == 6
    assert crawler.totals.outcomes == {"fetched": 12}


@ensureDeferred
async def test_an_unknown_name_in_the_list(server: MockServer, tmp_path, caplog) -> None:
    """A row that names a limit that there is none of is failed/other, with a sentence that names it; one that names
    nothing at all is skipped/invalid. When there is such a limit, what has failed can be tried again."""
    path = tmp_path / "urls.jsonl"
    rows = [{"url": server.url(f"page/{n}"), "limits": name} for n, name in enumerate(("a", "typo", "a,typo", 7, None))]
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = {"BATCHER_LIMITS": {"a": 1}, "BATCHER_LIMITS_COLUMN": "limits"}
    failures = tmp_path / "failures.jsonl"
    settings |= {"JOBDIR": str(tmp_path / "job")}
    crawler = await run(BatchSpider, str(path), settings, failures=str(failures))
    assert crawler.totals.outcomes == {"fetched": 2, "failed/other": 2, "skipped/invalid": 1}
    errors = [json.loads(line)["error"] for line in failures.read_text().splitlines()]
    assert sum("there is no limit 'typo'; give it one in BATCHER_LIMITS" in error for error in errors) == 2
    assert "there is no limit 'typo'" in caplog.text
    settings["BATCHER_LIMITS"] = {"a": 1, "typo": 1}
    crawler = await run(BatchSpider, str(path), settings, failures=str(failures), retry="failed")
    assert crawler.totals.outcomes == {"fetched": 4, "skipped/invalid": 1}


@ensureDeferred
async def test_an_unknown_name_of_a_request(server: MockServer, urls) -> None:
    """A request of a batch that names an unknown limit is failed/other as well."""

    class Typo(BatchSpider):
        def make_request(self, target):
            request = super().make_request(target)
            if target.line == 2:
                request.meta["batcher_limits"] = "typo"
            return request

    crawler = await run(Typo, urls(*pages(server, ["127.0.0.1"], 3)))
    assert crawler.totals.outcomes == {"fetched": 2, "failed/other": 1}


@pytest.mark.parametrize("names", ["typo", ["a", "typo"], 7])
@ensureDeferred
async def test_an_unknown_name_in_an_ordinary_spider(server: MockServer, names: object) -> None:
    """A request of an ordinary spider that names an unknown limit ends in its errback, and no other does."""

    class Typo(Pages):
        async def start(self):
            async for request in super().start():
                if request.meta["number"] == 1:
                    request.meta["batcher_limits"] = names
                yield request

        def on_error(self, failure):
            super().on_error(failure)
            self.message = str(failure.value)

    crawler = await crawl(Typo, pages(server, ["127.0.0.1"], 4), settings={"BATCHER_LIMITS": {"a": 1}, **ADDON})
    assert crawler.spider.statuses == [200] * 3
    assert crawler.spider.errors in (["UnknownLimitError"], ["ValueError"])
    assert "'typo'" in crawler.spider.message or "not 7" in crawler.spider.message


@ensureDeferred
async def test_a_function_that_fails(server: MockServer, urls) -> None:
    """A target that BATCHER_LIMITS_FUNCTION breaks on is failed/other, and no other is."""

    def breaks(request):
        if request.url.endswith("-1"):
            raise KeyError("no key")
        return []

    crawler = await run(BatchSpider, urls(*pages(server, ["127.0.0.1"], 3)), {"BATCHER_LIMITS_FUNCTION": breaks})
    assert crawler.totals.outcomes == {"fetched": 2, "failed/other": 1}


@ensureDeferred
async def test_a_function_that_fails_for_an_ordinary_spider(server: MockServer) -> None:
    """A request of an ordinary spider that BATCHER_LIMITS_FUNCTION breaks on ends in its errback, and no other does."""

    def breaks(request):
        if request.url.endswith("-1"):
            raise KeyError("no key")
        return []

    settings = {"BATCHER_LIMITS_FUNCTION": breaks, **ADDON}
    crawler = await crawl(Pages, pages(server, ["127.0.0.1"], 3), settings=settings)
    assert crawler.spider.statuses == [200] * 2
    assert crawler.spider.errors == ["KeyError"]


@ensureDeferred
async def test_a_name_that_is_gone(server: MockServer, tmp_path) -> None:
    """A job that has a limit which BATCHER_LIMITS has no more of says so, and goes on when it has it again."""
    _, settings, path = by_column([*pages(server, A, 2), *pages(server, ["127.0.0.1"], 2)], tmp_path)
    settings |= {"JOBDIR": str(tmp_path / "job"), "CONCURRENT_REQUESTS": 1}
    named = settings | {"BATCHER_LIMITS": {"a": 1}}
    stopped: list[Deferred] = []
    crawler = watched(BatchSpider, named)
    crawler.signals.connect(
        stop := lambda: stopped.append(deferred_from_coro(crawler.stop_async())), signals.response_downloaded
    )
    await finish(crawler, path)
    assert crawler.totals.pending == 9
    assert stop
    crawler = await run(BatchSpider, path, settings)
    assert "there is no limit 'a'" in crawler.totals.error
    crawler = await run(BatchSpider, path, named)
    assert crawler.totals.outcomes == {"fetched": 10}


# -- rates -------------------------------------------------------------------------------------------------------------


def seconds(times: list[float]) -> float:
    return max(times) - min(times)


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_a_rate_in_all(server: MockServer, urls, kind: str) -> None:
    """With a rate under ``*`` so many are begun a second, over all hosts."""
    settings = {"BATCHER_LIMITS": {"*": {"rate": 10}}}
    listed = pages(server, A, 2)
    if kind == "batch":
        await run(BatchSpider, urls(*listed), settings)
    else:
        await crawl(Pages, listed, settings=settings | ADDON)
    times = [time for of_host in server.control()["times"].values() for time in of_host]
    assert len(times) == 8
    assert seconds(times) >= 0.4, "seven tenths, less what the first may have been on its way"


@ensureDeferred
async def test_a_rate_of_a_host(server: MockServer, urls) -> None:
    """With a rate of one host, so many are begun there a second; a burst at once, if it may."""
    limits = {"host:127.0.0.1": {"rate": "10/s"}, "host:127.0.0.2": {"rate": "600/minute", "burst": 4}}
    await run(BatchSpider, urls(*pages(server, ["127.0.0.1", "127.0.0.2"], 16)), {"BATCHER_LIMITS": limits})
    times = server.control()["times"]
    # 1.5 s and 1.2 s, less what the first may have been on its way when the machine is busy.
    assert seconds(times["127.0.0.1"]) >= 0.6
    assert seconds(times["127.0.0.2"]) >= 0.5


# -- limits that change ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["batch", "ordinary"])
@ensureDeferred
async def test_a_limit_that_is_raised(server: MockServer, urls, kind: str) -> None:
    """When a limit is raised while it runs, more are let through at once; lowered, as many as it says from then on."""
    settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 1}
    listed = pages(server, ["127.0.0.1"], 8, "one") + pages(server, ["127.0.0.1"], 8, "two")
    if kind == "batch":
        crawler = watched(BatchSpider, settings)
        done = Deferred.fromCoroutine(finish(crawler, urls(*listed)))
    else:
        crawler = make_crawler(Pages, **settings, **ADDON)
        done = crawler.crawl(listed)
    await until(lambda: in_flight(server) == 1)
    limits_of(crawler).change("host:127.0.0.1", concurrency=4)
    await until(lambda: in_flight(server) == 4)
    limits_of(crawler).change("host:127.0.0.1", concurrency=8)
    await until(lambda: in_flight(server) == 8)
    limits_of(crawler).change("host:127.0.0.1", concurrency=2)
    server.control("open?gate=one")
    await until(lambda: server.control()["hosts"]["127.0.0.1"] == 10 and in_flight(server) == 2)
    assert server.peak() == 8
    server.control("open?gate=two")
    await done
    assert server.control()["hosts"] == {"127.0.0.1": 16}


# -- limits of several spiders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("batch", "batch"), ("batch", "ordinary"), ("ordinary", "ordinary")])
@ensureDeferred
async def test_shared_limits(server: MockServer, urls, kinds: tuple[str, str]) -> None:
    """Two spiders that share their limits are never above them together; what one gives back the other gets."""
    gc.collect()  # the limits of a spider before, which may be others
    settings = {"BATCHER_LIMITS_SHARED": True, "CONCURRENT_REQUESTS_PER_DOMAIN": 3}
    listed = pages(server, ["127.0.0.1"], 10, "g")
    path = urls(*listed)
    crawls = []
    for kind in kinds:
        if kind == "batch":
            crawls.append(Deferred.fromCoroutine(finish(watched(BatchSpider, settings), path)))
        else:
            crawls.append(make_crawler(Pages, **settings, **ADDON).crawl(listed))
    await until(lambda: in_flight(server) == 3)
    server.control("open?gate=g")
    await DeferredList(crawls, fireOnOneErrback=True)
    assert server.control()["hosts"] == {"127.0.0.1": 20}
    assert server.peak() == 3


@ensureDeferred
async def test_shared_limits_that_differ(server: MockServer, urls) -> None:
    """A spider that shares its limits with one under way that has others is refused, in a sentence."""
    gc.collect()
    shared = {"BATCHER_LIMITS_SHARED": True}
    first = watched(BatchSpider, shared | {"CONCURRENT_REQUESTS_PER_DOMAIN": 3})
    done = Deferred.fromCoroutine(finish(first, urls(*pages(server, ["127.0.0.1"], 1, "g"))))
    await until(lambda: in_flight(server) == 1)
    with pytest.raises(StartError, match=r"the limit 'host:\*' is .* in another spider"):
        await run(BatchSpider, urls(server.url("page/1")), shared | {"CONCURRENT_REQUESTS_PER_DOMAIN": 2})
    server.control("open?gate=g")
    await done


# -- where it turns out to lead ----------------------------------------------------------------------------------------


def redirects(server: MockServer, number: int, gate: str = "") -> list[str]:
    """From 127.0.0.1 to pages of 127.0.0.2 behind the gate ``full``."""
    to = [server.url(f"page/to-{n}%3Fgate=full", "127.0.0.2") for n in range(number)]
    return [server.url(f"redirect?to={url}&gate={gate}" if gate else f"redirect?to={url}") for url in to]


FULL = {"DOWNLOAD_SLOTS": {"127.0.0.2": {"concurrency": 1}}, "CONCURRENT_REQUESTS": 2}


@ensureDeferred
async def test_a_redirect_into_a_full_host(server: MockServer, urls, tmp_path) -> None:
    """Redirects to a host that is full hold no worker; each goes on where it was, in the end, to one outcome."""
    feed = tmp_path / "items.jsonl"
    listed = [server.url("page/first?gate=full", "127.0.0.2"), *redirects(server, 8)]
    listed += pages(server, ["127.0.0.3"], 8)
    crawler = watched(BatchSpider, FULL | {"FEEDS": {str(feed): {"format": "jsonl"}}})
    done = Deferred.fromCoroutine(finish(crawler, urls(*listed)))
    await until(lambda: server.control()["hosts"] == {"127.0.0.1": 8, "127.0.0.2": 1, "127.0.0.3": 8})
    server.control("open?gate=full")
    await done
    assert crawler.totals.outcomes == {"fetched": 17}
    assert Counter(json.loads(line)["url"] for line in feed.read_text().splitlines()) == Counter(listed)
    assert server.control()["hosts"] == {"127.0.0.1": 8, "127.0.0.2": 9, "127.0.0.3": 8}
    assert server.peak("127.0.0.2") == 1
    assert crawler.stats.get_value("downloader/response_status_count/302") == 8


@ensureDeferred
async def test_many_redirects_at_once_into_one_host(server: MockServer, urls) -> None:
    """Of several that are redirected at the same moment, to a host that takes one, only that one holds a worker."""
    settings = FULL | {"CONCURRENT_REQUESTS": 16, "CONCURRENT_REQUESTS_PER_DOMAIN": 8}
    crawler = watched(BatchSpider, settings)
    listed = [*redirects(server, 8, "all"), *pages(server, ["127.0.0.3"], 20, "other")]
    done = Deferred.fromCoroutine(finish(crawler, urls(*listed)))
    await until(lambda: in_flight(server) == 16)
    limits_of(crawler).change("host:127.0.0.3", concurrency=16)
    server.control("open?gate=all")
    await until(lambda: in_flight(server, "127.0.0.2") == 1 and in_flight(server, "127.0.0.3") == 15)
    server.control("open?gate=other")
    server.control("open?gate=full")
    await done
    assert crawler.totals.outcomes == {"fetched": 28}


@ensureDeferred
async def test_more_redirects_than_are_kept_waiting(server: MockServer, urls, monkeypatch) -> None:
    """Where the targets of one host would only join many that wait for another, no more of them are taken up."""
    monkeypatch.setattr("scrapy_batcher.batch.turns._PARKED_EACH", 3)
    crawler = watched(BatchSpider, FULL)
    listed = [server.url("page/first?gate=full", "127.0.0.2"), *redirects(server, 40)]
    listed += pages(server, ["127.0.0.3"], 8)
    done = Deferred.fromCoroutine(finish(crawler, urls(*listed)))
    await until(lambda: server.control()["hosts"].get("127.0.0.3") == 8)
    assert server.control()["hosts"]["127.0.0.1"] <= 3 + 2
    server.control("open?gate=full")
    await done
    assert crawler.totals.outcomes == {"fetched": 49}
    assert server.control()["hosts"]["127.0.0.1"] == 40


@ensureDeferred
async def test_stopped_while_redirects_wait(server: MockServer, urls, tmp_path) -> None:
    """What waits for a host it was redirected to when the spider closes is pending, and fetched by the next run."""
    settings = FULL | {"JOBDIR": str(tmp_path / "job"), "FEEDS": {str(tmp_path / "items.jsonl"): {"format": "jsonl"}}}
    listed = [server.url("page/first?gate=full", "127.0.0.2"), *redirects(server, 5)]
    crawler = watched(BatchSpider, settings)
    done = Deferred.fromCoroutine(finish(crawler, urls(*listed)))
    await until(lambda: crawler.stats and crawler.stats.get_value("downloader/response_status_count/302") == 5)
    stopped = deferred_from_coro(crawler.stop_async())
    server.control("open?gate=full")
    await stopped
    await done
    assert crawler.totals.pending > 0
    assert crawler.totals.fetched + crawler.totals.pending == 6
    crawler = await run(BatchSpider, urls(*listed), settings)
    assert crawler.totals.outcomes == {"fetched": 6}
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["url"] for line in lines) == Counter(listed)


@ensureDeferred
async def test_a_redirect_under_a_name(server: MockServer, tmp_path) -> None:
    """A redirected request still counts for the names of its target, and waits for them elsewhere than in a worker."""
    listed = [server.url(f"redirect?to={server.url('page/to%3Fgate=full', A[0])}", A[n]) for n in range(4)]
    _, settings, path = by_column([*listed, *pages(server, ["127.0.0.3"], 4)], tmp_path)
    crawler = watched(BatchSpider, settings | {"BATCHER_LIMITS": {"a": 1}, "CONCURRENT_REQUESTS": 2})
    done = Deferred.fromCoroutine(finish(crawler, path))
    await until(lambda: server.control()["hosts"].get("127.0.0.3") == 4 and in_flight(server, A[0]) == 1)
    assert in_flight(server) == 1
    server.control("open?gate=full")
    await done
    assert crawler.totals.outcomes == {"fetched": 8}
    assert sum(server.control()["hosts"].get(host, 0) for host in A) == 8
