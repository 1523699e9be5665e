"""The sample project's own commands, run on a copy of it, on a port that is free."""

from __future__ import annotations

import csv
import shutil
import socket
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project, Run

RESOLVER = """
from scrapy.resolver import CachingThreadedResolver
from twisted.internet import defer, error


class LoopbackResolver(CachingThreadedResolver):
    def getHostByName(self, name, timeout=()):
        if name.replace(".", "").isdigit():
            return defer.succeed(name)
        return defer.fail(error.DNSLookupError(f"no such name: {name}"))
"""


class Sample(Project):
    """A copy of the sample project."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        shutil.copytree(
            ROOT / "sample_project", path, ignore=shutil.ignore_patterns("__pycache__", "items.*", "failures.*")
        )
        for name in ("urls.txt", "urls.csv"):
            self.write(name, (path / name).read_text().replace(":8765/", f":{self.port}/"))
        self.write("loopback.py", RESOLVER)  # so that no test asks the network for a name

    def crawl(self, spider: str, *args: str) -> Run:
        settings = {
            "SITE_PORT": self.port,
            "TWISTED_DNS_RESOLVER": "loopback.LoopbackResolver",
            "REMOTE_CONTROL_ENABLED": False,
        }
        return self.scrapy("crawl", spider, *args, settings=settings)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path / "sample_project")


def test_batch_gives_an_item_for_every_page_that_is_there(sample: Sample) -> None:
    """Ordinary, slow, redirected, retried and binary pages all become items, under the URLs of the list."""
    run = sample.crawl("batch", "-a", "urls=urls.txt", "-O", "items.jsonl")
    assert run.status == 0, run.log
    contents = {item["url"]: item["content"] for item in sample.items()}
    pages = ["/pages/1", "/pages/2", "/pages/3", "/pages/4", "/slow", "/old-menu", "/flaky", "/dot.png"]
    assert sorted(contents) == sorted(map(sample.url, pages))
    assert contents[sample.url("/old-menu")] == contents[sample.url("/pages/1")]
    assert "<title>Crème brûlée</title>" in contents[sample.url("/pages/4")]
    assert [item["url"] for item in sample.items() if item["base64"]] == [sample.url("/dot.png")]
    assert "'downloader/response_status_count/301': 1," in run.log
    assert "'retry/reason_count/503 Service Unavailable': 1," in run.log


def test_batch_names_what_it_did_not_fetch_and_its_totals_add_up(sample: Sample) -> None:
    """The 404, the name that does not resolve and the row that is no URL are in the log and in the failures file."""
    run = sample.crawl("batch", "-a", "urls=urls.txt", "-a", "failures=failures.jsonl")
    assert run.status == 0, run.log
    assert "11 read = 8 fetched + 2 failed + 1 skipped + 0 pending" in run.log
    ends = {
        (sample.url("/fish"), "failed/http-404", 1),
        ("http://no-such-host.invalid/", "failed/dns", 3),
        (f"127.0.0.1:{sample.port}/pages/5", "skipped/invalid", 0),
    }
    assert {(line["url"], line["outcome"], line["attempts"]) for line in sample.items("failures.jsonl")} == ends
    for url, outcome, _ in ends:
        assert f"WARNING: {outcome} {url}: " in run.log


def test_titles_carries_the_columns_of_the_list_into_the_items(sample: Sample) -> None:
    """Each title stands beside the columns of the very row it was fetched for."""
    run = sample.crawl("titles", "-a", "urls=urls.csv", "-O", "items.jsonl")
    assert run.status == 0, run.log
    titles = {
        "/pages/2": "Soup",
        "/pages/4": "Crème brûlée",
        "/pages/6": "Pancakes",
        "/pages/8": "Tea",
        "/old-menu": "Menu",
    }
    with (sample.path / "urls.csv").open(newline="") as file:
        rows = {row["url"]: row for row in csv.DictReader(file)}
    assert {item["url"]: item for item in sample.items()} == {
        sample.url(path): {**rows[sample.url(path)], "title": title} for path, title in titles.items()
    }


def test_links_finds_every_page_within_its_own_limit(sample: Sample) -> None:
    """An ordinary spider follows all links, with never more than its two permits in use."""
    run = sample.crawl("links", "-O", "items.jsonl")
    assert run.status == 0, run.log
    assert sorted(item["url"] for item in sample.items()) == [sample.url(f"/pages/{n}") for n in range(1, 9)]
    peak = run.log.partition("'batcher/permits/peak': ")[2].partition(",")[0]
    assert peak in ("1", "2")


def test_a_taken_port_is_said_in_one_sentence(sample: Sample) -> None:
    """When something else uses the site's port, the log names the port and what to do, and nothing is fetched."""
    with socket.create_server(("127.0.0.1", sample.port)):
        run = sample.crawl("batch", "-a", "urls=urls.txt", "-O", "items.jsonl")
    assert f"ERROR: The local site cannot use port {sample.port} (Address already in use): stop what uses it" in run.log
    assert "'finish_reason': 'no_local_site'" in run.log
    assert "Traceback" not in run.log
    assert sample.items() == []
