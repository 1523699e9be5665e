"""Bodies and WARC records after a kill: each settled target has its own, none has two, and none is torn."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from warcio.archiveiterator import ArchiveIterator

from tests.conftest import Project, Run, make_project
from tests.faults import FILE_POINTS, STATUS
from tests.mockserver import MockServer
from tests.test_command_line import REACTORS, wait_until
from tests.test_killed import CHECKPOINT, SETTINGS, WIDTH, check_complete, check_full, limited

KILLS = 5

FILES = {**SETTINGS, "BATCHER_BODIES": "pages", "BATCHER_BODIES_NAMES": "host", "BATCHER_WARC": "out.warc.gz"}

ARGUMENTS = ("crawl", "batch", "-a", "urls=urls.txt", "-o", "items.jsonl")


def write_list(project: Project, server: MockServer, count: int, name: str) -> tuple[list[str], list[str]]:
    """A list of pages that are there, and some that are not."""
    pages = [server.url(f"page/{name}-{n}?size={n % 7 * 1000}") for n in range(count)]
    missing = [server.url(f"status/404?{name}-{n}") for n in range(count // 10)]
    lines = [*pages, *missing]
    random.Random(2).shuffle(lines)
    project.write("urls.txt", "".join(f"{line}\n" for line in lines))
    return pages, missing


def records(path: Path) -> list[tuple[str, str]]:
    """The type and URL of each record in a WARC file; every byte of it is looked at, and every sum."""
    found = []
    with path.open("rb") as file:
        for record in ArchiveIterator(file, check_digests="raise"):
            record.content_stream().read()
            found.append((record.rec_type, record.rec_headers.get_header("WARC-Target-URI")))
        assert not file.read()
    return found


def check(project: Project, pages: list[str], missing: list[str]) -> None:
    """Every fetched target has one item, one file, which is the item's, and one response in the archive."""
    items = project.items()
    assert Counter(item["url"] for item in items) == Counter(pages)
    paths = [item["path"] for item in items]
    assert len(set(paths)) == len(paths)
    folder = project.path / "pages"
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert on_disk == set(paths), "no file is left over"
    assert not list(folder.glob(".unfinished*"))
    for item in items:
        body = (folder / item["path"]).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (item["length"], item["sha256"])
        assert item["url"].split("/")[-1].partition("?")[0] in body.decode()
    kept = Counter(records(project.path / "out.warc.gz"))
    assert kept.pop(("warcinfo", None)) == 1
    assert kept == Counter([(kind, url) for kind in ("request", "response") for url in (*pages, *missing)])


@pytest.fixture(scope="module")
def faulty(running_server: MockServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """For each point its runs, all of which are started at once."""
    folders = {point: tmp_path_factory.mktemp("fault") for point in FILE_POINTS}

    def runs_for(point: str) -> tuple[Project, list[str], list[str], list[Run]]:
        project = make_project(folders[point])
        pages, missing = write_list(project, running_server, 60, f"f{list(FILE_POINTS).index(point)}")
        runs = [project.scrapy(*ARGUMENTS, settings={**FILES, "DIE_AT": at}) for at in (point, "")]
        return project, pages, missing, runs

    running_server.control("clear")
    with ThreadPoolExecutor(3) as pool:
        yield {point: pool.submit(runs_for, point) for point in FILE_POINTS}


@pytest.mark.parametrize("point", FILE_POINTS)
def test_a_fault_at_each_step(faulty: dict, point: str) -> None:
    """A process that dies while it writes a body or a record is followed by one that mends it."""
    project, pages, missing, (died, last) = faulty[point].result()
    assert died.status == STATUS, died.log
    assert last.status == 0, last.log
    check(project, pages, missing)
    assert "ERROR" not in last.log, last.log


def test_killed_again_and_again(project: Project, server: MockServer) -> None:
    """Killed after random numbers of pages, a job has in the end one file and one response for each target."""
    pages, missing = write_list(project, server, 120, "k")
    seed = random.randrange(10**6)
    numbers = random.Random(seed)
    for _ in range(KILLS):
        more = numbers.randrange(20)
        before = sum(server.control(f"allow?more={more}")["hits"].values())
        process = project.popen(*ARGUMENTS, settings=FILES)
        wait_until(lambda goal=before + more + WIDTH: sum(server.control()["hits"].values()) >= goal, process)
        process.kill()
        process.communicate()
    server.control("allow?more=100000")
    last = project.scrapy(*ARGUMENTS, settings=FILES)
    assert last.status == 0, (seed, last.log)
    check(project, pages, missing)
    refetched = sum(server.control()["hits"].values()) - len(pages) - len(missing)
    assert 0 < refetched <= KILLS * (WIDTH + CHECKPOINT), seed


@pytest.mark.parametrize("what", ["pages/", "out.warc.gz"])
def test_no_room(project: Project, server: MockServer, what: str) -> None:
    """A body, or a record, for which there is no room ends the batch with the reason; then the same command goes on."""
    urls = [server.url(f"page/{n}") for n in range(20)]
    # One that is too large as it is, and not when it is compressed; or many that are, all together.
    large = server.url("page/large?size=900000")
    if what == "out.warc.gz":
        urls, large = [server.url(f"random/{n}?size=60000") for n in range(20)], server.url("page/last")
    project.write("urls.txt", "".join(f"{url}\n" for url in (*urls, large)))
    name = "BATCHER_BODIES" if what == "pages/" else "BATCHER_WARC"
    command = (*ARGUMENTS, "-s", f"{name}={FILES[name]}", "-s", "BATCHER_FIELDS=url")
    full = check_full(project, command, what, **limited(500_000))
    assert full.stats["batcher/pending"] > 0
    check_complete(project, command)
    assert Counter(item["url"] for item in project.items()) == Counter([*urls, large])
    if what == "pages/":
        assert not list((project.path / "pages").glob(".unfinished*"))
        assert len([path for path in (project.path / "pages").rglob("*") if path.is_file()]) == len(urls) + 1
    else:
        kept = records(project.path / "out.warc.gz")
        assert Counter(url for kind, url in kept if kind == "response") == Counter([*urls, large])


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("BATCHER_BODIES", "urls.txt", "the folder BATCHER_BODIES urls.txt cannot be used: File exists"),
        ("BATCHER_WARC", ".", "the file BATCHER_WARC . cannot be written: Is a directory"),
        ("BATCHER_WARC", "urls.txt", "the feed urls.txt is the list itself"),
        (
            "BATCHER_WARC",
            "notes",
            "notes does not end with a whole WARC record, so none can be added to it: name another",
        ),
        ("BATCHER_WARC", "items.jsonl", "items.jsonl is named twice as a feed: leave one out"),
    ],
)
def test_a_place_that_cannot_be_used(project: Project, name: str, value: str, sentence: str) -> None:
    """Where nothing can be written a batch does not begin; one sentence names the place."""
    project.write("urls.txt", "http://127.0.0.1:1/")
    project.write("notes", "to be kept")
    run = project.scrapy(*ARGUMENTS, settings={"LOG_LEVEL": "ERROR", name: value})
    assert run.status == 1
    assert sentence in run.log
    assert len(run.log.splitlines()) == 1, run.log


@pytest.mark.parametrize("reactor", ["asyncio", "none"])
def test_without_a_job(project: Project, server: MockServer, reactor: str) -> None:
    """Without a job, too, bodies and records are there when the batch has ended; a second run adds to them."""
    pages, missing = write_list(project, server, 20, "w")
    for run_number in (1, 2):
        run = project.scrapy(*ARGUMENTS, settings={**FILES, **REACTORS[reactor], "JOBDIR": ""})
        assert run.status == 0, run.log
        assert len(records(project.path / "out.warc.gz")) == 1 + 2 * run_number * (len(pages) + len(missing))
        files = [path for path in (project.path / "pages").rglob("*") if path.is_file()]
        assert len(files) == run_number * len(pages)
        assert {item["path"] for item in project.items()} == {
            path.relative_to(project.path / "pages").as_posix() for path in files
        }
