"""Makes an `Outcome` of a response or an exception. Pure: it logs and stores nothing."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import responses
from typing import NamedTuple

from OpenSSL import SSL
from scrapy.core.downloader.handlers.http11 import TunnelError
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    NotSupported,
    ResponseDataLossError,
    StopDownload,
    UnsupportedURLSchemeError,
)
from scrapy.http import Request
from scrapy.spidermiddlewares.httperror import HttpError
from service_identity import VerificationError
from twisted.internet import error as tx
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str
from twisted.web.client import RequestTransmissionFailed

from scrapy_batcher.config import Config
from scrapy_batcher.lists.overrides import why_not
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.redact import one_line, redact_url

FETCHED = "fetched"

NAMES = (
    FETCHED,
    "failed/callback",
    "failed/connection",
    "failed/deadline",
    "failed/dns",
    "failed/feed",
    "failed/other",
    "failed/pipeline",
    "failed/redirect-loop",
    "failed/refused",
    "failed/timeout",
    "failed/tls",
    "failed/too-large",
    "failed/truncated",
    "skipped/dropped",
    "skipped/duplicate",
    "skipped/filtered",
    "skipped/host-gave-up",
    "skipped/invalid",
    "skipped/robots",
    "skipped/unsupported-scheme",
)
"""All outcomes, except ``failed/http-404`` and those of other statuses."""

_ERROR_LENGTH = 500  # characters of an error's text that are kept


class DeadlineError(Exception):
    """A target was not fetched within ``BATCHER_DEADLINE``; the message says how long that is."""


# The first row that fits decides, so a class stands before its bases.
_BY_EXCEPTION: tuple[tuple[type[BaseException], str], ...] = (
    (CannotResolveHostError, "failed/dns"),
    (DownloadConnectionRefusedError, "failed/refused"),
    (tx.ConnectionRefusedError, "failed/refused"),
    (DeadlineError, "failed/deadline"),
    (DownloadTimeoutError, "failed/timeout"),
    (tx.TimeoutError, "failed/timeout"),
    (tx.TCPTimedOutError, "failed/timeout"),
    (ResponseDataLossError, "failed/truncated"),
    (DownloadCancelledError, "failed/too-large"),
    (DownloadFailedError, "failed/connection"),
    (RequestTransmissionFailed, "failed/connection"),
    (TunnelError, "failed/connection"),
    (tx.ConnectError, "failed/connection"),
    (tx.ConnectionClosed, "failed/connection"),
    (OSError, "failed/connection"),
    (UnsupportedURLSchemeError, "skipped/unsupported-scheme"),
    (NotSupported, "skipped/unsupported-scheme"),
    (UnicodeError, "skipped/invalid"),  # a host name that no DNS query can hold
    (StopDownload, "skipped/filtered"),
)

# IgnoreRequest says only in its message why (checked on Scrapy 2.18.0 and 2.19.0; tests/test_outcome.py fails when a
# message changes). Whatever else raises it is a middleware that filters.
_BY_IGNORE_MESSAGE = (
    ("Forbidden by robots.txt", "skipped/robots"),
    ("max redirections reached", "failed/redirect-loop"),
    ("exceeded DOWNLOAD_MAXSIZE", "failed/too-large"),
)

# Scrapy says the same of a scheme that it does not know, and of one whose handler could not be made (checked as above).
_HANDLER_BROKEN = re.compile(r"Unsupported URL scheme 'https?': (?!no handler available)")

_TLS_ERRORS = (SSL.Error, ssl.SSLError, VerificationError)


class Answer(NamedTuple):
    """The last response to a target, as far as the accounts know of it.

    :param bytes: in its body, after decompression
    :param seconds: from its request to its headers; ``None`` when there was none, or nothing was sent for it
    """

    bytes: int = 0
    seconds: float | None = None


NO_ANSWER = Answer()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one target ended.

    :param name: ``fetched``, ``failed/why`` or ``skipped/why``
    :param status: the HTTP status of the last response, if there was one
    :param error: one line that says what went wrong, without passwords
    """

    name: str
    status: int | None = None
    error: str | None = None

    def describe(self, target: Target, attempts: int) -> str:
        """The outcome of *target* as one line for a log."""
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        return f"{self.name} {one_line(redact_url(target.url), _ERROR_LENGTH)}: {self.error} ({target.where}, {tries})"


def outcome_of(exception: BaseException) -> Outcome:
    """The outcome of a target whose download, or whose response on the way to the callback, raised *exception*."""
    if isinstance(exception, HttpError):
        status = exception.response.status
        # As Python knows them: Twisted, whom Scrapy asks, has no words for 429.
        return Outcome(f"failed/http-{status}", status, f"{status} {responses.get(status, 'Unknown Status')}")
    return Outcome(_name_of(exception), error=error_text(exception))


def refusal(target: Target, config: Config) -> Outcome | None:
    """The outcome of a *target* that is not even tried; ``None`` if it is to be tried."""
    if target.error:
        return Outcome("skipped/invalid", error=target.error)
    scheme = target.url.partition(":")[0].lower()
    if scheme not in config.schemes:
        return Outcome("skipped/unsupported-scheme", error=f"{scheme} is not in BATCHER_SCHEMES")
    if 0 < config.url_length < len(target.url):
        return Outcome("skipped/filtered", error=f"longer than URLLENGTH_LIMIT ({config.url_length})")
    if config.overrides and (error := why_not(target, config.overrides)):
        return Outcome("skipped/invalid", error=error)
    return None


def failure_names(text: str) -> tuple[str, ...]:
    """The outcomes that *text* names, separated by commas: ``failed`` for all failures, or ``failed/why``.

    :raises ValueError: if one of them is not such an outcome, with a sentence
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name != "failed" and not (name.startswith("failed/") and name != "failed/"):
            raise ValueError(
                f"retry: {name!r} is no outcome to try again: name failed, or single ones as in failed/timeout"
            )
    return names


def is_among(name: str, outcomes: Iterable[str]) -> bool:
    """Whether the outcome *name* is one of *outcomes*; ``failed`` stands for all that begin with it."""
    return any(name == outcome or name.startswith(f"{outcome}/") for outcome in outcomes)


def error_text(exception: BaseException) -> str:
    """*exception* as one line: its class and message, without passwords, cut at 500 characters."""
    # Twisted puts what went wrong on a connection into a list, which Scrapy shows as such: the last entry says it.
    reasons = [reason for link in _chain(exception) for reason in getattr(link, "reasons", None) or ()]
    message = safe_str(reasons[-1].value if reasons else exception)
    message = " ".join(map(redact_url, message.split()))
    name = type(exception).__name__
    return one_line(f"{name}: {message}" if message.strip() else name, _ERROR_LENGTH)


def attempts_of(request: Request) -> int:
    """How often the target of *request* was tried: once, plus once for each retry."""
    return 1 + retries_of(request)


def retries_of(request: Request) -> int:
    """How often the target of *request* was tried before."""
    return int(request.meta.get("retry_times", 0))


def exception_of(failure: Failure) -> BaseException:
    """The exception in *failure*."""
    assert failure.value is not None
    return failure.value


def _name_of(exception: BaseException) -> str:
    if isinstance(exception, NotSupported) and _HANDLER_BROKEN.match(str(exception)):
        return "failed/other"
    if isinstance(exception, IgnoreRequest):
        message = str(exception)
        return next((name for part, name in _BY_IGNORE_MESSAGE if part in message), "skipped/filtered")
    if any(isinstance(link, _TLS_ERRORS) for link in _chain(exception)):
        return "failed/tls"
    return next((name for cls, name in _BY_EXCEPTION if isinstance(exception, cls)), "failed/other")


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """*exception* and what caused it; Twisted keeps further causes in a list named ``reasons``."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [exception]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        pending.append(link.__cause__ or (None if link.__suppress_context__ else link.__context__))
        pending += [reason.value for reason in getattr(link, "reasons", None) or () if isinstance(reason, Failure)]
