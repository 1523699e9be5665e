"""Exceptions, as Scrapy raises them, become outcomes."""

from __future__ import annotations

import gzip
import re
import ssl
from collections import Counter

import pytest
from OpenSSL import SSL
from scrapy import Request, Spider
from scrapy.core.downloader.handlers.http11 import TunnelError
from scrapy.crawler import Crawler
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.downloadermiddlewares.redirect import MetaRefreshMiddleware, RedirectMiddleware
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadTimeoutError,
    IgnoreRequest,
    NotSupported,
    ResponseDataLossError,
    StopDownload,
    UnsupportedURLSchemeError,
)
from scrapy.http import HtmlResponse, Response
from scrapy.settings import Settings
from scrapy.spidermiddlewares.httperror import HttpError, HttpErrorMiddleware
from scrapy.statscollectors import MemoryStatsCollector
from scrapy.utils._download_handlers import wrap_twisted_exceptions
from service_identity import VerificationError
from twisted.internet import error as tx
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError, RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived
from twisted.web.error import SchemeNotSupported

from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import FETCHED, NAMES, Outcome, attempts_of, error_text, outcome_of
from scrapy_batcher.redact import one_line, redact
from tests.conftest import ROOT

URL = "http://host/page"


def caught(raising, *args) -> BaseException:
    """What *raising* raises, with its traceback and its cause."""
    try:
        raising(*args)
    except Exception as e:  # noqa: BLE001 - any exception is what is asked for
        return e
    raise AssertionError("nothing was raised")


def wrapped(exception: Exception) -> BaseException:
    """*exception* from Twisted as Scrapy's download handler passes it on."""

    def raising():
        with wrap_twisted_exceptions():
            raise exception

    return caught(raising)


def chained(exception: Exception, cause: Exception) -> BaseException:
    def raising():
        raise exception from cause

    return caught(raising)


def never_received(*reasons: BaseException) -> BaseException:
    return wrapped(ResponseNeverReceived([Failure(reason) for reason in reasons]))


@pytest.fixture
def crawler():
    """A crawler that does not crawl, for middlewares."""
    crawler = Crawler(Spider, Settings({"ROBOTSTXT_OBEY": True, "DOWNLOAD_MAXSIZE": 1000}))
    crawler.spider = Spider(name="spider")
    crawler.stats = MemoryStatsCollector(crawler)
    return crawler


TLS_ALERT = SSL.Error([("SSL routines", "", "certificate verify failed")])

CASES = {
    "dns": (wrapped(tx.DNSLookupError("no results for hostname lookup: nowhere.invalid")), "failed/dns"),
    "dns, Scrapy's": (CannotResolveHostError("nowhere.invalid"), "failed/dns"),
    "refused": (wrapped(tx.ConnectionRefusedError()), "failed/refused"),
    "refused, Scrapy's": (DownloadConnectionRefusedError(), "failed/refused"),
    "refused, not wrapped": (tx.ConnectionRefusedError(), "failed/refused"),
    "timeout": (DownloadTimeoutError("Getting http://host/ took longer than 180.0 seconds."), "failed/timeout"),
    "timeout of a connection": (wrapped(tx.TCPTimedOutError()), "failed/timeout"),
    "reset": (never_received(tx.ConnectionLost()), "failed/connection"),
    "closed": (never_received(tx.ConnectionDone()), "failed/connection"),
    "not HTTP": (wrapped(ResponseFailed([Failure(ParseError("wrong number", b"SSH-2.0"))])), "failed/connection"),
    "not sent": (wrapped(RequestTransmissionFailed([Failure(tx.ConnectionLost())])), "failed/connection"),
    "tunnel": (TunnelError("Could not open CONNECT tunnel with proxy"), "failed/connection"),
    "no route": (tx.NoRouteError(), "failed/connection"),
    "reset, the system's": (ConnectionResetError(104, "Connection reset by peer"), "failed/connection"),
    "tls": (never_received(TLS_ALERT), "failed/tls"),
    "tls, then closed": (never_received(TLS_ALERT, tx.ConnectionLost()), "failed/tls"),
    "tls, host name": (never_received(VerificationError(errors=[])), "failed/tls"),
    "tls, the standard library's": (chained(DownloadConnectionRefusedError(), ssl.SSLError(1, "bad")), "failed/tls"),
    "truncated": (ResponseDataLossError(), "failed/truncated"),
    "too large": (DownloadCancelledError("Expected to receive 9 bytes which is larger"), "failed/too-large"),
    "too large, chunked": (wrapped(CancelledError()), "failed/too-large"),
    "scheme": (NotSupported("Unsupported URL scheme 'gopher'"), "skipped/unsupported-scheme"),
    "scheme without a handler": (
        NotSupported("Unsupported URL scheme 'http': no handler available for that scheme"),
        "skipped/unsupported-scheme",
    ),
    "handler that cannot be made": (NotSupported("Unsupported URL scheme 'https': it needs asyncio"), "failed/other"),
    "scheme, a handler's": (wrapped(SchemeNotSupported("gopher")), "skipped/unsupported-scheme"),
    "scheme, Scrapy's": (UnsupportedURLSchemeError("gopher"), "skipped/unsupported-scheme"),
    "host name too long": (caught("{}.example".format("é" * 70).encode, "idna"), "skipped/invalid"),
    "stopped by a signal handler": (StopDownload(), "skipped/filtered"),
    "a middleware": (IgnoreRequest("Filtered offsite request to 'host'"), "skipped/filtered"),
    "a middleware without a word": (IgnoreRequest(), "skipped/filtered"),
    "anything else": (caught(lambda: {}["x"]), "failed/other"),
    "a ValueError": (ValueError("x"), "failed/other"),
}  # fmt: skip


@pytest.mark.parametrize(("exception", "name"), CASES.values(), ids=CASES)
def test_every_exception_has_an_outcome(exception, name):
    """Each exception that an errback sees is one outcome, with the class and the message as its error."""
    outcome = outcome_of(exception)
    assert (outcome.name, outcome.status) == (name, None)
    assert outcome.error.startswith(type(exception).__name__)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        *((404, "Not Found"), (410, "Gone"), (429, "Too Many Requests"), (500, "Internal Server Error")),
        *((503, "Service Unavailable"), (999, "Unknown Status")),
    ],
)
def test_each_status_is_an_outcome(status, words, crawler):
    """A response that Scrapy's HttpErrorMiddleware refuses is failed/http- and its status, with what that means."""
    exception = caught(
        HttpErrorMiddleware.from_crawler(crawler).process_spider_input,
        Response(URL, status=status, request=Request(URL)),
    )
    assert isinstance(exception, HttpError)
    outcome = outcome_of(exception)
    assert (outcome.name, outcome.status) == (f"failed/http-{status}", status)
    assert outcome.error == f"{status} {words}"


# -- Scrapy's messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("middleware", "response"),
    [
        (RedirectMiddleware, Response(URL, status=302, headers={"Location": URL})),
        (MetaRefreshMiddleware, HtmlResponse(URL, body=b'<meta http-equiv="refresh" content="0; url=/page">')),
    ],
)
def test_scrapy_says_redirect_loop(crawler, middleware, response):
    """A redirect too many, as Scrapy refuses it, is failed/redirect-loop."""
    request = Request(URL, meta={"redirect_times": crawler.settings.getint("REDIRECT_MAX_TIMES")})
    exception = caught(middleware.from_crawler(crawler).process_response, request, response)
    assert outcome_of(exception) == Outcome("failed/redirect-loop", error="IgnoreRequest: max redirections reached")


def test_scrapy_says_robots(crawler):
    """A page that robots.txt forbids, as Scrapy refuses it, is skipped/robots."""

    class Engine:  # it answers at once, so that the coroutine runs to its end in one step
        async def download_async(self, request):
            return Response(request.url, body=b"User-agent: *\nDisallow: /")

    crawler.engine = Engine()
    middleware = RobotsTxtMiddleware.from_crawler(crawler)
    exception = caught(lambda: middleware.process_request(Request(URL)).send(None))
    assert outcome_of(exception) == Outcome("skipped/robots", error="IgnoreRequest: Forbidden by robots.txt")


def test_scrapy_says_too_large(crawler):
    """A body that grows too large when it is decompressed, as Scrapy refuses it, is failed/too-large."""
    response = Response(URL, headers={"Content-Encoding": "gzip"}, body=gzip.compress(bytes(100_000)))
    exception = caught(HttpCompressionMiddleware.from_crawler(crawler).process_response, Request(URL), response)
    assert isinstance(exception, IgnoreRequest)
    assert outcome_of(exception).name == "failed/too-large"


# -- what an error says ------------------------------------------------------------------------------------------------


def test_an_error_says_what_happened_on_the_connection():
    """Of the failures that Twisted collects, the error shows the last one's message, not their repr."""
    error = error_text(never_received(TLS_ALERT))
    assert error.startswith("DownloadFailedError: [('SSL routines'")
    assert "twisted.python.failure" not in error


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        (ValueError("two\nlines\tand \x1b[31mred"), r"ValueError: two lines and \x1b[31mred"),
        (ValueError("half \ud800"), r"ValueError: half \ud800"),
        (ValueError(""), "ValueError"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 487 + "…"),
        (ValueError("at http://user:secret@host/ and x@y"), "ValueError: at http://user:***@host/ and x@y"),
    ],
)
def test_an_error_is_one_line_that_any_output_can_hold(exception, text):
    """An error is one line without passwords or control characters, of at most 500 characters, in valid UTF-8."""
    assert error_text(exception) == text
    assert len(text.encode()) < 510


def test_an_error_of_an_exception_that_cannot_be_shown():
    """An exception whose own text raises has an outcome like any other."""

    class BrokenError(Exception):
        def __str__(self) -> str:
            raise KeyError("broken")

    assert outcome_of(BrokenError()).name == "failed/other"
    assert outcome_of(BrokenError()).error.startswith("BrokenError: ")


def test_a_chain_of_causes_may_be_a_circle():
    """Exceptions that are each other's cause are each looked at once."""
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert outcome_of(one).name == "failed/other"


def test_an_error_that_was_handled_is_not_the_cause():
    """What was raised `from None` is not what came before it."""

    def raising():
        try:
            raise ssl.SSLError("bad")
        except ssl.SSLError:
            raise ValueError("x") from None

    assert outcome_of(caught(raising)).name == "failed/other"


@pytest.mark.parametrize(("attempts", "tries"), [(0, "0 attempts"), (1, "1 attempt"), (3, "3 attempts")])
def test_an_outcome_is_described_in_one_line(attempts, tries):
    """A failure's line in the log has its reason, URL, error, line and attempts, and no password."""
    target = Target(1, 7, "http://user:secret@host/\n\x1b", {})
    line = Outcome("failed/dns", error="no such name").describe(target, attempts)
    assert line == rf"failed/dns http://user:***@host/ \x1b: no such name (line 7, {tries})"


def test_attempts_are_the_first_and_the_retries():
    """A request that was never retried was tried once."""
    assert attempts_of(Request(URL)) == 1
    assert attempts_of(Request(URL, meta={"retry_times": 2})) == 3


# -- redact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://user:secret@host/", "http://user:***@host/"),
        ("http://:secret@host/", "http://:***@host/"),
        ("http://user:se@cr:et@host/x@y", "http://user:***@host/x@y"),
        ("http://user:se/cr?et@host/", "http://user:***@host/"),
        ("http://user:my secret@host/", "http://user:***@host/"),
        ("http://user:1234@host", "http://user:***@host"),
        ("http://user:12a/b@host/", "http://user:***@host/"),
        (r"http:\/\/user:secret@host\/", r"http:\/\/user:***@host\/"),
        ("a http://u:p@h/ b https://v:q@i/ c@d", "a http://u:***@h/ b https://v:***@i/ c@d"),
        ("http://host:80/x@y", None),
        ("http://host:80 x@y", None),
        ("http://host:/x@y", None),
        ("http://[::1]:80/x@y", None),
        ("http://user@host:80/", None),
        ("http://host/a:b@c", None),
        ("mailto:a@b", None),
        ("no URL: at all @", None),
        ("", None),
    ],
)
def test_redact(text, redacted):
    """The password of every URL is replaced, and nothing else."""
    assert redact(text) == (text if redacted is None else redacted)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("piece", ["://:", "://a:b/", "://a:b ", "://h:80/", "@", "://", "://[", "://a:1", ":\\/"])
@pytest.mark.parametrize(("before", "behind"), [("", ""), ("@", ""), ("", "@"), ("", " @"), ("@", " x:y")])
def test_redact_takes_linear_time(piece, before, behind):
    """No text of a megabyte, whatever it repeats, takes long: quadratic time would take hours."""
    redact(before + piece * (1_000_000 // len(piece)) + behind)
    assert len(one_line(before + piece * 1000 + behind, 50)) <= 50


def test_names() -> None:
    """Every outcome that the code gives has its name in the list, and the list has no other."""
    code = "".join(path.read_text() for path in (ROOT / "scrapy_batcher").rglob("*.py"))
    names = Counter(re.findall(r'"((?:failed|skipped)/[a-z-]+)"', code))
    assert {name for name, times in names.items() if times > 1} == {*names} == {*NAMES} - {FETCHED}
