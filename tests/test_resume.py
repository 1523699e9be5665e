"""A job goes on where it was: the same command again, as often as it takes, until every target has its one outcome.

The same with processes that are killed is in tests/test_killed.py.
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
import marshal
import os
import pickle
import re
import shutil
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import scrapy
from pytest_twisted import ensureDeferred
from scrapy.exceptions import CloseSpider, DropItem
from scrapy.settings import Settings
from twisted.internet.defer import Deferred

from scrapy_batcher import BatchSpider, StartError, Totals
from scrapy_batcher.batch.failures import FailuresFile
from scrapy_batcher.jobs.database import LedgerError
from scrapy_batcher.jobs.lanes import Lanes
from scrapy_batcher.jobs.ledger import FeedState, Ledger
from scrapy_batcher.outputs.feeds import FileFeedStorage, JsonLinesItemExporter, named_feeds
from scrapy_batcher.outputs.output import Feed, Output
from tests.crawling import run, until
from tests.jobs import Stops, Work
from tests.mockserver import MockServer

# -- stopped and gone on with -----------------------------------------------------------------------------------------


@ensureDeferred
async def test_stopped_again_and_again(server: MockServer, work: Work, caplog) -> None:
    """Each run goes on where the one before stopped; in the end every target has one outcome, in one place."""
    pages = [server.url(f"page/{n}") for n in range(25)]
    bad = [server.url(f"status/404?{n}") for n in range(5)]
    work.write("nonsense", *(url for n in range(5) for url in (bad[n], *pages[n * 5 : n * 5 + 5])))
    runs = 0
    while True:
        runs += 1
        with caplog.at_level(logging.INFO):
            caplog.clear()
            crawler = await work.run(Stops, pages=6)
        states = Counter(crawler.totals.outcomes) + Counter(pending=crawler.totals.pending)
        assert work.states() == states, "the ledger says the same to whoever asks"
        if not crawler.totals.pending:
            break
    assert 3 <= runs <= 6
    assert sorted(work.items()) == sorted(pages)
    assert work.failures() == Counter(
        {**{(url, "failed/http-404"): 1 for url in bad}, ("nonsense", "skipped/invalid"): 1}
    )
    assert crawler.totals.outcomes == {"fetched": 25, "failed/http-404": 5, "skipped/invalid": 1}
    assert crawler.totals.fetched_before >= 12
    assert crawler.stats.get_value("batcher/outcomes/fetched") == 25
    assert server.control()["hits"] == {**{f"/page/{n}": 1 for n in range(25)}, "/status/404": 5}
    [going_on] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Going on")]
    done, fetched, to_come = map(int, re.findall(r"\d+", going_on.replace(" of 31 targets", "")))
    assert fetched == crawler.totals.fetched_before
    assert fetched < done == 31 - to_come < 31


@ensureDeferred
async def test_nothing_left_to_do(server: MockServer, work: Work) -> None:
    """A job that is through stays so: nothing is fetched, and nothing is written."""
    work.write(*(server.url(f"page/{n}") for n in range(3)), server.url("status/404"))
    await work.run()
    feed = (work.folder / "items.jsonl").read_bytes()
    hits = server.control()["hits"]
    crawler = await work.run()
    assert (work.folder / "items.jsonl").read_bytes() == feed
    assert crawler.totals.outcomes == {"fetched": 3, "failed/http-404": 1}
    assert server.control()["hits"] == hits


@pytest.mark.parametrize("name", ["urls.txt", "urls.csv", "urls.jsonl", "urls.txt.gz"])
@ensureDeferred
async def test_a_list_that_grew(server: MockServer, work: Work, name: str) -> None:
    """Rows that were added at the list's end are taken up, and keep counting where the list was."""
    work.list = work.folder / name

    def lines(numbers: range) -> bytes:
        urls = [server.url(f"page/{n}") for n in numbers]
        if name == "urls.csv":
            return "".join(f'{url},"a\n{n}"\n' for n, url in zip(numbers, urls, strict=True)).encode()
        if name == "urls.jsonl":
            return "".join(json.dumps({"url": url}) + "\n" for url in urls).encode()
        text = "".join(f"{url}\n" for url in urls).encode()
        return gzip.compress(text) if name.endswith(".gz") else text

    work.list.write_bytes((b"url,n\n" if name == "urls.csv" else b"") + lines(range(3)))
    await work.run()
    for numbers in (range(3, 4), range(4, 10)):
        with work.list.open("ab") as file:
            file.write(lines(numbers))
        crawler = await work.run()
        assert work.items() == [server.url(f"page/{n}") for n in range(numbers.stop)] or sorted(work.items()) == sorted(
            server.url(f"page/{n}") for n in range(numbers.stop)
        )
        assert crawler.totals.read == numbers.stop


@pytest.mark.parametrize(("more", "fetched"), [("\n{}\n", 2), ("\r\n{}", 2), ("", 1), ("\n", 1)])
@ensureDeferred
async def test_a_last_line_without_an_end(server: MockServer, work: Work, more: str, fetched: int) -> None:
    """A last line that nothing ended may get its end, and lines behind it."""
    work.list.write_text(server.url("page/1"))
    await work.run()
    with work.list.open("a") as file:
        file.write(more.format(server.url("page/2?gate=x") if not fetched else server.url("status/404")))
    crawler = await work.run()
    assert crawler.totals.read == fetched
    if fetched == 2:
        assert [json.loads(line)["line"] for line in (work.folder / "failures.jsonl").read_text().splitlines()] == [2]


@ensureDeferred
async def test_retry(server: MockServer, work: Work, caplog) -> None:
    """`retry` takes up what failed, when the list is through; the new outcome replaces the old one everywhere."""
    flaky = [server.url(f"flaky/{n}?times={n + 1}") for n in range(4)]
    missing = server.url("status/404")
    work.write(*flaky, missing, server.url("page/1"), "nonsense")
    settings = work.settings(RETRY_ENABLED=False)
    assert (await work.run(settings=settings)).totals.outcomes == {
        "fetched": 1,
        "failed/http-404": 1,
        "failed/http-503": 4,
        "skipped/invalid": 1,
    }
    crawler = await work.run(settings=settings, retry="failed/http-503, failed/dns")
    assert crawler.totals.outcomes == {
        "fetched": 2,
        "failed/http-404": 1,
        "failed/http-503": 3,
        "skipped/invalid": 1,
    }
    assert work.failures() == Counter(
        {**{(url, "failed/http-503"): 1 for url in flaky[1:]}, (missing, "failed/http-404"): 1}
        | {("nonsense", "skipped/invalid"): 1}
    )
    await work.run(settings=settings, retry="failed/tls")
    assert "No target ended as failed/tls: there is nothing to try again" in caplog.text
    caplog.set_level(logging.INFO)
    crawler = await work.run(settings=settings, retry="failed")
    assert "Trying again what ended as failed: 4" in caplog.text
    assert (
        crawler.totals.outcomes["failed/http-503"] == crawler.stats.get_value("batcher/outcomes/failed/http-503") == 2
    )
    assert Counter(work.items()) == Counter([*flaky[:2], server.url("page/1")])
    assert server.control()["hits"]["/status/404"] == 2
    lines = [json.loads(line) for line in (work.folder / "failures.jsonl").read_text().splitlines()]
    assert {line["outcome"]: line["attempts"] for line in lines} == {
        "failed/http-404": 2,
        "failed/http-503": 3,
        "skipped/invalid": 0,
    }, "attempts are those of all runs"


@ensureDeferred
async def test_retry_in_the_same_run(server: MockServer, work: Work) -> None:
    """Without a job directory, too, what failed is tried once more, when all the rest is through."""
    work.write(server.url("flaky/a?times=1"), *(server.url(f"page/{n}") for n in range(5)))
    crawler = await work.run(settings=work.settings(RETRY_ENABLED=False, JOBDIR=None), retry="failed")
    assert crawler.totals.outcomes == {"fetched": 6}
    assert work.failures() == {}
    assert work.items()[-1] == server.url("flaky/a?times=1")


@ensureDeferred
async def test_retry_after_a_stop(server: MockServer, work: Work) -> None:
    """A retry that is stopped goes on as any run, and loses nothing."""
    work.write(*(server.url(f"flaky/{n}?times=1") for n in range(10)))
    settings = work.settings(RETRY_ENABLED=False, RETRY_TIMES=0)
    await work.run(settings=settings)
    crawler = await work.run(Stops, settings=settings, retry="failed", pages=3)
    assert crawler.totals.fetched + crawler.totals.failed + crawler.totals.pending == 10
    assert (await work.run(settings=settings, retry="failed")).totals.outcomes == {"fetched": 10}
    assert len(work.items()) == len(set(work.items())) == 10
    assert work.failures() == {}


@ensureDeferred
async def test_a_failures_file_for_an_old_job(server: MockServer, work: Work) -> None:
    """A failures file that is asked for later has everything that failed before."""
    work.write(server.url("status/404"), server.url("page/1"))
    await work.run(failures=None)
    await work.run()
    assert work.failures() == {(server.url("status/404"), "failed/http-404"): 1}


@ensureDeferred
async def test_duplicates_are_those_of_all_runs(server: MockServer, work: Work) -> None:
    """A target that was under way when the job stopped is no duplicate of itself."""
    pages = [server.url(f"page/{n}") for n in range(6)]
    work.write(*pages, *pages)
    settings = work.settings(BATCHER_SKIP_DUPLICATES=True)
    while True:
        crawler = await work.run(Stops, settings=settings, pages=2)
        if not crawler.totals.pending:
            break
        ledger = sqlite3.connect(work.folder / "job" / "ledger.sqlite")
        # As if what was settled last had been under way.
        ledger.execute(
            "UPDATE target SET state = 'pending' WHERE id = (SELECT max(id) FROM target WHERE state = 'fetched')"
        )
        ledger.execute("UPDATE lane SET pending = pending + 1")
        ledger.commit()
        ledger.close()
    assert crawler.totals.outcomes == {"fetched": 6, "skipped/duplicate": 6}


@ensureDeferred
async def test_a_ledger_that_is_older_than_the_feeds(server: MockServer, work: Work, monkeypatch) -> None:
    """A power failure can leave all of a feed, and of the ledger only what was entered when the feed was opened."""
    pages = [server.url(f"page/{n}") for n in range(20)]
    work.write(*pages)
    await work.run(Stops, pages=5)
    opened = Output.open

    def noting(output, path, **kwargs):
        feed = opened(output, path, **kwargs)
        shutil.copytree(work.folder / "job", work.folder / "disk")
        return feed

    with monkeypatch.context() as patch:
        patch.setattr(Output, "open", noting)
        await work.run(Stops, pages=8)
    assert len(work.items()) > 12
    shutil.rmtree(work.folder / "job")
    (work.folder / "disk").rename(work.folder / "job")
    assert (await work.run()).totals.outcomes == {"fetched": 20}
    assert Counter(work.items()) == Counter(pages)


# -- feeds -------------------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file))


@ensureDeferred
async def test_several_feeds_one_header(server: MockServer, work: Work) -> None:
    """JSON lines and CSV, one beside the other, have every item once after each stop, and the CSV has one header."""
    work.list = work.folder / "urls.csv"
    pages = [server.url(f"page/{n}") for n in range(12)]
    work.list.write_text("url,id,name\n" + "".join(f'{url},{n},"é ""{n}""\n"\n' for n, url in enumerate(pages)))
    feeds = {
        "items.jsonl": {"format": "jsonl"},
        "items.csv": {"format": "csv"},
        "some.csv": {"format": "csv", "fields": {"id": "ID", "url": "Address"}, "encoding": "utf-8-sig"},
        "bare.csv": {"format": "csv", "fields": ["url"], "item_export_kwargs": {"include_headers_line": False}},
        "items.pickle": {"format": "pickle"},
        "items.marshal": {"format": "marshal"},
    }
    while (await work.run(Stops, settings=work.settings(feeds), pages=5)).totals.pending:
        pass
    assert sorted(work.items()) == sorted(pages)
    header, *table = rows(work.folder / "items.csv")
    assert header == ["url", "length", "content", "base64", "id", "name"]
    assert sorted((row[0], row[-1]) for row in table) == sorted((url, f'é "{n}"\n') for n, url in enumerate(pages))
    header, *table = rows(work.folder / "some.csv")
    assert header == ["ID", "Address"]
    assert sorted(map(tuple, table)) == sorted((str(n), url) for n, url in enumerate(pages))
    assert (work.folder / "some.csv").read_bytes().count(b"\xef\xbb\xbf") == 1
    assert sorted(rows(work.folder / "bare.csv")) == sorted([url] for url in pages)
    for name, load in (("items.pickle", pickle.load), ("items.marshal", marshal.load)):
        with (work.folder / name).open("rb") as file:
            assert sorted(load(file)["url"] for _ in pages) == sorted(pages)
            assert not file.read()


@ensureDeferred
async def test_columns_that_come_later(server: MockServer, work: Work, caplog) -> None:
    """Rows stay under the header that is there; a field without a column is told of."""
    work.write(server.url("page/1"), server.url("page/2"))
    feeds = {"items.csv": {"format": "csv"}}
    await work.run(Stops, settings=work.settings(feeds, CONCURRENT_REQUESTS=1), pages=1)
    caplog.set_level(logging.WARNING)
    await work.run(settings=work.settings(feeds, BATCHER_FIELDS="url,length,content,base64,status"))
    assert [row[:2] for row in rows(work.folder / "items.csv")] == [
        ["url", "length"],
        [server.url("page/1"), "65"],
        [server.url("page/2"), "65"],
    ]
    assert "A CSV feed has no column 'status', and cannot be given one any more: it is left out" in caplog.text
    wrong = "has the columns url, length, content, base64, not length, url: name those, or another feed"
    options = {"items.csv": {"format": "csv", "fields": ["length", "url"]}}
    assert wrong in await work.refused(work.settings(options))
    assert wrong in await work.refused(work.settings(feeds, FEED_EXPORT_FIELDS=["length", "url"]))


@ensureDeferred
async def test_titles_are_no_fields(server: MockServer, work: Work) -> None:
    """A header of titles that an earlier run has chosen stays that of its fields; another choice ends the batch."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    titles = {"items-%(name)s.csv": {"format": "csv", "fields": {"url": "Address", "length": "Size"}}}
    await work.run(Stops, settings=work.settings(titles), pages=2)
    bare = {"items-%(name)s.csv": {"format": "csv"}}
    await work.run(Stops, settings=work.settings(bare), pages=1)
    crawler = await work.run(settings=work.settings(bare, FEED_EXPORT_FIELDS=["length"]))
    assert "items-batch.csv has the columns Address, Size, not length: name those" in crawler.totals.error
    await work.run(settings=work.settings(bare))
    header, *table = rows(work.folder / "items-batch.csv")
    assert header == ["Address", "Size"]
    assert sorted(map(tuple, table)) == [(server.url(f"page/{n}"), "65") for n in range(6)]


@ensureDeferred
async def test_the_byte_order_mark(server: MockServer, work: Work) -> None:
    """A byte order mark is at the beginning and nowhere else, whichever page is through first."""
    work.write(*(server.url(f"page/{n}?delay={0.05 * (n == 0)}") for n in range(4)))
    bare = {"fields": ["url"], "item_export_kwargs": {"include_headers_line": False}}
    feeds = {f"{code}.csv": {"format": "csv", "encoding": code, **bare} for code in ("utf-8-sig", "utf-16")}
    await work.run(Stops, settings=work.settings(feeds), pages=2)
    await work.run(settings=work.settings(feeds))
    for code in ("utf-8-sig", "utf-16"):
        text = (work.folder / f"{code}.csv").read_bytes().decode(code)
        assert len(text.split()) == 4
        assert "\ufeff" not in text


@ensureDeferred
async def test_moved_with_its_feeds(server: MockServer, work: Work) -> None:
    """A job that is moved together with its feeds knows them there."""
    old, new = work.folder / "old", work.folder / "new"
    old.mkdir()
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    await work.run(Stops, settings={**work.settings({"old/items.csv": {"format": "csv"}}), "JOBDIR": str(old / "job")})
    Work(old).reopen_feeds()
    whole = (old / "items.csv").read_bytes()
    (old / "items.csv").write_bytes(whole + b"torn")
    old.rename(new)
    again = {**work.settings({"new/items.csv": {"format": "csv"}}), "JOBDIR": str(new / "job")}
    await work.run(settings=again)
    assert (new / "items.csv").read_bytes().startswith(whole)
    assert Counter(row[0] for row in rows(new / "items.csv")[1:]) == Counter(server.url(f"page/{n}") for n in range(6))
    for feed in ("new/items.csv", "new/%(name)s.csv"):
        anew = {str(work.folder / feed): {"format": "csv", "overwrite": True}}
        sentence = await work.refused({**again, "FEEDS": anew})
        assert "would be begun anew (-O, or overwrite in FEEDS), and 6 targets of this job are done" in sentence


@ensureDeferred
async def test_begun_anew_until_something_is_done(server: MockServer, work: Work) -> None:
    """The same command with -O goes on while no target is done, as after a crash at the very start."""
    work.write(server.url("page/1"))
    settings = work.settings({"items.jsonl": {"format": "jsonl", "overwrite": True}})
    with pytest.MonkeyPatch.context() as patch:
        once(patch, Ledger, "settle", 1)
        assert (await work.run(settings=settings)).totals.outcomes == {}
    await work.run(settings=settings)
    assert len(work.items()) == 1


@ensureDeferred
async def test_what_was_in_the_feed_before(server: MockServer, work: Work) -> None:
    """A feed that is there already is gone on with, or with -O begun anew, once."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    (work.folder / "items.jsonl").write_text('{"url": "old"}\n')
    await work.run(Stops, pages=2)
    await work.run()
    assert work.items()[0] == "old"
    assert len(work.items()) == 7
    other = work.settings({"items.jsonl": {"format": "jsonl", "overwrite": True}}, JOBDIR=str(work.folder / "job2"))
    await work.run(Stops, settings=other, pages=2)
    assert "old" not in work.items()
    assert (
        "would be begun anew (-O, or overwrite in FEEDS), and 2 targets of this job are done and not fetched again"
        in (await work.refused(other)).replace(" 3 ", " 2 ")
    )
    await work.run(settings={**other, "FEEDS": work.settings()["FEEDS"]})
    assert len(set(work.items())) == len(work.items()) == 6


@ensureDeferred
async def test_lines_that_others_added(server: MockServer, work: Work) -> None:
    """After a job was stopped in order its feed is whole, and what others add there stays."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    await work.run(Stops, pages=2)
    with (work.folder / "items.jsonl").open("a") as file:
        file.write('{"url": "theirs"}\n')
    await work.run()
    assert Counter(work.items()) == Counter(["theirs", *(server.url(f"page/{n}") for n in range(6))])


@ensureDeferred
async def test_lines_that_others_added_after_a_feed_was_cut_back(server: MockServer, work: Work) -> None:
    """What a killed run has left is cut off once; what comes later there is not this job's."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    await work.run(Stops, pages=3)
    feed = work.folder / "items.jsonl"
    whole = feed.read_bytes()
    work.reopen_feeds()
    feed.write_bytes(whole + b'{"torn": ')
    kept = work.folder / "job" / ".._items.jsonl.cut"
    other = work.settings({"other.jsonl": {"format": "jsonl"}})
    await work.run(Stops, settings=other, pages=1)
    assert feed.read_bytes() == whole
    assert kept.read_bytes() == b'{"torn": ', "it could be somebody else's"
    feed.write_bytes(whole + b'{"url": "theirs"}\n')
    await work.run(settings=other)
    assert feed.read_bytes() == whole + b'{"url": "theirs"}\n'


@ensureDeferred
async def test_a_feed_that_was_moved_away(server: MockServer, work: Work, caplog) -> None:
    """After a job was stopped in order, its feed may be taken away: the rest goes into a new one, with its header."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    settings = work.settings({"items.csv": {"format": "csv"}})
    await work.run(Stops, settings=settings, pages=2)
    (work.folder / "items.csv").rename(work.folder / "first.csv")
    await work.run(settings=settings)
    assert "items.csv is gone, and with it what this job has written there" in caplog.text
    first, second = rows(work.folder / "first.csv"), rows(work.folder / "items.csv")
    assert first[0] == second[0]
    assert len({row[0] for row in first[1:] + second[1:]}) == len(first) + len(second) - 2 == 6


@ensureDeferred
async def test_items_that_are_no_lines(server: MockServer, work: Work) -> None:
    """Dropped items, pages with several items, pages without one, broken pipelines and callbacks: settled as such."""

    class Own(BatchSpider):
        def parse(self, response):
            what = response.url.rsplit("/", 1)[1]
            if what == "none":
                return
            yield {"page": what}
            if what == "two":
                yield {"page": "two"}
            if what == "raises":
                raise RuntimeError("no good")

    class Pipeline:
        def process_item(self, item):
            if item["page"] == "dropped":
                raise DropItem("not wanted")
            if item["page"] == "broken":
                raise OSError("the database is gone")
            return item

    work.write(*(server.url(f"page/{what}") for what in ("one", "two", "none", "dropped", "broken", "raises")))
    crawler = await work.run(Own, settings=work.settings(ITEM_PIPELINES={Pipeline: 1}))
    outcomes = {"fetched": 3, "failed/callback": 1, "failed/pipeline": 1, "skipped/dropped": 1}
    assert crawler.totals.outcomes == outcomes
    lines = Counter(json.loads(line)["page"] for line in (work.folder / "items.jsonl").read_text().splitlines())
    assert lines == {"one": 1, "two": 2, "raises": 1}
    assert (await work.run(Own, settings=work.settings(ITEM_PIPELINES={Pipeline: 1}))).totals.outcomes == outcomes


@ensureDeferred
async def test_an_item_that_no_exporter_can_write(server: MockServer, work: Work) -> None:
    """An item that is in none of the feeds, or only in some, is not fetched: its target failed, and leaves no line."""

    class Own(BatchSpider):
        def parse(self, response):
            yield {"url": response.url, "what": object() if response.url.endswith("1") else 1}

    work.write(*(server.url(f"page/{n}") for n in range(3)))
    settings = work.settings({"items.jsonl": {"format": "jsonl"}, "items.csv": {"format": "csv"}})
    crawler = await work.run(Own, settings=settings)
    assert crawler.totals.outcomes == {"fetched": 2, "failed/feed": 1}
    assert len(work.items()) == 2
    assert len(rows(work.folder / "items.csv")) == 3


@pytest.mark.parametrize("row_format", ["jsonl", "pickle", "marshal", "csv"])
@ensureDeferred
async def test_filtered_feeds(server: MockServer, work: Work, row_format: str) -> None:
    """A feed that takes some items only has those; one that it cannot write has failed, whatever others wrote."""

    class Unwritable:
        def __str__(self):
            raise RuntimeError("no text")

        def __reduce__(self):
            raise RuntimeError("no pickle")

    class Own(BatchSpider):
        def parse(self, response):
            # Large, so that an exporter that writes in pieces has written some before it fails.
            yield {"url": response.url, "x": "y" * 100_000, "what": Unwritable() if response.url.endswith("1") else 1}

    work.write(*(server.url(f"page/{n}") for n in range(3)))
    feeds = {
        "all.csv": {"format": "csv", "fields": ["url"], "item_classes": [dict]},
        f"items.{row_format}": {"format": row_format, "item_classes": [dict]},
        "none.jsonl": {"format": "jsonl", "item_classes": [str]},
    }
    crawler = await work.run(Own, settings=work.settings(feeds))
    assert crawler.totals.outcomes == {"fetched": 2, "failed/feed": 1}
    assert len(rows(work.folder / "all.csv")) == 3
    with (work.folder / f"items.{row_format}").open("rb") as file:
        if row_format in ("pickle", "marshal"):
            load = pickle.load if row_format == "pickle" else marshal.load
            assert {load(file)["url"], load(file)["url"]} == {server.url("page/0"), server.url("page/2")}
            assert not file.read()
        else:
            assert sum(b"page/" in line for line in file) == 2
    assert (work.folder / "none.jsonl").read_bytes() == b""


@ensureDeferred
async def test_further_requests_that_wait(server: MockServer, work: Work) -> None:
    """Further requests that wait when a job is stopped in order are kept by Scrapy, copies of the first included."""

    class Follows(BatchSpider):
        def parse(self, response):
            yield {"url": response.url}
            yield response.request.replace(
                url=response.url.replace("page/", "page/next-"), callback=self.parse_next, priority=-1
            )
            if response.meta["batcher_target"].id == 8 and self.stops:
                raise CloseSpider("enough")

        def parse_next(self, response):
            yield {"url": response.url}

    work.write(*(server.url(f"page/{n}") for n in range(12)))
    Follows.stops = True
    crawler = await work.run(Follows)
    assert crawler.totals.pending
    assert crawler.stats.get_value("scheduler/enqueued/disk") >= 8
    assert crawler.stats.get_value("scheduler/unserializable") is None
    Follows.stops = False
    assert (await work.run(Follows)).totals.outcomes == {"fetched": 12}
    assert Counter(work.items()) == Counter(server.url(f"page/{kind}{n}") for n in range(12) for kind in ("", "next-"))


@ensureDeferred
async def test_one_response_for_two_requests(server: MockServer, work: Work) -> None:
    """A middleware that answers two requests with one response object gives each target its outcome and its line."""

    class Shares:
        response = None

        async def process_request(self, request):
            Shares.response = Shares.response or scrapy.http.HtmlResponse(request.url, body=b"<p>")
            return Shares.response

    class Waits(BatchSpider):
        async def parse(self, response):
            await scrapy.utils.asyncio.sleep(0.02)
            yield {"url": response.meta["batcher_target"].url}

    work.write(*(server.url(f"page/{n}") for n in range(9)))
    for width in (1, 4):
        Shares.response = None
        settings = work.settings(
            {f"items-{width}.jsonl": {"format": "jsonl"}},
            CONCURRENT_REQUESTS=width,
            DOWNLOADER_MIDDLEWARES={Shares: 1},
            JOBDIR=str(work.folder / f"job-{width}"),
        )
        assert (await work.run(Waits, settings=settings)).totals.outcomes == {"fetched": 9}
        urls = Counter(work.items(f"items-{width}.jsonl"))
        assert urls == Counter(server.url(f"page/{n}") for n in range(9))


@ensureDeferred
async def test_further_requests_after_a_kill(server: MockServer, work: Work, caplog) -> None:
    """What a kill has left of Scrapy's queue is put away; the items and further requests of later pages are there."""

    class Follows(BatchSpider):
        stops = True

        def parse(self, response):
            next_url = response.url.replace("page/", "page/next-")
            yield scrapy.Request(next_url, callback=self.parse_next, dont_filter=True)
            yield {"url": response.url}
            if self.stops:
                raise CloseSpider("while the next page waits")

        def parse_next(self, response):
            yield {"url": response.url}

    work.write(server.url("page/0"))
    await work.run(Follows)
    Follows.stops = False
    kept = [path for path in (work.folder / "job" / "requests.queue").glob("*/*") if path.is_file()]
    assert kept, "where Scrapy keeps them"
    for path in kept:
        path.write_bytes(b"")
    ledger = sqlite3.connect(work.folder / "job" / "ledger.sqlite")
    ledger.execute("UPDATE list SET running = 1")  # as after a kill
    ledger.commit()
    ledger.close()
    work.write(*(server.url(f"page/{n}") for n in range(1, 12)), append=True)
    assert (await work.run(Follows)).totals.outcomes == {"fetched": 12}
    pages = [server.url(f"page/{kind}{n}") for n in range(12) for kind in ("", "next-")]
    pages.remove(server.url("page/next-0"))  # of which the kill has left nothing
    assert Counter(work.items()) == Counter(pages)
    assert "Task exception" not in caplog.text
    assert (work.folder / "job" / "requests.queue.old-1").exists()
    await work.run(Follows)
    assert not (work.folder / "job" / "requests.queue.old-2").exists(), "it was closed in order"


@ensureDeferred
async def test_further_requests(server: MockServer, work: Work) -> None:
    """Items of requests that callbacks yield are in the feed too."""

    class Follows(BatchSpider):
        def parse(self, response):
            yield {"url": response.url}
            yield response.follow(f"/page/next-{response.url[-1]}", callback=self.parse_next, dont_filter=True)

        def parse_next(self, response):
            yield {"url": response.url}

    work.write(*(server.url(f"page/{n}") for n in range(5)))
    crawler = await work.run(Follows)
    assert crawler.totals.outcomes == {"fetched": 5}
    assert len(set(work.items())) == len(work.items()) == 10
    await work.run(Follows)
    assert len(work.items()) == 10


class Elsewhere(FileFeedStorage.__mro__[1]):
    """A storage that is somewhere else."""


@pytest.mark.parametrize(
    ("feed", "options", "why"),
    [
        ("items.json", {"format": "json"}, "after a stop nothing can be added to what JsonItemExporter has written"),
        ("items.xml", {"format": "xml"}, "after a stop nothing can be added to what XmlItemExporter has written"),
        ("items.what", {}, "its format 'what' is unknown"),
        (
            "items-%(batch_id)d.jsonl",
            {"format": "jsonl", "batch_item_count": 10},
            "with batch_item_count its files are",
        ),
        (
            "items.jsonl.gz",
            {"format": "jsonl", "postprocessing": ["scrapy.extensions.postprocessing.GzipPlugin"]},
            "what postprocessing makes of it cannot be cut back",
        ),
        ("s3://user:secret@bucket/items.jsonl", {"format": "jsonl"}, "S3FeedStorage stores it when all is done"),
        ("else://here/items.jsonl", {"format": "jsonl"}, "Elsewhere stores it when all is done"),
    ],
)
@ensureDeferred
async def test_feeds_that_cannot_be_gone_on_with(work: Work, feed: str, options: dict, why: str) -> None:
    """A feed of which a job could not keep its promise is refused, with the reason and what to do."""
    work.write("http://127.0.0.1:1/")
    uri = feed if "://" in feed else str(work.folder / feed)
    settings = {**work.settings(), "FEEDS": {uri: options}, "FEED_STORAGES": {"else": Elsewhere}}
    sentence = await work.refused(settings)
    assert sentence.startswith(f"the feed {uri.replace('secret', '***')} cannot be used with JOBDIR: {why}")


@ensureDeferred
async def test_feeds_that_are_no_files_of_their_own(work: Work) -> None:
    """What is no file, and one file that is named twice, are refused."""
    work.write("http://127.0.0.1:1/")
    jsonl = {"format": "jsonl"}
    settings = {**work.settings(), "FEEDS": {"/dev/null": jsonl}}
    assert await work.refused(settings) == "the feed /dev/null cannot be used with JOBDIR: it is not a file"
    path = work.folder / "items.jsonl"
    settings["FEEDS"] = {str(path): jsonl, f"file://{path}": jsonl}
    assert await work.refused(settings) == f"{path} is named twice as a feed: leave one out"
    assert [feed.options for feed in named_feeds(Settings({"FEED_URI": "a.json", "FEED_FORMAT": "json"}))] == [
        {"format": "json"}
    ]


@ensureDeferred
async def test_feeds_without_a_job_are_scrapys(server: MockServer, work: Work) -> None:
    """Without a job directory, and for other spiders with one, feeds are as Scrapy has them."""
    work.write(server.url("page/1"))
    feeds = {"items.json": {"format": "json"}, "items.csv": {"format": "csv"}, "x/%(name)s.jsonl": {"format": "jsonl"}}
    await work.run(settings=work.settings(feeds, JOBDIR=None))
    await work.run(settings=work.settings({"items.csv": {"format": "csv"}}, JOBDIR=None))
    assert len(json.loads((work.folder / "items.json").read_text())) == 1
    assert work.items("x/batch.jsonl") == [server.url("page/1")]
    assert [row[0] for row in rows(work.folder / "items.csv")] == ["url", server.url("page/1")] * 2


@ensureDeferred
async def test_other_feeds_than_before(server: MockServer, work: Work, caplog) -> None:
    """A feed that will have only a part of the job is told of: one that is new, and one that is not named any more."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    await work.run(Stops, settings=work.settings(CONCURRENT_REQUESTS=1), pages=2)
    assert "new to this job" not in caplog.text
    await work.run(settings=work.settings({"new.jsonl": {"format": "jsonl"}}))
    assert "new.jsonl is new to this job: it will not have the 2 pages before" in caplog.text
    assert "items.jsonl, which this job has written, is not named: it will not have the rest" in caplog.text
    assert len(work.items()) + len(work.items("new.jsonl")) == 6


@ensureDeferred
async def test_names_with_a_time(server: MockServer, work: Work) -> None:
    """A feed that has another name in every run has what that run fetched."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    for number in (1, 2):

        class Own(Stops):
            part = number

        settings = work.settings({"items-%(part)s.jsonl": {"format": "jsonl"}})
        await work.run(Own, settings=settings, pages=3 if number == 1 else 99)
    assert sorted(work.items("items-1.jsonl") + work.items("items-2.jsonl")) == sorted(
        server.url(f"page/{n}") for n in range(6)
    )


# -- what cannot be written down ---------------------------------------------------------------------------------------


def once(monkeypatch: pytest.MonkeyPatch, where: type, what: str, call: int) -> None:
    """Have a method fail at one of its calls, as on a disk that is full for a moment."""
    original = getattr(where, what)
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise LedgerError("no room") if where is Ledger else OSError(28, "No space left on device", "there")
        return original(*args, **kwargs)

    monkeypatch.setattr(where, what, failing)


@pytest.mark.parametrize(
    ("where", "what", "call"),
    [
        (Ledger, "settle", 1),
        (Ledger, "settle", 3),
        (Ledger, "load", 1),
        (Ledger, "enter_feed", 1),
        (Ledger, "enter_feed", 2),
        (Lanes, "targets", 2),
        (FailuresFile, "write", 1),
        (FailuresFile, "flush", 2),
        (FailuresFile, "clear", 1),
        (Feed, "append", 5),
        (Feed, "sync", 2),
        (Feed, "__init__", 1),
    ],
)
@ensureDeferred
async def test_no_room_for_a_moment(server: MockServer, work: Work, monkeypatch, where, what, call) -> None:
    """Whatever cannot be written, once: the batch ends as incomplete, with the reason, and the next run mends it."""

    class TellsOfFailures(BatchSpider):
        def on_failure(self, failure):
            yield {"url": failure.request.url}

    pages = [server.url(f"page/{n}") for n in range(30)]
    missing = [server.url(f"status/404?{n}") for n in range(5)]
    work.write(*missing, *pages)
    settings = work.settings(BATCHER_CHECKPOINT_TARGETS=8, BATCHER_CHECKPOINT_SECONDS=3600)
    with monkeypatch.context() as patch:
        once(patch, where, what, call)
        crawler = await work.run(TellsOfFailures, settings=settings)
    if (what, call) != ("enter_feed", 2):  # which is after the batch, when Scrapy closes the feed, and logs it
        assert "no room" in crawler.totals.error or "No space left" in crawler.totals.error
        assert crawler.stats.get_value("finish_reason") == "incomplete"
    assert (await work.run(TellsOfFailures, settings=settings)).totals.outcomes == {"fetched": 30, "failed/http-404": 5}
    assert Counter(work.items()) == Counter([*pages, *missing])
    assert work.failures() == {(url, "failed/http-404"): 1 for url in missing}


@ensureDeferred
async def test_an_exporter_that_cannot_be_made(server: MockServer, work: Work) -> None:
    """A feed whose exporter cannot be made ends the batch at its first item, and costs no target its outcome."""
    work.write(*(server.url(f"page/{n}") for n in range(30)))
    options = {"format": "jsonl", "item_export_kwargs": {"bogus": 1}}
    crawler = await work.run(settings=work.settings({"items.jsonl": options}))
    assert "items.jsonl has no exporter that works: the log says why" in crawler.totals.error
    assert crawler.totals.outcomes == {}
    assert (await work.run()).totals.outcomes == {"fetched": 30}
    assert len(work.items()) == 30


@ensureDeferred
async def test_entered_by_time(server: MockServer, work: Work) -> None:
    """What is settled is entered after a while, however little it is, though the rest takes its time."""
    work.write(*(server.url(f"page/{n}") for n in range(5)), server.url("page/slow?gate=t"))
    settings = work.settings(BATCHER_CHECKPOINT_TARGETS=10_000, BATCHER_CHECKPOINT_SECONDS=0.05)
    done = Deferred.fromCoroutine(work.run(settings=settings))
    await until(lambda: (work.folder / "job" / "ledger.sqlite").exists() and work.states()["fetched"] == 5)
    assert len(work.items()) == 5
    server.control("open?gate=t")
    await done


# -- closed ------------------------------------------------------------------------------------------------------------


@ensureDeferred
async def test_no_room_for_a_further_request(server: MockServer, work: Work, monkeypatch) -> None:
    """When Scrapy cannot keep a further request the batch ends as incomplete, and its target is visited again."""

    class Follows(BatchSpider):
        def parse(self, response):
            for n in range(5):
                yield response.follow(f"{response.url}/next-{n}", callback=self.parse_next, dont_filter=True)
            yield {"url": response.url}

        def parse_next(self, response):
            yield {"url": response.url}

    pages = [server.url(f"page/{n}") for n in range(6)]
    work.write(*pages)
    with monkeypatch.context() as patch:
        once(patch, scrapy.core.scheduler.Scheduler, "enqueue_request", 7)
        crawler = await work.run(Follows)
    assert "No space left on device" in crawler.totals.error
    assert crawler.stats.get_value("finish_reason") == "incomplete"
    assert (await work.run(Follows)).totals.outcomes == {"fetched": 6}
    assert Counter(url for url in work.items() if "next" not in url) == Counter(pages)


@pytest.mark.parametrize(
    "closes", [{"CLOSESPIDER_ITEMCOUNT": 3}, {"CLOSESPIDER_PAGECOUNT": 3}, {"CLOSESPIDER_ERRORCOUNT": 1}]
)
@ensureDeferred
async def test_closed_by_a_setting(server: MockServer, work: Work, closes: dict[str, int]) -> None:
    """A batch that CLOSESPIDER_* has closed goes on without it; ids are those of the list in every run."""

    class Own(BatchSpider):
        def parse(self, response):
            target = response.meta["batcher_target"]
            yield {"url": response.url, "id": target.id}
            if target.id == 4:
                raise RuntimeError("counts as an error")

    pages = [server.url(f"page/{n}") for n in range(40)]
    work.write(*pages)
    crawler = await work.run(Own, settings=work.settings(**closes))
    assert crawler.stats.get_value("finish_reason") == next(iter(closes)).lower()
    assert 0 < crawler.totals.pending < 40
    assert (await work.run(Own)).totals.outcomes == {"fetched": 39, "failed/callback": 1}
    lines = [json.loads(line) for line in (work.folder / "items.jsonl").read_text().splitlines()]
    assert Counter((line["url"], line["id"]) for line in lines) == Counter((url, n) for n, url in enumerate(pages, 1))


# -- refused -----------------------------------------------------------------------------------------------------------


@ensureDeferred
async def test_another_list(server: MockServer, work: Work) -> None:
    """A list that is not the one the job was begun with is refused, and nothing is changed."""
    pages = [server.url(f"page/{n}") for n in range(4)]
    work.write(*pages)
    await work.run()
    hint = ": give the list that this job was begun with, or another JOBDIR"
    first = len("".join(f"{url}\n" for url in pages))
    work.write(*pages[::-1], name="other.txt")
    assert (
        await work.refused() == f"{work.list} has other text in its first 4 lines than when they were read before{hint}"
    )
    work.write(*pages[:3], name="shorter.txt")
    assert (
        await work.refused() == f"{work.list} ends after {first // 4 * 3} bytes, where {first} were read before{hint}"
    )
    work.list.write_text("\n".join([*pages[:3], pages[3] + "0"]) + "\n")
    assert "has other text" in await work.refused()
    work.write(*pages, name="the-same.txt")
    assert (await work.run()).totals.outcomes == {"fetched": 4}, "a copy is the same list"
    work.write(*pages, "http://127.0.0.1:1/", name="the-same.txt")
    assert (await work.run()).totals.read == 5


@ensureDeferred
async def test_a_last_line_that_goes_on(server: MockServer, work: Work) -> None:
    """A last line that was cut short when it was read is not the same line when it is whole."""
    work.list.write_text(f"{server.url('page/1')}\n{server.url('page/2')}")
    await work.run()
    work.list.write_text(f"{server.url('page/1')}\n{server.url('page/22')}\n")
    assert "has more on line 2 than when it was read before, as its last line" in await work.refused()


@ensureDeferred
async def test_another_way_to_read_it(server: MockServer, work: Work) -> None:
    """Another spider, format or column than the job was begun with is refused."""
    work.list = work.folder / "urls.csv"
    work.list.write_text(f"url,link\n{server.url('page/1')},{server.url('page/2')}\n")
    await work.run()
    assert "the url_field of the job in" in await work.refused(url_field="link")
    assert "is 'url', not 'link': give that, or another JOBDIR" in await work.refused(url_field="link")
    assert "the list's format of the job in" in await work.refused(format="txt")
    assert "the spider of the job in" in await work.refused(name="other")


@ensureDeferred
async def test_in_use(server: MockServer, work: Work) -> None:
    """A job that somebody works on is refused to others, and free when that is over."""
    work.write(server.url("page/1"))

    class Asks(BatchSpider):
        async def parse(self, response):
            self.sentence = None
            try:
                await run(BatchSpider, str(work.list), work.settings())
            except StartError as e:
                self.sentence = str(e)

    crawler = await work.run(Asks)
    assert f"JOBDIR {work.folder / 'job'} is in use: another process works on this job" in crawler.spider.sentence
    assert (await work.run()).totals.outcomes == {"fetched": 1}


@ensureDeferred
async def test_a_job_directory_that_cannot_be_used(work: Work) -> None:
    """A job directory that cannot be made, and one with something else in the ledger's place, are named."""
    work.write("http://127.0.0.1:1/")
    (work.folder / "file").write_text("x")
    sentence = await work.refused(work.settings(JOBDIR=str(work.folder / "file" / "job")))
    assert sentence == f"JOBDIR {work.folder / 'file' / 'job'} cannot be used: Not a directory"
    job = work.folder / "job"
    job.mkdir()
    (job / "ledger.sqlite").write_text("my own notes" * 100)
    assert f"the ledger {job / 'ledger.sqlite'} cannot be used: file is not a database; it was" in await work.refused()
    (job / "ledger.sqlite").unlink()
    (job / "ledger.sqlite").mkdir()
    assert f"the ledger {job / 'ledger.sqlite'} cannot be used: unable to open" in await work.refused()


@ensureDeferred
async def test_a_job_directory_of_another_spider(server: MockServer, work: Work) -> None:
    """A job directory in which another spider has left requests is not a batch's."""
    work.write(server.url("page/1"))
    (work.folder / "job" / "requests.queue").mkdir(parents=True)
    assert (
        await work.refused()
        == f"JOBDIR {work.folder / 'job'} has a job without a ledger, another spider's perhaps: name another"
    )


@ensureDeferred
async def test_a_queue_of_scrapys_that_is_broken(server: MockServer, work: Work, caplog) -> None:
    """A state of Scrapy's queue that a full disk has cut short is put aside, and the job goes on."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    await work.run(Stops, pages=2)
    state = work.folder / "job" / "requests.queue" / "active.json"
    assert state.exists(), "where Scrapy keeps it"
    state.write_bytes(b"")
    (work.folder / "job" / "spider.state").write_bytes(b"")
    caplog.set_level(logging.INFO)
    assert (await work.run()).totals.outcomes == {"fetched": 6}
    old = work.folder / "job" / "requests.queue.old-1"
    assert f"Scrapy cannot go on with what it had kept, which is in {old} now" in caplog.text
    assert (old / "active.json").exists()


@ensureDeferred
async def test_failures_files_that_are_none(server: MockServer, work: Work) -> None:
    """A file with something else in it is not overwritten with failures."""
    work.write(server.url("status/404"))
    for text in ("my notes\n", '{"url": "http://h/"}\n', "[]\n", "\0"):
        (work.folder / "notes").write_text(text)
        sentence = await work.refused(failures=str(work.folder / "notes"))
        assert sentence.startswith(f"{work.folder / 'notes'} has something else than failures in it, which would be ")
    for half in ("", '{"ur', '{"url": "http://h/", "ro'):
        (work.folder / "failures.jsonl").write_text(half)
        await work.run()
        assert sum(work.failures().values()) == 1


@ensureDeferred
async def test_a_feed_below_a_file(work: Work) -> None:
    """A feed whose folder cannot be is refused."""
    work.write("http://127.0.0.1:1/")
    sentence = await work.refused(work.settings({"urls.txt/items.jsonl": {"format": "jsonl"}}))
    assert sentence.endswith("urls.txt is not a directory")


@pytest.mark.parametrize(
    "retry", ["fetched", "failed/", "dns", "failed/dns,timeout", "skipped/invalid", "failed/dns,skipped"]
)
@ensureDeferred
async def test_a_retry_of_no_outcome(work: Work, retry: str) -> None:
    """A retry of something that is no outcome is refused."""
    work.write("http://127.0.0.1:1/")
    assert f"retry: {retry.split(',')[-1]!r} is no outcome to try again: name failed" in await work.refused(retry=retry)


@ensureDeferred
async def test_a_feed_that_lost_something(server: MockServer, work: Work) -> None:
    """A feed that has not all that the job had settled is refused, killed or not."""
    work.write(*(server.url(f"page/{n}") for n in range(6)))
    await work.run(Stops, pages=3)
    feed = work.folder / "items.jsonl"
    whole = feed.read_bytes()
    feed.write_bytes(whole[:-1])
    assert f"{feed} has {len(whole) - 1} bytes, where this job has written {len(whole)} bytes" in await work.refused()
    work.reopen_feeds()
    assert f"{feed} has {len(whole) - 1} bytes, where this job has written {len(whole)} bytes: bring it back" in (
        await work.refused()
    )
    feed.unlink()
    assert f"{feed} is gone, where this job has written {len(whole)} bytes: bring it back" in await work.refused()
    other = work.settings({"other.jsonl": {"format": "jsonl"}})
    assert f"{feed} is gone" in await work.refused(other), "its torn tail is somewhere, and would be there for ever"
    feed.write_bytes(whole + b"torn")
    assert (await work.run(settings=other)).totals.fetched == 6
    assert feed.read_bytes() == whole


# -- stdin -------------------------------------------------------------------------------------------------------------


def ipc_stream(urls: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"url": urls})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that puts its argument on stdin."""
    files = []

    def put(data: bytes) -> str:
        (tmp_path / "piped").write_bytes(data)
        files.append((tmp_path / "piped").open())
        monkeypatch.setattr(sys, "stdin", files[-1])
        return "-"

    yield put
    for file in files:
        file.close()


@pytest.mark.parametrize("form", ["txt", "csv", "csv.gz", "sitemap", "arrow"])
@ensureDeferred
async def test_stdin_is_kept(server: MockServer, work: Work, stdin, caplog, form: str) -> None:
    """A list on stdin is resumed from what was kept of it: given once more, or a longer one, or nothing."""

    def lines(count: int) -> bytes:
        urls = [server.url(f"page/{n}") for n in range(count)]
        if form == "sitemap":
            return f"<urlset>{''.join(f'<url><loc>{url}</loc></url>' for url in urls)}</urlset>".encode()
        if form == "arrow":
            return ipc_stream(urls)
        data = (b"url\n" if "csv" in form else b"") + "".join(f"{url}\n" for url in urls).encode()
        return gzip.compress(data, mtime=0) if form.endswith("gz") else data

    await work.run(Stops, urls=stdin(lines(20)), format=form, pages=3)
    await work.run(Stops, urls=stdin(b""), format=form, pages=3)
    await work.run(Stops, urls=stdin(lines(20)), format=form, pages=3)
    crawler = await work.run(urls=stdin(b""), format=form)
    assert crawler.totals.outcomes == {"fetched": 20}
    assert "nothing on stdin" not in caplog.text
    if form == "txt":
        await work.run(urls=stdin(lines(25)), format=form)
    assert len(set(work.items())) == len(work.items()) == (25 if form == "txt" else 20)


@ensureDeferred
async def test_stdin_that_breaks_off_in_a_line(server: MockServer, work: Work, stdin, monkeypatch, caplog) -> None:
    """Half a line, in which an earlier run was ended, is no row until the rest of it is there."""
    lines = "".join(f"{server.url(f'page/{n}')}\n" for n in range(6)).encode()
    (work.folder / "job").mkdir()
    (work.folder / "job" / "stdin").write_bytes(lines[:-8])  # as a killed run leaves it
    (work.folder / "piped").write_bytes(b"")
    crawler = await work.run(urls=stdin(b""))
    assert crawler.totals.outcomes == {"fetched": 5}
    assert "nothing on stdin, and an earlier run did not read it to its end" in caplog.text
    assert (await work.run(urls=stdin(lines))).totals.outcomes == {"fetched": 6}
    assert sorted(work.items()) == sorted(lines.decode().split())


@ensureDeferred
async def test_a_column_that_is_corrected(server: MockServer, work: Work, stdin) -> None:
    """A job whose list could not be read at all is not bound to how it was to be read."""
    data = f"link\n{server.url('page/1')}\n".encode()
    crawler = await work.run(urls=stdin(data), format="csv")
    assert "stdin has no column 'url': its columns are 'link'" in crawler.totals.error
    assert (await work.run(urls=stdin(data), format="csv", url_field="link")).totals.outcomes == {"fetched": 1}


@pytest.mark.parametrize("other", ["other text", "shorter"])
@ensureDeferred
async def test_another_list_on_stdin(server: MockServer, work: Work, stdin, other: str) -> None:
    """Another list on stdin ends the batch as incomplete, before anything of it is taken."""
    lines = "".join(f"{server.url(f'page/{n}')}\n" for n in range(20)).encode()
    await work.run(Stops, urls=stdin(lines), pages=3)
    crawler = await work.run(urls=stdin(lines.replace(b"page", b"ring") if other == "other text" else lines[:100]))
    assert crawler.stats.get_value("finish_reason") == "incomplete"
    assert "stdin has other text" in crawler.totals.error or "stdin ends after 100 bytes" in crawler.totals.error
    assert crawler.totals.read == 20
    assert all("page" in path for path in server.control()["hits"])
    assert (await work.run(urls=stdin(lines))).totals.outcomes == {"fetched": 20}


@ensureDeferred
async def test_stdin_that_was_not_read_to_its_end(server: MockServer, work: Work, stdin, monkeypatch, caplog) -> None:
    """When a list on stdin was not read to its end, and is not given again, a warning says that there is more."""
    read_end, write_end = os.pipe()
    with open(read_end) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        os.write(write_end, "".join(f"{server.url(f'page/{n}')}\n" for n in range(5)).encode())
        await work.run(Stops, urls="-", pages=2)
        os.close(write_end)
    crawler = await work.run(urls=stdin(b""))
    assert crawler.totals.outcomes == {"fetched": 5}
    assert "nothing on stdin, and an earlier run did not read it to its end" in caplog.text


# -- the parts that are not documented, or stand alone -----------------------------------------------------------------


def test_scrapys_exporters_are_what_they_were(tmp_path: Path) -> None:
    """What a job needs of exporters: JSON lines are written whole, at once, each with its end."""
    output = Output(tmp_path, {}, lambda path, state: None, stdout=False)
    feed = output.open(tmp_path / "feed", overwrite=False)
    exporter = JsonLinesItemExporter(feed, encoding="utf-8")
    exporter.start_exporting()
    exporter.export_item({"a": 1})
    assert output.take() == ([(feed, b'{"a": 1}\n')], True)
    exporter.finish_exporting()
    assert feed.take() == (b"", True)
    assert feed.state == FeedState(0)
    feed.close()


@ensureDeferred
async def test_lines_belong_to_their_item(server: MockServer, work: Work) -> None:
    """Whatever the order of the extensions, what the feed exporter wrote last when we hear of an item is that item."""

    class Late(BatchSpider):
        """Its items overlap, and its jobs end in another order than their items are exported."""

        async def parse(self, response):
            yield {"url": response.url}
            number = int(response.url.rsplit("/", 1)[1])
            await scrapy.utils.asyncio.sleep(0.02 * (number % 3))
            if number % 4 == 0:
                raise CloseSpider("enough")

    work.write(*(server.url(f"page/{n}") for n in range(40)))
    settings = work.settings(
        CONCURRENT_REQUESTS=8,
        EXTENSIONS={
            "scrapy.extensions.feedexport.FeedExporter": 900,
            "scrapy_batcher.CooperatorExtension": 10,
        },
    )
    totals: Totals | None = None
    while totals is None or totals.pending:
        totals = (await work.run(Late, settings=settings)).totals
    assert Counter(work.items()) == Counter(server.url(f"page/{n}") for n in range(40))
