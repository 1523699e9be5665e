"""Proxies, addresses of hosts, and the address to come from."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
)
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from zope.interface import implementer

from tests.certificates import make_certificate, server_context
from tests.crawling import until
from tests.downloads import Client
from tests.wire import Line, Script, Wire, always, once, page

OK = always(page())

MakeWire = Callable[..., Wire]
MakeClient = Callable[..., Client]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    return server_context(make_certificate(tmp_path / "server.pem", "127.0.0.1"))


# Proxies


@ensureDeferred
async def test_a_proxy(wire: MakeWire, client: MakeClient) -> None:
    """It is asked for the whole URL, with nothing added; a scheme is not needed."""
    proxy, curl = wire(OK), client()
    sent = b"GET http://nowhere.example/a?b=1 HTTP/1.1\r\nHost: nowhere.example\r\n\r\n"
    for address in (proxy.url(""), proxy.url("").removeprefix("http://")):
        response = await curl.get("http://nowhere.example/a?b=1", meta={"proxy": address})
        assert (response.url, response.ip_address) == ("http://nowhere.example/a?b=1", ip_address("127.0.0.1"))
    assert proxy.requests == [sent, sent]


@ensureDeferred
async def test_a_proxy_is_one_request_s(wire: MakeWire, client: MakeClient) -> None:
    """The next request goes straight to its server."""
    proxy, server, curl = wire(OK), wire(OK), client()
    for _ in range(2):
        await curl.get(server.url(), meta={"proxy": proxy.url("")})
        await curl.get(server.url())
    assert len(proxy.requests) == len(server.requests) == 2


@pytest.mark.parametrize("authorization", [basic("me", "a:b"), "Bearer token", basic("me", "")])
@ensureDeferred
async def test_credentials_for_a_proxy(wire: MakeWire, client: MakeClient, authorization: str) -> None:
    """The proxy gets them, of whatever kind."""
    proxy, curl = wire(OK), client()
    headers = {"Proxy-Authorization": authorization, "X-A": "1"}
    await curl.get("http://nowhere.example/", headers=headers, meta={"proxy": proxy.url("")})
    lines = proxy.requests[0].split(b"\r\n")
    assert sorted(lines[1:-2]) == [
        b"Host: nowhere.example",
        b"Proxy-Authorization: " + authorization.encode(),
        b"X-A: 1",
    ]


@ensureDeferred
async def test_credentials_for_a_proxy_stay_there(wire: MakeWire, client: MakeClient) -> None:
    """A server never gets them, nor does a proxy that they are not for."""
    proxy, server, curl = wire(OK), wire(OK), client()
    headers = {"Proxy-Authorization": basic("me", "secret")}
    await curl.get(server.url(), headers=headers)
    await curl.get(server.url(), headers=headers, meta={"proxy": proxy.url("")})
    await curl.get(server.url(), meta={"proxy": proxy.url("")})
    await curl.get(server.url())
    assert not any(b"uthorization" in request for request in [*server.requests, proxy.requests[1]])
    assert b"Proxy-Authorization" in proxy.requests[0]


def tunnel(tls: ssl.SSLContext, script: Script = OK) -> Script:
    """A proxy that opens a tunnel, at whose other end it is itself."""

    def run(line: Line) -> None:
        if line.receive().startswith(b"CONNECT "):
            line.send(b"HTTP/1.1 200 Established\r\nX-Proxy: 1\r\n\r\n")
            line.start_tls(tls)
            script(line)

    return run


@ensureDeferred
async def test_a_tunnel(wire: MakeWire, client: MakeClient, tls) -> None:
    """An https URL goes through a tunnel, that the proxy's headers have no part in."""
    proxy, curl = wire(tunnel(tls)), client()
    headers = {"Proxy-Authorization": basic("me", "secret"), "User-Agent": "me"}
    response = await curl.get("https://nowhere.example/a", headers=headers, meta={"proxy": proxy.url("")})
    connect, request = proxy.requests
    assert connect.startswith(b"CONNECT nowhere.example:443 HTTP/1.1\r\nHost: nowhere.example:443\r\n")
    assert b"Proxy-Authorization: " + basic("me", "secret").encode() + b"\r\n" in connect
    assert b"User-Agent" not in connect
    assert request == b"GET /a HTTP/1.1\r\nHost: nowhere.example\r\nUser-Agent: me\r\n\r\n"
    assert dict(response.headers) == {b"Content-Length": [b"2"]}
    assert response.certificate is not None


@pytest.mark.parametrize("kind", ["Basic", "Bearer"])
@ensureDeferred
async def test_tunnels_are_their_users_own(wire: MakeWire, client: MakeClient, tls, kind: str) -> None:
    """A tunnel is used again by the user that opened it, if at all, and by no other one."""
    proxy, curl = wire(tunnel(tls)), client()

    def credentials(user: str) -> str:
        return basic(user, "secret") if kind == "Basic" else f"Bearer {user}"

    for user in ("a", "b", "a", "b", None):
        headers = {"Proxy-Authorization": credentials(user)} if user else {}
        await curl.get(f"https://nowhere.example/{user}", headers=headers, meta={"proxy": proxy.url("")})
    connects = [request for request in proxy.requests if request.startswith(b"CONNECT")]
    assert len(connects) == (3 if kind == "Basic" else 5)
    for user in ("a", "b"):
        assert sum(credentials(user).encode() in request for request in connects) == (1 if kind == "Basic" else 2)
    assert sum(b"Proxy-Authorization" not in request for request in connects) == 1


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway"])
@ensureDeferred
async def test_no_tunnel(wire: MakeWire, client: MakeClient, status: bytes) -> None:
    """A proxy that opens none is a failed download, not a response."""
    proxy, curl = wire(always(page(b"no", status=status))), client()
    with pytest.raises(DownloadFailedError, match=status[:3].decode()):
        await curl.get("https://nowhere.example/", meta={"proxy": proxy.url("")})


@ensureDeferred
async def test_a_tunnel_that_takes_too_long(wire: MakeWire, client: MakeClient) -> None:
    """The timeout is of all of it."""

    def script(line: Line) -> None:
        line.receive()
        line.wait()

    proxy, curl = wire(script), client()
    with pytest.raises(DownloadTimeoutError):
        await curl.get("https://nowhere.example/", meta={"proxy": proxy.url(""), "download_timeout": 0.2})


@ensureDeferred
async def test_a_proxy_that_is_not_there(wire: MakeWire, client: MakeClient) -> None:
    """It is refused as a server would be."""
    with pytest.raises(DownloadConnectionRefusedError):
        await client().get("http://nowhere.example/", meta={"proxy": "http://127.0.0.1:1"})


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"])
@ensureDeferred
async def test_proxies_of_the_environment(wire: MakeWire, client: MakeClient, tls, monkeypatch, name: str) -> None:
    """They are Scrapy's middleware's."""
    proxy, curl = wire(OK), client()
    monkeypatch.setenv(name, proxy.url(""))
    for server in (wire(OK), wire(OK, tls=tls)):
        await curl.get(server.url())
        assert len(server.requests) == 1
    assert proxy.connections == 0


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@ensureDeferred
async def test_socks(wire: MakeWire, client: MakeClient, scheme: str) -> None:
    """A SOCKS proxy is told the server's address, or, with ``socks5h``, its name."""
    asked = []

    def script(line: Line) -> None:
        line.read()  # which kinds of credentials there are
        line.send(b"\x05\x00")  # none, please
        asked.append(line.read())
        line.send(b"\x05\x00\x00\x01" + bytes(6))  # connected
        line.receive()
        line.send(page(b"by the proxy"))

    proxy, curl = wire(script), client()
    host = "name.example" if scheme == "socks5h" else "127.0.0.1"
    response = await curl.get(f"http://{host}:8080/", meta={"proxy": proxy.url("").replace("http", scheme, 1)})
    assert response.body == b"by the proxy"
    address = b"\x03\x0cname.example" if scheme == "socks5h" else b"\x01\x7f\x00\x00\x01"
    assert asked == [b"\x05\x01\x00" + address + (8080).to_bytes(2, "big")]


@ensureDeferred
async def test_a_proxy_over_tls(wire: MakeWire, client: MakeClient, tls) -> None:
    """The proxy itself may be reached over TLS."""
    proxy, curl = wire(always(page(b"by the proxy")), tls=tls), client()
    response = await curl.get("http://nowhere.example/", meta={"proxy": proxy.url("")})
    assert response.body == b"by the proxy"
    assert proxy.requests[0].startswith(b"GET http://nowhere.example/ HTTP/1.1\r\n")


@ensureDeferred
async def test_the_environment_takes_no_proxy_away(wire: MakeWire, client: MakeClient, monkeypatch) -> None:
    """A request whose proxy is named does not go past it, whatever ``no_proxy`` says."""
    proxy, server, curl = wire(OK), wire(OK), client()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
    await curl.get(server.url(), meta={"proxy": proxy.url("")})
    assert (len(proxy.requests), server.connections) == (1, 0)


# Where from


@ensureDeferred
async def test_bind_addresses(wire: MakeWire, client: MakeClient) -> None:
    """A request comes from its own address, else from the project's, and shares no connection with those of others."""
    peers = []

    def script(line: Line) -> None:
        peers.append(line.socket.getpeername()[0])
        OK(line)

    server, curl = wire(script, host="127.0.0.1"), client(DOWNLOAD_BIND_ADDRESS="127.0.0.9")
    await curl.get(server.url())
    for address in ("127.0.0.2", ("127.0.0.3", 0), None):
        await curl.get(server.url(), meta={"bindaddress": address})
    assert peers == ["127.0.0.9", "127.0.0.2", "127.0.0.3"], "the last one is over the first one's connection"


@ensureDeferred
async def test_addresses_that_cannot_be_bound_to(wire: MakeWire, client: MakeClient) -> None:
    """They are failed downloads."""
    server, curl = wire(OK), client()
    with pytest.raises(DownloadFailedError, match=server.url()):
        await curl.get(server.url(), meta={"bindaddress": "192.0.2.1"})
    assert server.connections == 0


# Where to


@implementer(IHostResolution)
class Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        pass


@implementer(IHostnameResolver)
class Resolver:
    """Knows the hosts it is told of; "silence.example" is never answered for."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def resolveHostName(self, receiver, name, port=0, addressTypes=None, transportSemantics="TCP"):  # noqa: N802, N803 - Twisted's names
        self.asked.append(name)
        receiver.resolutionBegan(resolution := Resolution(name))
        if name != "silence.example":
            for host in self.hosts.get(name, ()):
                receiver.addressResolved(IPv4Address("TCP", host, port))
            receiver.resolutionComplete()
        return resolution


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    """The reactor's resolver while a test runs."""
    from twisted.internet import reactor

    resolver = Resolver()
    before = reactor.installNameResolver(resolver)
    yield resolver
    reactor.installNameResolver(before)


@ensureDeferred
async def test_the_project_s_resolver(wire: MakeWire, client: MakeClient, resolver: Resolver) -> None:
    """It is asked where a host is, once, and for no address that is one already."""
    server, curl = wire(once(page()), host="127.0.0.5"), client()
    resolver.hosts["here.example"] = ["127.0.0.5"]
    for path in ("/1", "/2", "/3"):
        response = await curl.get(server.url(path, "HERE.example"))
        assert response.ip_address == ip_address("127.0.0.5")
    await curl.get(server.url())
    assert [name.lower() for name in resolver.asked] == ["here.example"]
    assert server.requests[0].startswith(f"GET /1 HTTP/1.1\r\nHost: here.example:{server.port}\r\n".encode())


@ensureDeferred
async def test_hosts_are_not_mistaken(wire: MakeWire, client: MakeClient, resolver: Resolver) -> None:
    """A name is its own address, whatever the last one was."""
    one, two, curl = wire(OK, host="127.0.0.5"), wire(OK, host="127.0.0.6"), client()
    resolver.hosts |= {"one.example": ["127.0.0.5"], "two.example": ["127.0.0.6"]}
    for _ in range(3):
        await curl.get(one.url(host="one.example"))
        await curl.get(two.url(host="two.example"))
    assert len(one.requests) == len(two.requests) == 3


@ensureDeferred
async def test_several_addresses(wire: MakeWire, client: MakeClient, resolver: Resolver) -> None:
    """When nobody listens at one, the next is tried."""
    server, curl = wire(OK, host="127.0.0.5"), client()
    resolver.hosts["here.example"] = ["127.0.0.4", "127.0.0.5"]
    assert (await curl.get(server.url(host="here.example"))).ip_address == ip_address("127.0.0.5")


@ensureDeferred
async def test_hosts_that_move(wire: MakeWire, client: MakeClient, resolver: Resolver) -> None:
    """With ``DNSCACHE_ENABLED=False`` a host is looked up each time, and is where it was found last."""
    server, curl = wire(once(page()), host="127.0.0.5"), client(DNSCACHE_ENABLED=False)
    resolver.hosts["here.example"] = ["127.0.0.5"]
    await curl.get(server.url(host="here.example"))
    resolver.hosts["here.example"] = ["127.0.0.4"]
    with pytest.raises(DownloadConnectionRefusedError):
        await curl.get(server.url(host="here.example"))
    resolver.hosts["here.example"] = ["127.0.0.5"]
    await curl.get(server.url(host="here.example"))
    assert len(resolver.asked) == 3


@ensureDeferred
async def test_no_such_host(client: MakeClient, resolver: Resolver) -> None:
    """A host that nobody knows, and a proxy, too."""
    curl = client()
    with pytest.raises(CannotResolveHostError, match=r"nowhere\.example"):
        await curl.get("http://nowhere.example/")
    with pytest.raises(CannotResolveHostError, match=r"proxy\.example"):
        await curl.get("http://127.0.0.1/", meta={"proxy": "http://proxy.example:3128"})
    assert resolver.asked == ["nowhere.example", "proxy.example"]


@ensureDeferred
async def test_a_resolver_that_does_not_answer(client: MakeClient, resolver: Resolver) -> None:
    """It is not waited for longer than the request may take."""
    with pytest.raises(DownloadTimeoutError, match=r"0\.2 seconds"):
        await client().get("http://silence.example/", meta={"download_timeout": 0.2})


@ensureDeferred
async def test_closed_during_a_look_up(client: MakeClient, resolver: Resolver, wire: MakeWire) -> None:
    """A download that has not begun when its handler is closed fails, too, and opens no connection."""
    server, curl = wire(OK, host="127.0.0.5"), client()
    await curl.get(server.url())
    receivers = []
    resolver.resolveHostName = lambda receiver, *_: receivers.append(receiver)
    download = curl.get(server.url(host="here.example"))
    await until(lambda: bool(receivers))
    await curl.close()
    receivers[0].addressResolved(IPv4Address("TCP", "127.0.0.5", server.port))
    receivers[0].resolutionComplete()
    with pytest.raises(DownloadFailedError, match="closed"):
        await download
    assert server.connections == 1
