"""Scrapy's signals, sent at less expense to those that listen."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

import scrapy.signalmanager
from pydispatch import dispatcher  # type: ignore[import-untyped]  # it has no types
from pydispatch.robustapply import robustApply  # type: ignore[import-untyped]  # as above
from scrapy.exceptions import StopDownload
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.defer import ensure_awaitable
from scrapy.utils.python import global_object_name
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_logger = logging.getLogger("scrapy.utils.signal")
_BROKEN = "Error caught on signal handler: %s"


class SignalManager(scrapy.signalmanager.SignalManager):
    """Sends what Scrapy's own sends, to the handlers that are connected to that, in the same order; but one that has
    something to wait for begins after the others.

    Scrapy's looks at four tables for each signal, at the code of each handler for the names of its arguments, and makes
    a task for each handler that may be asynchronous, whether it is or not. A page has half a dozen of signals.

    Of PyDispatcher it uses ``dispatcher.connections``, the tables, beside the functions that Scrapy uses; checked on
    version 2.0.7. tests/test_signalmanager.py fails when that goes away.
    """

    def send_catch_log(self, signal: Any, **kwargs: Any) -> list[tuple[Any, Any]]:
        if "sender" in kwargs or "dont_log" in kwargs:
            return super().send_catch_log(signal, **kwargs)
        extra = {"spider": kwargs.get("spider")}
        arguments = {**kwargs, "signal": signal, "sender": self.sender}
        results = []
        for receiver in self._receivers(signal):
            result: Any
            try:
                result = _call(receiver, arguments)
            except StopDownload:
                result = Failure()  # type: ignore[no-untyped-call]  # Twisted has no types there
            except Exception:
                _logger.exception(_BROKEN, receiver, extra=extra)
                result = Failure()  # type: ignore[no-untyped-call]  # as above
            if isinstance(result, Deferred):
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
        for receiver in self._receivers(signal):
            result: Any
            try:
                result = _call(receiver, arguments)
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
        return any(True for _ in self._receivers(signal))

    def _receivers(self, signal: Any) -> Iterator[Any]:
        own, everyones = (dispatcher.connections.get(id(sender), {}) for sender in (self.sender, dispatcher.Any))
        if everyones or dispatcher.Any in own:
            connected = list(dispatcher.getAllReceivers(self.sender, signal))
        else:
            connected = list(own.get(signal, ()))
        living: Iterator[Any] = dispatcher.liveReceivers(connected)  # of a copy: a handler may disconnect itself
        return living


async def _result_of(receiver: Any, result: Any, extra: Mapping[str, object]) -> tuple[Any, Any]:
    try:
        return receiver, await ensure_awaitable(result, _warn=global_object_name(receiver))
    except Exception as e:
        _logger.exception(_BROKEN, receiver, extra=extra)
        return receiver, e


def _call(receiver: Any, arguments: Mapping[str, Any]) -> Any:
    """Call *receiver* with those of *arguments* that it takes."""
    function = getattr(receiver, "__func__", receiver)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return robustApply(receiver, **arguments)
    names = _names(code, is_method=function is not receiver)
    if names is None:
        return receiver(**arguments)
    return receiver(**{name: arguments[name] for name in names if name in arguments})


@lru_cache(maxsize=1000)
def _names(code: CodeType, *, is_method: bool) -> tuple[str, ...] | None:
    """Names of the arguments that the function with *code* takes; ``None`` when it takes all."""
    if code.co_flags & inspect.CO_VARKEYWORDS:
        return None
    return code.co_varnames[is_method : code.co_argcount]
