"""Files over HTTP, from a server on loopback in a thread of its own."""

from __future__ import annotations

import re
import ssl
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from zlib import crc32

_PIECE = 64 * 1024  # bytes that are sent at a time


class FileServer:
    """Serves *files*, by path.

    :ivar requests: how many came, by method and path
    :ivar sent: bytes of bodies, by path
    :ivar has_ranges: whether parts of a file can be asked for
    :ivar tag: what makes an ``ETag`` of a file's CRC, if it has one
    :ivar cut: how many bytes of a file are sent, though its whole length is said, by path
    :ivar password: ``user:password`` that has to come with each request, in base64
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: Counter[tuple[str, str]] = Counter()
        self.sent: Counter[str] = Counter()
        self.has_ranges = True
        self.tag = ""
        self.cut: dict[str, int] = {}
        self.password: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *of: None  # a client that has left
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https" if tls else "http"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str = "", user: str = "") -> str:
        return f"{self._scheme}://{user}127.0.0.1:{self._server.server_port}/{path}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        self.requests[request.command, path] += 1
        data = self.files.get(path)
        if self.password and request.headers.get("Authorization") != f"Basic {self.password}":
            return self.send(request, 401, b"who?")
        if data is None:
            return self.send(request, 404, b"no")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")) if self.has_ranges else None
        headers = {"Accept-Ranges": "bytes"} if self.has_ranges else {}
        if self.tag:
            headers["ETag"] = tag = self.tag.format(crc32(data))
            known = request.headers.get("If-Match")
            if known and (known != tag or tag.startswith("W/")):  # no weak one matches, not even itself
                return self.send(request, 412, b"another one")
        if not wanted:
            return self.send(request, 200, data, headers, self.cut.get(path))
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first >= len(data):
            return self.send(request, 416, b"no such part")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        cut = self.cut[path] - first if path in self.cut else None
        return self.send(request, 206, data[first : last + 1], headers, cut)

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        request.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        if cut is not None and cut < len(data):
            data = data[: max(cut, 0)]
            request.close_connection = True
        try:
            for start in range(0, len(data), _PIECE):
                request.wfile.write(data[start : start + _PIECE])
                self.sent[path] += _PIECE
        except OSError:
            request.close_connection = True  # who asked has what it wanted

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
