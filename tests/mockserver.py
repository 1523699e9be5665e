"""A small HTTP server in a process of its own. It prints its address, and ends when its stdin does.

It counts what is in flight, so that a test of a limit can ask the *server* for the peak it saw.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from email.utils import formatdate
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

MOST_TIMES = 1000  # for each host, and of paths in order
PAGE = "<html><head><title>{name}</title></head><body>{body}</body></html>"


class AbortError(Exception):
    """Close the connection at once."""


class Server:
    def __init__(self) -> None:
        self.in_flight: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.hosts: Counter[str] = Counter()
        self.times: dict[str, list[float]] = defaultdict(list)  # when each host's first requests came
        self.order: list[str] = []  # the paths of the first requests
        self.proxied: list[str] = []  # the URLs of those that were sent as to a proxy, whole
        self.robots: dict[str, dict[str, str]] = defaultdict(dict)
        self.last_headers: dict[str, dict[str, str]] = {}
        self.gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.failures: Counter[str] = Counter()
        self.allowed = sys.maxsize  # requests that are answered; the others wait
        self.more_allowed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if (first := await reader.read(1)) == b"\x16":  # a TLS hello: this server does not speak it
                writer.write(b"no TLS here")
                raise AbortError
            while head := first + await reader.readuntil(b"\r\n\r\n"):
                first = b""
                request_line, *header_lines = head.decode("latin-1").strip().split("\r\n")
                headers = dict(line.split(": ", 1) for line in header_lines)
                self.body = await reader.readexactly(int(headers.get("Content-Length", 0)))
                self.method, path, _ = request_line.split(" ")
                await self.respond(path, headers, writer)
        except (asyncio.IncompleteReadError, ConnectionError, AbortError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            writer.close()

    async def respond(self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        kind, _, rest = url.path.strip("/").partition("/")
        if kind == "control":
            await send(writer, 200, json.dumps(self.control(rest, query)).encode(), "application/json")
            return
        host = query["host"] = headers["Host"].rpartition(":")[0]
        in_flight = self.in_flight  # that of this test: a client of the last one may still be there
        self.hits[url.path] += 1
        self.hosts[host] += 1
        if self.hosts[host] <= MOST_TIMES:
            self.times[host].append(time.monotonic())
        number = sum(self.hits.values())
        if number <= MOST_TIMES:
            self.order.append(url.path)
            if url.scheme:
                self.proxied.append(path)
        self.last_headers[url.path] = headers
        for key in ("*", host):
            in_flight[key] += 1
            self.peak[key] = max(self.peak[key], in_flight[key])
        try:
            await asyncio.sleep(float(query.get("delay", 0)))
            if "gate" in query:
                await self.gates[query["gate"]].wait()
            while number > self.allowed:
                await self.more_allowed.wait()
            await getattr(self, f"get_{kind.replace('.', '_')}", self.get_missing)(rest, query, writer)
        finally:
            for key in ("*", host):
                in_flight[key] -= 1

    def control(self, what: str, query: dict[str, str]) -> object:
        if what == "open":
            self.gates[query["gate"]].set()
        if what == "clear":
            for gate in (*self.gates.values(), self.more_allowed):
                gate.set()
            self.__init__()
        if what == "allow":
            self.allowed = sum(self.hits.values()) + int(query["more"])
            self.more_allowed.set()
            self.more_allowed = asyncio.Event()
        if what == "robots":
            self.robots[query["host"]] |= query
        return {
            "peak": self.peak,
            "hits": self.hits,
            "hosts": self.hosts,
            "times": self.times,
            "order": self.order,
            "proxied": self.proxied,
            "in_flight": self.in_flight,
            "headers": self.last_headers.get(query.get("path", "")),
        }

    async def get_page(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        body = PAGE.format(name=rest, body="x" * int(query.get("size", 10)))
        await send(writer, 200, body.encode(), "text/html; charset=utf-8")

    async def get_echo(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        headers = self.last_headers["/echo"]
        echo = {"method": self.method, "key": headers.get("X-Key"), "type": headers.get("Content-Type")}
        await send(writer, 200, json.dumps({**echo, "body": self.body.decode()}).encode(), "text/plain")

    async def get_latin(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        await send(writer, 200, "<p>caf\u00e9</p>".encode("latin-1"), "text/html; charset=iso-8859-1")

    async def get_binary(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        await send(writer, 200, bytes(range(256)), "application/octet-stream")

    async def get_random(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        body = random.Random(rest).randbytes(int(query["size"]))  # which cannot be compressed
        await send(writer, 200, body, "application/octet-stream")

    async def get_status(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        await send(writer, int(rest), b"no", "text/plain")

    async def get_missing(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        await send(writer, 404, b"not found", "text/plain")

    async def get_redirect(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        await send(writer, 302, b"", "text/plain", Location=query["to"])

    async def get_loop(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        await send(writer, 302, b"", "text/plain", Location="/loop")

    async def get_flaky(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        self.failures[rest] += 1
        fails = self.failures[rest] <= int(query.get("times", 1))
        await send(writer, 503 if fails else 200, PAGE.format(name=rest, body="").encode(), "text/html")

    async def get_busy(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        self.failures[f"busy/{rest}"] += 1
        if self.failures[f"busy/{rest}"] > int(query.get("times", 1)):
            await self.get_page(rest, query, writer)
            return
        headers = {"Retry-After": query["after"]} if "after" in query else {}
        if "date" in query:
            now = time.time()
            dates = {"Date": now, "Retry-After": now + float(query["after"])}
            headers = {name: formatdate(date, usegmt=True) for name, date in dates.items()}
        await send(writer, int(query.get("status", 429)), b"busy", "text/plain", **headers)

    async def get_truncated(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\nshort")
        await writer.drain()
        writer.close()
        raise AbortError

    async def get_reset(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        raise AbortError

    async def get_garbage(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-not-http\r\n\r\n")
        await writer.drain()
        writer.close()
        raise AbortError

    async def get_robots_txt(self, rest: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        robots = self.robots[query["host"]]
        await asyncio.sleep(float(robots.get("slow", 0)))
        lines = ["User-agent: *", f"Disallow: {robots.get('disallow', '/page/private')}"]
        lines += [f"Crawl-delay: {robots['delay']}"] if "delay" in robots else []
        await send(writer, 200, "\n".join([*lines, ""]).encode(), "text/plain")


async def send(writer: asyncio.StreamWriter, status: int, body: bytes, content_type: str, **headers: str) -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()


async def main() -> None:
    # On every loopback address, so that tests have as many hosts as they like: 127.0.0.1, 127.0.0.2, …
    server = await asyncio.start_server(Server().serve, "0.0.0.0", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    stdin_ended = loop.create_future()
    threading.Thread(
        target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(stdin_ended.set_result, None)), daemon=True
    ).start()
    await stdin_ended


class MockServer:
    """The running server, as tests see it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mockserver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"

    def control(self, what: str = "look") -> dict:
        with urlopen(self.url(f"control/{what}"), timeout=10) as response:
            return json.load(response)

    def peak(self, host: str = "*") -> int:
        return self.control()["peak"].get(host, 0)

    def close(self) -> None:
        self._process.communicate()


if __name__ == "__main__":
    asyncio.run(main())
