"""The event loop, whichever it is.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

import gc

from pytest_twisted import ensureDeferred
from scrapy.utils.asyncio import call_later
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred

from scrapy_batcher.loop import sweep_timers
from tests.crawling import TIMEOUT


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


def a_moment() -> Deferred[None]:
    """Fires a little later, by what Scrapy would use: on asyncio's reactor, asyncio's own timer."""
    over: Deferred[None] = Deferred()
    call_later(0.1, over.callback, None)
    return over
