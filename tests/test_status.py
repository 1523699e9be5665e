"""``scrapy batcher status``: what the ledgers of jobs say, each and together, and what the sum lacks."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest

from scrapy_batcher.jobs.database import LedgerError
from scrapy_batcher.jobs.jobdir import JobDir
from scrapy_batcher.jobs.ledger import Ledger, Owner, Postponement, Settlement
from scrapy_batcher.lists.lines import Mark, Place
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import Answer, Outcome
from scrapy_batcher.reports.status import status
from tests.conftest import ROOT, Project, Run
from tests.mockserver import MockServer
from tests.test_command_line import wait_until

FETCHED = Outcome("fetched", 200)
DNS = Outcome("failed/dns")
INVALID = Outcome("skipped/invalid")

END = Mark(100, Place(100, 5000, 7))

NOW = 1_700_000_000


def job(folder: Path, *outcomes: Outcome | None, shard: str = "1/1", by: str = "host", end: Mark | None = END) -> str:
    """A job directory with a ledger of so many targets, read to the *end* of the list if there is one."""
    folder.mkdir()
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.belong(Owner("batch", "txt", "url", shard, by))
    rows = [(Target(n, n, f"http://h/{n}", {}), ("host:h",), outcome) for n, outcome in enumerate(outcomes, 1)]
    if rows:
        ledger.load(rows, Mark(len(rows), Place(len(rows), 10, 3)))
    if end:
        ledger.complete_list(end)
    ledger.close()
    return str(folder)


def sharded(tmp_path: Path, *shards: str, **kwargs: object) -> list[str]:
    return [job(tmp_path / str(n), FETCHED, shard=shard, **kwargs) for n, shard in enumerate(shards)]


def last(jobdirs: list[str]) -> str:
    return list(status(jobdirs))[-1]


def test_who_may_only_read(tmp_path):
    """A ledger is only looked at: no log is left, or taken over, and no right to write is needed."""
    path = Path(job(tmp_path / "job", FETCHED, None))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    path.chmod(0o500)
    (path / "ledger.sqlite").chmod(0o400)
    assert next(iter(status([str(path)]))) == f"{path}: not finished"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_what_a_kill_has_left(tmp_path):
    """SQLite's log of a job that was killed is read, and left for the job."""
    path = Path(job(tmp_path / "job", FETCHED))
    writer = sqlite3.connect(path / "ledger.sqlite")
    writer.execute("UPDATE target SET state = 'pending'")
    writer.commit()
    copy = shutil.copytree(path, tmp_path / "killed")
    writer.close()
    log = (copy / "ledger.sqlite-wal").read_bytes()
    assert next(iter(status([str(copy)]))) == f"{copy}: not finished"
    assert (copy / "ledger.sqlite-wal").read_bytes() == log != b""


def test_one_job(tmp_path):
    """A job has its name, its shard, whether it is finished, the sum and each outcome, and nothing is left behind."""
    path = job(tmp_path / "job", FETCHED, FETCHED, DNS, INVALID, shard="2/8")
    assert list(status([path])) == [
        f"{path}, shard 2/8: finished",
        "         4 read = 2 fetched + 1 failed + 1 skipped + 0 pending",
        "         2 fetched",
        "         1 failed/dns",
        "         1 skipped/invalid",
        "         1 host, 0 with pending targets",
    ]
    assert [file.name for file in (tmp_path / "job").iterdir()] == ["ledger.sqlite"]


@pytest.mark.parametrize(
    ("outcomes", "end", "state"),
    [
        ([FETCHED], END, "finished"),
        ([FETCHED, None], END, "not finished"),
        ([FETCHED], None, "not finished, and the list not read to its end"),
        ([], None, "not finished, and the list not read to its end"),
    ],
)
def test_how_far_it_is(tmp_path, outcomes, end, state):
    """A job is finished when its list was read to its end and nothing of it is pending."""
    path = job(tmp_path / "job", *outcomes, end=end)
    assert next(status([path])) == f"{path}: {state}"


def test_several_jobs(tmp_path):
    """The sum of several is that of each outcome; it is told how many of them are finished."""
    paths = [job(tmp_path / "a", FETCHED, DNS), job(tmp_path / "b", FETCHED, None, INVALID)]
    assert list(status(paths))[-5:] == [
        "All 2 jobs: 1 finished, 1 not finished",
        "         5 read = 2 fetched + 1 failed + 1 skipped + 1 pending",
        "         2 fetched",
        "         1 failed/dns",
        "         1 skipped/invalid",
    ]


def test_all_shards(tmp_path):
    """Of all shards of a list there is nothing more to say."""
    assert last(sharded(tmp_path, "1/3", "2/3", "3/3")) == "         3 fetched"


@pytest.mark.parametrize(
    ("shards", "sentence"),
    [
        (["1/3", "3/3"], "This is not the whole list: shard 2 of 3 is not here"),
        (["3/6", "1/6"], "This is not the whole list: shards 2, 4, 5 and 6 of 6 are not here"),
        (["1/2", "2/2", "1/2"], "Shard 1/2 is here 2 times, and counted as often"),
        (["1/2", "2/3"], "They are not shards of one list, which is divided into 2 by host and into 3 by host"),
        (["1/2", "1/1"], "They are not shards of one list, which is divided into 1 by host and into 2 by host"),
    ],
)
def test_what_the_sum_lacks(tmp_path, shards, sentence):
    """It is said when the sum is not that of the list: a shard is missing, there twice, or one of something else."""
    assert last(sharded(tmp_path, *shards)) == sentence


def test_shards_of_different_lists(tmp_path):
    """It is said when the shards have read different lists to their end; one that is still reading has not."""
    paths = sharded(tmp_path, "1/3", "2/3")
    paths.append(job(tmp_path / "reading", FETCHED, shard="3/3", end=None))
    assert last(paths) == "         3 fetched"
    paths[-1] = job(tmp_path / "another", FETCHED, shard="3/3", end=Mark(99, Place(99, 4990, 6)))
    assert last(paths).startswith("They have not all read the same list, or it has grown since")


def test_a_job_that_is_named_twice(tmp_path):
    """A job is counted once, by whatever path."""
    path = job(tmp_path / "job", FETCHED)
    assert list(status([path, f"{tmp_path}/job/../job"])) == list(status([f"{tmp_path}/job/../job"]))


def test_which_file_the_oldest_is_in(tmp_path):
    """Of a list that has several files it is told which of them has the oldest target that is pending."""
    path = job(tmp_path / "job", end=None)
    ledger = Ledger(tmp_path / "job" / "ledger.sqlite")
    target = Target(1, 7, "http://h/", {}, file="lists/b.txt")
    ledger.load([(target, ("host:h",), None)], Mark(1, Place(1, 10, 3)))
    ledger.close()
    assert last([path]) == "         7 is the line of the oldest that is pending, in lists/b.txt: http://h/"


def test_a_name_that_is_no_text(tmp_path):
    """Whatever a directory is called, its name is text that a terminal shows and does not obey."""
    path = job(tmp_path / "\x1b[2J\udcff", FETCHED)
    assert next(status([path])) == f"{tmp_path}/\\x1b[2J\\udcff: finished"


def test_a_folder_without_a_job(tmp_path):
    """A folder that has no ledger is named, and stays as it is."""
    with pytest.raises(LedgerError, match=f"^{tmp_path} has no job in it, as there is no ledger.sqlite: name the JOB"):
        list(status([job(tmp_path / "job", FETCHED), str(tmp_path)]))
    assert [file.name for file in tmp_path.iterdir()] == ["job"]


def test_a_batch_that_begins_meanwhile(tmp_path):
    """What is told of a job that nobody works on is of one moment, or it is said that somebody does."""
    path = job(tmp_path / "job", FETCHED, None)

    def begin() -> float:
        ledger = Ledger(tmp_path / "job" / "ledger.sqlite")
        ledger.settle([Settlement(2, FETCHED, 1, NOW)], {})
        ledger.close()
        return NOW

    with pytest.raises(LedgerError, match=r"a batch has begun to write the ledger .*: do it once more"):
        list(status([path], begin))


# -- how fast, and what is to come -------------------------------------------------------------------------------------


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[str, Ledger]]:
    """A job that has been worked on for ten minutes, and its ledger: 201 hosts, of which one is large."""
    folder = tmp_path / "busy"
    lock = JobDir(str(folder))
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.belong(Owner("batch", "txt", "url"))
    ledger.history._clock = lambda: NOW
    ledger.history.begin_run()
    hosts = [f"h{n % 200}" if n < 300 else "large" for n in range(1000)]
    rows = [(Target(n, n + 1, f"http://{host}/{n}", {}), (f"host:{host}",), None) for n, host in enumerate(hosts, 1)]
    ledger.load(rows, Mark(1000, Place(1001, 10, 3)))
    ledger.complete_list(END)
    ledger.settle([Settlement(n, FETCHED, 1, NOW + n, Answer(10, 0.1)) for n in range(1, 601)], {})
    ledger.history._clock = lambda: NOW + 600
    ledger.settle([], {}, [Postponement(601, NOW + 660, 1, NOW + 510, 1)])
    yield str(folder), ledger
    ledger.close()
    lock.close()


def test_what_is_to_come(busy: tuple[str, Ledger], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told how fast it is, for how long it will be, what is pending where, what rests, and what is oldest."""
    path, ledger = busy
    # The lock is this process's own, which SQLite does not keep from itself.
    monkeypatch.setattr("scrapy_batcher.reports.job.is_worked_on", lambda jobdir: True)
    [large] = ledger.lanes.longest(1)
    ledger.lanes.rest(large.id, NOW + 700)
    lines = list(status([path], lambda: NOW + 600))
    assert lines[0] == f"{path}: running"
    assert lines[-4:] == [
        "       1.0 targets a second, in 10 min; 1.0 in the last minute; about 6 min 33 s to go",
        "       201 hosts, 1 with pending targets, 1 of these resting",
        "       400 pending: large, resting for 1 min 40 s",
        "       602 is the line of the oldest that is pending: http://large/601, first tried 1 min 30 s ago, "
        "to be tried again in 1 min",
    ]


def test_the_last_ones(busy: tuple[str, Ledger], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last few do not end in no time, and when there are none nothing is to go."""
    path, ledger = busy
    monkeypatch.setattr("scrapy_batcher.reports.job.is_worked_on", lambda jobdir: True)
    ledger.settle([Settlement(n, FETCHED, 1, NOW + 600, Answer(10, 0.1)) for n in range(602, 1000)], {})
    assert "; about 1.0 s to go" in "".join(status([path], lambda: NOW + 601))
    ledger.lanes.wake(NOW + 1000, 1)
    ledger.settle([Settlement(n, FETCHED, 1, NOW + 600, Answer(10, 0.1)) for n in (601, 1000)], {})
    assert " to go" not in "".join(status([path], lambda: NOW + 601))


def test_what_has_ended(busy: tuple[str, Ledger], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a job that nobody works on it is told how fast it was, up to its last checkpoint, and no more."""
    path, _ = busy
    monkeypatch.setattr("scrapy_batcher.reports.job.is_worked_on", lambda jobdir: False)
    lines = list(status([path], lambda: NOW + 100_000))
    assert lines[0] == f"{path}: not finished, killed"
    assert "       1.0 targets a second, in 10 min" in lines


# -- the command -------------------------------------------------------------------------------------------------------


def crawl(project: Project, number: int, *args: str) -> subprocess.Popen:
    return project.popen(
        *("crawl", "batch", "-a", "urls=urls.txt", "-a", f"shard={number}/3", "-o", f"items-{number}.jsonl", *args),
        settings={"JOBDIR": f"jobs/{number}", "BATCHER_FAILURES": f"failures-{number}.jsonl"},
        stdin=subprocess.DEVNULL,
    )


def finish(process: subprocess.Popen) -> None:
    _, log = process.communicate(timeout=100)
    assert process.returncode == 0, log.decode()


def test_a_list_in_three_shards(project: Project, server: MockServer) -> None:
    """Three processes at once fetch each page of a list exactly once, and their totals together are those of it."""
    hosts = [f"127.0.0.{n}" for n in range(1, 8)]
    pages = [server.url(f"page/{host}-{n}", host) for n in range(4) for host in hosts]
    missing = [server.url(f"status/404?{host}", host) for host in hosts]
    nonsense = [f"nonsense-{n}" for n in range(10)]
    project.write("urls.txt", "".join(f"{url}\n" for url in [*pages, *missing, *nonsense]))
    for process in [crawl(project, number) for number in (1, 2, 3)]:
        finish(process)
    hits = server.control()["hits"]
    assert hits == {**{f"/page/{url.rpartition('/')[2]}": 1 for url in pages}, "/status/404": len(hosts)}
    parts = [[item["url"] for item in project.items(f"items-{number}.jsonl")] for number in (1, 2, 3)]
    assert Counter(url for part in parts for url in part) == Counter(pages)
    assert all(parts), "each has some"
    failures = [line["url"] for number in (1, 2, 3) for line in project.items(f"failures-{number}.jsonl")]
    assert sorted(failures) == sorted([*missing, *nonsense])
    lines = ask(project, "jobs/1", "jobs/2", "jobs/3").output.splitlines()
    assert lines[-6:-1] == [
        "All 3 jobs: finished",
        "        45 read = 28 fetched + 7 failed + 10 skipped + 0 pending",
        "        28 fetched",
        "         7 failed/http-404",
        "        10 skipped/invalid",
    ]
    assert re.fullmatch(r" +[0-9.]+ targets a second, in .*s", lines[-1])


def ask(project: Project, *jobdirs: str) -> Run:
    run = project.scrapy("batcher", "status", *jobdirs)
    assert run.status == 0, run.log
    assert run.log == ""
    return run


def test_while_it_runs(project: Project, server: MockServer) -> None:
    """A job is looked at while its batch runs, which goes on undisturbed."""
    project.write("urls.txt", "".join(f"{server.url(f'page/{n}?gate=g')}\n" for n in range(3)))
    process = crawl(project, 1)
    wait_until(lambda: len(server.control()["hits"]) == 3, process)
    looked_at = [
        "jobs/1, shard 1/3: running",
        "         3 read = 0 fetched + 0 failed + 0 skipped + 3 pending",
        "         1 host, 1 with pending targets",
        "         3 pending: 127.0.0.1",
        f"         1 is the line of the oldest that is pending: {server.url('page/0?gate=g')}",
    ]

    def lines() -> list[str]:
        return [line for line in ask(project, "jobs/1").output.splitlines() if " a second, in " not in line]

    wait_until(lambda: lines() == looked_at, process)  # when the list was read
    server.control("open?gate=g")
    finish(process)
    assert ask(project, "jobs/1").output.startswith("jobs/1, shard 1/3: finished\n         3 read = 3 fetched")


def test_how_a_run_ended(project: Project, server: MockServer) -> None:
    """A job tells whether it was stopped or killed, and of how many runs it is."""
    project.write("urls.txt", "".join(f"{server.url(f'page/{n}')}\n" for n in range(6)))
    finish(crawl(project, 1, "-s", "CLOSESPIDER_ITEMCOUNT=1", "-s", "CONCURRENT_REQUESTS=1"))
    assert ask(project, "jobs/1").output.startswith("jobs/1, shard 1/3: not finished, stopped")
    server.control("clear")
    server.control("allow?more=0")
    process = crawl(project, 1)
    wait_until(lambda: server.control()["hits"], process)
    process.kill()
    process.communicate()
    assert ask(project, "jobs/1").output.startswith("jobs/1, shard 1/3: not finished, killed")
    server.control("clear")
    finish(crawl(project, 1))
    assert "jobs/1, shard 1/3: finished" in (output := ask(project, "jobs/1").output)
    assert re.search(r" targets a second, in .* of 3 runs$", output, re.MULTILINE)


def test_who_looks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the lock of a job is looked at, a batch that begins waits for it, and is not refused."""
    monkeypatch.setattr("scrapy_batcher.jobs.jobdir._LOOK", 60)
    JobDir(str(tmp_path / "job")).close()
    looker = sqlite3.connect(tmp_path / "job" / "ledger.lock", isolation_level=None, check_same_thread=False)
    looker.execute("BEGIN")
    looker.execute("SELECT count(*) FROM sqlite_master").fetchall()
    Timer(0.05, looker.rollback).start()
    jobdir = JobDir(str(tmp_path / "job"))
    assert subprocess.run([sys.executable, "-c", LOOK, tmp_path / "job"], cwd=ROOT, timeout=60).returncode == 1
    jobdir.close()
    assert subprocess.run([sys.executable, "-c", LOOK, tmp_path / "job"], cwd=ROOT, timeout=60).returncode == 0
    looker.close()


LOOK = """
import sys
from pathlib import Path
from scrapy_batcher.jobs.jobdir import is_worked_on
sys.exit(is_worked_on(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("inside", [True, False])
def test_in_a_project_and_outside(request: pytest.FixtureRequest, tmp_path: Path, inside: bool) -> None:
    """The command is there in a project and outside; Scrapy lists it."""
    project = request.getfixturevalue("project") if inside else Project(tmp_path)
    job(tmp_path / "job", FETCHED)
    assert "batcher       Show the status and results of batch jobs" in project.scrapy().output
    assert ask(project, "job").output.startswith("job: finished\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["states"], "invalid choice: 'states'"),
        (["status"], "the following arguments are required: JOBDIR"),
        (["status", "job", "no"], "no has no job in it, as there is no ledger.sqlite: name the JOBDIR of a batch"),
        (["status", "job", "--all"], "there is no option --all: see scrapy batcher -h"),
        (["status", "empty"], "empty/ledger.sqlite is empty; it was left as it is: restore it"),
        (["status", "x" * 300], "xxx cannot be looked into: File name too long"),
        (["status", "job", "loop"], "loop cannot be looked into: Too many levels of symbolic links"),
        (["status", "lock"], "it cannot be told whether a batch works in lock: file is not a database (ledger.lock)"),
        (["report", "folder"], "it cannot be told whether a batch works in folder: "),
    ],
)
def test_what_it_cannot_do(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """What cannot be done is said, with a non-zero status, and nothing is told of the other jobs."""
    job(tmp_path / "job", FETCHED)
    job(tmp_path / "lock", FETCHED)
    (tmp_path / "lock" / "ledger.lock").write_text("no database" * 100)
    job(tmp_path / "folder", FETCHED)
    (tmp_path / "folder" / "ledger.lock").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "ledger.sqlite").touch()
    run = Project(tmp_path).scrapy("batcher", *arguments)
    assert run.status == 2
    assert sentence in run.log.splitlines()[-1]
    assert "Traceback" not in run.log
    assert run.output == ""


def test_other_commands_have_their_reactor() -> None:
    """Scrapy loads the command whatever it is to do: that leaves it the choice of the reactor."""
    code = """
import sys
from importlib.metadata import entry_points
[command] = entry_points(group="scrapy.commands", name="batcher")
command.load()
sys.exit("twisted.internet.reactor" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
