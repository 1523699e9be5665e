"""Where Prometheus finds metrics: an `Endpoint` that it scrapes, or a `Textfile` of its node exporter (extra
``metrics``)."""

from __future__ import annotations

import errno
import logging
import os
import socket
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from tempfile import TemporaryFile
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app, write_to_textfile
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from scrapy.utils.asyncio import CallLaterResult, call_later, run_in_thread
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred

from scrapy_batcher.adapters.loop import thread_safe_caller
from scrapy_batcher.values import Address

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment  # wsgiref.types is new in Python 3.11

logger = logging.getLogger(__name__)

Look = Callable[[], list[Metric]]

_POLL = 0.05  # seconds until the server sees that it is to end
_PATIENCE = 10.0  # seconds that a scrape waits for the event loop, or for its client


class Endpoint:
    """Serves at *address* what *look* tells, from `start` to `stop`.

    The server has a thread of its own, and one for each scrape. What is told is looked up in the event loop, whichever
    that is, so that nothing is read while it changes.

    :raises OSError: when the address cannot be had
    """

    def __init__(self, address: Address, look: Look) -> None:
        self._asker = _Asker(look)
        self._server = _Server(address, _registry(self._asker))
        self._close = weakref.finalize(self, self._server.server_close)  # also when the spider is never opened
        self._is_serving = False

    def start(self) -> None:
        self._asker.call_in_loop = thread_safe_caller()
        Thread(target=self._server.serve_forever, args=(_POLL,), name="metrics", daemon=True).start()
        self._is_serving = True
        logger.info("Metrics are at http://%s/metrics", self._server.address)

    async def stop(self) -> None:
        if self._is_serving:
            await run_in_thread(self._server.shutdown)
        self._close()


class Textfile:
    """Writes what *look* tells into the file at *path*, which is replaced as a whole each time, from `start` to `stop`.

    :param seconds: between two times
    :raises OSError: when no file can be written there
    """

    def __init__(self, path: Path, seconds: float, look: Look) -> None:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with TemporaryFile(dir=path.parent):
            pass  # the file is made anew there each time
        self._path = path
        self._seconds = seconds
        self._look = look
        self._writing: Deferred[None] | None = None
        self._timer: CallLaterResult | None = None
        self._is_over = False

    def start(self) -> None:
        self._writing = deferred_from_coro(self._write_and_wait())

    async def stop(self) -> None:
        if self._writing:
            self._is_over = True
            if self._timer:
                self._timer.cancel()
            await maybe_deferred_to_future(self._writing)  # or an older one could come behind the last
            await self._write()

    async def _write_and_wait(self) -> None:
        await self._write()
        if not self._is_over:
            self._timer = call_later(self._seconds, self.start)

    async def _write(self) -> None:
        registry = _registry(_Told(self._look()))
        try:
            await run_in_thread(write_to_textfile, str(self._path), registry)
        except OSError as e:
            logger.error("The metrics in %s are those of before, as it cannot be written: %s", self._path, e.strerror)


class _Asker(Collector):
    """Has *look* called in the event loop, for another thread."""

    call_in_loop: Callable[[Callable[[], object]], object]

    def __init__(self, look: Look) -> None:
        self._look = look

    def collect(self) -> list[Metric]:
        found: Future[list[Metric]] = Future()
        self.call_in_loop(lambda: self._answer(found))
        return found.result(_PATIENCE)

    def _answer(self, found: Future[list[Metric]]) -> None:
        try:
            found.set_result(self._look())
        except Exception as e:  # noqa: BLE001 - it is for the thread that asks
            found.set_exception(e)


class _Told(Collector):
    """What was looked up."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _registry(collector: Collector) -> CollectorRegistry:
    """One of its own, as there may be several crawlers in a process, and prometheus_client's is for the whole of it."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def _page(registry: CollectorRegistry) -> WSGIApplication:
    page = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return page(environ, start_response)  # type: ignore[no-any-return]  # prometheus_client does not say what
        except TimeoutError:
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [f"The event loop has not answered within {_PATIENCE:g} seconds.\n".encode()]

    return answer


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(f"%s: {format}", self.client_address[0], *args)


class _Server(ThreadingMixIn, WSGIServer):
    """
    :ivar address: where it listens
    """

    daemon_threads = True
    allow_reuse_port = False  # with it, as newer Pythons have it, several processes would get one port

    def __init__(self, address: Address, registry: CollectorRegistry) -> None:
        self.address = address
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__((address.host, address.port), _Handler)
        self.set_app(_page(registry))

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # not HTTPServer's, which asks for the host's name, and may wait for the answer
        self.server_name, self.server_port = self.address.host, self.socket.getsockname()[1]
        self.address = self.address._replace(port=self.server_port)
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        logger.debug("A scrape from %s has ended early", client_address, exc_info=True)
