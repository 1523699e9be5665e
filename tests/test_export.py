"""``scrapy batcher failures`` and ``scrapy batcher export``: what became of each target, on stdout or in a file."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from scrapy_batcher.jobs.database import LedgerError
from scrapy_batcher.jobs.ledger import Ledger, Owner
from scrapy_batcher.lists.lines import Mark, Place
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import Outcome
from scrapy_batcher.reports.export import export, failures
from tests.conftest import Project, Run, make_project
from tests.mockserver import MockServer
from tests.test_command_line import wait_until

SETTINGS = {"JOBDIR": "job", "RETRY_ENABLED": False, "BATCHER_REST": False, "BATCHER_FAILURES": "failures.jsonl"}


def crawl(project: Project, *args: str, urls: str = "urls.csv", stdin: bytes = b"", **settings: object) -> Run:
    run = project.scrapy("crawl", "batch", "-a", f"urls={urls}", *args, settings={**SETTINGS, **settings}, stdin=stdin)
    assert run.status == 0, run.log
    return run


def ask(project: Project, *args: str) -> str:
    run = project.scrapy("batcher", *args)
    assert (run.status, run.log) == (0, "")
    return run.output


@pytest.fixture(scope="module")
def job(running_server: MockServer, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a job that is finished."""
    server, project = running_server, make_project(tmp_path_factory.mktemp("export"))
    rows = [
        (server.url("page/1"), "é", "a,b"),
        (server.url("status/404"), "", 'two\nlines, "quoted"'),
        (server.url("status/500").replace("//", "//user:secret@"), "x", ""),
        ("http://127.0.0.1:1/", "x", ""),
        ("nonsense", "x", ""),
    ]
    with (project.path / "urls.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("url", "name", "status"), *rows])
    crawl(project)
    return project


def test_failures_are_the_failures_file(job: Project) -> None:
    """The failures of a job are the lines of its failures file."""
    lines = ask(job, "failures", "job").splitlines()
    assert Counter(lines) == Counter((job.path / "failures.jsonl").read_text(encoding="utf-8").splitlines())
    assert [json.loads(line)["outcome"] for line in lines] == [
        "failed/http-404", "failed/http-500", "failed/refused", "skipped/invalid"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "lines"),
    [
        ("failed", [3, 5, 6]),
        ("failed/http-404", [3]),
        ("failed/http-404, skipped", [3, 7]),
        ("failed/http", []),
        ("skipped/robots", []),
    ],
)
def test_failures_by_outcome(job: Project, outcome: str, lines: list[int]) -> None:
    """Only what ended in one of the outcomes that are named is there."""
    found = [json.loads(line) for line in ask(job, "failures", "job", "--outcome", outcome).splitlines()]
    assert [line["line"] for line in found] == lines


def test_failures_are_a_list(job: Project, server: MockServer) -> None:
    """What failed is tried again by another batch that reads it from stdin."""
    server.control("clear")
    found = ask(job, "failures", "job", "--outcome", "failed/http-404")
    run = crawl(job, "-a", "format=jsonl", urls="-", stdin=found.encode(), JOBDIR="", BATCHER_FAILURES="")
    assert server.control()["hits"] == {"/status/404": 1}
    assert run.stats["batcher/outcomes/failed/http-404"] == 1


def test_export_as_lines(job: Project) -> None:
    """Every target is there once, in the order of the list, with its columns and what became of it."""
    found = [json.loads(line) for line in ask(job, "export", "job").splitlines()]
    assert [(line["line"], line["outcome"], line["status"], line["attempts"]) for line in found] == [
        (2, "fetched", 200, 1), (3, "failed/http-404", 404, 1), (5, "failed/http-500", 500, 1),
        (6, "failed/refused", None, 1), (7, "skipped/invalid", None, 0),
    ]  # fmt: skip
    assert found[0]["row"] == {"name": "é", "status": "a,b"}
    assert "//user:***@" in found[2]["url"]


def test_stdout_has_a_name(job: Project) -> None:
    """As with `scrapy crawl`, ``-o -`` is stdout, and no file."""
    assert ask(job, "export", "job", "-o", "-") == ask(job, "export", "job")
    assert not (job.path / "-").exists()


def test_export_as_a_table(job: Project) -> None:
    """A CSV has the row's columns behind the others, none of them under a name that is taken."""
    run = job.scrapy("batcher", "export", "job", "--format", "csv", "-o", "all.csv")
    assert (run.status, run.log, run.output) == (0, "", "")
    with (job.path / "all.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["url", "file", "line", "outcome", "status", "error", "attempts", "name", "row_status"]
    assert [row[1:5] for row in rows] == [
        ["", "2", "fetched", "200"], ["", "3", "failed/http-404", "404"], ["", "5", "failed/http-500", "500"],
        ["", "6", "failed/refused", ""], ["", "7", "skipped/invalid", ""],
    ]  # fmt: skip
    assert rows[1][7:] == ["", 'two\nlines, "quoted"']
    assert "secret" not in (job.path / "all.csv").read_text(encoding="utf-8")


def test_while_it_runs_and_after_a_kill(project: Project, server: MockServer) -> None:
    """Both work while the batch runs, which goes on undisturbed, and on what a kill has left."""
    lines = [server.url("status/404"), *(server.url(f"page/{n}?gate=g") for n in range(3))]
    project.write("urls.txt", "".join(f"{line}\n" for line in lines))
    process = project.popen("crawl", "batch", "-a", "urls=urls.txt", settings=SETTINGS, stdin=subprocess.DEVNULL)
    wait_until(lambda: len(server.control()["hits"]) == 4, process)
    expected = ["failed/http-404", "pending", "pending", "pending"]

    def outcomes() -> list[str]:
        return [json.loads(line)["outcome"] for line in ask(project, "export", "job").splitlines()]

    wait_until(lambda: outcomes() == expected, process)
    assert json.loads(ask(project, "failures", "job"))["outcome"] == "failed/http-404"
    process.kill()
    process.communicate()
    assert outcomes() == expected
    assert ask(project, "export", "job", "--format", "csv").splitlines()[2].endswith(",2,pending,,,0")
    server.control("open?gate=g")
    crawl(project, urls="urls.txt")
    assert outcomes() == ["failed/http-404", "fetched", "fetched", "fetched"]


@pytest.mark.parametrize("command", ["failures", "export"])
def test_who_reads_may_stop(tmp_path: Path, command: str) -> None:
    """When nobody reads any more it ends, without a word."""
    make_job(tmp_path / "job", 20_000)
    project = Project(tmp_path)
    process = project.popen("batcher", command, "job")
    assert process.stdout.readline().startswith(b'{"url"')
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C ends it with the status that says so, and without a traceback."""
    make_job(tmp_path / "job", 20_000)
    process = Project(tmp_path).popen("batcher", "export", "job")
    assert process.stdout.readline().startswith(b'{"url"')  # the others are more than a pipe takes
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert (process.returncode, log) == (130, b"")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["failures", "no"], "no has no job in it, as there is no ledger.sqlite: name the JOBDIR of a batch"),
        (["export", "job", "no"], "no has no job in it, as there is no ledger.sqlite: name the JOBDIR of a batch"),
        (["report", "no", "-o", "there.txt"], "no has no job in it, as there is no ledger.sqlite: name the JOBDIR"),
        (
            ["failures", "job", "--outcome", "lost"],
            "'lost' is no outcome of what was not fetched, as failed/timeout is",
        ),
        (["export", "job", "--format", "xml"], "invalid choice: 'xml'"),
        (["export", "job", "-o", "no/such/folder"], "no/such/folder cannot be written: No such file or directory"),
        (["report", "job", "-o", "job"], "job cannot be written: Is a directory"),
        (["export", "job", "-o", "/dev/full"], "/dev/full cannot be written: No space left on device"),
        (["export", "job", "-o", "job/ledger.sqlite"], "job/ledger.sqlite is what the job keeps there: name another"),
        (["report", "job", "-o", "job/../job/ledger.sqlite-wal"], "is what the job keeps there: name another"),
        (["export", "old"], "was written by an older scrapy-batcher: it has version 2, where this one knows 3. Finish"),
    ],
)
def test_what_cannot_be_done(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """What cannot be done is said in one sentence, with a non-zero status, and nothing is written."""
    make_job(tmp_path / "job", 3)
    (tmp_path / "old").mkdir()
    old = Ledger(tmp_path / "old" / "ledger.sqlite")
    old._db.change("PRAGMA user_version = 2")
    old.close()
    there = tmp_path / "there.txt"
    there.write_text("as it was")
    before = (tmp_path / "job" / "ledger.sqlite").read_bytes()
    run = Project(tmp_path).scrapy("batcher", *arguments)
    assert run.status == 2
    assert sentence in run.log.splitlines()[-1]
    assert "Traceback" not in run.log
    assert run.output == ""
    assert there.read_text() == "as it was"
    assert (tmp_path / "job" / "ledger.sqlite").read_bytes() == before


def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    """It is said when stdout cannot be written, once."""
    make_job(tmp_path / "job", 3)
    with open("/dev/full", "wb") as full:
        command = Project(tmp_path).command("batcher", "export", "job")
        run = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, timeout=100)
    assert run.returncode == 2
    assert run.stderr.decode().splitlines()[-1].endswith("stdout cannot be written: No space left on device")


def test_no_stdout(tmp_path: Path) -> None:
    """It is said when stdout is closed, as a shell does with ``>&-``."""
    make_job(tmp_path / "job", 3)
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *Project(tmp_path).command("batcher", "export", "job")]
    run = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, timeout=100)
    assert run.returncode == 2
    assert run.stderr.decode().splitlines()[-1].endswith("stdout cannot be written: it is closed")


def test_a_batch_that_begins_meanwhile(tmp_path: Path) -> None:
    """What is read of a ledger that nobody writes is complete, or it is said that somebody does."""
    job = make_job(tmp_path / "job", 3)
    lines = export([job], "jsonl")
    next(lines)
    ledger = Ledger(tmp_path / "job" / "ledger.sqlite")
    ledger.complete_list(Mark(3, Place(3, 3, 3)))
    with pytest.raises(LedgerError, match=r"a batch has begun to write the ledger .*: do it once more"):
        list(lines)
    ledger.close()


# -- the lines ---------------------------------------------------------------------------------------------------------


def make_job(folder: Path, count: int, columns: list[dict] | None = None) -> str:
    """A job with so many targets that failed, and each has some *columns*."""
    folder.mkdir()
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.belong(Owner("batch", "jsonl", "url"))
    lost = Outcome("failed/other", None, "lost")
    rows = [
        (Target(n, n, f"http://h/{n}", columns[n - 1] if columns else {}), ("host:h",), lost)
        for n in range(1, count + 1)
    ]
    ledger.load(rows, Mark(count, Place(count, count, 3)))
    ledger.close()
    return str(folder)


def test_columns_that_differ(tmp_path: Path) -> None:
    """A table has the columns of all rows, and of all jobs; what is no text is JSON."""
    one = make_job(
        tmp_path / "one", 3, [{"a": 1, "line": "7"}, {"b": [True, {"c": None}]}, {"row_line": "ü", "a": None}]
    )
    other = make_job(tmp_path / "other", 1, [{"z": False}])
    table = list(csv.reader(io.StringIO("\n".join(export([one, other, f"{one}{os.sep}"], "csv")))))
    assert table == [
        ["url", "file", "line", "outcome", "status", "error", "attempts", "a", "row_row_line", "b", "row_line", "z"],
        ["http://h/1", "", "1", "failed/other", "", "lost", "0", "1", "7", "", "", ""],
        ["http://h/2", "", "2", "failed/other", "", "lost", "0", "", "", '[true, {"c": null}]', "", ""],
        ["http://h/3", "", "3", "failed/other", "", "lost", "0", "", "", "", "ü", ""],
        ["http://h/1", "", "1", "failed/other", "", "lost", "0", "", "", "", "", "false"],
    ]


def test_all_of_a_long_list(tmp_path: Path) -> None:
    """Targets are read a slice at a time; none is missing, and none is there twice."""
    job = make_job(tmp_path / "job", 3500)
    for lines in (export([job], "jsonl"), failures([job], ["failed"])):
        assert [json.loads(line)["line"] for line in lines] == list(range(1, 3501))
