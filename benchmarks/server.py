"""A web server for the benchmarks, in a process of its own. It prints its port, and ends when its stdin does.

A raw protocol that knows just enough HTTP, so that a page costs it a few hundredths of a millisecond:

- ``/page/SIZE/…`` is a page of SIZE bytes; ``/slow/SECONDS/…`` is a small one that takes so long
- ``/missing/…`` is not there
- ``/peak`` tells how many requests were in flight at once, at most, since it was last asked; ``/requests`` how many
  there were; ``/seconds`` how long it was from the first to the last answer, since it was last asked
"""

from __future__ import annotations

import asyncio
import sys

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\r\n"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
PAGE = "<html><head><title>A page</title></head><body>{}</body></html>"


class Counts:
    in_flight = 0
    peak = 0
    requests = 0
    first: float | None = None  # when, by the event loop's clock
    last = 0.0

    @classmethod
    def ask(cls, what: str) -> float:
        if what == "peak":
            peak, cls.peak = cls.peak, cls.in_flight
            return peak
        if what == "seconds":
            seconds, cls.first = cls.last - (cls.first or cls.last), None
            return seconds
        return cls.requests


class Connection(asyncio.Protocol):
    pages: dict[int, bytes] = {}  # noqa: RUF012 - shared by all connections: made once for each size

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self.answer(head.split(b" ", 2)[1].decode().split("/"))

    def answer(self, path: list[str]) -> None:
        if path[1] in ("peak", "requests", "seconds"):
            body = str(Counts.ask(path[1]))
            self.transport.write((HEAD.format(len(body)) + body).encode())
            return
        Counts.requests += 1
        if path[1] == "missing":
            self.transport.write(MISSING)
            return
        if Counts.first is None:
            Counts.first = asyncio.get_running_loop().time()
        Counts.in_flight += 1
        Counts.peak = max(Counts.peak, Counts.in_flight)
        if path[1] == "slow":
            asyncio.get_running_loop().call_later(float(path[2]), self.send, 100)
        else:
            self.send(int(path[2]))

    def send(self, size: int) -> None:
        if size not in self.pages:
            body = PAGE.format("x" * (size - len(PAGE) + 2))
            self.pages[size] = (HEAD.format(len(body)) + body).encode()
        self.transport.write(self.pages[size])
        Counts.in_flight -= 1
        Counts.last = asyncio.get_running_loop().time()


async def serve(connection: type[asyncio.Protocol]) -> None:
    """Listen on all loopback addresses, print the port, and end when stdin does."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connection, "0.0.0.0", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    await over.wait()


if __name__ == "__main__":
    asyncio.run(serve(Connection))
