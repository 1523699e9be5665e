"""The event loop, whichever it is: asyncio's (with or without Twisted's reactor on it) or another reactor's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.reactor import is_reactor_installed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import LoopingCall

_SWEEP = 1.0  # seconds


class Cancellable(Protocol):
    def cancel(self) -> object: ...


def call_soon(function: Callable[[], object]) -> Cancellable:
    """Call *function* in the loop's next turn.

    ``scrapy.utils.asyncio.call_later(0, …)`` is a timer, which uvloop fires up to a millisecond late.
    """
    if is_asyncio_available():
        return asyncio.get_running_loop().call_soon(function)
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    delayed: Cancellable = cast("IReactorTime", reactor).callLater(0, function)  # type: ignore[arg-type]  # the interface has no self
    return delayed


def thread_safe_caller() -> Callable[[Callable[[], object]], object]:
    """A function for other threads, with which they have the loop of this thread call something."""
    if is_asyncio_available():
        return asyncio.get_running_loop().call_soon_threadsafe
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    return cast("IReactorFromThreads", reactor).callFromThread


def sweep_timers() -> Callable[[], None]:
    """Have Twisted let go of timers that were cancelled; returns what ends that.

    It does so whenever one of its timers comes due. On asyncio's reactor none may for minutes, as Scrapy's periodic
    calls are asyncio's there, and each download leaves two that would fire after ``DOWNLOAD_TIMEOUT``.
    """
    if not is_reactor_installed():
        return lambda: None
    sweep = LoopingCall(lambda: None)
    sweep.start(_SWEEP, now=False)
    return sweep.stop
