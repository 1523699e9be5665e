"""`Multi`: libcurl's transfers, all at once, driven by the event loop."""

from __future__ import annotations

import asyncio
import math
import selectors
import time

import pycurl

if not hasattr(selectors.DefaultSelector, "fileno"):
    raise ImportError("libcurl's sockets cannot be watched on this system, whose selectors are no files")
assert (selectors.EVENT_READ, selectors.EVENT_WRITE) == (pycurl.POLL_IN, pycurl.POLL_OUT), (
    "libcurl counts as Python does"
)

# Seconds after which a transfer begins at once, not in the loop's next turn. Together with others it takes less of the
# processor. But when a turn is long, since many pages have come, all would leave when the last of these is worked on,
# and come together again; and meanwhile there would be nothing on the way.
_LONG = 0.002

_CLOSED = (pycurl.E_ABORTED_BY_CALLBACK, "the download handler was closed")


class Multi:
    """libcurl says which sockets it waits for, and until when; the event loop says when some of them are ready.

    Its parts call each other: `_on_sockets` and `_on_timer` have libcurl go on, which tells `_watch` and `_set_timer`
    what it waits for next. It waits anew for each page, so its sockets are in a selector of their own, which takes less
    than to have the loop watch and forget them; the loop watches that.

    :param max_idle: how many connections are kept for further requests
    """

    def __init__(self, max_idle: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_idle)
        self._selector = selectors.DefaultSelector()
        self._watched: set[int] = set()
        self._loop.add_reader(self._selector, self._on_sockets)
        self._timer: asyncio.Handle | None = None
        self._looked = -math.inf  # when libcurl was last told that time has passed
        self._running: dict[pycurl.Curl, asyncio.Future[tuple[int, str]]] = {}

    async def run(self, curl: pycurl.Curl) -> tuple[int, str]:
        """libcurl's code and message when the transfer of *curl* has ended; the code is 0 when all went well."""
        if self.closed:
            return _CLOSED
        end: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._running[curl] = end
        try:
            self._multi.add_handle(curl)
            if time.monotonic() > self._looked + _LONG:  # the loop's own time may stand still in a turn
                self._on_timer()
            return await end
        finally:
            # Also when it was cancelled: libcurl then closes its connection.
            if self._running.pop(curl, None) and not self.closed:
                self._multi.remove_handle(curl)

    @property
    def closed(self) -> bool:
        return bool(self._multi.closed)

    def close(self) -> None:
        """End all transfers, as libcurl does where it is told to, and close all connections."""
        if self.closed:
            return
        for curl, end in self._running.items():
            self._multi.remove_handle(curl)
            if not end.done():
                end.set_result(_CLOSED)
        self._running.clear()
        self._multi.close()
        self._set_timer(-1)
        self._loop.remove_reader(self._selector)
        self._selector.close()

    def _watch(self, what: int, socket: int, _multi: object, _data: object) -> None:
        if what == pycurl.POLL_REMOVE:
            self._watched.remove(socket)
            self._selector.unregister(socket)
        elif socket in self._watched:
            self._selector.modify(socket, what)
        else:
            self._watched.add(socket)
            self._selector.register(socket, what)

    def _on_sockets(self) -> None:
        for socket, events in self._selector.select(0):
            self._multi.socket_action(socket.fd, events)
        self._end_those_that_have()

    def _set_timer(self, milliseconds: int) -> None:
        if self._timer:
            self._timer.cancel()
        if milliseconds < 0:
            self._timer = None
        elif milliseconds == 0:
            self._timer = self._loop.call_soon(self._on_timer)
        else:
            self._timer = self._loop.call_later(milliseconds / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._looked = time.monotonic()
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._end_those_that_have()

    def _end_those_that_have(self) -> None:
        more = 1
        while more:
            more, succeeded, failed = self._multi.info_read()
            for curl in succeeded:
                self._end(curl, pycurl.E_OK, "")
            for curl, code, message in failed:
                self._end(curl, code, message)

    def _end(self, curl: pycurl.Curl, code: int, message: str) -> None:
        end = self._running[curl]
        if not end.done():  # it may have been cancelled a moment ago
            end.set_result((code, message))
