"""`Multi`: libcurl's transfers, all at once, driven by the event loop."""

from __future__ import annotations

import asyncio

import pycurl

_CLOSED = (pycurl.E_ABORTED_BY_CALLBACK, "the download handler was closed")


class Multi:
    """libcurl says which sockets it waits for, and until when; the event loop says when they are ready.

    Its parts call each other: `_act` has libcurl go on, which tells `_watch` and `_set_timer` what it waits for next.

    :param max_idle: how many connections are kept for further requests
    """

    def __init__(self, max_idle: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_idle)
        self._watched: dict[int, int] = {}  # by socket: whether it is waited for to be readable, writable, or both
        self._timer: asyncio.Handle | None = None
        self._running: dict[pycurl.Curl, asyncio.Future[tuple[int, str]]] = {}

    async def run(self, curl: pycurl.Curl) -> tuple[int, str]:
        """libcurl's code and message when the transfer of *curl* has ended; the code is 0 when all went well."""
        if self.closed:
            return _CLOSED
        end: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._running[curl] = end
        try:
            self._multi.add_handle(curl)
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
        for curl, end in self._running.items():
            self._multi.remove_handle(curl)
            if not end.done():
                end.set_result(_CLOSED)
        self._running.clear()
        self._multi.close()
        self._set_timer(-1)

    def _watch(self, what: int, socket: int, _multi: object, _data: object) -> None:
        before = self._watched.pop(socket, pycurl.POLL_NONE)
        now = pycurl.POLL_NONE if what == pycurl.POLL_REMOVE else what
        if now:
            self._watched[socket] = now
        if now & pycurl.POLL_IN > before & pycurl.POLL_IN:
            self._loop.add_reader(socket, self._act, socket, pycurl.CSELECT_IN)
        elif now & pycurl.POLL_IN < before & pycurl.POLL_IN:
            self._loop.remove_reader(socket)
        if now & pycurl.POLL_OUT > before & pycurl.POLL_OUT:
            self._loop.add_writer(socket, self._act, socket, pycurl.CSELECT_OUT)
        elif now & pycurl.POLL_OUT < before & pycurl.POLL_OUT:
            self._loop.remove_writer(socket)

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
        self._timer = None
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, socket: int, ready: int) -> None:
        self._multi.socket_action(socket, ready)
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
