"""Rows are read a bounded number ahead, in a thread, and nothing of that is lost or waited for in vain."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from pytest_twisted import ensureDeferred

from scrapy_batcher.lists.reader import AHEAD, Reader
from scrapy_batcher.lists.rows import Target
from tests.crawling import until


def rows(count: int, read: list[int] | None = None) -> Iterator[Target]:
    for id in range(1, count + 1):
        if read is not None:
            read.append(id)
        yield Target(id, id, f"http://127.0.0.1/{id}", {})


async def take_all(reader: Reader, woken: list[int]) -> list[int]:
    taken: list[int] = []
    while not reader.exhausted:
        if some := reader.take(7):
            taken += [row.id for row in some]
        else:
            wakes = len(woken)
            await until(lambda wakes=wakes: len(woken) > wakes)
    return taken


@ensureDeferred
async def test_every_row_in_order() -> None:
    """All rows come, in order, a slice at a time, and who finds none is woken when there are more, or no more."""
    woken: list[int] = []
    assert await take_all(Reader(rows(3000), lambda: woken.append(1)), woken) == list(range(1, 3001))
    assert await take_all(Reader(rows(0), lambda: woken.append(1)), woken) == []


@ensureDeferred
async def test_no_further_ahead() -> None:
    """The thread reads so many rows ahead and waits then."""
    read: list[int] = []
    reader = Reader(rows(5 * AHEAD, read), lambda: None)
    await until(lambda: len(read) == AHEAD + 1)
    reader.take(AHEAD // 2)
    await until(lambda: len(read) == AHEAD + AHEAD // 2 + 1)
    reader.stop()


@ensureDeferred
async def test_an_error_comes_after_the_rows() -> None:
    """What was read before an error is given, then the end; the error is kept."""

    def breaks() -> Iterator[Target]:
        yield from rows(5)
        raise OSError("the disk is gone")

    woken: list[int] = []
    reader = Reader(breaks(), lambda: woken.append(1))
    assert await take_all(reader, woken) == [1, 2, 3, 4, 5]
    assert isinstance(reader.error, OSError)


@ensureDeferred
async def test_stopped() -> None:
    """Stopped, the thread ends and closes what it read from, also when it waits for room."""
    closed = threading.Event()

    class Source:
        def __iter__(self) -> Iterator[Target]:
            try:
                yield from rows(5 * AHEAD)
            finally:
                closed.set()

    reader = Reader(Source(), lambda: None)
    await until(lambda: len(reader._read) == AHEAD)
    reader.stop()
    await until(closed.is_set)


@pytest.mark.parametrize("count", [1, 100])
@ensureDeferred
async def test_a_slow_source(count: int) -> None:
    """A source that gives its rows one by one, each only when asked for, wakes whoever waits, every time."""
    gate = threading.Semaphore(0)

    def trickle() -> Iterator[Target]:
        for row in rows(count):
            gate.acquire()
            yield row

    woken: list[int] = []
    reader = Reader(trickle(), lambda: woken.append(1))
    taken = 0
    while taken < count:
        assert reader.take(500) == []
        wakes = len(woken)
        gate.release()
        await until(lambda wakes=wakes: len(woken) > wakes)
        taken += len(reader.take(500))
    gate.release()
    await until(lambda: reader.exhausted)
