"""Our signal manager sends what Scrapy's does: each test is for both, and one says where they differ.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import scrapy.signalmanager
from pydispatch import dispatcher
from pytest_twisted import ensureDeferred
from scrapy.exceptions import StopDownload
from scrapy.utils.asyncio import sleep
from scrapy.utils.defer import deferred_from_coro
from twisted.internet.defer import succeed
from twisted.python.failure import Failure

from scrapy_batcher.adapters.signalmanager import SignalManager
from tests.crawling import Pages, make_crawler

SIGNAL = object()


@pytest.fixture(params=[SignalManager, scrapy.signalmanager.SignalManager])
def manager(request: pytest.FixtureRequest) -> scrapy.signalmanager.SignalManager:
    return request.param(make_crawler(Pages))


class Handlers:
    """Each returns what it was told."""

    def none(self):
        return ()

    def some(self, request):
        return (request,)

    def defaults(self, request, missing="nothing"):
        return (request, missing)

    def all(self, **kwargs):
        return tuple(sorted(kwargs))

    def about(self, signal, sender):
        return (signal is SIGNAL, type(sender).__name__)

    @staticmethod
    def static(request):
        return (request,)

    def __call__(self, request):
        return (request,)


def test_each_gets_what_it_takes(manager) -> None:
    """A handler is told those arguments that it has names for, in the order in which they were connected."""
    handlers = Handlers()

    def function(request, spider):
        return (request, spider)

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, request=kwargs["request"], spider=kwargs["spider"])

    names = [handlers.none, handlers.some, handlers.defaults, handlers.all, handlers.about, handlers.static]
    connected = [*names, handlers, function, wrapped]
    for handler in connected:
        manager.connect(handler, SIGNAL)
    expected = [
        (),
        ("r",),
        ("r", "nothing"),
        ("request", "sender", "signal", "spider"),
        (True, "Crawler"),
        ("r",),
        ("r",),
        ("r", "s"),
        ("r", "s"),
    ]
    assert manager.send_catch_log(SIGNAL, request="r", spider="s") == list(zip(connected, expected, strict=True))


def test_who_is_told(manager) -> None:
    """Those that are connected to this signal of this sender, or to any; not the dead, nor those that left."""
    told = []

    def note(name: str):
        def handler() -> None:
            told.append(name)

        return handler

    handlers = {name: note(name) for name in ("this", "any signal", "any sender", "left", "other", "dead")}
    manager.connect(handlers["this"], SIGNAL)
    manager.connect(handlers["left"], SIGNAL)
    manager.connect(handlers["dead"], SIGNAL)
    manager.connect(handlers["other"], object())
    manager.disconnect(handlers["left"], SIGNAL)
    del handlers["dead"]
    manager.send_catch_log(SIGNAL)
    assert told == ["this"]
    manager.connect(handlers["any signal"], dispatcher.Any)
    manager.send_catch_log(SIGNAL)
    assert told == ["this", "this", "any signal"]
    dispatcher.connect(handlers["any sender"], SIGNAL)
    try:
        manager.send_catch_log(SIGNAL)
    finally:
        dispatcher.disconnect(handlers["any sender"], SIGNAL)
    assert told == ["this", "this", "any signal", "this", "any signal", "any sender"]


@pytest.mark.parametrize(
    ("what", "scrapys"),
    [
        ("connect", "first second third late"),
        ("disconnect itself", "first third"),
        ("disconnect the next", "first third"),
    ],
)
def test_what_changes_meanwhile(manager, what: str, scrapys: str) -> None:
    """What a handler connects or disconnects counts from the next signal on. (Scrapy's passes handlers over.)"""
    told = []

    def first() -> None:
        told.append("first")
        match what:
            case "connect":
                manager.connect(late, SIGNAL)
            case "disconnect itself":
                manager.disconnect(first, SIGNAL)
            case "disconnect the next":
                manager.disconnect(second, SIGNAL)

    def second() -> None:
        told.append("second")

    def third() -> None:
        told.append("third")

    def late() -> None:
        told.append("late")

    for handler in (first, second, third):
        manager.connect(handler, SIGNAL)
    manager.send_catch_log(SIGNAL)
    assert told == ("first second third" if isinstance(manager, SignalManager) else scrapys).split()
    told.clear()
    manager.send_catch_log(SIGNAL)
    after = {"connect": ["first", "second", "third", "late"], "disconnect itself": ["second", "third"]}
    assert told == after.get(what, ["first", "third"])


def test_who_is_gone_meanwhile_is_not_told(manager) -> None:
    """A handler may let go of the object whose method comes next."""
    others = [Handlers()]

    def first(request):
        others.clear()

    manager.connect(first, SIGNAL)
    manager.connect(others[0].some, SIGNAL)
    assert manager.send_catch_log(SIGNAL, request="r") == [(first, None)]


def test_errors(manager, caplog) -> None:
    """What a handler raises is in the log, unless it is meant to be raised, and among the results; the next is told."""

    def broken():
        raise RuntimeError("no good")

    def stopping():
        raise StopDownload

    def wrong():
        return succeed(1)

    def expected():
        raise KeyError

    def last():
        return "told"

    for handler in (broken, stopping, wrong, expected, last):
        manager.connect(handler, SIGNAL)
    results = manager.send_catch_log(SIGNAL, dont_log=KeyError)
    assert [result.type for _, result in results if isinstance(result, Failure)] == [
        RuntimeError,
        StopDownload,
        KeyError,
    ]
    assert [record.msg[:30] for record in caplog.records] == [
        "Error caught on signal handler",
        "Cannot return deferreds from s",
    ]
    caplog.clear()
    results = manager.send_catch_log(SIGNAL)
    assert results[-1] == (last, "told")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError, KeyError]
    assert len(caplog.records) == 3


@ensureDeferred
async def test_sent_and_waited_for(manager, caplog) -> None:
    """Those that have something to wait for are begun together, and waited for."""
    told = []

    async def slow(item: Any) -> str:
        told.append("slow begins")
        await sleep(0.01)
        told.append("slow ends")
        return "slow"

    async def broken_late(item: Any) -> None:
        await sleep(0)
        raise RuntimeError("no good")

    def broken(item: Any) -> None:
        raise ValueError("no good")

    def quick(item: Any) -> str:
        told.append(item)
        return "quick"

    for handler in (slow, broken_late, broken, quick):
        manager.connect(handler, SIGNAL)
    results = dict(await deferred_from_coro(manager.send_catch_log_async(SIGNAL, item="quick")))
    assert told[-1] == "slow ends"
    assert sorted(told[:-1]) == ["quick", "slow begins"]
    assert results[slow] == "slow"
    assert results[quick] == "quick"
    assert (type(results[broken]), type(results[broken_late])) == (ValueError, RuntimeError)
    assert sorted(record.exc_info[0].__name__ for record in caplog.records) == ["RuntimeError", "ValueError"]
    caplog.clear()
    await deferred_from_coro(manager.send_catch_log_async(SIGNAL, item="quick", dont_log=(ValueError, RuntimeError)))
    assert not caplog.records


@ensureDeferred
async def test_a_deferred_is_waited_for(manager) -> None:
    """It is deprecated, and still done."""

    def old() -> object:
        return succeed("done")

    manager.connect(old, SIGNAL)
    with pytest.warns(scrapy.exceptions.ScrapyDeprecationWarning, match="returned a Deferred"):
        results = await deferred_from_coro(manager.send_catch_log_async(SIGNAL))
    assert results == [(old, "done")]
