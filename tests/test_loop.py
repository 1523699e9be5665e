"""The event loop, whichever it is.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

import gc
import threading

from pytest_twisted import ensureDeferred
from scrapy.utils.asyncio import call_later
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred

from scrapy_batcher.adapters.loop import sweep_timers, thread_safe_caller
from tests.crawling import TIMEOUT, until


@ensureDeferred
async def test_timers_that_were_cancelled_do_not_stay() -> None:
    """Else each download leaves some behind, until its timeout would have passed."""
    from twisted.internet import reactor

    end = sweep_timers()
    timers = [reactor.callLater(600, print) for _ in range(1000)]
    await a_moment()
    while timers:
        timers.pop().cancel()
    try:
        for _ in range(TIMEOUT * 10):
            await a_moment()
            left = sum(isinstance(thing, DelayedCall) for thing in gc.get_objects())
            if left < 500:
                return
    finally:
        end()
    raise AssertionError(f"{left} timers are left")


@ensureDeferred
async def test_a_call_from_another_thread() -> None:
    """Whatever another thread asks for is done in the loop's own."""
    threads = []
    call = thread_safe_caller()
    threading.Thread(target=call, args=[lambda: threads.append(threading.current_thread())]).start()
    await until(lambda: bool(threads))
    assert threads == [threading.main_thread()]


def a_moment() -> Deferred[None]:
    """Fires a little later, by what Scrapy would use: on asyncio's reactor, asyncio's own timer."""
    over: Deferred[None] = Deferred()
    call_later(0.1, over.callback, None)
    return over
