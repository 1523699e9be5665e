"""A process that ends at any moment, in any way, loses nothing: the same command again goes on where it was."""

from __future__ import annotations

import csv
import json
import random
import resource
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Project, Run, make_project
from tests.faults import POINTS, STATUS
from tests.mockserver import MockServer
from tests.test_command_line import wait_until

WIDTH = 4  # downloads in flight
CHECKPOINT = 10  # outcomes that a crash can undo
KILLS = 10

SETTINGS = {
    "CONCURRENT_REQUESTS": WIDTH,
    "BATCHER_CHECKPOINT_TARGETS": CHECKPOINT,
    "BATCHER_CHECKPOINT_SECONDS": 3600,  # by count alone, so that nothing depends on how fast the machine is
    "JOBDIR": "job",
    "RETRY_ENABLED": False,
    "BATCHER_REST": False,  # the list has a port at which nobody answers, on the host of the pages
    "EXTENSIONS": json.dumps({"project_spiders.DumpStats": 0, "tests.faults.Dies": -100}),
}

ARGUMENTS = ("crawl", "batch", "-a", "failures=failures.jsonl", "-o", "items.jsonl", "-o", "items.csv")


@dataclass
class Job:
    """A list with every kind of outcome, and what must be there of it in the end."""

    project: Project
    pages: list[str]
    failures: dict[str, str]

    @classmethod
    def of(cls, project: Project, server: MockServer, count: int, name: str, query: str = "") -> Job:
        pages = [server.url(f"page/{name}-{n}{query}") for n in range(count)]
        failures = {server.url(f"status/404?{name}-{n}"): "failed/http-404" for n in range(count // 10)}
        failures |= {f"http://127.0.0.1:1/{n}": "failed/refused" for n in range(count // 20)}
        failures |= {f"nonsense-{n}": "skipped/invalid" for n in range(count // 20)}
        lines = [*pages, *failures]
        random.Random(1).shuffle(lines)
        project.write("urls.txt", "".join(f"{line}\n" for line in lines))
        return cls(project, pages, failures)

    def check(self) -> None:
        """Every target has one outcome, everywhere, and every fetched one a line in each feed."""
        path = self.project.path
        assert Counter(item["url"] for item in self.project.items()) == Counter(self.pages)
        with (path / "items.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["url", "length", "content", "base64"]
        assert Counter(row[0] for row in rows) == Counter(self.pages)
        lines = [json.loads(line) for line in (path / "failures.jsonl").read_text().splitlines()]
        assert Counter((line["url"], line["outcome"]) for line in lines) == Counter(self.failures.items())
        ledger = sqlite3.connect(path / "job" / "ledger.sqlite")
        states = Counter(dict(ledger.execute("SELECT state, count(*) FROM target GROUP BY state")))
        history = Counter(dict(ledger.execute("SELECT outcome, sum(settled - again) FROM period GROUP BY outcome")))
        [lanes] = ledger.execute("SELECT sum(fetched), sum(failed), sum(pending + waiting) FROM lane")
        ledger.close()
        assert states == Counter([*self.failures.values(), *["fetched"] * len(self.pages)])
        assert +history == states, "what was settled when"
        failed = sum(count for name, count in states.items() if name.startswith("failed/"))
        assert lanes == (states["fetched"], failed, 0)

    def refetches(self, server: MockServer) -> int:
        hits = server.control()["hits"]
        wanted = {url.partition("?")[0].split("/", 3)[3] for url in self.pages}
        return sum(count - 1 for path, count in hits.items() if path[1:] in wanted)


# -- a fault at each step ---------------------------------------------------------------------------------------------

# What is done before, so that the step is taken at all, and with which arguments.
BEFORE = {
    "one of two feeds is cut back": ["half a line is written"],
    "the failures file is empty": ["the checkpoint is committed"],
    "some are taken up": [None],
}
RETRY = ("-a", "retry=failed")


@pytest.fixture(scope="module")
def faulty(running_server: MockServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """A function for each point that waits for its runs, all of which are started at once."""

    folders = {point: tmp_path_factory.mktemp("fault") for point in POINTS}

    def runs_for(point: str) -> tuple[Job, list[Run], int]:
        project = make_project(folders[point])
        job = Job.of(project, running_server, 60, str(list(POINTS).index(point)))
        list_of = {"urls": "urls.txt", "stdin": b""}
        if "stdin" in point:
            list_of = {"urls": "-", "stdin": (project.path / "urls.txt").read_bytes()}
        retry = RETRY if "taken up" in point else ()
        runs = [
            project.scrapy(
                *ARGUMENTS, "-a", f"urls={list_of['urls']}", *retry,
                settings={**SETTINGS, "DIE_AT": at or ""}, stdin=list_of["stdin"],
            )
            for at in [*BEFORE.get(point, []), point, None]
        ]  # fmt: skip
        return job, runs, job.refetches(running_server)

    running_server.control("clear")
    with ThreadPoolExecutor(3) as pool:
        yield {point: pool.submit(runs_for, point) for point in POINTS}


@pytest.mark.parametrize("point", POINTS)
def test_a_fault_at_each_step(faulty: dict, point: str) -> None:
    """A process that dies at a step of a load, a checkpoint, a cut-back or a close is followed by one that mends it."""
    job, runs, refetches = faulty[point].result()
    *died, last = runs
    statuses = [0 if before is None else STATUS for before in BEFORE.get(point, [])]
    assert [run.status for run in died] == [*statuses, STATUS], [run.log for run in died]
    assert last.status == 0, last.log
    job.check()
    assert refetches <= (WIDTH + CHECKPOINT) * len(died)
    assert "ERROR" not in last.log, last.log


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def test_killed_again_and_again(project: Project, server: MockServer) -> None:
    """Killed after random numbers of pages, a job is still whole, and has fetched little twice."""
    job = Job.of(project, server, 400, "k")
    seed = random.randrange(10**6)
    numbers = random.Random(seed)
    for _ in range(KILLS):
        pages = numbers.randrange(40)
        before = sum(server.control(f"allow?more={pages}")["hits"].values())
        process = project.popen(*ARGUMENTS, "-a", "urls=urls.txt", settings=SETTINGS)
        # Those beyond the allowed ones are not answered, so all that can be under way is.
        wait_until(lambda goal=before + pages + WIDTH: sum(server.control()["hits"].values()) >= goal, process)
        process.kill()
        process.communicate()
    server.control("allow?more=100000")
    last = project.scrapy(*ARGUMENTS, "-a", "urls=urls.txt", settings=SETTINGS)
    assert last.status == 0, (seed, last.log)
    assert "Going on: " in last.log
    assert "had kept" not in last.log, "nothing is said of a queue of Scrapy's in which nothing ever was"
    job.check()
    refetches = job.refetches(server)
    print(f"{refetches} of {len(job.pages)} pages were fetched again after {KILLS} kills (seed {seed})")
    assert 0 < refetches <= KILLS * (WIDTH + CHECKPOINT), seed


PIPELINE = """
import sqlite3
from scrapy_batcher import BatchSpider


class Numbered(BatchSpider):
    name = "numbered"

    def parse(self, response):
        return {"id": response.meta["batcher_target"].id, "url": response.url}


class Database:
    def open_spider(self):
        self.db = sqlite3.connect("pages.sqlite", isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS page (id INTEGER PRIMARY KEY, url, times DEFAULT 1)")

    def process_item(self, item):
        upsert = "INSERT INTO page (id, url) VALUES (:id, :url) ON CONFLICT DO UPDATE SET times = times + 1"
        self.db.execute(upsert, item)
        return item

    def close_spider(self):
        self.db.close()
"""


def test_a_database_of_a_pipeline(project: Project, server: MockServer) -> None:
    """After a crash the items that no checkpoint had reached come to a pipeline once more, under the same id."""
    pages = [server.url(f"page/{n}") for n in range(40)]
    project.write("urls.txt", "".join(f"{url}\n" for url in pages))
    project.write("project_spiders.py", (project.path / "project_spiders.py").read_text() + PIPELINE)
    settings = {**SETTINGS, "ITEM_PIPELINES": json.dumps({"project_spiders.Database": 1})}
    command = ("crawl", "numbered", "-a", "urls=urls.txt")
    assert project.scrapy(*command, settings={**settings, "DIE_AT": "before the commit"}).status == STATUS
    assert project.scrapy(*command, settings=settings).status == 0
    database = sqlite3.connect(project.path / "pages.sqlite")
    rows = list(database.execute("SELECT id, url, times FROM page ORDER BY id"))
    database.close()
    assert [row[:2] for row in rows] == list(enumerate(pages, 1))
    assert 0 < sum(times - 1 for *_, times in rows) <= CHECKPOINT + WIDTH


def test_two_processes_on_one_job(project: Project, server: MockServer) -> None:
    """A second process is refused while the first one lives, and only then."""
    project.write("urls.txt", server.url("page/1?gate=two"))
    first = project.popen(*ARGUMENTS, "-a", "urls=urls.txt", settings=SETTINGS)
    wait_until(lambda: server.control()["in_flight"].get("*") == 1, first)
    second = project.scrapy(*ARGUMENTS, "-a", "urls=urls.txt", settings={**SETTINGS, "LOG_LEVEL": "ERROR"})
    assert second.status == 1
    assert "JOBDIR job is in use: another process works on this job" in second.log
    assert len(second.log.splitlines()) == 1, second.log
    first.kill()
    first.communicate()
    server.control("open?gate=two")
    third = project.scrapy(*ARGUMENTS, "-a", "urls=urls.txt", settings=SETTINGS)
    assert third.status == 0, third.log
    assert len(project.items()) == 1


# -- closed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signals", [1, 2])
def test_interrupted(project: Project, server: MockServer, signals: int) -> None:
    """After one Ctrl-C what is in flight is finished and settled, after two signals nothing is; and nothing is lost."""
    job = Job.of(project, server, 60, "i", query="?gate=i")
    process = project.popen(*ARGUMENTS, "-a", "urls=urls.txt", settings=SETTINGS)
    wait_until(lambda: server.control()["in_flight"].get("*") == WIDTH, process)
    process.send_signal(signal.SIGINT if signals == 1 else signal.SIGTERM)
    log = b""
    while b"shutting down gracefully" not in log:
        log += process.stderr.readline()
    if signals == 2:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    server.control("open?gate=i")
    if signals == 1:
        process.communicate(timeout=60)
        assert len(project.items()) == WIDTH
    assert process.returncode == 0
    last = project.scrapy(*ARGUMENTS, "-a", "urls=urls.txt", settings=SETTINGS)
    assert last.status == 0, last.log
    job.check()
    assert job.refetches(server) == (0 if signals == 1 else WIDTH)


# -- the disk ---------------------------------------------------------------------------------------------------------


def limited(bytes: int) -> dict[str, object]:
    """For a process of which no file can grow over *bytes*."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))}


def check_full(project: Project, command: tuple[str, ...], what: str, **limits: object) -> Run:
    """Run *command* where *what* cannot be written to its end."""
    process = project.popen(*command, settings=SETTINGS, **limits)
    output, log = (part.decode() for part in process.communicate(timeout=100))
    assert process.returncode == 0
    [reason] = [line for line in log.splitlines() if "Batch incomplete: " in line]
    assert what in reason
    assert "feed_exporter_closed" not in log
    assert "Nothing of it is lost: once that is mended, the same command goes on from here" in log
    assert "Spider closed (incomplete)" in log
    return Run(process.returncode, log, output)


def check_complete(project: Project, command: tuple[str, ...]) -> None:
    """Run *command* where there is room."""
    last = project.scrapy(*command, settings=SETTINGS)
    assert last.status == 0, last.log
    assert last.stats["finish_reason"] == "finished"
    assert last.stats["batcher/pending"] == 0


def test_no_room_for_a_feed(project: Project, server: MockServer) -> None:
    """A feed that cannot grow ends the batch with the reason; when there is room, the same command completes it."""
    urls = [server.url(f"page/{n}?size=90000") for n in range(40)]
    project.write("urls.txt", "".join(f"{url}\n" for url in urls))
    command = ("crawl", "batch", "-a", "urls=urls.txt", "-o", "items.jsonl", "-o", "items.csv")
    full = check_full(project, command, "items.", **limited(1_000_000))
    assert 0 < full.stats["batcher/pending"] < 40, "what was settled before is kept"
    assert len(project.items()) == 40 - full.stats["batcher/pending"], "and nothing is half written"
    check_complete(project, command)
    assert Counter(item["url"] for item in project.items()) == Counter(urls)
    with (project.path / "items.csv").open(newline="") as file:
        assert Counter(row[0] for row in csv.reader(file)) == Counter(["url", *urls])
    assert full.log.count("No space left") + full.log.count("File too large") <= 8, "it is not said for each page"


def test_no_room_for_a_feed_without_a_job(project: Project, server: MockServer) -> None:
    """Without a job directory it is Scrapy's feed: what it cannot take is an error in the log, and missing there."""
    project.write("urls.txt", "".join(f"{server.url(f'page/{n}?size=90000')}\n" for n in range(40)))
    settings = {name: value for name, value in SETTINGS.items() if name != "JOBDIR"}
    process = project.popen(
        "crawl", "batch", "-a", "urls=urls.txt", "-o", "items.jsonl", settings=settings, **limited(1_000_000)
    )
    log = process.communicate(timeout=100)[1].decode()
    assert "40 read = 40 fetched + 0 failed + 0 skipped + 0 pending" in log
    assert "File too large" in log
    assert (project.path / "items.jsonl").stat().st_size <= 1_000_000


@pytest.mark.parametrize("room", [150_000, 200_000])
def test_no_room_for_the_ledger(project: Project, server: MockServer, room: int) -> None:
    """So does a ledger that cannot grow, wherever it stands then."""
    urls = [server.url(f"page/{n}") for n in range(600)]
    project.write("urls.txt", "".join(f"{url}\n" for url in urls))
    command = ("crawl", "batch", "-a", "urls=urls.txt", "-o", "items.jsonl")
    check_full(project, command, "job/ledger.sqlite cannot be used: ", **limited(room))
    check_complete(project, command)
    assert Counter(item["url"] for item in project.items()) == Counter(urls)


def test_no_room_to_begin(project: Project) -> None:
    """A job that has no room for an empty ledger does not begin."""
    project.write("urls.txt", "http://127.0.0.1:1/")
    process = project.popen("crawl", "batch", "-a", "urls=urls.txt", settings=SETTINGS, **limited(20_000))
    log = process.communicate(timeout=100)[1].decode()
    assert process.returncode == 1
    assert "job/ledger.sqlite cannot be used: " in log
    assert "Traceback" not in log


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield path
    subprocess.run(["umount", path], check=True)


def test_no_room_for_the_failures_file(project: Project, server: MockServer, small_disk: Path) -> None:
    """So does a failures file on a disk that is full; the next run makes it whole."""
    urls = [server.url(f"status/404?{'x' * 500}-{n}") for n in range(200)]
    project.write("urls.txt", "".join(f"{url}\n" for url in urls))
    command = ("crawl", "batch", "-a", "urls=urls.txt", "-a")
    check_full(project, (*command, f"failures={small_disk / 'f.jsonl'}"), "small/f.jsonl")
    check_complete(project, (*command, "failures=f.jsonl"))
    lines = [json.loads(line) for line in (project.path / "f.jsonl").read_text().splitlines()]
    assert Counter(line["url"] for line in lines) == Counter(urls)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-s", "JOBDIR=small/job"], "JOBDIR small/job cannot be used: Read-only file system"),
        (
            ["-s", "JOBDIR=small/old"],
            "JOBDIR small/old cannot be used: unable to open database file (ledger.lock)",
        ),
        (["-a", "failures=small/f"], "the failures file small/f cannot be written: Read-only file system"),
        (
            ["-o", "small/items.jsonl"],
            "the feed small/items.jsonl cannot be used with JOBDIR: small is read-only for this",
        ),
    ],
)
def test_read_only(project: Project, server: MockServer, small_disk: Path, arguments: list[str], sentence: str) -> None:
    """Where nothing can be written a job does not begin; one sentence names the place."""
    (small_disk / "old").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    project.write("urls.txt", server.url("page/1"))
    settings = {**SETTINGS, "LOG_LEVEL": "ERROR"}
    if "-s" in arguments:
        del settings["JOBDIR"]
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", *arguments, settings=settings)
    assert run.status == 1
    assert sentence in run.log
    assert len(run.log.splitlines()) == 1, run.log
