"""What goes over the wire, and what comes of what comes back: HTTP/1.1 without TLS or proxies."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from ipaddress import ip_address
from threading import Event

import pytest
from pytest_twisted import ensureDeferred
from scrapy import Request, signals
from scrapy.exceptions import (
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    ResponseDataLossError,
    StopDownload,
    UnsupportedURLSchemeError,
)
from scrapy.http import HtmlResponse, Response
from scrapy.utils.defer import deferred_from_coro
from twisted.internet.defer import CancelledError, DeferredList, gatherResults

from tests.crawling import until
from tests.downloads import Client
from tests.mockserver import MockServer
from tests.wire import Line, Wire, always, once, page

OK = always(page())

MakeWire = Callable[..., Wire]
MakeClient = Callable[..., Client]


def head(wire: Wire, path: str = "/", method: str = "GET") -> bytes:
    """What the head of a request begins with."""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{wire.port}\r\n".encode()


# What is sent


@ensureDeferred
async def test_nothing_is_added(wire: MakeWire, client: MakeClient) -> None:
    """A request without headers has a Host, and nothing else."""
    server, curl = wire(OK), client()
    await curl.get(server.url())
    assert server.requests == [head(server) + b"\r\n"]


@ensureDeferred
async def test_headers_are_sent_as_given(wire: MakeWire, client: MakeClient) -> None:
    """In their order, all values of a name, empty ones, and a Host of one's own."""
    server, curl = wire(OK), client()
    headers = [("X-B", "2"), ("X-A", ["1", "one"]), ("X-Empty", ""), ("Accept", "text/html"), ("User-Agent", "me")]
    await curl.get(server.url(), headers=headers)
    sent = b"X-B: 2\r\nX-A: 1\r\nX-A: one\r\nX-Empty:\r\nAccept: text/html\r\nUser-Agent: me\r\n\r\n"
    assert server.requests.pop() == head(server) + sent
    await curl.get(server.url(), headers={"Host": "example.com"})
    assert server.requests.pop() == b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"


@ensureDeferred
async def test_headers_do_not_stay(wire: MakeWire, client: MakeClient) -> None:
    """A handle that is used again sends nothing of the request before."""
    server, curl = wire(always(page(b""))), client()
    for _ in range(2):
        await curl.get(server.url(), headers={"X-A": "1", "Cookie": "a=b"})
        await curl.get(server.url("/form"), method="POST", body=b"x=y", headers={"Content-Type": "text/plain"})
        await curl.get(server.url(), method="HEAD")
        await curl.get(server.url())
        assert server.requests.pop() == head(server) + b"\r\n"
        assert server.requests.pop() == head(server, method="HEAD") + b"\r\n"
    assert server.connections == 1, "they all went over one connection"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "ODD"])
@ensureDeferred
async def test_bodies(wire: MakeWire, client: MakeClient, method: str) -> None:
    """A body goes with any method, whatever bytes it has."""
    server, curl = wire(OK), client()
    body = bytes(range(256)) * 20
    await curl.get(server.url(), method=method, body=body)
    assert server.requests == [head(server, method=method) + b"Content-Length: 5120\r\n\r\n" + body]


@pytest.mark.parametrize(
    ("method", "length"), [("POST", b"Content-Length: 0\r\n"), ("PUT", b"Content-Length: 0\r\n"), ("OPTIONS", b"")]
)
@ensureDeferred
async def test_no_body(wire: MakeWire, client: MakeClient, method: str, length: bytes) -> None:
    """A POST or PUT says that it has no body, as Scrapy's own handler has it; other methods do not."""
    server, curl = wire(OK), client()
    await curl.get(server.url(), method=method)
    assert server.requests == [head(server, method=method) + length + b"\r\n"]


@ensureDeferred
async def test_large_bodies_do_not_wait_to_be_asked_for(wire: MakeWire, client: MakeClient) -> None:
    """Nothing is said of "100-continue"."""
    server, curl = wire(OK), client()
    body = b"x" * 3_000_000
    await curl.get(server.url(), method="POST", body=body)
    assert server.requests == [head(server, method="POST") + b"Content-Length: 3000000\r\n\r\n" + body]


@ensureDeferred
async def test_a_body_with_head_is_refused(wire: MakeWire, client: MakeClient) -> None:
    """libcurl would leave it out without a word."""
    server, curl = wire(OK), client()
    with pytest.raises(ValueError, match="HEAD request with a body"):
        await curl.get(server.url(), method="HEAD", body=b"x")
    assert server.requests == []


@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"]
)
@ensureDeferred
async def test_a_value_is_one_line(wire: MakeWire, client: MakeClient, value: str) -> None:
    """Line breaks in a value make no further headers, nor requests."""
    server, curl = wire(OK), client()
    await curl.get(server.url(), headers={"X-A": value})
    await curl.get(server.url("/next"))
    first, second = server.requests
    assert not any(line.lower().startswith((b"x-evil", b"get /evil")) for line in first.splitlines())
    assert second == head(server, "/next") + b"\r\n"


@pytest.mark.parametrize("name", ["X\r\nEvil", "X\nEvil", "X Y", "X:Y", "", "X;", "X\0", "X\u00e9"])
@ensureDeferred
async def test_names_of_headers_are_names(wire: MakeWire, client: MakeClient, name: str) -> None:
    """A name that could not be one is refused."""
    server, curl = wire(OK), client()
    with pytest.raises(ValueError, match="name of a header"):
        await curl.get(server.url(), headers={name: "1"})
    await curl.get(server.url())
    assert server.requests == [head(server) + b"\r\n"]


@ensureDeferred
async def test_values_have_no_nul(wire: MakeWire, client: MakeClient) -> None:
    """libcurl would send what is before it."""
    server, curl = wire(OK), client()
    with pytest.raises(ValueError, match="null byte"):
        await curl.get(server.url(), headers={"X-A": "a\0b"})
    assert server.requests == []


@pytest.mark.parametrize("method", ["GET / HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET", "A B", "A\0B", "\u00c4"])
@ensureDeferred
async def test_a_method_is_one_word(wire: MakeWire, client: MakeClient, method: str) -> None:
    """A method that could not be one is refused."""
    server, curl = wire(OK), client()
    with pytest.raises(ValueError, match="method"):
        await curl.get(server.url(), method=method)
    assert server.requests == []


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a/../b/./c", "/a/../b/./c"),
        ("/%7Ea%2Fb?x=%20&y=+", "/%7Ea%2Fb?x=%20&y=+"),
        ("/a#b", "/a"),
        ("", "/"),
        ("?x=1", "/?x=1"),
        ("//a//b", "//a//b"),
    ],
)
@ensureDeferred
async def test_paths_are_sent_as_they_are(wire: MakeWire, client: MakeClient, path: str, sent: str) -> None:
    """No path is made shorter or encoded another way; fragments are not sent."""
    server, curl = wire(OK), client()
    response = await curl.get(server.url(path))
    assert server.requests == [head(server, sent) + b"\r\n"]
    assert response.url == Request(server.url(path)).url.partition("#")[0]


@ensureDeferred
async def test_verbatim_urls(wire: MakeWire, client: MakeClient) -> None:
    """What Scrapy would encode is sent as given, if it can be."""
    server, curl = wire(OK), client()
    await curl.get(server.url('/{a}"|b'), meta={"verbatim_url": True})
    assert server.requests == [head(server, '/{a}"|b') + b"\r\n"]
    for path in ("/a b", "/a\r\nX-Evil: 1", "/\u00e9"):
        with pytest.raises(ValueError, match=r"."):
            await curl.get(server.url(path), meta={"verbatim_url": True})
    assert len(server.requests) == 1


@ensureDeferred
async def test_names_and_passwords_in_urls(wire: MakeWire, client: MakeClient) -> None:
    """libcurl would make a header of them, which nobody has asked for: Scrapy's own handler refuses them, too."""
    server, curl = wire(OK), client()
    with pytest.raises(ValueError, match="prohibited") as caught:
        await curl.get(server.url().replace("//", "//me:secret@", 1))
    assert "secret" not in str(caught.value)
    assert not server.requests


@ensureDeferred
async def test_nothing_of_another_request(wire: MakeWire, client: MakeClient) -> None:
    """A request without header lines has none of the one before on the same handle."""
    server, curl = wire(OK), client()
    await curl.get(server.url(), headers={"Authorization": "Bearer secret", "Cookie": "session=secret"})
    await curl.get(server.url(), headers={"Accept": None, "User-Agent": None})
    await curl.get(server.url(), method="POST", body=b"x", headers={"Content-Type": None})
    assert b"secret" in server.requests[0]
    assert server.requests[1:] == [
        head(server) + b"\r\n",
        head(server, method="POST") + b"Content-Length: 1\r\n\r\nx",
    ]


@pytest.mark.parametrize("path", ["/%d0%bf%2f%2e%2e?q=%2f", "/%2f?", "/%2F?%2f", "/a;b=%c3?x", "/?%2f"])
@ensureDeferred
async def test_what_is_escaped_stays_as_it_is(wire: MakeWire, client: MakeClient, path: str) -> None:
    """libcurl would write the digits of a path in capitals; the next request is none the wiser."""
    server, curl = wire(OK), client()
    await curl.get(server.url().rstrip("/") + path, meta={"verbatim_url": True})
    await curl.get(server.url())
    assert [request.split(b" ")[1] for request in server.requests] == [path.encode(), b"/"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1\t200 OK\r\n\r\n", b"\r\n\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n"])
@ensureDeferred
async def test_no_status_line(wire: MakeWire, client: MakeClient, capfd, answer: bytes) -> None:
    """It is an error that says so, not a traceback of pycurl's."""
    server, curl = wire(once(answer)), client()
    with pytest.raises(DownloadFailedError):
        await curl.get(server.url())
    assert "Traceback" not in capfd.readouterr().err


@ensureDeferred
async def test_netrc_is_not_read(wire: MakeWire, client: MakeClient, tmp_path, monkeypatch) -> None:
    """A password in ~/.netrc is not sent."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    server, curl = wire(OK), client()
    await curl.get(server.url())
    assert server.requests == [head(server) + b"\r\n"]


@ensureDeferred
async def test_cookies_are_not_kept(wire: MakeWire, client: MakeClient) -> None:
    """Cookies are Scrapy's middleware's."""
    server, curl = wire(always(page(b"", b"Set-Cookie: a=b"))), client()
    response = await curl.get(server.url())
    await curl.get(server.url())
    assert response.headers.getlist("Set-Cookie") == [b"a=b"]
    assert server.requests == [head(server) + b"\r\n"] * 2


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"303 See", b"307 Again", b"308 For ever"])
@ensureDeferred
async def test_redirects_are_not_followed(wire: MakeWire, client: MakeClient, status: bytes) -> None:
    """Redirects are Scrapy's middleware's."""
    server, curl = wire(always(page(b"there", b"Location: /there", status=status))), client()
    response = await curl.get(server.url("/here"))
    assert (response.status, response.body, response.headers["Location"]) == (int(status[:3]), b"there", b"/there")
    assert response.url == server.url("/here")
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/hosts", "gopher://127.0.0.1/", "dict://127.0.0.1/x"])
@ensureDeferred
async def test_other_schemes_are_refused(client: MakeClient, url: str) -> None:
    """libcurl knows more protocols than a crawler shall speak."""
    with pytest.raises(UnsupportedURLSchemeError, match=url):
        await client().get(url)


@pytest.mark.parametrize("url", ["http:///path", "http://127.0.0.1:99999/", "http://127.0.0.1:port/"])
@ensureDeferred
async def test_urls_that_lead_nowhere(client: MakeClient, url: str) -> None:
    """A URL without a host, or with a port that is none, is a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        await client().get(url)


@ensureDeferred
async def test_a_request_that_was_refused_leaves_nothing(wire: MakeWire, client: MakeClient) -> None:
    """What had been set for a request that could not be made is not sent with the next one."""
    server, proxy, curl = wire(OK), wire(OK), client()
    await curl.get(server.url())
    for headers in ({"Proxy-Authorization": "Basic !"}, {"Proxy-Authorization": "Basic a"}):
        with pytest.raises(ValueError, match="Base64"):
            await curl.get(server.url(), method="POST", body=b"x", headers=headers, meta={"proxy": proxy.url("")})
        await curl.get(server.url())
    assert server.requests == [head(server) + b"\r\n"] * 3
    assert proxy.requests == []


# What is received


@ensureDeferred
async def test_a_response(wire: MakeWire, client: MakeClient) -> None:
    """It has its status, headers, body, class, address and protocol, and the time to its headers is noted."""
    answer = page(b"<p>ok", b"Content-Type: text/html", b"X-A:1", b"x-a:  2 ", b"X-Empty:", status=b"202 Accepted")
    server, curl = wire(always(answer)), client()
    request = Request(server.url())
    response = await curl.send(request)
    assert type(response) is HtmlResponse
    assert (response.status, response.body, response.url) == (202, b"<p>ok", server.url())
    assert response.headers.to_unicode_dict()["X-A"] == "1,2"
    assert response.headers.getlist("X-A") == [b"1", b"2"]
    assert dict(response.headers) == {
        b"Content-Length": [b"5"],
        b"Content-Type": [b"text/html"],
        b"X-A": [b"1", b"2"],
        b"X-Empty": [b""],
    }
    assert (response.protocol, response.ip_address) == ("HTTP/1.1", ip_address("127.0.0.1"))
    assert (response.flags, response.certificate) == ([], None)
    assert 0 < request.meta["download_latency"] < 60


@ensureDeferred
async def test_http_1_0(wire: MakeWire, client: MakeClient) -> None:
    """The protocol is that of the response."""
    server, curl = wire(once(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")), client()
    response = await curl.get(server.url())
    assert (response.protocol, response.body, response.flags) == ("HTTP/1.0", b"ok", [])


@pytest.mark.parametrize("reason", [b"", b" ", b" Not At All", b" \xff\xfe"])
@ensureDeferred
async def test_reasons_do_not_matter(wire: MakeWire, client: MakeClient, reason: bytes) -> None:
    """A status line needs no reason."""
    server, curl = wire(always(b"HTTP/1.1 299" + reason + b"\r\nContent-Length: 0\r\n\r\n")), client()
    assert (await curl.get(server.url())).status == 299


@ensureDeferred
async def test_what_comes_before_the_response(wire: MakeWire, client: MakeClient) -> None:
    """Interim responses are not the response, nor are their headers its own."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    server, curl = wire(always(interim + page(b"ok"))), client()
    response = await curl.get(server.url())
    assert (response.status, response.body) == (200, b"ok")
    assert dict(response.headers) == {b"Content-Length": [b"2"]}


@ensureDeferred
async def test_switching_protocols(wire: MakeWire, client: MakeClient) -> None:
    """Nobody asked for another protocol."""
    server, curl = wire(once(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello")), client()
    with pytest.raises(DownloadFailedError):
        await curl.get(server.url())


@ensureDeferred
async def test_chunks_and_trailers(wire: MakeWire, client: MakeClient) -> None:
    """A body in chunks is put together; what comes after it is no header of the response."""
    chunks = b"3;name=value\r\nabc\r\n2\r\n\0\xff\r\n0\r\nX-Trailer: 1\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n\r\n" + chunks
    server, curl = wire(always(answer)), client()
    for _ in range(2):
        response = await curl.get(server.url())
        assert (response.body, response.flags) == (b"abc\0\xff", [])
        assert b"X-Trailer" not in response.headers
    assert server.connections == 1


@ensureDeferred
async def test_folded_headers(wire: MakeWire, client: MakeClient) -> None:
    """A header that goes on in the next line is one header."""
    server, curl = wire(always(page(b"ok", b"X-A: 1,", b"  2", b"X-B: 3"))), client()
    response = await curl.get(server.url())
    assert response.headers.getlist("X-A") == [b"1, 2"]
    assert response.headers.getlist("X-B") == [b"3"]


@ensureDeferred
async def test_a_body_that_ends_with_its_connection(wire: MakeWire, client: MakeClient) -> None:
    """Nobody knows whether it is whole: it is flagged, as Scrapy's own handler does."""
    server, curl = wire(once(b"HTTP/1.1 200 OK\r\n\r\nall of it")), client()
    response = await curl.get(server.url())
    assert (response.body, response.flags) == (b"all of it", ["partial"])


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    ],
)
@ensureDeferred
async def test_responses_without_a_body(wire: MakeWire, client: MakeClient, method: str, answer: bytes) -> None:
    """Nothing is waited for after the headers, whatever they say, and the connection is used again."""
    server, curl = wire(always(answer)), client(DOWNLOAD_MAXSIZE=10)
    for _ in range(2):
        response = await curl.get(server.url(), method=method)
        assert (response.body, response.flags) == (b"", [])
    assert server.connections == 1


@ensureDeferred
async def test_bodies_are_not_decompressed(wire: MakeWire, client: MakeClient) -> None:
    """That is Scrapy's middleware's, which knows when it is too much."""
    server, curl = wire(always(page(b"no gzip", b"Content-Encoding: gzip"))), client()
    response = await curl.get(server.url(), headers={"Accept-Encoding": "gzip"})
    assert response.body == b"no gzip"
    assert response.headers["Content-Encoding"] == b"gzip"


@ensureDeferred
async def test_over_ipv6(wire: MakeWire, client: MakeClient) -> None:
    """An address may be an IPv6 one."""
    server, curl = wire(OK, host="::1"), client()
    response = await curl.get(server.url())
    assert response.ip_address == ip_address("::1")
    assert server.requests == [f"GET / HTTP/1.1\r\nHost: [::1]:{server.port}\r\n\r\n".encode()]


# What goes wrong


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 2 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: cut sho",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 9000) for n in range(60)) + b"\r\n",
    ],
)
@ensureDeferred
async def test_answers_that_are_no_http(wire: MakeWire, client: MakeClient, answer: bytes) -> None:
    """They are failed downloads, and the next one is not worse off."""
    answers = [answer, page(b"ok")]

    def script(line: Line) -> None:
        line.receive()
        line.send(answers.pop(0))

    server, curl = wire(script), client()
    with pytest.raises(DownloadFailedError, match=server.url()):
        await curl.get(server.url())
    assert (await curl.get(server.url())).body == b"ok"


CUT_SHORT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsho",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsho\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nsho",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsho\r\nno chunk\r\n",
]


@pytest.mark.parametrize("answer", CUT_SHORT)
@ensureDeferred
async def test_cut_short(wire: MakeWire, client: MakeClient, answer: bytes, caplog) -> None:
    """What did not come whole is an error, and the setting that would have it is named once."""
    server, curl = wire(once(answer)), client()
    for _ in range(2):
        with pytest.raises(ResponseDataLossError, match=server.url()):
            await curl.get(server.url())
    assert len([r for r in caplog.records if "DOWNLOAD_FAIL_ON_DATALOSS" in r.message]) == len(caplog.records) == 1


@pytest.mark.parametrize("answer", CUT_SHORT)
@pytest.mark.parametrize("how", ["setting", "meta"])
@ensureDeferred
async def test_cut_short_and_wanted(wire: MakeWire, client: MakeClient, how: str, answer: bytes, caplog) -> None:
    """It is a flagged response, for a project or a request that wants it."""
    server = wire(once(answer))
    curl = client(DOWNLOAD_FAIL_ON_DATALOSS=how == "meta")
    response = await curl.get(server.url(), meta={"download_fail_on_dataloss": False} if how == "meta" else {})
    assert (response.status, response.body, response.flags) == (200, b"sho", ["dataloss"])
    assert caplog.records == []


@ensureDeferred
async def test_reset_in_the_body(wire: MakeWire, client: MakeClient) -> None:
    """A connection that is reset has cut the body short, too."""
    got = Event()

    def script(line: Line) -> None:
        line.receive()
        line.send(CUT_SHORT[0])
        assert got.wait(60)
        line.reset()

    server, curl = wire(script), client(DOWNLOAD_FAIL_ON_DATALOSS=False)
    curl.crawler.signals.connect(note := lambda data: got.set(), signals.bytes_received)
    response = await curl.get(server.url())
    assert (response.body, response.flags) == (b"sho", ["dataloss"])
    got.clear()
    with pytest.raises(ResponseDataLossError):
        await curl.get(server.url(), meta={"download_fail_on_dataloss": True})
    assert note


@ensureDeferred
async def test_reset_before_the_response(wire: MakeWire, client: MakeClient) -> None:
    """It is a failed download."""

    def script(line: Line) -> None:
        line.receive()
        line.reset()

    server, curl = wire(script), client()
    with pytest.raises(DownloadFailedError, match=server.url()):
        await curl.get(server.url())
    assert len(server.requests) == 1, "a new connection has nothing stale about it"


@ensureDeferred
async def test_many_connections_that_were_closed_meanwhile(wire: MakeWire, client: MakeClient) -> None:
    """Where each kept connection turns out to be closed once it is used, the request goes out on a new one."""
    used = threading.Event()
    together = threading.Barrier(8)

    def script(line: Line) -> None:
        line.receive()
        if not used.is_set():
            together.wait(10)  # so that there are eight connections
        line.send(page())
        if not used.is_set():
            line.receive()  # the next one, which has no answer
            line.reset()

    server, curl = wire(script), client(CONCURRENT_REQUESTS=8)
    await gatherResults([curl.get(server.url()) for _ in range(8)])
    used.set()
    assert (await curl.get(server.url())).body == b"ok"
    assert server.connections == 9


@ensureDeferred
async def test_a_long_turn(wire: MakeWire, client: MakeClient) -> None:
    """Where the loop was busy for a while, a request leaves at once, not when all of this turn is done."""
    server, curl = wire(always(page())), client()
    await curl.get(server.url())
    seen = []

    async def work_on_a_page() -> Response:
        time.sleep(0.05)
        return await curl.handler.download_request(Request(server.url()))

    async def look() -> None:
        end = time.monotonic() + 10
        while len(server.requests) < 2 and time.monotonic() < end:
            time.sleep(0.001)
        seen.append(len(server.requests))

    await gatherResults([deferred_from_coro(work_on_a_page()), deferred_from_coro(look())])
    assert seen == [2]


@ensureDeferred
async def test_refused(wire: MakeWire, client: MakeClient) -> None:
    """Nobody listens there."""
    server, curl = wire(OK), client()
    server.close()
    with pytest.raises(DownloadConnectionRefusedError, match=server.url()):
        await curl.get(server.url())
    server.close = lambda: None


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nX-A: 1\r\n", CUT_SHORT[0], CUT_SHORT[1]])
@ensureDeferred
async def test_too_slow(wire: MakeWire, client: MakeClient, answer: bytes) -> None:
    """``download_timeout`` ends a request in its headers as in its body, also when dataloss is wanted."""

    def script(line: Line) -> None:
        line.receive()
        line.send(answer)
        line.wait()

    server, curl = wire(script), client(DOWNLOAD_FAIL_ON_DATALOSS=False)
    with pytest.raises(DownloadTimeoutError, match=r"longer than 0\.2 seconds"):
        await curl.get(server.url(), meta={"download_timeout": 0.2})
    await until(lambda: server.open == 0)


@ensureDeferred
async def test_the_timeout_of_the_settings(wire: MakeWire, client: MakeClient) -> None:
    """Without ``download_timeout`` it is ``DOWNLOAD_TIMEOUT``, also after a request that had another."""
    answers = [page(b"ok"), b""]

    def script(line: Line) -> None:
        while line.receive():
            line.send(answers.pop(0))

    server, curl = wire(script), client(DOWNLOAD_TIMEOUT=0.2)
    await curl.get(server.url(), meta={"download_timeout": 20})
    with pytest.raises(DownloadTimeoutError, match=r"longer than 0\.2 seconds"):
        await curl.get(server.url())


# How much is received

LARGE = b"x" * 1_000_000


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (page(LARGE), "Expected to receive 1000000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + LARGE, "Received"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nF4240\r\n" + LARGE + b"\r\n0\r\n\r\n", "Received"),
    ],
)
@pytest.mark.parametrize("how", ["setting", "meta"])
@ensureDeferred
async def test_too_large(wire: MakeWire, client: MakeClient, how: str, answer: bytes, said: str, caplog) -> None:
    """What is larger than ``download_maxsize`` is not kept, and its connection is closed."""

    def script(line: Line) -> None:
        line.receive()
        line.send(answer)
        line.wait()

    server = wire(script)
    curl = client(DOWNLOAD_MAXSIZE=1000 if how == "setting" else 0)
    with pytest.raises(DownloadCancelledError, match=rf"{said}.* max size \(1000\)"):
        await curl.get(server.url(), meta={"download_maxsize": 1000} if how == "meta" else {})
    assert any("max size" in r.message for r in caplog.records)
    await until(lambda: server.open == 0)


@ensureDeferred
async def test_a_large_body_is_in_memory_once(wire: MakeWire, client: MakeClient) -> None:
    """Neither its pieces beside the whole, nor a copy of that; what it grows in has an eighth more."""
    size = 8 * 2**20
    server, curl = wire(always(page(b"x" * size))), client()
    await curl.get(server.url())
    tracemalloc.start()
    try:
        response = await curl.get(server.url())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(response.body) == size
    assert size <= peak < 1.3 * size


@pytest.mark.parametrize("limit", [0, None, 1_000_000])
@ensureDeferred
async def test_large_enough(wire: MakeWire, client: MakeClient, limit: int | None) -> None:
    """A request may have no limit, or one that is just met."""
    server, curl = wire(always(page(LARGE))), client(DOWNLOAD_MAXSIZE=10)
    response = await curl.get(server.url(), meta={"download_maxsize": limit, "download_warnsize": limit})
    assert response.body == LARGE


@pytest.mark.parametrize("answer", [page(LARGE), b"HTTP/1.1 200 OK\r\n\r\n" + LARGE])
@ensureDeferred
async def test_warnings_of_size(wire: MakeWire, client: MakeClient, answer: bytes, caplog) -> None:
    """What is larger than ``download_warnsize`` is said, once, and received."""
    server, curl = wire(once(answer)), client(DOWNLOAD_WARNSIZE=1000)
    assert (await curl.get(server.url())).body == LARGE
    assert len([r for r in caplog.records if "warn size (1000)" in r.message]) == 1


# Signals


@ensureDeferred
async def test_signals(wire: MakeWire, client: MakeClient) -> None:
    """They carry the headers and their Content-Length, and all of the body."""
    server, curl = wire(always(page(LARGE, b"X-A: 1"))), client()
    got = []
    body = []

    def note_headers(headers, body_length, request, spider) -> None:
        got.append((headers.getlist("X-A"), body_length, request.url, spider))

    def note_bytes(data, request, spider) -> None:
        body.append(data)

    curl.crawler.signals.connect(note_headers, signals.headers_received)
    curl.crawler.signals.connect(note_bytes, signals.bytes_received)
    await curl.get(server.url())
    assert got == [([b"1"], len(LARGE), server.url(), curl.crawler.spider)]
    assert b"".join(body) == LARGE
    assert len(body) > 1


@pytest.mark.parametrize("fail", [True, False])
@pytest.mark.parametrize("signal", [signals.headers_received, signals.bytes_received])
@ensureDeferred
async def test_stopped(wire: MakeWire, client: MakeClient, signal: object, fail: bool, caplog) -> None:
    """`StopDownload` ends a download with what there is of it, and closes its connection; the log says who it was."""
    caplog.set_level(logging.DEBUG)

    def script(line: Line) -> None:
        line.receive()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-A: 1\r\n\r\nabc")
        line.wait()

    def stop() -> None:
        raise StopDownload(fail=fail)

    server, curl = wire(script), client()
    curl.crawler.signals.connect(stop, signal)
    if fail:
        with pytest.raises(StopDownload) as raised:
            await curl.get(server.url())
        response = raised.value.response
    else:
        response = await curl.get(server.url())
    assert (response.status, response.headers["X-A"], response.flags) == (200, b"1", ["download_stopped"])
    assert response.body == (b"" if signal is signals.headers_received else b"abc")
    assert response.ip_address == ip_address("127.0.0.1")
    assert f"Download stopped for <GET {server.url()}> from signal handler {stop.__qualname__}" in caplog.messages
    await until(lambda: server.open == 0)


@ensureDeferred
async def test_a_receiver_that_breaks(wire: MakeWire, client: MakeClient, caplog) -> None:
    """It is told of, and ends nothing."""
    server, curl = wire(OK), client()

    def broken() -> None:
        raise RuntimeError("no good")

    curl.crawler.signals.connect(broken, signals.headers_received)
    assert (await curl.get(server.url())).body == b"ok"
    assert "no good" in caplog.text


@pytest.mark.parametrize("signal", [signals.headers_received, signals.bytes_received])
@ensureDeferred
async def test_a_receiver_that_raises_what_is_no_exception(wire: MakeWire, client: MakeClient, signal: object) -> None:
    """It ends its own download, and libcurl goes on with all others."""
    server, curl = wire(OK), client()

    class End(BaseException):
        pass

    def end() -> None:
        raise End

    assert (await curl.get(server.url())).body == b"ok"
    curl.crawler.signals.connect(end, signal)
    with pytest.raises(End):
        await curl.get(server.url())
    curl.crawler.signals.disconnect(end, signal)
    assert (await curl.get(server.url())).body == b"ok"


# Connections


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b"x=y")])
@ensureDeferred
async def test_stale_connections(wire: MakeWire, client: MakeClient, method: str, body: bytes) -> None:
    """A request on a kept connection that turns out to be closed is sent again on a new one."""

    def script(line: Line) -> None:
        line.receive()
        line.send(page())
        line.receive()  # and closes without an answer

    server, curl = wire(script), client()
    await curl.get(server.url())
    response = await curl.get(server.url(), method=method, body=body)
    assert response.body == b"ok"
    assert server.connections == 2
    assert len(server.requests) == 3
    assert server.requests[1] == server.requests[2]
    assert server.requests[2].endswith(b"\r\n\r\n" + body)


@ensureDeferred
async def test_connections_closed_while_they_were_kept(wire: MakeWire, client: MakeClient) -> None:
    """They are not used again."""
    server, curl = wire(once(page())), client()
    for _ in range(5):
        await curl.get(server.url())
        await until(lambda: server.open == 0)
    assert len(server.requests) == server.connections == 5


@ensureDeferred
async def test_cancelled(wire: MakeWire, client: MakeClient) -> None:
    """A download that is cancelled is over at the server, too, and another one is not."""
    go_on = Event()

    def script(line: Line) -> None:
        if line.receive().startswith(b"GET /other"):
            assert go_on.wait(60)
            line.send(page())
        else:
            line.wait()

    server, curl = wire(script), client()
    other = curl.get(server.url("/other"))
    waiting = curl.get(server.url("/wait"))
    await until(lambda: len(server.requests) == 2)
    waiting.cancel()
    with pytest.raises((CancelledError, asyncio.CancelledError)):
        await waiting
    await until(lambda: server.open == 1)
    go_on.set()
    assert (await other).body == b"ok"


@ensureDeferred
async def test_closed_with_downloads_in_flight(wire: MakeWire, client: MakeClient) -> None:
    """Each of them fails, at once, and no connection stays open; a handler can be closed again."""

    def script(line: Line) -> None:
        line.receive()
        line.wait()

    server, curl = wire(script), client()
    downloads = [curl.get(server.url(f"/{n}")) for n in range(5)]
    await until(lambda: len(server.requests) == 5)
    await curl.close()
    results = await DeferredList(downloads, consumeErrors=True)
    assert [(ok, failure.type) for ok, failure in results] == [(False, DownloadFailedError)] * 5
    assert all("the download handler was closed" in str(failure.value) for _, failure in results)
    await until(lambda: server.open == 0)
    await curl.close()


@ensureDeferred
async def test_closed_closes_kept_connections(wire: MakeWire, client: MakeClient) -> None:
    """None outlives its handler."""
    server, curl = wire(OK), client()
    await gatherResults([curl.get(server.url()) for _ in range(5)])
    assert server.open > 0
    await curl.close()
    await until(lambda: server.open == 0)


@ensureDeferred
async def test_no_more_connections_are_kept_than_requests_are_made(wire: MakeWire, client: MakeClient) -> None:
    """``CONCURRENT_REQUESTS`` says how many may be useful."""
    servers, curl = [wire(OK) for _ in range(12)], client(CONCURRENT_REQUESTS=4)
    for server in servers:
        await curl.get(server.url())
    await until(lambda: sum(server.open for server in servers) <= 4)
    assert servers[-1].open == 1


def open_files() -> int:
    """How many of this process's lowest file descriptors are in use."""
    count = 0
    for descriptor in range(1024):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            count += 1
    return count


@ensureDeferred
async def test_nothing_is_left_behind(wire: MakeWire, client: MakeClient, caplog) -> None:
    """Thousands of requests leave no files open and no objects alive, however they end."""

    def script(line: Line) -> None:
        request = line.receive()
        if b"/truncated" in request:
            line.send(CUT_SHORT[0])
        elif request and b"/lost" not in request:
            line.send(page(b"ok", b"Connection: close"))

    server, curl = wire(script), client(CONCURRENT_REQUESTS=4)
    caplog.set_level(logging.ERROR)  # the warnings, which pytest keeps, are no part of this

    async def load(requests: int) -> tuple[int, int]:
        for _ in range(requests // 20):
            downloads = [curl.get(server.url(path)) for path in ("/ok", "/truncated", "/lost") * 5]
            downloads += [curl.get(server.url("/large"), meta={"download_maxsize": 1}) for _ in range(5)]
            await DeferredList(downloads, consumeErrors=True)
        await until(lambda: server.open == 0)
        gc.collect()
        return open_files(), len(gc.get_objects())

    await load(200)
    rounds = [await load(requests) for requests in (200, 1000, 1000)]
    assert rounds[-1][0] <= rounds[0][0] + 4, "files"
    growth = [after[1] - before[1] for before, after in itertools.pairwise(rounds)]
    assert min(growth) < 100, "objects: a leak would show in each round"


@ensureDeferred
async def test_many_at_once(server: MockServer, client: MakeClient) -> None:
    """Hundreds of downloads are in flight together."""
    curl = client()
    downloads = [curl.get(server.url(f"page/{n}?gate=m")) for n in range(300)]
    await until(lambda: server.control()["in_flight"].get("*") == 300)
    server.control("open?gate=m")
    responses = await gatherResults(downloads)
    assert all(f"<title>{n}<" in response.text for n, response in enumerate(responses))
