"""What a user types, as a user types it: `scrapy crawl` in a process of its own."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.mockserver import MockServer

# TWISTED_REACTOR= is Twisted's default reactor; TWISTED_REACTOR_ENABLED=False is no reactor, asyncio alone.
# libcurl downloads on asyncio, unless it is not wanted.
REACTORS = {
    "asyncio": {},
    "asyncio without libcurl": {"BATCHER_CURL": False},
    "epoll": {"TWISTED_REACTOR": ""},
    "none": {"TWISTED_REACTOR_ENABLED": False},
}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait until *condition* holds, while *process* runs."""
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail("it never came to that")
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.fixture(params=REACTORS.values(), ids=REACTORS)
def reactor(request: pytest.FixtureRequest) -> dict[str, object]:
    return request.param


def test_a_list_on_every_reactor(project: Project, server: MockServer, reactor: dict) -> None:
    """The batch spider, the limits and the totals are the same on every reactor, and without one."""
    urls = [server.url(f"page/{n}?delay=0.01") for n in range(20)] + [server.url("status/404"), "nonsense"]
    project.write("urls.txt", "\n".join(urls))
    settings = {**reactor, "CONCURRENT_REQUESTS_PER_DOMAIN": 2, "JOBDIR": "job"}
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", "-O", "items.jsonl", settings=settings)
    assert run.status == 0, run.log
    assert sorted(item["url"] for item in project.items()) == sorted(urls[:20])
    assert "Batch finished" in run.log
    assert "22 read = 20 fetched + 1 failed + 1 skipped + 0 pending" in run.log
    assert run.stats["finish_reason"] == "finished"
    assert server.peak() <= 2


def test_gzipped_csv_on_stdin(project: Project, server: MockServer) -> None:
    """`cat list.csv.gz | scrapy crawl batch -a urls=- -a format=csv.gz -O items.csv` reads stdin and writes CSV."""
    rows = "id,url\r\n" + "".join(f"{n},{server.url(f'page/{n}')}\r\n" for n in range(5))
    run = project.scrapy(
        "crawl", "batch", "-a", "urls=-", "-a", "format=csv.gz", "-O", "items.csv", stdin=gzip.compress(rows.encode())
    )
    assert run.status == 0, run.log
    header, *lines = (project.path / "items.csv").read_text().splitlines()
    assert header == "url,length,content,base64,id"
    assert len(lines) == 5


def test_stdin_is_read_as_it_comes(project: Project, server: MockServer) -> None:
    """A page is fetched as soon as its row is there, while the pipe is still open."""
    process = project.popen("crawl", "batch", "-a", "urls=-", "-O", "items.jsonl", stdin=-1)
    process.stdin.write(f"{server.url('page/first')}\n".encode())
    process.stdin.flush()
    wait_until(lambda: "/page/first" in server.control()["hits"], process)
    process.stdin.write(f"{server.url('page/second')}\n".encode())
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert len(project.items()) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is no list of URLs: pass -a urls=FILE, or -a urls=- for stdin"),
        (["urls=nowhere.txt"], "nowhere.txt cannot be read: No such file or directory"),
        (["urls=."], ". cannot be read: Is a directory"),
        (["urls=list.pdf"], "the list list.pdf has an unknown format 'pdf'"),
        (["urls=list.csv", "format=xlsx"], "the list list.csv has an unknown format 'xlsx'"),
        (["urls=list.csv"], "list.csv has no column 'url': its columns are 'link', 'id'"),
        (["urls=list.csv", "format=csv.gz"], "list.csv cannot be read: Not a gzipped file"),
        (
            ["urls=list.csv", "shard=9/8"],
            "shard: '9/8' is none: pass -a shard=2/8 for the second of eight, from 1/8 to",
        ),
        (["urls=list.csv", "url_field=link", "failures=list.csv"], "the failures file list.csv is the list itself"),
        (
            ["urls=list.csv", "url_field=link", "failures=no/f"],
            "the failures file no/f cannot be written: No such file",
        ),
    ],
)
def test_a_batch_that_cannot_start(project: Project, arguments: list[str], sentence: str) -> None:
    """The command ends at once with a non-zero status and one clear sentence, no traceback."""
    project.write("list.csv", "link,id\nhttp://127.0.0.1/,1\n")
    project.write("list.pdf", "%PDF")
    run = project.scrapy(
        "crawl", "batch", *(part for a in arguments for part in ("-a", a)), settings={"LOG_LEVEL": "WARNING"}
    )
    assert run.status == 1
    assert sentence in run.log
    assert len(run.log.splitlines()) == 1, run.log


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"BATCHER_FAILURE": "x"}, "there is no setting BATCHER_FAILURE; did you mean BATCHER_FAILURES?"),
        ({"BATCHER_FIELDS": "status,size"}, "BATCHER_FIELDS has 'size'"),
        ({"CONCURRENT_REQUESTS_PER_DOMAIN": 0}, "CONCURRENT_REQUESTS_PER_DOMAIN must be at least 1, not '0'"),
    ],
)
def test_a_setting_that_cannot_be_used(project: Project, setting: dict, sentence: str) -> None:
    """A wrong setting ends the batch at once, with its name and value."""
    project.write("urls.txt", "http://127.0.0.1/\n")
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", settings={"LOG_LEVEL": "ERROR", **setting})
    assert run.status == 1
    assert sentence in run.log
    assert len(run.log.splitlines()) == 1, run.log


def test_a_batch_that_cannot_start_on_another_reactor(project: Project) -> None:
    """On a reactor other than asyncio's the sentence and the status are the same; Twisted adds a report of its own."""
    run = project.scrapy("crawl", "batch", settings={"TWISTED_REACTOR": "", "LOG_LEVEL": "ERROR"})
    assert run.status == 1
    assert "[scrapy_batcher.errors] ERROR: there is no list of URLs: pass -a urls=FILE" in run.log


def test_a_list_that_breaks_off(project: Project, server: MockServer) -> None:
    """A list that breaks off is worked through as far as it was read, and the log says where it broke off."""
    lines = "".join(f"{server.url(f'page/{n}')}\n" for n in range(3000))
    project.write("urls.txt.gz", gzip.compress(lines.encode())[:-3000])
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt.gz", "-O", "items.jsonl")
    assert "urls.txt.gz broke off after line" in run.log
    assert run.stats["finish_reason"] == "incomplete"
    assert len(project.items()) == run.stats["batcher/rows"] > 0


def test_a_password_is_never_shown(project: Project, server: MockServer) -> None:
    """A password in a URL reaches the server, but no log (at DEBUG, too), no failures file and no stat."""
    host = f"127.0.0.1:{server.port}"
    project.write(
        "urls.txt",
        f"http://user:hunter2@{host}/page/1\nhttp://user:hunter2@{host}/status/404\nhttp://user:hunter2@{host}/truncated\n"
        f"http://user:hunter2@{host}/redirect?to=/page/2\nhttp://user:hunter2@127.0.0.1:1/\nhttp://user:hun/ter2@{host}/\n"
        "http://user:hunter2@nowhere.invalid/\nftp://user:hunter2@host/\nhttp://user:hunter2@:x/\nhttp://u:hunter2@[::/\n"
        f"user:hunter2@{host}/x\n//user:hunter2@h/x\nhttp:/user:hunter2@h/\nhttp:user:hunter2@h/\n",
    )
    run = project.scrapy(
        "crawl",
        "batch",
        "-a",
        "urls=urls.txt",
        "-a",
        "failures=failures.jsonl",
        "-O",
        "items.jsonl",
        settings={"LOG_LEVEL": "DEBUG", "BATCHER_FIELDS": "final_url,status,headers"},
    )
    assert run.status == 0
    assert run.stats["batcher/rows"] == 14
    assert run.stats["batcher/outcomes/fetched"] == 2
    # "user:hunter2" in base64, as basic authentication has it
    assert server.control("look?path=/page/1")["headers"]["Authorization"] == "Basic dXNlcjpodW50ZXIy"
    for text in (run.log, (project.path / "failures.jsonl").read_text()):
        assert "hunter2" not in text
        assert "hun/ter2" not in text
    assert {item["final_url"] for item in project.items()} == {server.url("page/1"), server.url("page/2")}


def test_a_failures_file_on_stdin_s_own_file(project: Project) -> None:
    """A failures file that is the list on stdin is refused, and the list is left as it is."""
    path = project.write("list.txt", "http://127.0.0.1:1/\n")
    with path.open("rb") as stdin:
        process = project.popen("crawl", "batch", "-a", "urls=-", "-a", "failures=list.txt", stdin=stdin)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"the failures file list.txt is the list itself" in log
    assert path.read_text() == "http://127.0.0.1:1/\n"


def test_the_failures_file_is_a_list(project: Project, server: MockServer) -> None:
    """The failures file has a line for each target that was not fetched, and is itself the list of the next run."""
    project.write(
        "list.csv",
        f"link,id,outcome\n{server.url('page/1')},1,a\n{server.url('flaky/x?times=1')},2,b\nbad,3,c\n"
        f"{server.url('status/404')},4,d\n",
    )
    first = project.scrapy(
        "crawl",
        "batch",
        "-a",
        "urls=list.csv",
        "-a",
        "url_field=link",
        settings={"RETRY_ENABLED": False, "BATCHER_FAILURES": "failures.jsonl"},
    )
    assert first.status == 0
    failures = {row["line"]: row for row in project.items("failures.jsonl")}
    assert {line: row["outcome"] for line, row in failures.items()} == {
        3: "failed/http-503",
        4: "skipped/invalid",
        5: "failed/http-404",
    }
    assert failures[3] == {
        "url": server.url("flaky/x?times=1"),
        "row": {"id": "2", "outcome": "b"},
        "line": 3,
        "outcome": "failed/http-503",
        "status": 503,
        "error": "503 Service Unavailable",
        "attempts": 1,
    }
    again = project.scrapy(
        "crawl", "batch", "-a", "urls=failures.jsonl", "-a", "failures=failures2.jsonl", "-O", "items.jsonl"
    )
    assert again.status == 0
    assert [(item["url"], item["id"], item["outcome"]) for item in project.items()] == [
        (server.url("flaky/x?times=1"), "2", "b")
    ]
    assert [row["outcome"] for row in project.items("failures2.jsonl")] == ["skipped/invalid", "failed/http-404"]


@pytest.fixture
def interrupted(project: Project, server: MockServer, reactor: dict):
    """A batch that was interrupted once, with four downloads in flight and many pending."""
    urls = [server.url(f"page/{n}?gate=c") for n in range(2000)]
    project.write("urls.txt", "\n".join(urls))
    settings = {**reactor, "CONCURRENT_REQUESTS": 4}
    process = project.popen("crawl", "batch", "-a", "urls=urls.txt", "-O", "items.jsonl", settings=settings)
    wait_until(lambda: server.control()["in_flight"].get("*") == 4, process)
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(line.decode() for line in process.stderr))
    reader.start()
    process.send_signal(signal.SIGINT)
    wait_until(lambda: any("shutting down gracefully" in line for line in log), process)
    yield process, log, reader
    process.stdout.close()
    reader.join()
    process.stderr.close()


def test_interrupted_once(project: Project, server: MockServer, interrupted) -> None:
    """After Ctrl-C nothing more is claimed, what is in flight is finished and settled, and the spider closes."""
    process, log, reader = interrupted
    server.control("open?gate=c")
    assert process.wait(60) == 0
    reader.join()
    text = "".join(log)
    assert "2,000" not in text
    assert len(project.items()) == 4
    assert server.control()["hits"].keys() == {f"/page/{n}" for n in range(4)}
    assert " = 4 fetched + 0 failed + 0 skipped + " in text
    assert "Spider closed (shutdown)" in text
    assert "Traceback" not in text


def test_interrupted_twice(interrupted) -> None:
    """After a second Ctrl-C the process ends at once, whatever is in flight."""
    process, log, reader = interrupted
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    reader.join()
    assert any("twice, forcing unclean shutdown" in line for line in log)
    assert not any("Spider closed" in line for line in log)


def test_interrupted_while_stdin_is_silent(project: Project, server: MockServer) -> None:
    """Ctrl-C ends a batch that waits for a row on stdin."""
    read_end, write_end = os.pipe()
    process = project.popen("crawl", "batch", "-a", "urls=-", stdin=read_end)
    os.write(write_end, f"{server.url('page/1')}\n".encode())
    wait_until(lambda: "/page/1" in server.control()["hits"], process)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    os.close(read_end)
    os.close(write_end)
    assert process.returncode == 0
    assert b"Spider closed (shutdown)" in log
    assert b"Traceback" not in log
    assert b"Fatal" not in log


def test_the_middleware_by_hand(project: Project, server: MockServer) -> None:
    """Only the middleware, put in by hand, holds the limit for an ordinary spider."""
    project.write(
        "project_settings.py",
        (project.path / "project_settings.py").read_text()
        + ("ADDONS = {}\nDOWNLOADER_MIDDLEWARES = {'scrapy_batcher.SemaphoreMiddleware': 1000}\n"),
    )
    project.write(
        "ordinary.py",
        f"""
import scrapy
class Ordinary(scrapy.Spider):
    name = "ordinary"
    start_urls = [f"{server.url("page/")}{{n}}?delay=0.01" for n in range(30)]
    def parse(self, response):
        yield {{"url": response.url}}
""",
    )
    settings = {"CONCURRENT_REQUESTS": 32, "CONCURRENT_REQUESTS_PER_DOMAIN": 1}
    run = project.scrapy("runspider", "ordinary.py", "-O", "items.jsonl", settings=settings)
    assert run.status == 0, run.log
    assert len(project.items()) == 30
    assert server.peak() == 1
    assert "CooperatorExtension" not in run.log


def test_scrapys_own_cap_does_not_hold(project: Project, server: MockServer) -> None:
    """What the README says of plain Scrapy: its per-domain cap of 1 lets many requests through at once."""
    project.write(
        "ordinary.py",
        f"""
import scrapy
class Ordinary(scrapy.Spider):
    name = "ordinary"
    custom_settings = {{"ADDONS": {{}}}}
    start_urls = [f"{server.url("page/")}{{n}}?delay=0.2" for n in range(64)]
    def parse(self, response):
        pass
""",
    )
    settings = {"CONCURRENT_REQUESTS": 32, "CONCURRENT_REQUESTS_PER_DOMAIN": 1}
    assert project.scrapy("runspider", "ordinary.py", settings=settings).status == 0
    assert server.peak() > 1


def test_the_spider_needs_nothing_else(tmp_path: Path, project: Project, server: MockServer) -> None:
    """A subclass of the batch spider in a file of its own runs without a project and without a setting."""
    (tmp_path / "scrapy.cfg").unlink()
    project.write(
        "mine.py",
        """
from scrapy_batcher import BatchSpider
class Mine(BatchSpider):
    name = "mine"
    def parse(self, response):
        yield {"title": response.css("title::text").get(), "id": response.meta["batcher_target"].columns["id"]}
""",
    )
    project.write("list.tsv", f"url\tid\n{server.url('page/abc')}\tA\n")
    run = project.scrapy("runspider", "mine.py", "-a", "urls=list.tsv", "-O", "items.jsonl")
    assert run.status == 0, run.log
    assert project.items() == [{"title": "abc", "id": "A"}]
    assert "Batch finished" in run.log
    assert "1 read = 1 fetched" in run.log, run.log[-3000:]


def test_parts_by_hand_are_not_doubled(project: Project, server: MockServer) -> None:
    """A project that has our parts already is not given them twice, and keeps its order and its settings."""
    project.write(
        "project_settings.py",
        (project.path / "project_settings.py").read_text()
        + (
            "DOWNLOADER_MIDDLEWARES = {'scrapy_batcher.SemaphoreMiddleware': 2000}\n"
            "EXTENSIONS['scrapy_batcher.cooperator.CooperatorExtension'] = 7\n"
            "CONCURRENT_ITEMS = 5\n"
        ),
    )
    project.write("urls.txt", server.url("page/1"))
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt")
    assert run.status == 0, run.log
    assert run.log.count("SemaphoreMiddleware") == 1
    assert run.log.count("cooperator.CooperatorExtension") == 1
    assert run.stats["batcher/outcomes/fetched"] == 1
    assert "'CONCURRENT_ITEMS': 5" in run.log


def test_the_chosen_fields(project: Project, server: MockServer) -> None:
    """BATCHER_FIELDS chooses the fields, and BATCHER_COLUMNS=False leaves the row's columns out."""
    project.write("urls.jsonl", json.dumps({"url": server.url("redirect?to=/latin"), "id": 7, "status": "new"}) + "\n")
    every = "url,length,content,base64,status,headers,final_url,content_type,encoding,fetched_at,elapsed,sha256"
    run = project.scrapy(
        "crawl", "batch", "-a", "urls=urls.jsonl", "-O", "items.jsonl", settings={"BATCHER_FIELDS": every}
    )
    assert run.status == 0, run.log
    [item] = project.items()
    assert item["content"] == "<p>caf\u00e9</p>"
    assert item["length"] == len("<p>caf\u00e9</p>".encode("latin-1"))
    assert (item["status"], item["id"], item["row_status"]) == (200, 7, "new")
    assert item["url"] == server.url("redirect?to=/latin")
    assert item["final_url"] == server.url("latin")
    assert item["content_type"] == "text/html; charset=iso-8859-1"
    assert item["headers"]["Content-Type"] == [item["content_type"]]
    assert item["encoding"] == "cp1252"
    assert item["elapsed"] > 0
    assert item["fetched_at"].endswith("+00:00")
    assert item["sha256"] == hashlib.sha256("<p>caf\u00e9</p>".encode("latin-1")).hexdigest()
    assert list(item) == [*every.split(","), "id", "row_status"]
    project.scrapy(
        "crawl", "batch", "-a", "urls=urls.jsonl", "-O", "items.jsonl", settings={"BATCHER_FIELDS": "length"}
    )
    assert project.items() == [{"length": 11, "id": 7, "status": "new"}]
    project.scrapy("crawl", "batch", "-a", "urls=urls.jsonl", "-O", "items.jsonl", settings={"BATCHER_COLUMNS": False})
    assert project.items()[0].keys() == {"url", "length", "content", "base64"}
