"""What the columns of a row may say of its request, and only when they are let."""

from __future__ import annotations

import json

import pytest
from pytest_twisted import ensureDeferred

from scrapy_batcher import BatchSpider
from scrapy_batcher.config import Config
from scrapy_batcher.lists.overrides import OVERRIDES, overrides_of
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.values import ConfigError
from tests.crawling import make_crawler, run
from tests.jobs import Work
from tests.mockserver import MockServer


def target(**columns) -> Target:
    return Target(1, 1, "http://h/", columns)


@pytest.mark.parametrize(
    ("columns", "arguments"),
    [
        ({}, {}),
        ({"method": "", "headers": None, "body": "", "priority": None, "other": "POST"}, {}),
        ({"method": "post"}, {"method": "POST"}),
        ({"headers": '{"accept": "x", "N": 1}'}, {"headers": {"Accept": ["x"], "N": ["1"]}}),
        ({"headers": {"X-A": ["1", "2"], "x-a": "3"}}, {"headers": {"X-A": ["3"]}}),
        ({"headers": {"A": None, "B": "x"}}, {"headers": {"B": ["x"]}}),
        ({"headers": [["A", "x"], ["B", None]]}, {"headers": {"A": ["x"]}}),
        ({"body": "a=1"}, {"body": "a=1"}),
        ({"body": {"\u00e9": [1]}}, {"body": '{"\u00e9": [1]}', "headers": {"Content-Type": ["application/json"]}}),
        (
            {"body": [], "headers": {"content-type": "text/x"}},
            {"body": "[]", "headers": {"Content-Type": ["text/x"]}},
        ),
        ({"priority": " -7"}, {"priority": -7}),
        ({"priority": 7}, {"priority": 7}),
    ],
)
def test_what_columns_say(columns, arguments):
    """Each column becomes an argument of the request; what is empty says nothing, nor does any other column."""
    assert overrides_of(target(**columns), OVERRIDES) == arguments


def test_only_what_may():
    """A column that is not named stays data."""
    assert overrides_of(target(method="POST", body="x"), ("body",)) == {"body": "x"}


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"method": "GET /"}, "no method"),
        ({"method": 1}, "no method"),
        ({"method": "connect"}, "no method"),
        ({"headers": "Accept: x"}, "no JSON"),
        ({"headers": "[1]"}, "no object"),
        ({"headers": [["A", "x", "y"]]}, "no object"),
        ({"headers": [["A\r\nB", "x"]]}, "a name that is none"),
        ({"headers": {"A b": "x"}}, "a name that is none"),
        ({"headers": {"A": "secret\r\nB: x"}}, "a value for A that is no text of one line"),
        ({"headers": {"A": {"b": "secret"}}}, "a value for A"),
        ({"headers": {"A": True}}, "a value for A"),
        (
            {"headers": {"content-length": 0}, "body": "GET /other HTTP/1.1"},
            "Content-Length, which is for the download",
        ),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "Transfer-Encoding, which is for the download"),
        ({"body": 5}, "neither text nor an object or a list but int"),
        ({"priority": "high"}, "no whole number"),
        ({"priority": 1.5}, "no whole number"),
        ({"priority": True}, "no whole number"),
        ({"priority": "9" * 5000}, "no whole number"),
    ],
)
def test_what_cannot_be_used(columns, why):
    """A value that cannot be used is refused with its column's name, and is not quoted."""
    with pytest.raises(ValueError, match=f"^its column '{next(iter(columns))}' .*{why}") as error:
        overrides_of(target(**columns), OVERRIDES)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        (None, ()),
        (False, ()),
        ("0", ()),
        ("", ()),
        (True, OVERRIDES),
        ("True", OVERRIDES),
        ("body, method", ("body", "method")),
        (["headers"], ("headers",)),
    ],
)
def test_the_setting(value, chosen):
    """Nothing, everything, or some by name; from a command line too."""
    settings = make_crawler(BatchSpider, BATCHER_OVERRIDES=value).settings
    assert Config.from_settings(settings).overrides == chosen


def test_a_setting_that_is_none():
    """A name that is none is refused with those that are."""
    settings = make_crawler(BatchSpider, BATCHER_OVERRIDES=["url"]).settings
    with pytest.raises(ConfigError, match=r"BATCHER_OVERRIDES has 'url'; choose from method, headers, body, priority"):
        Config.from_settings(settings)


ROW = {"method": "POST", "headers": {"X-Key": "secret"}, "body": {"q": 1}, "priority": 3, "name": "n"}


@ensureDeferred
async def test_a_request_as_its_row_has_it(server: MockServer, work: Work, caplog) -> None:
    """A row makes the request that it describes; its item has the other columns; one that cannot be used is invalid."""
    rows = [{"url": server.url("echo"), **ROW}, {"url": server.url("echo"), "headers": "secret"}]
    work.write(*map(json.dumps, rows), name="list.jsonl")
    crawler = await work.run(settings=work.settings(BATCHER_OVERRIDES=True))
    assert crawler.totals.outcomes == {"fetched": 1, "skipped/invalid": 1}
    [item] = [json.loads(line) for line in (work.folder / "items.jsonl").read_text().splitlines()]
    assert json.loads(item["content"]) == {
        "method": "POST",
        "key": "secret",
        "type": "application/json",
        "body": '{"q": 1}',
    }
    assert item.keys() == {"url", "length", "content", "base64", "name"}
    assert "its column 'headers' is no JSON" in caplog.text
    assert "secret" not in caplog.text


@ensureDeferred
async def test_off_by_default(server: MockServer, work: Work) -> None:
    """Unless they are let, such columns are data like any other."""
    work.write(json.dumps({"url": server.url("echo"), **ROW}), name="list.jsonl")
    crawler = await work.run()
    assert crawler.totals.outcomes == {"fetched": 1}
    [item] = [json.loads(line) for line in (work.folder / "items.jsonl").read_text().splitlines()]
    assert json.loads(item["content"])["method"] == "GET"
    assert {name: item[name] for name in ROW} == ROW


@ensureDeferred
async def test_what_a_failures_file_gives_back(server: MockServer, work: Work) -> None:
    """A row that failed makes the same request when its failures file is the list."""
    work.write(json.dumps({"url": server.url("missing"), **ROW}), name="list.jsonl")
    await work.run(settings=work.settings(BATCHER_OVERRIDES=True))
    failures = work.folder / "failures.jsonl"
    failures.write_text(failures.read_text().replace("/missing", "/echo"))
    settings = {"BATCHER_OVERRIDES": "method", "FEEDS": {str(work.folder / "more.jsonl"): {"format": "jsonl"}}}
    crawler = await run(BatchSpider, str(failures), settings)
    assert crawler.totals.outcomes == {"fetched": 1}
    [item] = [json.loads(line) for line in (work.folder / "more.jsonl").read_text().splitlines()]
    assert json.loads(item["content"])["method"] == "POST"
    assert item["priority"] == 3, "a column that is not named is data"


def test_credentials_in_the_url_give_way(urls) -> None:
    """A header that a column has replaces that of the URL's user and password."""
    spider = BatchSpider.from_crawler(make_crawler(BatchSpider, BATCHER_OVERRIDES=True), urls=urls("http://h/"))
    spider.source.close()
    row = Target(1, 1, "http://u:p@h/", {"headers": {"authorization": "Bearer x"}})
    request = spider.make_request(row)
    assert request.headers.getlist("Authorization") == [b"Bearer x"]
    assert request.url == "http://h/"
