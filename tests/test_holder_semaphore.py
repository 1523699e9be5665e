"""The semaphore itself: who holds, who waits, and what happens in the moments between."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pytest_twisted import ensureDeferred
from scrapy.utils.reactor import is_asyncio_reactor_installed
from twisted.internet.defer import CancelledError, Deferred

import scrapy_batcher.semaphore
from scrapy_batcher.semaphore import HolderSemaphore


class SemaphoreMachine(RuleBasedStateMachine):
    """Acquire, release and cancel in any order, against a model of one set and one queue."""

    def __init__(self) -> None:
        super().__init__()
        # Deferreds are awaited as they are, so that every step is over when it returns.
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(scrapy_batcher.semaphore, "maybe_deferred_to_future", lambda deferred: deferred)
        self.semaphore = HolderSemaphore(3)
        self.holders: set[int] = set()
        self.queue: list[int] = []
        self.acquiring: dict[int, Deferred[None]] = {}
        self.next = 0

    def teardown(self) -> None:
        for deferred in self.acquiring.values():
            deferred.addErrback(lambda _: None)
            deferred.cancel()
        self._patch.undo()

    @rule()
    def acquire(self) -> None:
        holder, self.next = self.next, self.next + 1
        self.acquiring[holder] = Deferred.fromCoroutine(self.semaphore.acquire(holder))
        if len(self.holders) < 3:
            self.holders.add(holder)
        else:
            self.queue.append(holder)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.holders)))
        self.semaphore.release(holder)
        self.holders.remove(holder)
        if self.queue:
            self.holders.add(self.queue.pop(0))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.queue))
        cancelled = []
        self.acquiring[waiter].addErrback(lambda failure: cancelled.append(failure.check(CancelledError)))
        self.acquiring[waiter].cancel()
        assert cancelled == [CancelledError]
        self.queue.remove(waiter)

    @rule(stranger=st.integers(min_value=-5, max_value=-1))
    def stray_release(self, stranger: int) -> None:
        with pytest.raises(RuntimeError, match="holds no permit"):
            self.semaphore.release(stranger)

    @precondition(lambda self: self.holders)
    @rule()
    def acquire_twice(self) -> None:
        failed = []
        Deferred.fromCoroutine(self.semaphore.acquire(min(self.holders))).addErrback(failed.append)
        assert failed[0].check(RuntimeError)

    @invariant()
    def agrees(self) -> None:
        look = self.semaphore.statistics()
        assert (look.limit, look.holders, look.waiting) == (3, self.holders, len(self.queue))
        assert self.semaphore.has_capacity() == (len(self.holders) < 3)
        assert self.semaphore.idle == (not self.holders)
        assert repr(self.semaphore) == f"<HolderSemaphore {len(self.holders)} of 3 held, {len(self.queue)} waiting>"


SemaphoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSemaphore = SemaphoreMachine.TestCase


@pytest.mark.skipif(not is_asyncio_reactor_installed(), reason="the moment in question exists between asyncio's turns")
@ensureDeferred
async def test_granted_a_moment_too_late() -> None:
    """A waiter that is cancelled in the same turn in which it is granted its permit gives it back."""

    async def scenario() -> None:
        semaphore = HolderSemaphore(1)
        await semaphore.acquire("first")
        cancelled_first = asyncio.ensure_future(semaphore.acquire("second"))
        granted_first = asyncio.ensure_future(semaphore.acquire("third"))
        patient = asyncio.ensure_future(semaphore.acquire("fourth"))
        await asyncio.sleep(0)
        cancelled_first.cancel()
        semaphore.release("first")
        granted_first.cancel()
        await patient
        assert cancelled_first.cancelled()
        assert granted_first.cancelled()
        assert semaphore.statistics().holders == {"fourth"}
        semaphore.release("fourth")
        assert semaphore.idle

    await Deferred.fromFuture(asyncio.ensure_future(scenario()))


@ensureDeferred
async def test_closed_while_it_waits() -> None:
    """A waiter whose coroutine is closed, not cancelled, leaves the queue as well."""
    semaphore = HolderSemaphore(1)
    await semaphore.acquire("first")
    waiter = semaphore.acquire("second")
    waiter.send(None)
    assert semaphore.statistics().waiting == 1
    waiter.close()
    assert semaphore.statistics().waiting == 0
    semaphore.release("first")
    assert semaphore.idle


def test_a_limit_below_one() -> None:
    """A semaphore that would let nobody through cannot be made."""
    with pytest.raises(ValueError, match="tokens >= 1"):
        HolderSemaphore(0)
