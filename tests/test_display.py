"""How far a batch is, shown while it runs: real commands on terminals of their own, and off them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from scrapy.crawler import Crawler
from twisted.internet.task import deferLater

from scrapy_batcher import BatchSpider
from scrapy_batcher.batch.progress import Counts
from scrapy_batcher.cooperator import CooperatorExtension
from scrapy_batcher.monitoring.display import shown
from scrapy_batcher.monitoring.figures import Figures
from tests.conftest import Project
from tests.crawling import run, until
from tests.mockserver import MockServer
from tests.terminal import Terminal
from tests.test_command_line import REACTORS

#: A line of the log that is whole.
LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[[\w.]+\] [A-Z]+: ")

SUMMARY = ["30 read = 28 fetched + 2 failed + 0 skipped + 0 pending", "28 fetched", "2 failed/http-404"]


class Watched:
    """A command that runs: on a terminal, or with its stderr in a file.

    :param seen: what its stderr shows now
    """

    def __init__(self, process: subprocess.Popen, seen: Callable[[], str]) -> None:
        self.process = process
        self.seen = seen

    def wait_for(self, pattern: str) -> list[str]:
        """Wait until *pattern* is seen, and give the rows that are seen then."""
        deadline = time.monotonic() + 60
        while not re.search(pattern, seen := self.seen(), re.MULTILINE):
            assert time.monotonic() < deadline, f"{pattern} never came: {seen}"
            assert self.process.poll() is None, seen
            time.sleep(0.02)
        return seen.splitlines()

    def end(self) -> bytes:
        """Wait for its end, and give what is on its stdout."""
        output, _ = self.process.communicate(timeout=60)
        return output


@pytest.fixture
def start(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    """Starts the batch of ``urls.txt``, or of stdin, on a terminal of so many columns; or with its stderr in a file."""
    monkeypatch.setenv("TERM", "xterm")
    watched: list[Watched] = []
    terminals: list[Terminal] = []

    def make(
        *arguments: str,
        columns: int | None = 80,
        urls: str = "urls.txt",
        items_too: bool = False,
        **settings: object,
    ) -> Watched:
        command = ("crawl", "batch", "-a", f"urls={urls}", *arguments)
        settings = {"CONCURRENT_REQUESTS": 4, "RETRY_TIMES": 0, "LOGSTATS_INTERVAL": 0.2, **settings}
        if columns is None:
            log = project.path / f"stderr-{len(watched)}.log"
            with log.open("wb") as file:
                process = project.popen(*command, settings=settings, stdin=subprocess.PIPE, stderr=file)
            watched.append(Watched(process, log.read_text))
        else:
            terminal = Terminal(columns)
            terminals.append(terminal)
            stdout = terminal.end if items_too else subprocess.PIPE
            process = project.popen(
                *command, settings=settings, stdin=subprocess.PIPE, stdout=stdout, stderr=terminal.end
            )
            watched.append(Watched(process, lambda: "\n".join(terminal.screen.rows)))
            watched[-1].terminal = terminal
        return watched[-1]

    yield make
    for each in watched:
        each.process.kill()
        each.process.communicate()
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def thirty(project: Project, server: MockServer) -> list[str]:
    """A list of thirty URLs, of which the first two are missing; the server answers twelve requests, and leaves the
    others waiting until it is told to answer more."""
    urls = [server.url(f"status/404?{n}") for n in range(2)] + [server.url(f"page/{n}") for n in range(28)]
    project.write("urls.txt", "\n".join(urls))
    server.control("allow?more=12")
    return urls


@pytest.mark.parametrize(
    ("columns", "bar"),
    [
        (80, r"^ 40%\|[█▏▎▍▌▋▊▉ ]{5,}\| 12/30 [\d.]+/s \d:\d\d left 2 failed 1 active 0 resting$"),
        (
            200,
            r"^ 40%\|[█▏▎▍▌▋▊▉ ]{99,}\| 12 of 30, [\d.]+ a second, \d:\d\d left, 2 failed, 1 host active, 0 resting$",
        ),
    ],
    ids=["80 columns", "200 columns"],
)
def test_a_bar_on_a_terminal(
    start: Callable[..., Watched], thirty: list[str], server: MockServer, columns: int, bar: str
) -> None:
    """It has all the figures, in one row below the lines of the log, which it does not tear; items on stdout are
    nothing but items; and at the end nothing is left of it, and the summary is whole."""
    watched = start("-O", "-:jsonl", columns=columns)
    *above, row = watched.wait_for(bar)
    assert re.search(bar, row)
    assert not [row for row in above if " active" in row]
    server.control("allow?more=100")
    items = [json.loads(line) for line in watched.end().splitlines()]
    assert sorted(item["url"] for item in items) == sorted(thirty[2:])
    lines = watched.terminal.settled().lines
    assert not [line for line in lines if " active" in line or "|" in line or LOGGED.search(line, 1)]
    missing = [line for line in lines if "WARNING: failed/http-404" in line]
    assert len(missing) == 2
    for line in missing:
        assert LOGGED.match(line)
        assert line.endswith("attempt)")
    assert "\x1b" not in watched.terminal.text  # no colours, and nothing that a terminal may not know
    at = next(number for number, line in enumerate(lines) if line.endswith("Batch finished"))
    assert [line.strip() for line in lines[at + 1 : at + 4]] == SUMMARY


@pytest.mark.parametrize("reactor", REACTORS.values(), ids=REACTORS)
def test_a_bar_on_every_reactor(start: Callable[..., Watched], thirty: list[str], server: MockServer, reactor) -> None:
    """It is there on every reactor, and without one; and gone when the spider was closed by Ctrl-C."""
    watched = start(**reactor)
    watched.wait_for(r"^ 40%\|.*\| 12/30 .* 2 failed 1 active 0 resting$")
    watched.process.send_signal(signal.SIGINT)
    watched.wait_for("Closing spider")
    server.control("allow?more=100")
    watched.end()
    lines = watched.terminal.settled().lines
    assert not [line for line in lines if " active" in line]
    assert next(line for line in lines if LOGGED.match(line) and line.endswith("Batch closed early"))


def test_a_bar_is_gone_after_a_second_ctrl_c(
    start: Callable[..., Watched], thirty: list[str], server: MockServer
) -> None:
    """Also when the process ends in the middle of it."""
    watched = start()
    watched.wait_for(r"^ 40%\|")
    watched.process.send_signal(signal.SIGINT)
    watched.wait_for("Closing spider")
    watched.process.send_signal(signal.SIGINT)
    watched.end()
    assert not [row for row in watched.terminal.settled().rows if " active" in row]


def test_a_list_that_is_still_read(start: Callable[..., Watched], server: MockServer) -> None:
    """As long as more may come on stdin there is no share and no end; then there are."""
    server.control("allow?more=2")
    watched = start(urls="-")
    watched.process.stdin.write("".join(f"{server.url(f'page/{n}')}\n" for n in range(5)).encode())
    watched.process.stdin.flush()
    watched.wait_for(r"^2/5 so far [\d.]+/s 0 failed 1 active 0 resting$")
    watched.process.stdin.close()
    watched.process.stdin = None
    watched.wait_for(r"^ 40%\|.*\| 2/5 [\d.]+/s \d:\d\d left 0 failed 1 active 0 resting$")
    server.control("allow?more=3")
    watched.end()
    assert watched.process.returncode == 0


def test_hosts_that_rest(start: Callable[..., Watched], project: Project, server: MockServer) -> None:
    """A host that has asked for rest is counted as one that rests, one that is waited for as active."""
    busy = server.url("busy/a?after=3600", host="127.0.0.2")
    project.write("urls.txt", f"{busy}\n{server.url('page/0?gate=a')}\n")
    watched = start(RETRY_TIMES=1)
    watched.wait_for(r"\| 0/2 0.00/s 0 failed 1 active 1 resting$")
    watched.process.send_signal(signal.SIGINT)
    watched.wait_for("Closing spider")
    server.control("open?gate=a")
    watched.end()


def test_a_job_that_is_gone_on_with(start: Callable[..., Watched], thirty: list[str], server: MockServer) -> None:
    """What earlier runs have done is done, and not in the rate."""
    watched = start(JOBDIR="job")
    watched.wait_for(r"\| 12/30 ")
    watched.process.send_signal(signal.SIGINT)
    watched.wait_for("Closing spider")
    server.control("allow?more=4")
    watched.end()
    server.control("clear")
    server.control("allow?more=0")
    watched = start(JOBDIR="job")
    watched.wait_for(r"^ 53%\|.*\| 16/30 0\.00/s 2 failed 1 active 0 resting$")
    server.control("allow?more=100")
    watched.end()
    assert any("30 read = 28 fetched" in line for line in watched.terminal.settled().lines)


LINE = r"\[batch\] INFO: Progress: 40%, 12 of 30, [\d.]+ a second, \d:\d\d left, 2 failed, 1 host active, 0 resting$"


@pytest.mark.parametrize("setting", ["auto", "bar", "lines"])
def test_lines_off_a_terminal(
    start: Callable[..., Watched], thirty: list[str], server: MockServer, setting: str
) -> None:
    """There the log has a line every LOGSTATS_INTERVAL, with the same figures, and nothing else; so it is by default,
    and also when a bar is asked for."""
    watched = start("-O", "-:jsonl", columns=None, BATCHER_PROGRESS=setting)
    watched.wait_for(LINE)
    server.control("allow?more=100")
    assert len([json.loads(line) for line in watched.end().splitlines()]) == 28
    assert "\r" not in watched.seen()
    assert "Batch finished" in watched.seen().rpartition("Progress: ")[2]


@pytest.mark.parametrize(
    ("case", "environment"),
    [
        ({}, {"TERM": "dumb"}),
        ({"LOG_LEVEL": "INFO"}, {"NO_TQDM": "1"}),
        ({"BATCHER_PROGRESS": "lines"}, {}),
        ({"shard": "1/2", "BATCHER_SHARD_BY": "url"}, {}),
    ],
    ids=["dumb terminal", "no tqdm", "lines", "shard"],
)
def test_lines_on_a_terminal(
    start: Callable[..., Watched],
    project: Project,
    thirty: list[str],
    server: MockServer,
    monkeypatch: pytest.MonkeyPatch,
    case: dict,
    environment: dict,
) -> None:
    """On one that cannot draw a line anew, without tqdm, when they are wanted, and where other shards may draw."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with (project.path / "project_settings.py").open("a") as file:
        file.write("import os, sys\nif 'NO_TQDM' in os.environ:\n    sys.modules['tqdm'] = None\n")
    case = dict(case)
    shard = ("-a", f"shard={case.pop('shard')}") if "shard" in case else ()
    server.control("allow?more=3")
    watched = start(*shard, columns=200, **case)
    watched.wait_for(r"INFO: Progress: \d+%, 3 of \d+, .*, 1 host active, 0 resting$")
    server.control("allow?more=100")
    watched.end()
    assert not re.search(r"\r[^\n]", watched.terminal.text)


def test_a_log_file(start: Callable[..., Watched], project: Project, thirty: list[str], server: MockServer) -> None:
    """With --logfile the lines are in it, and nothing is on the terminal; a bar is there when it is asked for."""
    watched = start("--logfile", "batch.log")
    log = project.path / "batch.log"
    Watched(watched.process, lambda: log.read_text() if log.exists() else "").wait_for(LINE)
    server.control("allow?more=100")
    watched.end()
    assert watched.terminal.settled().rows == [""]
    server.control("clear")
    server.control("allow?more=12")
    watched = start("--logfile", "second.log", BATCHER_PROGRESS="bar")
    watched.wait_for(r"^ 40%\|.* 12/30 ")
    server.control("allow?more=100")
    watched.end()
    assert watched.terminal.settled().rows == [""]
    assert "Batch finished" in (project.path / "second.log").read_text()
    assert "Progress" not in (project.path / "second.log").read_text()


@pytest.mark.parametrize(
    "settings",
    [{"BATCHER_PROGRESS": "none"}, {"BATCHER_PROGRESS": "lines", "LOGSTATS_INTERVAL": 0}, {"BATCHER_ENABLED": False}],
)
def test_nothing(start: Callable[..., Watched], project: Project, server: MockServer, settings: dict) -> None:
    """When it is not wanted there is neither a bar nor a line, on a terminal and off."""
    project.write("urls.txt", server.url("page/0?delay=1.2"))
    watched = start("-O", "items.jsonl", **settings)
    watched.end()
    assert len(project.items()) == 1
    assert not [row for row in watched.terminal.settled().rows if " active" in row or "|" in row]


def test_items_on_the_same_terminal(start: Callable[..., Watched], thirty: list[str], server: MockServer) -> None:
    """Where items come on the terminal there are lines, as a bar would be in their way."""
    watched = start("-O", "-:jsonl", columns=200, items_too=True)
    watched.wait_for(r"INFO: Progress: 40%, 12 of 30")
    server.control("allow?more=100")
    watched.end()
    lines = watched.terminal.settled().lines
    assert len([json.loads(line) for line in lines if line.startswith('{"url"')]) == 28
    assert not re.search(r"\r[^\n]", watched.terminal.text)


def test_a_bar_without_tqdm_is_asked_for(start: Callable[..., Watched], project: Project, server: MockServer) -> None:
    """A sentence says what is missing."""
    project.write("urls.txt", server.url("page/0"))
    with (project.path / "project_settings.py").open("a") as file:
        file.write("import sys\nsys.modules['tqdm'] = None\n")
    watched = start(columns=200, BATCHER_PROGRESS="bar")
    watched.end()
    assert any(
        "BATCHER_PROGRESS is 'bar', which needs tqdm: pip install 'scrapy-batcher[progress]'" in line
        for line in watched.terminal.settled().lines
    )


# -- in this process ---------------------------------------------------------------------------------------------------


class Board:
    """Keeps what it is shown."""

    seconds = 0.01

    def __init__(self) -> None:
        self.seen: list[Figures] = []
        self.closed = 0

    def show(self, figures: Figures) -> None:
        self.seen.append(figures)

    def close(self) -> None:
        self.closed += 1


@ensureDeferred
async def test_a_board_is_shown_what_there_is_until_the_end() -> None:
    """Every so often; also when it ends by an exception it is closed, and nothing is shown any more."""
    from twisted.internet import reactor

    board = Board()
    figures = Figures(1, 2, True, 0, 0.0, 0, 0)

    async def break_off() -> None:
        with shown(lambda: figures, board):
            await until(lambda: len(board.seen) > 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await break_off()
    assert board.closed == 1
    seen = len(board.seen)
    await deferLater(reactor, 5 * board.seconds)
    assert len(board.seen) == seen


@ensureDeferred
async def test_what_this_run_has_worked_for(urls: Callable[..., str], server: MockServer, tmp_path: Path) -> None:
    """Rows that are not even tried are done without work, and so is what an earlier run has done; what is tried again
    is work once more."""
    path = urls(server.url("page/0"), server.url("status/404"), "nonsense")
    settings = {"JOBDIR": str(tmp_path / "job")}
    counts = counts_of(await run(BatchSpider, path, settings))
    assert (counts.read, counts.done, counts.pending, counts.failed, counts.worked) == (3, 3, 0, 1, 2)
    counts = counts_of(await run(BatchSpider, path, settings))
    assert (counts.done, counts.worked, counts.complete) == (3, 0, True)
    counts = counts_of(await run(BatchSpider, path, settings, retry="failed"))
    assert (counts.done, counts.failed, counts.worked) == (3, 1, 1)


def counts_of(crawler: Crawler) -> Counts:
    return crawler.get_extension(CooperatorExtension)._books.counts
