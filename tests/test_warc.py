"""The WARC file: what was sent and received, readable by other tools, in step with the ledger."""

from __future__ import annotations

import gzip
import io
import random
import re
import sys
import zlib
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator as OtherIterator
from pytest_twisted import ensureDeferred
from scrapy import Request
from scrapy.http import HtmlResponse
from warcio.archiveiterator import ArchiveIterator
from warcio.cli import main as warcio

from scrapy_batcher import BatchSpider, StartError
from scrapy_batcher.outputs.warc import Records
from tests.crawling import finish, watched
from tests.jobs import Stops, Work
from tests.mockserver import MockServer
from tests.wire import always


def settings(work: Work, name: str = "out.warc.gz", **more: object) -> dict:
    return work.settings(BATCHER_WARC=str(work.folder / name), **{"JOBDIR": None, **more})


def read(path: Path) -> list[tuple[str, str | None, str | None, bytes]]:
    """The records' types, URLs, first lines and bodies; each sum is checked."""
    found = []
    with path.open("rb") as file:
        for record in ArchiveIterator(file, check_digests="raise"):
            headers, body = record.http_headers, record.raw_stream.read()
            line = f"{headers.protocol} {headers.statusline}".strip() if headers else None
            found.append((record.rec_type, record.rec_headers.get_header("WARC-Target-URI"), line, body))
    return found


def responses(path: Path) -> list[tuple[str, str]]:
    """The status and the path in the URL of each response."""
    return sorted(
        (line.split(" ")[1], "/" + url.split("/", 3)[3]) for kind, url, line, _ in read(path) if kind == "response"
    )


@ensureDeferred
async def test_everything_that_was_received(server: MockServer, work: Work) -> None:
    """Redirects, robots.txt, what is missing and each attempt are records of their own, with their requests."""
    urls = ["redirect?to=/page/2", "page/1?q=a%20b", "status/404", "flaky/x?times=1"]
    work.write(*map(server.url, urls), "http://127.0.0.1:1/")
    crawler = await work.run(settings=settings(work, ROBOTSTXT_OBEY=True, BATCHER_REST=False))
    assert crawler.totals.fetched == 3
    path = work.folder / "out.warc.gz"
    assert responses(path) == [
        *(("200", "/flaky/x?times=1"), ("200", "/page/1?q=a%20b"), ("200", "/page/2"), ("200", "/robots.txt")),
        *(("302", "/redirect?to=/page/2"), ("404", "/status/404"), ("503", "/flaky/x?times=1")),
    ]
    records = read(path)
    assert records[0][0] == "warcinfo"
    assert b"format: WARC File Format 1.1\r\n" in records[0][3]
    assert b"robots: obey\r\n" in records[0][3]
    assert ("request", server.url("page/1?q=a%20b"), "GET /page/1?q=a%20b HTTP/1.1", b"") in records
    [page] = [body for kind, url, line, body in records if (kind, url) == ("response", server.url("page/2"))]
    assert b"<title>2</title>" in page


@ensureDeferred
async def test_other_tools_read_it(server: MockServer, work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    """warcio's own check finds nothing wrong, another reader finds the same; each record is a gzip member."""
    work.write(*(server.url(f"page/{n}?size=50000") for n in range(5)), server.url("binary"))
    await work.run(settings=settings(work))
    path = work.folder / "out.warc.gz"
    with pytest.raises(SystemExit) as ended:
        warcio(["check", "-v", str(path)])
    assert not ended.value.code, capsys.readouterr()
    lines = capsys.readouterr().out
    assert lines.count("digest pass") == 13
    with path.open("rb") as file:
        others = [
            (r.headers.get("WARC-Type"), r.headers.get("WARC-Target-URI"), r.verify_block_digest())
            for r in OtherIterator(file, parse_http=False)
        ]
    assert others == [(kind, url, True) for kind, url, _, _ in read(path)]
    data, members = path.read_bytes(), 0
    while data:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        assert member.decompress(data).count(b"WARC/1.1\r\n") == 1
        data, members = member.unused_data, members + 1
    assert members == 13


@pytest.mark.parametrize("handlers", [{}, {"DOWNLOAD_HANDLERS": {}}], ids=["libcurl", "Scrapy's own"])
@ensureDeferred
async def test_bodies_are_as_they_were_sent(wire, work: Work, handlers: dict) -> None:
    """A compressed body is in the archive compressed, while the item has its text; chunks are put together, and the
    record says so; headers that come twice are there twice."""
    zipped = gzip.compress(b"<p>zipped</p>")
    head = b"HTTP/1.1 200 Fine\r\nContent-Type: text/html\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"
    plain = wire(always(head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(zipped), zipped)))
    chunked = wire(always(head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))
    work.write(*(f"http://127.0.0.1:{server.port}/" for server in (plain, chunked)))
    await work.run(settings=settings(work, "out.warc", BATCHER_CURL=not handlers, **handlers))
    found = {}
    with (work.folder / "out.warc").open("rb") as file:
        for record in ArchiveIterator(file, no_record_parse=False, check_digests="raise"):
            if record.rec_type == "response":
                found[record.rec_headers.get_header("WARC-Target-URI")] = record.http_headers, record.raw_stream.read()
    headers, body = found[f"http://127.0.0.1:{plain.port}/"]
    assert body == zipped
    assert headers.get_header("Content-Encoding") == "gzip"
    assert [value for name, value in headers.headers if name == "Set-Cookie"] == ["a=1", "b=2"]
    assert (headers.protocol, headers.statusline) == ("HTTP/1.1", "200 OK")
    headers, body = found[f"http://127.0.0.1:{chunked.port}/"]
    assert body == b"abcde"
    assert headers.get_header("Transfer-Encoding") is None
    contents = (work.folder / "items.jsonl").read_text()
    assert "zipped" in contents
    assert "abcde" in contents


@ensureDeferred
async def test_no_secrets(server: MockServer, work: Work) -> None:
    """Neither a password of the list nor what it is sent as is in the archive."""
    work.write(f"http://user:hunter2@127.0.0.1:{server.port}/page/1")
    crawler = await work.run(settings=settings(work, "out.warc"))
    assert crawler.totals.fetched == 1
    assert server.control("look?path=/page/1")["headers"]["Authorization"] == "Basic dXNlcjpodW50ZXIy"
    data = (work.folder / "out.warc").read_bytes()
    assert b"hunter2" not in data
    assert b"dXNlcjpodW50ZXIy" not in data
    assert b"User-Agent: Scrapy/" in data


@ensureDeferred
async def test_what_a_cache_answers(server: MockServer, work: Work) -> None:
    """A page that a cache has given was not received now, and makes no record."""
    work.write(server.url("page/1"))
    cached = settings(work, HTTPCACHE_ENABLED=True, HTTPCACHE_DIR=str(work.folder / "cache"))
    for _ in range(2):
        assert (await work.run(settings=cached)).totals.fetched == 1
    assert responses(work.folder / "out.warc.gz") == [("200", "/page/1")]


@ensureDeferred
async def test_in_step_with_the_ledger(server: MockServer, work: Work) -> None:
    """Stopped and gone on with, an archive has one response for each target that is settled; also for attempts."""
    work.write(*(server.url(f"page/{n}") for n in range(15)), server.url("flaky/a?times=1"))
    job = settings(work, JOBDIR=str(work.folder / "job"), BATCHER_REST=False)
    runs = 0
    while (crawler := await work.run(Stops, settings=job, pages=4)).totals.pending:
        runs += 1
        settled = sum(crawler.totals.outcomes.values())
        kept = responses(work.folder / "out.warc.gz")
        assert settled <= len(kept) <= settled + 1, "the first attempt of one may be there"
    assert runs >= 2
    assert responses(work.folder / "out.warc.gz") == sorted(
        [("200", f"/page/{n}") for n in range(15)] + [(status, "/flaky/a?times=1") for status in ("200", "503")]
    )
    assert [kind for kind, *_ in read(work.folder / "out.warc.gz")].count("warcinfo") == 1


@pytest.mark.parametrize("name", ["out.warc", "out.warc.gz"])
@ensureDeferred
async def test_behind_half_a_record(server: MockServer, work: Work, name: str) -> None:
    """Nothing is added behind a record of which a kill has left half, where no reader would find it; whatever is in
    the records, a whole one is told from it."""
    work.write(server.url("random/1?size=50000"))
    path = work.folder / name
    await work.run(settings=settings(work, name))
    inner = Records(is_zipped=True).of(Request("http://h/"), HtmlResponse("http://h/", body=b"x" * 100))
    # The last record: of a request, with bytes that cannot be compressed, so that the inner members are there as such.
    upload = Request("http://h/", method="POST", body=random.Random(1).randbytes(50000) + inner)
    with path.open("ab") as file:
        file.write(Records(is_zipped=name.endswith(".gz")).of(upload, HtmlResponse("http://h/")))
    assert inner in path.read_bytes()
    await work.run(settings=settings(work, name))
    whole = path.read_bytes()
    assert [kind for kind, *_ in read(path)].count("response") == 3
    for missing in (1, 3, 100, 20_000):
        path.write_bytes(whole[:-missing])
        sentence = await work.refused(settings(work, name))
        assert sentence == f"{path} does not end with a whole WARC record, so none can be added to it: name another"


class Further(BatchSpider):
    """Makes a further request for each page, and one more in its callback."""

    async def parse(self, response):
        yield response.follow("/page/further", self.parse_further, dont_filter=True)

    def parse_further(self, response):
        yield {"url": response.url}


@ensureDeferred
async def test_further_requests(server: MockServer, work: Work) -> None:
    """What callbacks ask for is in the archive too."""
    work.write(server.url("page/1"))
    await work.run(Further, settings=settings(work, JOBDIR=str(work.folder / "job")))
    assert responses(work.folder / "out.warc.gz") == [("200", "/page/1"), ("200", "/page/further")]


@ensureDeferred
async def test_without_warcio(server: MockServer, work: Work, monkeypatch) -> None:
    """Without the extra, one sentence says what to install."""
    work.write(server.url("page/1"))
    monkeypatch.delitem(sys.modules, "scrapy_batcher.outputs.warc")
    for name in [name for name in sys.modules if name.partition(".")[0] == "warcio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "warcio", None)
    with pytest.raises(StartError, match=re.escape("BATCHER_WARC needs warcio: pip install 'scrapy-batcher[warc]'")):
        await finish(watched(BatchSpider, settings(work)), str(work.list))


def test_what_a_record_says() -> None:
    """A response over HTTP/2, from behind a proxy, or cut short, has a record that says so; what is not ASCII in a
    header is the same bytes as were received."""
    request = Request("http://h/p;x?q#f", method="POST", body=b"data", meta={"proxy": "http://p"})
    response = HtmlResponse(
        request.url,
        299,
        {"X": b"\xe9", "Y": b"\xc3\xa9"},
        b"b" * 10,
        flags=["dataloss"],
        protocol="h2",
        ip_address="127.0.0.1",
    )
    assert b"\r\nX: \xe9\r\nY: \xc3\xa9\r\n\r\n" in Records(is_zipped=False).of(request, response)
    parsed = []
    for record in ArchiveIterator(io.BytesIO(Records(is_zipped=True).of(request, response)), check_digests="raise"):
        parsed.append((record.rec_type, record.rec_headers, record.http_headers, record.raw_stream.read()))
    (kind, headers, http, body), (other, sent_headers, sent, data) = parsed
    assert (kind, other) == ("response", "request")
    assert headers.get_header("WARC-Truncated") == "disconnect"
    assert headers.get_header("WARC-Protocol") == "h2"
    assert headers.get_header("WARC-IP-Address") is None
    assert headers.get_header("WARC-Target-URI") == "http://h/p;x?q"
    assert (http.protocol, http.statusline, body) == ("HTTP/1.1", "299", b"b" * 10)
    assert (sent.protocol, sent.statusline, data) == ("POST", "/p;x?q HTTP/1.1", b"data")
    assert dict(sent.headers) == {"Host": "h", "Content-Length": "4"}
    assert sent_headers.get_header("WARC-Concurrent-To") == headers.get_header("WARC-Record-ID")
