"""Bodies as files: named as a setting says, nothing outside of the folder, no file in another's place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from contextlib import closing, nullcontext
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
from pytest_twisted import ensureDeferred
from scrapy.http import Response
from scrapy.utils.defer import deferred_from_coro
from twisted.internet.defer import Deferred

from scrapy_batcher import BatchSpider
from scrapy_batcher.item import Body
from scrapy_batcher.jobs.ledger import Ledger
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outputs.bodies import Bodies
from scrapy_batcher.outputs.names import Template
from tests.crawling import run
from tests.jobs import Work
from tests.mockserver import MockServer


def settings(work: Work, names: str = "hash", **more: object) -> dict:
    return work.settings(
        BATCHER_BODIES=str(work.folder / "pages"), BATCHER_BODIES_NAMES=names, **{"JOBDIR": None, **more}
    )


def files(work: Work) -> dict[str, bytes]:
    folder = work.folder / "pages"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def items(work: Work) -> list[dict]:
    return [json.loads(line) for line in (work.folder / "items.jsonl").read_text().splitlines()]


def save(bodies: Bodies, id: int, body: bytes) -> Deferred[Body]:
    """Have *body* saved as the page of a target whose URL ends in ``a``."""
    return deferred_from_coro(bodies.save(Target(id, id, "http://h/a", {}), Response("http://h/a", body=body)))


@ensureDeferred
async def test_by_content(server: MockServer, work: Work) -> None:
    """By default a file is named after its content, and pages that are the same share one; the item has its name and
    sum instead of its content."""
    urls = [server.url("page/1"), server.url("binary"), server.url("page/1?again"), server.url("status/404")]
    work.write(*urls)
    await work.run(settings=settings(work))
    got = {item.pop("url"): item for item in items(work)}
    assert got.keys() == set(urls[:3])
    assert got[urls[0]] == got[urls[2]] != got[urls[1]]
    bodies = files(work)
    assert len(bodies) == 2
    for item in got.values():
        body = bodies[item["path"]]
        digest = hashlib.sha256(body).hexdigest()
        assert item == {"length": len(body), "path": item["path"], "sha256": digest}
        assert item["path"] in (f"{digest[:2]}/{digest}.html", f"{digest[:2]}/{digest}")
    assert bytes(range(256)) in bodies.values()


@ensureDeferred
async def test_by_host(server: MockServer, work: Work) -> None:
    """With a folder for each host, a name is the end of the URL's path, after the row's number in the list."""
    work.write(server.url("page/one.php?x=/../.."), server.url("page/one.php", "127.0.0.2"), server.url("binary"))
    await work.run(settings=settings(work, "host"))
    assert files(work).keys() == {"127.0.0.1/1-one.html", "127.0.0.2/2-one.html", "127.0.0.1/3-binary"}


@ensureDeferred
async def test_rows_that_want_one_name(server: MockServer, work: Work) -> None:
    """A name that another target has, be it in other letters, gets the row's number; each file is its own target's."""
    names = ["a", "A", "a/", "../a", "", "CON", "con", "a"]
    work.list = work.folder / "urls.csv"
    work.list.write_text("url,n\n" + "".join(f"{server.url(f'page/{i}')},{n}\n" for i, n in enumerate(names, 1)))
    await work.run(settings=settings(work, "{n}.html", CONCURRENT_REQUESTS=8))
    bodies = files(work)
    paths = {item["url"].rpartition("/")[2]: item["path"] for item in items(work)}
    assert bodies.keys() == set(paths.values())
    assert len({path.casefold() for path in paths.values()}) == len(names)
    for number, path in paths.items():
        assert f"<title>{number}</title>".encode() in bodies[path]
    assert (paths["3"], paths["4"], paths["5"]) == ("a_.html", "_.._a.html", "_.html")


@ensureDeferred
async def test_shards_that_want_one_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that write into one folder have ledgers of their own; when both find a name free at the same moment, it is
    still the file of one of them, and the other one gets another."""
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    saved = {}
    with closing(Ledger()) as one, closing(Ledger()) as other:
        for id, ledger in enumerate((one, other, other), 1):
            with closing(Bodies(folder, Template("{name}"), None, ledger.seen, print)) as bodies:
                saved[id] = (await save(bodies, id, str(id).encode())).path
    assert saved == {1: "a", 2: "a-2", 3: "a-3"}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"1", "a-2": b"2", "a-3": b"3"}


@ensureDeferred
async def test_where_there_are_no_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no hard links, bodies have their files, too."""
    monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError(errno.EPERM, "Operation not permitted")))
    with closing(Ledger()) as ledger, closing(Bodies(folder, Template("{id}"), None, ledger.seen, print)) as bodies:
        await save(bodies, 1, b"whole")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"1": b"whole"}


@ensureDeferred
async def test_what_is_there_stays(server: MockServer, work: Work) -> None:
    """A file that somebody else has put there is left as it is, and so is one of an earlier batch."""
    (work.folder / "pages").mkdir()
    (work.folder / "pages" / "page.html").write_text("mine")
    work.write(server.url("page/1"))
    for _ in range(2):
        await work.run(settings=settings(work, "{host:.0}page{ext}"))
    bodies = files(work)
    assert bodies.keys() == {"page.html", "page-1.html", "page-1-2.html"}
    assert bodies["page.html"] == b"mine"
    assert [item["path"] for item in items(work)] == ["page-1.html", "page-1-2.html"]


@ensureDeferred
async def test_a_link_that_leads_out(server: MockServer, work: Work) -> None:
    """Where a link in the folder leads out of it nothing is written: the batch ends with a sentence."""
    (work.folder / "elsewhere").mkdir()
    (work.folder / "pages").mkdir()
    (work.folder / "pages" / "127.0.0.1").symlink_to(work.folder / "elsewhere")
    work.write(server.url("page/1"))
    crawler = await work.run(settings=settings(work, "host"))
    assert "leads out of the folder" in crawler.totals.error
    assert crawler.totals.pending == 1
    assert not list((work.folder / "elsewhere").iterdir())
    assert not list((work.folder / "pages").glob(".unfinished*"))


@ensureDeferred
async def test_a_link_in_a_file_s_place(server: MockServer, work: Work) -> None:
    """A link that has a file's name is no file to be written to."""
    (work.folder / "pages" / "127.0.0.1").mkdir(parents=True)
    (work.folder / "secret").write_text("kept")
    (work.folder / "pages" / "127.0.0.1" / "1-1.html").symlink_to(work.folder / "secret")
    work.write(server.url("page/1"))
    await work.run(settings=settings(work, "host"))
    assert (work.folder / "secret").read_text() == "kept"
    assert [item["path"] for item in items(work)] == ["127.0.0.1/1-1-1.html"]


@ensureDeferred
async def test_a_row_without_the_column(server: MockServer, work: Work) -> None:
    """A row that lacks what its file is to be named after fails, and says so; the others go on."""
    work.list = work.folder / "urls.jsonl"
    rows = [{"url": server.url("page/1"), "sku": 5}, {"url": server.url("page/2")}]
    work.list.write_text("".join(json.dumps(row) + "\n" for row in rows))
    crawler = await work.run(settings=settings(work, "{sku}{ext}"))
    assert crawler.totals.outcomes == {"fetched": 1, "failed/callback": 1}
    [failure] = [json.loads(line) for line in (work.folder / "failures.jsonl").read_text().splitlines()]
    assert failure["error"] == "ValueError: BATCHER_BODIES_NAMES has {sku}, and the row has no such column"
    assert files(work).keys() == {"5.html"}


class Own(BatchSpider):
    """Has items of its own, with and without a file."""

    async def parse(self, response):
        if response.url.endswith("2"):
            body = await self.save_body(response)
            yield {"title": response.css("title::text").get(), "file": body.path, "sum": body.sha256}
        else:
            for item in await super().parse(response):
                item.more = 1
                yield item


@ensureDeferred
async def test_a_spider_of_one_s_own(server: MockServer, work: Work) -> None:
    """A callback can have a body written, and gets its name and its sum."""
    work.write(server.url("page/1"), server.url("page/2"))
    await work.run(Own, settings=settings(work, "{id}", CONCURRENT_REQUESTS=1))
    bodies = files(work)
    one, two = items(work)
    assert one["path"] == "1"
    assert two == {"title": "2", "file": "2", "sum": hashlib.sha256(bodies["2"]).hexdigest()}


class OwnFurther(BatchSpider):
    """Wants a file for the page of a further request, too."""

    def parse(self, response):
        yield response.follow("/page/further", self.parse_further)

    async def parse_further(self, response):
        await self.save_body(response)


@ensureDeferred
async def test_a_further_request(server: MockServer, work: Work, caplog: pytest.LogCaptureFixture) -> None:
    """A page that is no row's has no file: whoever wants one is told so."""
    work.write(server.url("page/1"))
    await work.run(OwnFurther, settings=settings(work))
    assert not files(work)
    assert (
        "RuntimeError: save_body() names a file after a row of the list: a further request is for none" in caplog.text
    )


@ensureDeferred
async def test_without_a_folder(server: MockServer, work: Work) -> None:
    """A callback that wants a body written, and no folder for it, is told which setting that is."""
    work.write(server.url("page/2"))
    crawler = await run(Own, str(work.list), work.settings(JOBDIR=None), failures=str(work.folder / "f"))
    assert crawler.totals.outcomes == {"failed/callback": 1}
    assert "name one with BATCHER_BODIES" in (work.folder / "f").read_text()


@ensureDeferred
async def test_what_a_killed_run_has_left(server: MockServer, work: Work) -> None:
    """Unfinished files of a job are gone when it is gone on with; those of another job, and all else, stay."""
    seen: list[set[str]] = []

    class Looks(BatchSpider):
        async def parse(self, response):
            seen.append({name for name in files(work) if name.startswith(".")})
            [folder] = set((work.folder / "pages").glob(".unfinished*")) - {other}
            (folder / "9").write_text("half")
            return await super().parse(response)

    other = work.folder / "pages" / ".unfinished-0000"
    other.mkdir(parents=True)
    (other / "1").write_text("half")
    job = settings(work, "host", JOBDIR=str(work.folder / "job"))
    for number in (1, 2):
        work.write(server.url(f"page/{number}"), append=number > 1)
        # The first one is closed in order in all but this: as if it had been killed.
        with patch.object(Bodies, "close", lambda self: None) if number == 1 else nullcontext():
            await work.run(Looks, settings=job)
    assert seen == [{".unfinished-0000/1"}] * 2
    assert files(work).keys() == {".unfinished-0000/1", "127.0.0.1/1-1.html", "127.0.0.1/2-2.html"}


@ensureDeferred
async def test_the_disk_has_it_first(server: MockServer, work: Work, monkeypatch) -> None:
    """In a job each body, and then its name, is on the disk before the ledger says that its target is fetched."""
    synced: set[int] = set()
    fsync, settle = os.fsync, Ledger.settle

    def noting(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def looking(ledger: Ledger, settlements, *args) -> None:
        for id in [settlement.id for settlement in settlements]:
            [path] = (work.folder / "pages").glob(f"x{id % 3}/{id}")
            assert {path.stat().st_ino, path.parent.stat().st_ino, path.parent.parent.stat().st_ino} <= synced
        settle(ledger, settlements, *args)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Ledger, "settle", looking)
    work.list = work.folder / "urls.csv"
    work.list.write_text("url,n\n" + "".join(f"{server.url(f'page/{n}')},x{n % 3}\n" for n in range(1, 20)))
    job = settings(work, "{n}/{id}", JOBDIR=str(work.folder / "job"), BATCHER_CHECKPOINT_TARGETS=4)
    assert (await work.run(settings=job)).totals.outcomes == {"fetched": 19}
