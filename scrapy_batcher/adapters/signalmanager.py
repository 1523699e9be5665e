"""Scrapy's signals, sent at less expense to those that listen."""

from __future__ import annotations

import asyncio
import inspect
import logging
import operator
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any
from weakref import ReferenceType

import scrapy.signalmanager
from pydispatch import dispatcher  # type: ignore[import-untyped]  # it has no types
from pydispatch.robustapply import robustApply  # type: ignore[import-untyped]  # as above
from pydispatch.saferef import BoundMethodWeakref  # type: ignore[import-untyped]  # as above
from scrapy.exceptions import StopDownload
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.defer import ensure_awaitable
from scrapy.utils.python import global_object_name
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_logger = logging.getLogger("scrapy.utils.signal")
_BROKEN = "Error caught on signal handler: %s"

_EVERYONE = id(dispatcher.Any)

_Names = tuple[str, ...] | None
_Handler = tuple[Callable[[], Any], _Names]


class SignalManager(scrapy.signalmanager.SignalManager):
    """Sends what Scrapy's own sends, to the handlers that are connected to that, in the same order; but one that has
    something to wait for begins after the others.

    Scrapy's looks at four tables for each signal, at the code of each handler for the names of its arguments, and makes
    a task for each handler that may be asynchronous, whether it is or not. A page has half a dozen of signals.

    When a handler connects or disconnects others while `send_catch_log` is at it, ours still tells exactly those who
    were connected when it began, where Scrapy's also tells who has just come, and passes over one when another leaves.

    Of PyDispatcher it uses ``dispatcher.connections``, the tables, beside the functions that Scrapy uses; checked on
    version 2.0.7. tests/test_signalmanager.py fails when that goes away.
    """

    def __init__(self, sender: Any) -> None:
        super().__init__(sender)
        self._known: dict[Any, tuple[list[Any], list[_Handler]]] = {}  # by signal: what was connected, and what that is

    def send_catch_log(self, signal: Any, **kwargs: Any) -> list[tuple[Any, Any]]:
        if "sender" in kwargs or "dont_log" in kwargs:
            return super().send_catch_log(signal, **kwargs)
        extra = {"spider": kwargs.get("spider")}
        arguments = {**kwargs, "signal": signal, "sender": self.sender}
        results = []
        for reference, names in self._handlers(signal):
            if (receiver := reference()) is None:  # gone, maybe by what another has just done
                continue
            result: Any
            try:
                result = _call(receiver, names, arguments)
            except StopDownload:
                result = Failure()  # type: ignore[no-untyped-call]  # Twisted has no types there
            except Exception:
                _logger.exception(_BROKEN, receiver, extra=extra)
                result = Failure()  # type: ignore[no-untyped-call]  # as above
            if result is not None and isinstance(result, Deferred):
                _logger.error("Cannot return deferreds from signal handler: %s", receiver, extra=extra)
            results.append((receiver, result))
        return results

    async def send_catch_log_async(self, signal: Any, **kwargs: Any) -> list[tuple[Any, Any]]:
        if "sender" in kwargs or "dont_log" in kwargs or not is_asyncio_available():
            return await super().send_catch_log_async(signal, **kwargs)
        extra = {"spider": kwargs.get("spider")}
        arguments = {**kwargs, "signal": signal, "sender": self.sender}
        results = []
        waiting = []
        for reference, names in self._handlers(signal):
            if (receiver := reference()) is None:  # gone, maybe by what another has just done
                continue
            result: Any
            try:
                result = _call(receiver, names, arguments)
            except Exception as e:
                _logger.exception(_BROKEN, receiver, extra=extra)
                result = e
            if result is not None and (isinstance(result, Deferred) or inspect.isawaitable(result)):
                waiting.append(_result_of(receiver, result, extra))
            else:
                results.append((receiver, result))
        return results + await asyncio.gather(*waiting) if waiting else results

    def is_heard(self, signal: Any) -> bool:
        """Whether anybody listens to *signal*."""
        return any(reference() is not None for reference, _ in self._handlers(signal))

    def _handlers(self, signal: Any) -> list[_Handler]:
        """How to come by each handler of *signal*, and the names of its arguments."""
        tables = dispatcher.connections
        own, everyones = tables.get(id(self.sender)), tables.get(_EVERYONE)
        connected: list[Any] = own.get(signal, []) if own else []
        if everyones or (own and dispatcher.Any in own):
            connected = list(dispatcher.getAllReceivers(self.sender, signal))
        if not connected:
            return []
        known = self._known.get(signal)
        if known is None or len(known[0]) != len(connected) or not all(map(operator.is_, known[0], connected)):
            connected = list(connected)  # a copy: a handler may disconnect itself
            known = self._known[signal] = connected, [_handler(one) for one in connected]
        return known[1]


async def _result_of(receiver: Any, result: Any, extra: Mapping[str, object]) -> tuple[Any, Any]:
    try:
        return receiver, await ensure_awaitable(result, _warn=global_object_name(receiver))
    except Exception as e:
        _logger.exception(_BROKEN, receiver, extra=extra)
        return receiver, e


def _call(receiver: Any, names: _Names, arguments: Mapping[str, Any]) -> Any:
    """Call *receiver* with those of *arguments* that it takes."""
    if names is None:
        return robustApply(receiver, **arguments)
    return receiver(**{name: arguments[name] for name in names if name in arguments})


def _handler(connected: Any) -> _Handler:
    """How to come by the handler that is *connected*, mostly a weak reference to it, and the names of its arguments;
    ``None`` when it takes all, or does not say which."""
    is_weak = isinstance(connected, (ReferenceType, BoundMethodWeakref))
    reference = connected if is_weak else lambda: connected
    receiver = reference()
    function = getattr(receiver, "__func__", receiver)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or code.co_flags & inspect.CO_VARKEYWORDS:
        return reference, None
    return reference, code.co_varnames[function is not receiver : code.co_argcount]
