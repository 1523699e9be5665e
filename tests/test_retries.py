"""A retry goes back to the ledger and waits there, not in a worker; how often, and of what, is Scrapy's to say."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from scrapy import signals
from scrapy.downloadermiddlewares.retry import get_retry_request
from scrapy.utils.defer import deferred_from_coro
from twisted.internet.defer import Deferred

from scrapy_batcher import BatchSpider
from tests.crawling import finish, run, until, watched
from tests.mockserver import MockServer

HOUR = {"BATCHER_RETRY_SECONDS": 3600, "BATCHER_RETRY_MAX": 3600}


def hits(server: MockServer) -> dict[str, int]:
    return server.control()["hits"]


def failures_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def stopping(crawler, after: int) -> list[Any]:
    """Have *crawler* stopped after so many responses."""
    seen: list[Any] = []

    def stop(response) -> None:
        seen.append(response)
        if len(seen) == after:
            seen.append(deferred_from_coro(crawler.stop_async()))

    crawler.signals.connect(stop, signals.response_downloaded, weak=False)
    return seen


def change_ledger(job: Path, statement: str) -> None:
    ledger = sqlite3.connect(job / "ledger.sqlite")
    ledger.execute(statement)
    ledger.commit()
    ledger.close()


# -- it waits elsewhere -----------------------------------------------------------------------------------------------


@ensureDeferred
async def test_a_worker_is_free_between_two_attempts(server: MockServer, urls) -> None:
    """One worker fetches everything else, of the same host too, while a retry waits; told to stop, it leaves it."""
    crawler = watched(BatchSpider, {"CONCURRENT_REQUESTS": 1, "BATCHER_REST": False, **HOUR})
    pages = [server.url(f"page/{n}", f"127.0.0.{1 + n % 2}") for n in range(10)]
    done = Deferred.fromCoroutine(finish(crawler, urls(server.url("flaky/a"), *pages)))
    await until(lambda: len(hits(server)) == 11)
    await until(lambda: crawler.stats.get_value("batcher/outcomes/fetched") == 10)
    assert hits(server)["/flaky/a"] == 1
    await deferred_from_coro(crawler.stop_async())
    await done
    assert (crawler.totals.fetched, crawler.totals.pending, crawler.totals.failed) == (10, 1, 0)
    assert hits(server)["/flaky/a"] == 1


@ensureDeferred
async def test_each_wait_is_longer(server: MockServer, urls) -> None:
    """A retry comes no sooner than after half of BATCHER_RETRY_SECONDS, the next no sooner than after all of it."""
    settings = {"RETRY_TIMES": 2, "BATCHER_REST": False, "BATCHER_RETRY_SECONDS": 0.4}
    crawler = await run(BatchSpider, urls(server.url("flaky/a?times=2")), settings)
    first, second, third = server.control()["times"]["127.0.0.1"]
    assert second - first >= 0.2
    assert third - second >= 0.4
    assert crawler.totals.outcomes == {"fetched": 1}


@ensureDeferred
async def test_at_once(server: MockServer, urls) -> None:
    """BATCHER_RETRY_SECONDS = 0 leaves retries to Scrapy, which makes them at once."""
    settings = {"CONCURRENT_REQUESTS": 1, "BATCHER_RETRY_SECONDS": 0, "BATCHER_REST": False, "RETRY_TIMES": 2}
    path = urls(server.url("flaky/a?times=2"), *(server.url(f"page/{n}") for n in range(3)))
    crawler = await run(BatchSpider, path, settings)
    assert server.control()["order"] == ["/flaky/a"] * 3 + ["/page/0", "/page/1", "/page/2"]
    assert crawler.totals.outcomes == {"fetched": 4}
    assert crawler.stats.get_value("batcher/postponed") is None


@ensureDeferred
async def test_a_page_that_asks_to_be_left_alone_is_not_asked_at_once(server: MockServer, urls) -> None:
    """A retry that Scrapy makes at once still waits until its host may be asked again."""
    crawler = await run(BatchSpider, urls(server.url("busy/a?after=0.4")), {"BATCHER_RETRY_SECONDS": 0})
    first, second = server.control()["times"]["127.0.0.1"]
    assert second - first >= 0.4
    assert crawler.totals.outcomes == {"fetched": 1}


# -- what is told of it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 0.01])
@ensureDeferred
async def test_attempts(server: MockServer, urls, caplog, tmp_path, seconds: float) -> None:
    """Log and failures file say how often a target was tried, whether its retries waited or not."""
    failures = str(tmp_path / "failures.jsonl")
    settings = {"RETRY_TIMES": 2, "BATCHER_RETRY_SECONDS": seconds}
    await run(BatchSpider, urls(server.url("status/500"), server.url("reset")), settings, failures=failures)
    expected = {"failed/http-500": 3, "failed/connection": 3}
    assert {line["outcome"]: line["attempts"] for line in failures_of(failures)} == expected
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("failed/")]
    assert sorted(message.rpartition("(")[2] for message in told) == ["line 1, 3 attempts)", "line 2, 3 attempts)"]


@ensureDeferred
async def test_scrapy_s_stats(server: MockServer, urls) -> None:
    """What Scrapy counts is the same, whether retries wait or are made at once."""

    async def stats_with(seconds: float) -> dict[str, Any]:
        server.control("clear")
        pages = ("flaky/a", "status/500", "reset", "truncated", "page/1", "redirect?to=/page/2", "status/404")
        path = urls(*map(server.url, pages))
        crawler = await run(BatchSpider, path, {"RETRY_TIMES": 1, "BATCHER_RETRY_SECONDS": seconds})
        assert bool(crawler.stats.get_value("batcher/postponed")) == bool(seconds)
        names = ("downloader/", "retry/", "response_received_count", "httperror/", "item_scraped_count")
        return {name: count for name, count in crawler.stats.get_stats().items() if name.startswith(names)}

    expected = await stats_with(0)
    assert expected["downloader/request_count"] == 12
    assert expected["downloader/exception_count"] == 4
    assert await stats_with(0.01) == expected


# -- how often, and of what --------------------------------------------------------------------------------------------


class Meta(BatchSpider):
    """Puts into a request's meta what its URL says behind the ``#``."""

    def make_request(self, target):
        request = super().make_request(target)
        request.meta.update(json.loads(target.url.partition("#")[2] or "{}"))
        return request


@pytest.mark.parametrize(
    ("page", "settings", "expected"),
    [
        ("status/500", {"RETRY_TIMES": 0}, 1),
        ("status/500", {"RETRY_TIMES": 3}, 4),
        ("status/500", {"RETRY_ENABLED": False}, 1),
        ("status/500", {"RETRY_HTTP_CODES": [404]}, 1),
        ("status/404", {"RETRY_HTTP_CODES": [404]}, 2),
        ("status/500#" + json.dumps({"max_retry_times": 3}), {}, 4),
        ("status/500#" + json.dumps({"max_retry_times": 0}), {"RETRY_TIMES": 3}, 1),
        ("status/500#" + json.dumps({"dont_retry": True}), {"RETRY_TIMES": 3}, 1),
        ("reset", {"RETRY_TIMES": 2}, 3),
        ("reset", {"RETRY_TIMES": 2, "RETRY_EXCEPTIONS": ["scrapy.exceptions.ResponseDataLossError"]}, 1),
        ("truncated", {"RETRY_TIMES": 2, "RETRY_EXCEPTIONS": ["scrapy.exceptions.ResponseDataLossError"]}, 3),
    ],
)
@ensureDeferred
async def test_scrapy_s_settings(server: MockServer, urls, tmp_path, page: str, settings, expected: int) -> None:
    """The settings RETRY_… and a request's meta mean what they do to Scrapy."""
    failures = str(tmp_path / "failures.jsonl")
    crawler = await run(Meta, urls(server.url(page)), settings, failures=failures)
    assert list(hits(server).values()) == [expected]
    assert [line["attempts"] for line in failures_of(failures)] == [expected]
    assert crawler.stats.get_value("batcher/postponed", 0) == expected - 1


@ensureDeferred
async def test_a_retry_after_a_redirect(server: MockServer, urls) -> None:
    """A retry begins with the target's own URL, as what was redirected may lead elsewhere by now; it counts once."""
    crawler = await run(BatchSpider, urls(server.url("redirect?to=/flaky/a%3Ftimes=2")), {"RETRY_TIMES": 2})
    assert hits(server) == {"/redirect": 3, "/flaky/a": 3}
    assert crawler.totals.outcomes == {"fetched": 1}


@ensureDeferred
async def test_a_retry_is_no_duplicate(server: MockServer, urls) -> None:
    """With BATCHER_SKIP_DUPLICATES a target that is tried again is not taken for another."""
    path = urls(server.url("flaky/a"), server.url("flaky/a"))
    crawler = await run(BatchSpider, path, {"BATCHER_SKIP_DUPLICATES": True})
    assert crawler.totals.outcomes == {"fetched": 1, "skipped/duplicate": 1}
    assert hits(server) == {"/flaky/a": 2}


@ensureDeferred
async def test_a_retry_that_a_callback_makes(server: MockServer, urls) -> None:
    """A retry that a callback asks for is a further request, through Scrapy's scheduler: it does not wait."""

    class Asks(BatchSpider):
        def parse(self, response):
            if not response.meta.get("retry_times"):
                return get_retry_request(response.request, spider=self, reason="empty")
            return super().parse(response)

    crawler = await run(Asks, urls(server.url("page/1")), HOUR)
    assert hits(server) == {"/page/1": 2}
    assert crawler.totals.outcomes == {"fetched": 1}
    assert crawler.stats.get_value("item_scraped_count") == 1


@ensureDeferred
async def test_what_a_middleware_downloads_meanwhile_is_not_postponed(server: MockServer, urls) -> None:
    """What a middleware downloads to answer a visit's request is no retry of it, though it has a copy of its meta."""

    class FetchesTokens:
        def __init__(self, crawler) -> None:
            self.crawler = crawler

        @classmethod
        def from_crawler(cls, crawler):
            return cls(crawler)

        async def process_request(self, request):
            if "/page/" in request.url:
                number = request.url.rpartition("/")[2]
                token = request.replace(url=server.url(f"flaky/{number}", "127.0.0.2"), callback=None, errback=None)
                assert (await self.crawler.engine.download_async(token)).status == 200

    settings = {
        "DOWNLOADER_MIDDLEWARES": {FetchesTokens: 100},
        "BATCHER_LIMITS": {"host:127.0.0.2": 1},
        "BATCHER_REST": False,
        **HOUR,
    }
    crawler = await run(BatchSpider, urls(*(server.url(f"page/{n}") for n in range(6))), settings)
    assert crawler.totals.outcomes == {"fetched": 6}
    assert hits(server) == {f"/{kind}/{n}": times for n in range(6) for kind, times in (("page", 1), ("flaky", 2))}
    assert server.peak("127.0.0.2") == 1
    assert crawler.stats.get_value("batcher/postponed") is None


# -- over restarts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 0.01])
@ensureDeferred
async def test_restarts(server: MockServer, urls, tmp_path, seconds: float) -> None:
    """Stopped again and again between two attempts, a target is still tried as often as RETRY_TIMES says, no more."""
    path, failures = urls(*(server.url(f"status/500?{n}") for n in range(3))), str(tmp_path / "failures.jsonl")
    settings = {
        "RETRY_TIMES": 3,
        "BATCHER_RETRY_SECONDS": seconds,
        "JOBDIR": str(tmp_path / "job"),
        "CONCURRENT_REQUESTS": 2,
    }
    runs = 0
    while True:
        crawler = watched(BatchSpider, settings)
        stopping(crawler, after=3)
        await finish(crawler, path, failures=failures)
        runs += 1
        if not crawler.totals.pending:
            break
    assert runs > 1
    assert hits(server) == {"/status/500": 3 * 4}
    assert [line["attempts"] for line in failures_of(failures)] == [4, 4, 4]
    assert crawler.totals.outcomes == {"failed/http-500": 3}


@ensureDeferred
async def test_a_retry_that_is_not_due_waits_over_a_restart(server: MockServer, urls, tmp_path) -> None:
    """When a retry is due is in the ledger: the next run fetches what else there is before it."""
    job = tmp_path / "job"
    settings = {"JOBDIR": str(job), "CONCURRENT_REQUESTS": 1, "BATCHER_REST": False, **HOUR}
    crawler = watched(BatchSpider, settings)
    stopping(crawler, after=1)
    pages = [server.url("flaky/a"), *(server.url(f"page/{n}") for n in range(3))]
    await finish(crawler, urls(*pages))
    assert hits(server) == {"/flaky/a": 1}

    crawler = watched(BatchSpider, settings)
    done = Deferred.fromCoroutine(finish(crawler, urls(*pages)))
    await until(lambda: crawler.stats and crawler.stats.get_value("batcher/outcomes/fetched") == 3)
    await deferred_from_coro(crawler.stop_async())
    await done
    assert hits(server)["/flaky/a"] == 1

    change_ledger(job, "UPDATE target SET due = 1 WHERE state = 'waiting'")
    crawler = await run(BatchSpider, urls(*pages), settings)
    assert crawler.totals.outcomes == {"fetched": 4}
    assert hits(server)["/flaky/a"] == 2


# -- the deadline ------------------------------------------------------------------------------------------------------


class Told(BatchSpider):
    """Notes what its errback is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.errors: list[tuple[str, str]] = []

    def on_failure(self, failure):
        self.errors.append((failure.type.__name__, str(failure.value)))
        return super().on_failure(failure)


@ensureDeferred
async def test_a_deadline_ends_the_retries(server: MockServer, urls, tmp_path) -> None:
    """A target that BATCHER_DEADLINE leaves no time for another attempt is failed/deadline, and its errback told so."""
    failures = str(tmp_path / "failures.jsonl")
    settings = {"RETRY_TIMES": 1000, "BATCHER_RETRY_SECONDS": 0.1, "BATCHER_RETRY_MAX": 0.1, "BATCHER_DEADLINE": 0.5}
    crawler = await run(Told, urls(server.url("status/500"), server.url("page/1")), settings, failures=failures)
    assert crawler.totals.outcomes == {"failed/deadline": 1, "fetched": 1}
    assert crawler.spider.errors == [("DeadlineError", "not fetched within 0.5 seconds")]
    [line] = failures_of(failures)
    assert line["attempts"] == hits(server)["/status/500"] < 1000
    assert "not fetched within 0.5 seconds" in line["error"]


@pytest.mark.parametrize("retries", [{"RETRY_TIMES": 3}, {"RETRY_TIMES": 0}])
@ensureDeferred
async def test_a_download_is_cut_at_the_deadline(server: MockServer, urls, retries: dict[str, Any]) -> None:
    """A download that is under way when the deadline passes is cut; what waited behind it has all its time yet."""
    settings = {"BATCHER_DEADLINE": 1, "CONCURRENT_REQUESTS_PER_DOMAIN": 1, **retries}
    path = urls(server.url("page/slow?gate=never"), server.url("page/slow?delay=0.3"))
    crawler = await run(Told, path, settings)
    assert crawler.totals.outcomes == {"failed/deadline": 1, "fetched": 1}
    assert [name for name, _ in crawler.spider.errors] == ["DeadlineError"]
    first, second = server.control()["times"]["127.0.0.1"]
    assert second - first >= 0.9


@pytest.mark.parametrize("seconds", [0, 0.01])
@ensureDeferred
async def test_download_timeout_is_for_each_attempt(server: MockServer, urls, seconds: float) -> None:
    """DOWNLOAD_TIMEOUT begins anew with each attempt, also when there is a deadline."""
    settings = {
        "DOWNLOAD_TIMEOUT": 0.2,
        "BATCHER_DEADLINE": 60,
        "RETRY_TIMES": 2,
        "BATCHER_RETRY_SECONDS": seconds,
        "BATCHER_REST": False,
    }
    crawler = await run(Told, urls(server.url("page/slow?gate=never")), settings)
    assert crawler.totals.outcomes == {"failed/timeout": 1}
    assert [name for name, _ in crawler.spider.errors] == ["DownloadTimeoutError"]
    first, _, third = server.control()["times"]["127.0.0.1"]
    assert third - first >= 0.3


@ensureDeferred
async def test_a_deadline_counts_over_a_restart(server: MockServer, urls, tmp_path) -> None:
    """The deadline counts from the first attempt of all, in whichever run that was."""
    job, path = tmp_path / "job", urls(server.url("status/500"))
    settings = {"JOBDIR": str(job), "RETRY_TIMES": 1000, "BATCHER_DEADLINE": 60}
    crawler = watched(Told, settings)
    stopping(crawler, after=1)
    await finish(crawler, path)
    assert crawler.totals.pending == 1

    change_ledger(job, "UPDATE target SET first = first - 3600")
    crawler = await run(Told, path, settings)
    assert crawler.totals.outcomes == {"failed/deadline": 1}
    assert [name for name, _ in crawler.spider.errors] == ["DeadlineError"]


@ensureDeferred
async def test_a_target_that_is_taken_up_again_has_a_new_deadline(server: MockServer, urls, tmp_path) -> None:
    """With -a retry=failed a target has as many attempts and as much time as it had in the beginning."""
    settings = {"JOBDIR": str(tmp_path / "job"), "RETRY_TIMES": 1, "BATCHER_DEADLINE": 60}
    path = urls(server.url("flaky/a?times=3"))
    assert (await run(BatchSpider, path, settings)).totals.outcomes == {"failed/http-503": 1}
    change_ledger(tmp_path / "job", "UPDATE target SET first = first - 3600")
    assert (await run(BatchSpider, path, settings, retry="failed")).totals.outcomes == {"fetched": 1}
    assert hits(server) == {"/flaky/a": 4}


class Refuses:
    """Fails once with each request, before that reaches the downloader."""

    def process_request(self, request):
        if not request.meta.get("retry_times"):
            raise ConnectionAbortedError("not yet")


@ensureDeferred
async def test_a_request_that_fails_before_it_is_sent_is_retried(server: MockServer, urls) -> None:
    settings = {"DOWNLOADER_MIDDLEWARES": {Refuses: 600}, "RETRY_EXCEPTIONS": ["builtins.ConnectionAbortedError"]}
    crawler = await run(BatchSpider, urls(server.url("page/1")), settings)
    assert crawler.totals.outcomes == {"fetched": 1}
