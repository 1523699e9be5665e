"""TLS and HTTP/2 as the settings ask for them."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from socket import SHUT_RDWR
from threading import Event, Thread

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from pytest_twisted import ensureDeferred
from scrapy import signals
from scrapy.exceptions import DownloadFailedError, ResponseDataLossError
from twisted.internet.defer import gatherResults
from twisted.internet.ssl import Certificate

from tests.certificates import make_certificate, server_context
from tests.downloads import Client
from tests.wire import Line, Script, Wire, always, once, page

OK = always(page())

MakeWire = Callable[..., Wire]
MakeClient = Callable[..., Client]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, and no other address."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem", "127.0.0.1")


@pytest.fixture
def tls(pem: Path) -> ssl.SSLContext:
    return server_context(pem)


@pytest.fixture
def trusted(pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is one of those that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))


# Certificates


@ensureDeferred
async def test_certificates_are_not_verified(wire: MakeWire, client: MakeClient, tls) -> None:
    """As Scrapy has it unless told otherwise, any certificate does, for any host."""
    for host in ("127.0.0.1", "127.0.0.2"):
        server, curl = wire(OK, host=host, tls=tls), client()
        response = await curl.get(server.url())
        assert (response.body, response.protocol) == (b"ok", "HTTP/1.1")


@ensureDeferred
async def test_certificates_are_verified(wire: MakeWire, client: MakeClient, tls, trusted) -> None:
    """With ``DOWNLOAD_VERIFY_CERTIFICATES`` it must be trusted here, and be the host's."""
    server, other = wire(OK, tls=tls), wire(OK, tls=tls, host="127.0.0.2")
    curl = client(DOWNLOAD_VERIFY_CERTIFICATES=True)
    assert (await curl.get(server.url())).body == b"ok"
    with pytest.raises(DownloadFailedError, match=other.url()) as raised:
        await curl.get(other.url())
    assert isinstance(raised.value.__cause__, ssl.SSLError)
    assert other.requests == []


@ensureDeferred
async def test_strangers_are_not_trusted(wire: MakeWire, client: MakeClient, tls) -> None:
    """A certificate that nobody vouches for is none."""
    server, curl = wire(OK, tls=tls), client(DOWNLOAD_VERIFY_CERTIFICATES=True)
    with pytest.raises(DownloadFailedError) as raised:
        await curl.get(server.url())
    assert isinstance(raised.value.__cause__, ssl.SSLError)
    assert server.requests == []


@ensureDeferred
async def test_no_tls_at_all(wire: MakeWire, client: MakeClient) -> None:
    """A server that speaks something else is an error of TLS."""

    def script(line: Line) -> None:
        line.read()
        line.send(b"no TLS here")
        line.wait()

    server, curl = wire(script), client()
    with pytest.raises(DownloadFailedError) as raised:
        await curl.get(server.url().replace("http:", "https:"))
    assert isinstance(raised.value.__cause__, ssl.SSLError)


@ensureDeferred
async def test_the_certificate_of_a_response(wire: MakeWire, client: MakeClient, tls, pem) -> None:
    """Each response has it, those on kept connections, too, as the object that Scrapy's own handler gives."""
    servers, curl = [wire(OK, tls=tls) for _ in range(3)], client(CONCURRENT_REQUESTS=3)
    for _ in range(5):
        for server in servers:
            certificate = (await curl.get(server.url())).certificate
            assert isinstance(certificate, Certificate)
            assert pem.read_bytes().endswith(certificate.dumpPEM())
    assert [server.connections for server in servers] == [1, 1, 1]


@ensureDeferred
async def test_the_certificate_on_each_connection(wire: MakeWire, client: MakeClient, tls) -> None:
    """Each connection has a handshake of its own: of a session that is taken up again libcurl has no certificate."""
    server, curl = wire(once(page(b"ok", b"Connection: close")), tls=tls), client()
    for _ in range(3):
        assert (await curl.get(server.url())).certificate
    assert server.connections == 3


@ensureDeferred
async def test_a_certificate_is_kept_while_it_is_used(wire: MakeWire, client: MakeClient, tls) -> None:
    """Connections that come and go do not make a handler forget that of one that stays."""
    stays, goes, curl = wire(OK, tls=tls), wire(once(page()), tls=tls), client(CONCURRENT_REQUESTS=2)
    for _ in range(10):
        assert (await curl.get(stays.url())).certificate is not None
        await curl.get(goes.url())
    assert (stays.connections, goes.connections) == (1, 10)


@ensureDeferred
async def test_no_close_notify(wire: MakeWire, client: MakeClient, tls) -> None:
    """Many servers, this one too, close TLS without a word; only a body with a length is known to be cut short."""
    curl = client()
    response = await curl.get(wire(once(b"HTTP/1.1 200 OK\r\n\r\nall of it"), tls=tls).url())
    assert (response.body, response.flags) == (b"all of it", ["partial"])
    with pytest.raises(ResponseDataLossError):
        await curl.get(wire(once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"), tls=tls).url())


# Versions and ciphers

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@pytest.mark.parametrize("spoken", VERSIONS)
@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ({}, {"TLSv1.2", "TLSv1.3"}),
        ({"DOWNLOAD_TLS_MIN_VERSION": "TLSv1.3"}, {"TLSv1.3"}),
        ({"DOWNLOAD_TLS_MAX_VERSION": "TLSv1.2"}, {"TLSv1.2"}),
        ({"DOWNLOAD_TLS_MIN_VERSION": "TLSv1.2", "DOWNLOAD_TLS_MAX_VERSION": "TLSv1.2"}, {"TLSv1.2"}),
    ],
)
@ensureDeferred
async def test_versions(wire: MakeWire, client: MakeClient, tls, settings: dict, accepted: set, spoken: str) -> None:
    """The settings bound what is spoken."""
    tls.minimum_version = tls.maximum_version = VERSIONS[spoken]
    server, curl = wire(OK, tls=tls), client(**settings)
    if spoken in accepted:
        assert (await curl.get(server.url())).body == b"ok"
    else:
        with pytest.raises(DownloadFailedError) as raised:
            await curl.get(server.url())
        assert isinstance(raised.value.__cause__, ssl.SSLError)


@pytest.mark.parametrize("name", ["DOWNLOAD_TLS_MIN_VERSION", "DOWNLOAD_TLS_MAX_VERSION"])
def test_no_such_version(client: MakeClient, name: str) -> None:
    """A version that there is not is refused at the start."""
    with pytest.raises(ValueError, match=rf"{name} value: SSLv3.*TLSv1\.3"):
        client(**{name: "SSLv3"})


@pytest.mark.parametrize(("ciphers", "fits"), [("ECDHE-ECDSA-AES256-GCM-SHA384", True), ("AES128-SHA", False)])
@ensureDeferred
async def test_ciphers(wire: MakeWire, client: MakeClient, tls, ciphers: str, fits: bool) -> None:
    """``DOWNLOADER_CLIENT_TLS_CIPHERS`` is a list of OpenSSL's."""
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # TLS 1.3 has ciphers of its own
    spoken = []

    def script(line: Line) -> None:
        spoken.append(line.socket.cipher()[0])
        OK(line)

    server, curl = wire(script, tls=tls), client(DOWNLOADER_CLIENT_TLS_CIPHERS=ciphers)
    if fits:
        await curl.get(server.url())
        assert spoken == [ciphers]
    else:
        with pytest.raises(DownloadFailedError):
            await curl.get(server.url())


@ensureDeferred
async def test_tls_is_told_of(wire: MakeWire, client: MakeClient, tls, caplog) -> None:
    """``DOWNLOADER_CLIENT_TLS_VERBOSE_LOGGING`` logs what was agreed on."""
    caplog.set_level(logging.DEBUG)
    server = wire(OK, tls=tls)
    await client().get(server.url())
    assert "SSL connection" not in caplog.text
    await client(DOWNLOADER_CLIENT_TLS_VERBOSE_LOGGING=True).get(server.url())
    assert "SSL connection using TLSv1.3" in caplog.text


@ensureDeferred
async def test_keys_that_cannot_be_written(
    wire: MakeWire, client: MakeClient, tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """A ``SSLKEYLOGFILE`` that cannot be written is told of; the page is downloaded."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    await client().get(wire(OK, tls=tls).url())
    assert caplog.messages == []
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys"))
    assert (await client().get(wire(OK, tls=tls).url())).status == 200
    assert [message for message in caplog.messages if "Cannot write TLS session keys" in message] == caplog.messages
    assert str(tmp_path / "missing" / "keys") in caplog.text


# HTTP/2


def http2(respond: Callable[[H2Connection, int, dict[bytes, bytes]], None]) -> Script:
    """Speaks HTTP/2; *respond* is called with each request's stream and headers."""

    def script(line: Line) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        line.send(connection.data_to_send())
        while data := line.read():
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    respond(connection, event.stream_id, dict(event.headers))
            line.send(connection.data_to_send())

    return script


@pytest.fixture
def tls2(tls: ssl.SSLContext) -> ssl.SSLContext:
    tls.set_alpn_protocols(["h2", "http/1.1"])
    return tls


def answer(connection: H2Connection, stream: int, headers: dict[bytes, bytes]) -> None:
    connection.send_headers(stream, [(":status", "200"), ("x-a", "1"), ("x-a", "2")])
    connection.send_data(stream, headers[b":path"], end_stream=True)


@ensureDeferred
async def test_http2(wire: MakeWire, client: MakeClient, tls2) -> None:
    """With ``BATCHER_HTTP2`` it is spoken with those who do, and with no header but Scrapy's."""
    asked = []

    def respond(connection: H2Connection, stream: int, headers: dict[bytes, bytes]) -> None:
        asked.append(headers)
        answer(connection, stream, headers)

    server, curl = wire(http2(respond), tls=tls2), client(BATCHER_HTTP2=True)
    response = await curl.get(server.url("/a"), headers={"X-B": "3"})
    assert (response.status, response.body, response.protocol, response.flags) == (200, b"/a", "h2", [])
    assert response.headers.getlist("X-A") == [b"1", b"2"]
    assert asked == [
        {
            b":method": b"GET",
            b":path": b"/a",
            b":scheme": b"https",
            b":authority": f"127.0.0.1:{server.port}".encode(),
            b"x-b": b"3",
        }
    ]


@ensureDeferred
async def test_http2_is_not_spoken_unasked(wire: MakeWire, client: MakeClient, tls2) -> None:
    """Without ``BATCHER_HTTP2``, HTTP/1.1 is spoken with those who could do otherwise."""
    server, curl = wire(OK, tls=tls2), client()
    assert (await curl.get(server.url())).protocol == "HTTP/1.1"


@ensureDeferred
async def test_http2_with_those_who_do_not(wire: MakeWire, client: MakeClient, tls) -> None:
    """Others are spoken to in HTTP/1.1, over TLS and without."""
    curl = client(BATCHER_HTTP2=True)
    plain = wire(OK)
    for server in (wire(OK, tls=tls), plain):
        assert (await curl.get(server.url())).protocol == "HTTP/1.1"
    assert b"upgrade" not in plain.requests[0].lower()


@ensureDeferred
async def test_http2_that_ends_early(wire: MakeWire, client: MakeClient, tls2) -> None:
    """A stream or a connection that ends in a body has cut it short; before it, the download has failed."""

    def respond(connection: H2Connection, stream: int, headers: dict[bytes, bytes]) -> None:
        if headers[b":path"] == b"/late":
            connection.send_headers(stream, [(":status", "200")])
            connection.send_data(stream, b"sho")
        connection.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)

    server, curl = wire(http2(respond), tls=tls2), client(BATCHER_HTTP2=True)
    with pytest.raises(ResponseDataLossError):
        await curl.get(server.url("/late"))
    response = await curl.get(server.url("/late"), meta={"download_fail_on_dataloss": False})
    assert (response.body, response.flags) == (b"sho", ["dataloss"])
    with pytest.raises(DownloadFailedError):
        await curl.get(server.url("/early"))


@ensureDeferred
async def test_an_http2_connection_that_ends_early(wire: MakeWire, client: MakeClient, tls2) -> None:
    """The same of a connection."""
    got = Event()

    def respond(connection: H2Connection, stream: int, headers: dict[bytes, bytes]) -> None:
        connection.send_headers(stream, [(":status", "200"), ("content-length", "1000")])
        connection.send_data(stream, b"sho")

    def script(line: Line) -> None:
        Thread(target=lambda: got.wait(60) and line.socket.shutdown(SHUT_RDWR)).start()
        http2(respond)(line)

    server, curl = wire(script, tls=tls2), client(BATCHER_HTTP2=True)
    curl.crawler.signals.connect(note := lambda data: got.set(), signals.bytes_received)
    response = await curl.get(server.url(), meta={"download_fail_on_dataloss": False})
    assert (response.body, response.flags) == (b"sho", ["dataloss"])
    assert note


@ensureDeferred
async def test_http2_many_at_once(wire: MakeWire, client: MakeClient, tls2) -> None:
    """Each gets its own response, also over one connection."""
    server, curl = wire(http2(answer), tls=tls2), client(BATCHER_HTTP2=True)
    await curl.get(server.url())
    responses = await gatherResults([curl.get(server.url(f"/{n}")) for n in range(50)])
    assert [response.body for response in responses] == [f"/{n}".encode() for n in range(50)]
