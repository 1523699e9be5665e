"""A server that answers byte for byte as a test's script says, and keeps what it was asked byte for byte.

Each connection has a thread, which runs the script; the sockets are real ones, on loopback.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable


class Line:
    """One connection, as the server sees it."""

    def __init__(self, wire: Wire, connection: socket.socket) -> None:
        self._wire = wire
        self.socket = connection
        self._unread = b""

    def receive(self) -> bytes:
        """The next request, head and body; nothing when the client has left."""
        while b"\r\n\r\n" not in self._unread:
            if not self._read():
                return b""
        end = self._unread.index(b"\r\n\r\n") + 4
        if length := re.search(rb"(?im)^content-length: *(\d+)", self._unread[:end]):
            end += int(length[1])
        while len(self._unread) < end:
            if not self._read():
                return b""
        request, self._unread = self._unread[:end], self._unread[end:]
        self._wire.requests.append(request)
        return request

    def read(self) -> bytes:
        """Whatever comes next; nothing when the client has left."""
        return self.socket.recv(65536)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def wait(self) -> None:
        """Say nothing until the client leaves."""
        while self.read():
            pass

    def reset(self) -> None:
        """End the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read(self) -> bytes:
        data = self.read()
        self._unread += data
        return data


Script = Callable[[Line], None]


def always(answer: bytes) -> Script:
    """Answers every request of a connection, until the client leaves."""

    def script(line: Line) -> None:
        while line.receive():
            line.send(answer)

    return script


def once(answer: bytes) -> Script:
    """Answers one request, and closes the connection."""

    def script(line: Line) -> None:
        if line.receive():
            line.send(answer)

    return script


def page(body: bytes = b"ok", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A complete response."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


class Wire:
    """The running server.

    :param script: what it does with each connection; it is closed when the script returns
    :param tls: what it speaks TLS with, ``None`` for none
    """

    def __init__(self, script: Script, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0  # in all
        self.open = 0
        self._script, self._tls = script, tls
        self._host, self._scheme = host, "https" if tls else "http"
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=1000)
        self.port: int = self._listener.getsockname()[1]
        self._closing = False
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def url(self, path: str = "/", host: str | None = None) -> str:
        name = host or (f"[{self._host}]" if ":" in self._host else self._host)
        return f"{self._scheme}://{name}:{self.port}{path}"

    def close(self) -> None:
        """End all connections, and everything else."""
        self._closing = True
        socket.create_connection((self._host, self.port)).close()  # so that it stops accepting
        self._accepting.join()
        self._listener.close()
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):  # it has ended by itself
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
            assert not thread.is_alive(), "a script ends with its connection"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            self.connections += 1
            self.open += 1
            self._sockets.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        line = Line(self, connection)
        try:
            if self._tls:
                line.start_tls(self._tls)
            self._script(line)
        except OSError:
            pass  # the client has left, or did not like our certificate
        finally:
            self._sockets.discard(connection)
            line.socket.close()
            connection.close()
            self._threads.discard(threading.current_thread())
            self.open -= 1
