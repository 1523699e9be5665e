"""A web server that is many hosts, in a process of its own. It prints its port, and ends when its stdin does.

Every loopback address is a host: 127.0.0.1, 127.0.0.2, … What a page does is in its URL's query:

- ``delay=0.1``: it is answered after so many seconds
- ``to=http://…``: it is a redirect there
- ``rate=5``: its host lets so many requests through in any second, and answers the others 429, ``Retry-After: 1``
- ``prompt=1000``: the first so many requests of all are answered at once, whatever their delay

``/report`` tells what was seen since it was last asked for, in all and by host, in seconds since the first request.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from server import serve

HEAD = "HTTP/1.1 {} X\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n{}\r\n"
BODY = "<html><head><title>A page</title></head><body>{}</body></html>".format("x" * 940)


@dataclass
class Seen:
    """What a host was asked for, or all of them together."""

    in_flight: int = 0
    peak: int = 0
    requests: int = 0
    answers: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by status
    last: float = 0.0  # when the last answer went out
    let_through: deque[float] = field(default_factory=deque)  # when, those of the last second

    def begin(self) -> None:
        self.requests += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def lets_through(self, rate: int, now: float) -> bool:
        while self.let_through and self.let_through[0] <= now - 1:
            self.let_through.popleft()
        if len(self.let_through) >= rate:
            return False
        self.let_through.append(now)
        return True

    def report(self) -> dict[str, object]:
        return {"peak": self.peak, "requests": self.requests, "answers": self.answers, "last": self.last}


class Watch:
    """What all hosts have seen since the last report."""

    now: Watch

    def __init__(self) -> None:
        self.all = Seen()
        self.hosts: dict[str, Seen] = defaultdict(Seen)
        self.first: float | None = None

    def report(self) -> dict[str, object]:
        return {"all": self.all.report(), "hosts": {host: seen.report() for host, seen in self.hosts.items()}}


class Connection(asyncio.Protocol):
    """One request after the other: a client that sends the next before the answer is not looked for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""
        self.under_way: tuple[Watch, str, asyncio.Handle] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.under_way:
            self._end()[2].cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            line, *headers = head.decode("latin-1").split("\r\n")
            host = next(header[6:] for header in headers if header.lower().startswith("host: "))
            self.answer(urlsplit(line.split(" ")[1]), host.partition(":")[0])

    def answer(self, url, host: str) -> None:
        if url.path == "/report":
            self.send(200, json.dumps(Watch.now.report()))
            Watch.now = Watch()
            return
        loop = asyncio.get_running_loop()
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        watch, now = Watch.now, loop.time()
        if watch.first is None:
            watch.first = now
        for seen in (watch.all, watch.hosts[host]):
            seen.begin()
        if "rate" in query and not watch.hosts[host].lets_through(int(query["rate"]), now):
            answer = (429, "", "Retry-After: 1\r\n")
        elif "to" in query:
            answer = (302, "", f"Location: {query['to']}\r\n")
        else:
            answer = (200, BODY, "")
        delay = 0.0 if watch.all.requests <= int(query.get("prompt", 0)) else float(query.get("delay", 0))
        self.under_way = (watch, host, loop.call_later(delay, self.finish, *answer))

    def finish(self, status: int, body: str, headers: str) -> None:
        self.send(status, body, headers)
        watch, host, _ = self._end()
        for seen in (watch.all, watch.hosts[host]):
            seen.answers[status] += 1
            seen.last = asyncio.get_running_loop().time() - watch.first

    def send(self, status: int, body: str, headers: str = "") -> None:
        self.transport.write((HEAD.format(status, len(body), headers) + body).encode())

    def _end(self) -> tuple[Watch, str, asyncio.Handle]:
        under_way, self.under_way = self.under_way, None
        watch, host, _ = under_way
        for seen in (watch.all, watch.hosts[host]):
            seen.in_flight -= 1
        return under_way


async def main() -> None:
    Watch.now = Watch()
    await serve(Connection)


if __name__ == "__main__":
    asyncio.run(main())
