"""Lists that are elsewhere: over HTTP from a real server, and in fsspec's memory."""

from __future__ import annotations

import base64
import gzip
import ssl
import sys
import zipfile
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pytest_twisted import ensureDeferred

from scrapy_batcher.lists.lines import START
from scrapy_batcher.lists.locations import name_of
from scrapy_batcher.lists.remote import is_remote, without_credentials
from scrapy_batcher.lists.sources import Source, SourceError
from tests.certificates import make_certificate, server_context
from tests.conftest import Project
from tests.fileserver import FileServer
from tests.jobs import Stops, Work, complaint
from tests.mockserver import MockServer
from tests.test_command_line import wait_until
from tests.test_sitemap import index, loc, urlset

MIB = 1024 * 1024


@pytest.fixture
def files() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    """A function that puts a file into fsspec's memory."""
    system = fsspec.filesystem("memory")
    yield system.pipe_file
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def lines(count: int) -> bytes:
    return b"".join(b"http://h/%d?%0100d\n" % (n, n * 7919 % 100_003) for n in range(count))


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("name", ["list.txt", "list.txt.gz", "list"])
def test_over_http(files, has_ranges, name):
    """A list comes from a server, whether that sends parts of it or only all."""
    files.has_ranges = has_ranges
    data = lines(60_000)
    assert len(data) > 5 * MIB
    files.files[name] = gzip.compress(data) if name.endswith("gz") else data
    source = Source(files.url(f"{name}?token=secret"))
    rows = list(source)
    assert len(rows) == 60_000
    assert rows[-1].id == rows[-1].line == 60_000
    assert str(source) == files.url(f"{name}?…")


def test_no_more_is_read_than_is_needed(files):
    """A list is read a block at a time: one that is left early was not sent whole."""
    files.files["list.txt"] = b"http://h/\n" * (3 * MIB)
    rows = iter(Source(files.url("list.txt")))
    next(rows)
    rows.close()
    assert 0 < files.sent["list.txt"] < 12 * MIB


def test_over_tls(tmp_path, monkeypatch):
    """So does one over TLS, whose certificate is checked."""
    certificate = make_certificate(tmp_path / "certificate.pem", "127.0.0.1")
    server = FileServer(server_context(certificate))
    server.files["list.csv"] = b"url\nhttp://a/\n"
    assert "certificate" in complaint(server.url("list.csv")).lower()
    context = ssl.create_default_context(cafile=certificate)
    monkeypatch.setitem(fsspec.config.conf, "https", {"ssl": context})
    try:
        assert [row.url for row in Source(server.url("list.csv"))] == ["http://a/"]
    finally:
        server.close()


def test_in_memory(memory):
    """Any location that fsspec knows is read; a pattern of them, too, in the order of the names."""
    memory("/lists/b.csv", b"url,n\nhttp://b/,1\n")
    memory("/lists/a.jsonl.gz", gzip.compress(b'{"url": "http://a/"}\n'))
    memory("/lists/c,d.txt", b"http://c/\n")
    assert [row.url for row in Source("memory://lists/b.csv")] == ["http://b/"]
    assert [(row.where, row.url) for row in Source("memory://lists/*")] == [
        ("memory://lists/a.jsonl.gz line 1", "http://a/"),
        ("memory://lists/b.csv line 2", "http://b/"),
        ("memory://lists/c,d.txt line 1", "http://c/"),
    ]
    assert [row.url for row in Source(r"memory://lists/c\,d.txt,memory://lists/b.csv")] == ["http://c/", "http://b/"]
    assert complaint("memory://lists/*.pdf").startswith("no file matches memory://lists/*.pdf: ")


def test_within_an_archive(files, tmp_path):
    """So is a list in an archive, here and elsewhere."""
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as archive:
        archive.writestr("list.txt", lines(3))
    files.files["lists.zip"] = (tmp_path / "lists.zip").read_bytes()
    for place in (str(tmp_path / "lists.zip"), files.url("lists.zip")):
        assert len(list(Source(f"zip://list.txt::{place}"))) == 3


def test_beside_local_files(memory, tmp_path):
    """Files here and elsewhere are one list."""
    memory("/a.txt", b"http://a/\n")
    (tmp_path / "b.txt").write_text("http://b/\n")
    assert [row.id for row in Source(f"memory://a.txt,{tmp_path}/*.txt")] == [1, 2]


@pytest.mark.parametrize("has_ranges", [True, False])
def test_parquet(files, has_ranges):
    """Of a Parquet file what is needed is read; one that does not come in parts is refused, as its end comes first."""
    files.has_ranges = has_ranges
    table = pa.table({"url": [f"http://h/{n}/{n * 7919 % 100_003:0100}" for n in range(100_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=10_000, compression="none", use_dictionary=False)
    files.files["list.parquet"] = sink.getvalue().to_pybytes()
    if not has_ranges:
        assert "list.parquet cannot be read: " in complaint(files.url("list.parquet"))
        return
    marks = [mark for _, mark in Source(files.url("list.parquet")).marked()]
    files.sent.clear()
    source = Source(files.url("list.parquet"))
    source.resume(marks[98_000])
    assert [row.id for row in source] == list(range(98_002, 100_001))
    assert files.sent["list.parquet"] < len(files.files["list.parquet"]) * 0.8


def test_a_sitemap_on_the_web(files):
    """An index leads to sitemaps beside it and elsewhere; one that is not there is a row, nothing local is opened."""
    files.files["maps/index.xml"] = index(
        "a.xml.gz", files.url("b.xml"), "no.xml", "file:///etc/passwd", files.url("maps/index.xml")
    )
    files.files["maps/a.xml.gz"] = gzip.compress(urlset(loc("http://a/")))
    files.files["b.xml"] = urlset(loc("http://b/"))
    rows = list(Source(files.url("maps/index.xml")))
    assert [(row.where, row.url) for row in rows[:2]] == [
        (files.url("maps/a.xml.gz") + " line 3", "http://a/"),
        (files.url("b.xml") + " line 3", "http://b/"),
    ]
    assert [row.error for row in rows[2:]] == [
        "a sitemap that cannot be read: No such file or directory",
        "a sitemap that is not read: an index on the web leads to the web only",
        "a sitemap that is not read: it was led to before",
    ]


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_a_list_that_is_not_there(files, memory):
    """A list that is not there is refused at once, without what is secret in its location."""
    location = files.url("no.txt?token=secret", user="user:secret@")
    with pytest.raises(SourceError) as raised:
        Source(location)
    assert str(raised.value) == f"{files.url('no.txt?…', user='user:***@')} cannot be read: No such file or directory"
    assert complaint("memory://no.txt") == "memory://no.txt cannot be read: No such file or directory"


def test_a_server_that_wants_a_password(files):
    """A user and password in a location are sent; a refusal shows neither."""
    files.password = base64.b64encode(b"user:secret").decode()
    files.files["list.txt"] = b"http://a/\n"
    assert [row.url for row in Source(files.url("list.txt", user="user:secret@"))] == ["http://a/"]
    told = complaint(files.url("list.txt?key=hidden", user="user:wrong@"))
    assert "401" in told
    assert "wrong" not in told
    assert "hidden" not in told


def test_no_server():
    """A server that is not there is refused at once."""
    assert "http://user:***@127.0.0.1:1/list.txt cannot be read: " in complaint(
        "http://user:secret@127.0.0.1:1/list.txt"
    )


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_list_that_breaks_off(files, has_ranges):
    """A list that does not come whole gives the rows that came, and says so."""
    files.has_ranges = has_ranges
    files.files["list.txt"] = lines(60_000)
    files.cut["list.txt"] = 6 * MIB
    rows = []
    with pytest.raises(SourceError, match=r"list.txt broke off after line \d+: ") as raised:
        rows.extend(Source(files.url("list.txt")))
    assert 0 < len(rows) < 60_000
    assert "\n" not in str(raised.value)


def test_a_list_that_becomes_shorter(files):
    """A list of which there is less than there was when its reading began does not end without a word."""
    files.files["list.txt"] = lines(120_000)
    rows = iter(Source(files.url("list.txt")))
    next(rows)
    files.files["list.txt"] = lines(1000)
    with pytest.raises(
        SourceError, match=r"list.txt broke off after line \d+: it ends after [\d,]+ bytes, where it was"
    ):
        list(rows)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_list_that_is_replaced(files, has_ranges):
    """Of two lists at a place, one after the other, no list is put together."""
    files.has_ranges, files.tag = has_ranges, '"{}"'
    files.files["list.txt"] = lines(120_000)
    assert len(list(Source(files.url("list.txt")))) == 120_000
    rows = iter(Source(files.url("list.txt")))
    next(rows)
    files.files["list.txt"] = b"http://other/\n" * 2_000_000
    others = []
    with pytest.raises(SourceError, match=r"list.txt broke off after line \d+: it was changed while it was read"):
        others.extend(rows)
    assert all(row.url.startswith("http://h/") for row in others)


def test_a_weak_tag(files):
    """One that does not tell every byte is no condition that a server could say yes to."""
    files.files["list.txt"], files.tag = lines(60_000), 'W/"{}"'
    assert len(list(Source(files.url("list.txt")))) == 60_000


def test_an_unknown_scheme():
    """A scheme that fsspec does not know is refused."""
    assert "Protocol not known: nonsense" in complaint("nonsense://h/list.txt")


def test_without_fsspec(monkeypatch):
    """Without fsspec one sentence says what to install."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    sentence = "such a location needs fsspec: pip install 'scrapy-batcher[remote]'"
    assert complaint("s3://bucket/list.txt") == f"s3://bucket/list.txt cannot be read: {sentence}"
    assert sentence in complaint("s3://bucket/*.txt")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a?b.csv", "s3://bucket/a?…"),
        ("ClientError: 403, url='https://u:p@h/x?X-Sig=1&y=2'", "ClientError: 403, url='https://u:***@h/x?…'"),
        ("a.txt?x=1", "a.txt?x=1"),
    ],
)
def test_what_is_not_shown(text, shown):
    """Neither a password nor what a URL is signed with is shown."""
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    ("location", "remote"),
    [
        ("s3://b/k", True),
        ("HTTPS://h/", True),
        ("zip::s3://b/k", True),
        ("a.txt", False),
        ("a:b.txt", False),
        ("-", False),
    ],
)
def test_what_is_elsewhere(location, remote):
    """A scheme makes a location one of fsspec's."""
    assert is_remote(location) == remote
    assert name_of(location).isprintable()


# -- gone on with ------------------------------------------------------------------------------------------------------


def test_from_a_mark(files, memory):
    """What was read before is compared with what is there now, when the first row is asked for."""
    files.files["list.txt"] = lines(1000)
    memory("/list.txt", lines(1000))
    for location in (files.url("list.txt"), "memory://list.txt", f"memory://list.txt,{files.url('list.txt')}"):
        whole = list(Source(location).marked())
        for done in (0, 1, 999, 1000, len(whole)):
            source = Source(location)
            source.resume(whole[done - 1][1] if done else START)
            assert list(source.marked()) == whole[done:]
    mark = list(Source(files.url("list.txt")).marked())[500][1]
    files.files["list.txt"] = b"http://x/\n" + lines(1000)
    source = Source(files.url("list.txt"))
    source.resume(mark)
    with pytest.raises(SourceError, match="has other text in its first 501 lines"):
        next(iter(source))


@ensureDeferred
async def test_a_job(server: MockServer, files: FileServer, work: Work) -> None:
    """A job is stopped and gone on with; the event loop never waits for the list's server."""
    files.files["list.txt"] = b"".join(f"{server.url(f'page/{n}')}\n".encode() for n in range(20))
    urls = files.url("list.txt?token=secret")
    for _ in range(3):
        await work.run(Stops, urls=urls, pages=4)
    crawler = await work.run(urls=urls)
    assert crawler.totals.outcomes == {"fetched": 20}
    assert len(set(work.items())) == len(work.items()) == 20
    files.files["list.txt"] = b"http://x/\n" * 100
    crawler = await work.run(urls=urls)
    assert "has other text in its first 20 lines" in crawler.totals.error
    assert "secret" not in crawler.totals.error


def test_killed(project: Project, server: MockServer, files: FileServer) -> None:
    """A process that is killed while it reads several lists of every kind is followed by one that goes on."""
    urls = [server.url(f"page/{n}") for n in range(60)]
    files.files["1.txt.gz"] = gzip.compress("".join(f"{url}\n" for url in urls[:15]).encode())
    project.write("2.csv", "n,url\n" + "".join(f"1,{url}\n" for url in urls[15:30]))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"url": urls[30:45]}), sink, row_group_size=4)
    project.write("3.parquet", sink.getvalue().to_pybytes())
    project.write("4.xml", urlset(*map(loc, urls[45:])))
    command = ("crawl", "batch", "-a", f"urls={files.url('1.txt.gz')},[234].*", "-o", "items.jsonl")
    settings = {
        "CONCURRENT_REQUESTS": 4,
        "BATCHER_CHECKPOINT_TARGETS": 10,
        "BATCHER_CHECKPOINT_SECONDS": 3600,
        "JOBDIR": "job",
    }
    for pages in (7, 11, 23):
        before = sum(server.control(f"allow?more={pages}")["hits"].values())
        process = project.popen(*command, settings=settings)
        wait_until(lambda goal=before + pages + 4: sum(server.control()["hits"].values()) >= goal, process)
        process.kill()
        process.communicate()
    server.control("allow?more=100000")
    last = project.scrapy(*command, settings=settings)
    assert last.status == 0, last.log
    assert sorted(item["url"] for item in project.items()) == sorted(urls)
    assert last.stats["finish_reason"] == "finished"
    assert last.stats["batcher/rows"] == 60
    assert "Unclosed" not in last.log
