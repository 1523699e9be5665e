"""`Transfer`: one request and its response, on an easy handle of libcurl that is used again for the next."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from io import BytesIO

import pycurl
from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import DownloadCancelledError, DownloadFailedError, StopDownload
from scrapy.http import Headers
from twisted.python.failure import Failure

from scrapy_batcher.adapters.signalmanager import SignalManager
from scrapy_batcher.fast.curl_options import Options

_STATUS_LINE = re.compile(rb"(HTTP/\d(?:\.\d)?) +(\d{3})(?!\d)")

_logger = logging.getLogger(__name__)

_GO_ON = None
_STOP = -1  # libcurl ends the transfer with an error, which we know better


class Transfer:
    """What libcurl is told of one request, and tells of its response.

    Its callbacks run inside libcurl: what they find wrong is kept in `error` or `stop`, and raised later. So is
    whatever a signal's receiver raises there: else libcurl would give up all transfers, and none would ever end.
    """

    def __init__(self, crawler: Crawler, options: Options) -> None:
        self._crawler = crawler
        self._signals = SignalManager(crawler)
        self._options = options
        self.curl = pycurl.Curl()
        self._is_plain = False  # whether the handle has the options that all requests share, and no others
        self._sent_headers: Sequence[bytes] = ()
        self._timeout = 0  # milliseconds

    def begin(self, request: Request, seconds: float, addresses: str | None = None, *, fresh: bool = False) -> None:
        """Set the handle up for *request*.

        :param seconds: how long it may take in all
        :param addresses: what libcurl shall know of the host's addresses, as its option ``RESOLVE`` takes it
        :param fresh: whether it needs a connection that nobody has used before
        :raises ValueError: when the request's URL, proxy or address to bind to cannot be used
        """
        self.request = request
        self.status, self.protocol = 0, ""
        self.headers: Headers | None = None
        self.body = BytesIO()  # gives its bytes away without a copy of them
        self.error: BaseException | None = None
        self.stop: StopDownload | None = None
        self._lines: list[bytes] = []
        self._received = 0
        self._warned = False
        self._listens_to_bytes = self._signals.is_heard(signals.bytes_received)
        meta = request.meta
        self._maxsize: int = meta.get("download_maxsize", self._options.maxsize) or 0
        self._warnsize: int = meta.get("download_warnsize", self._options.warnsize) or 0
        self._tell_libcurl(request, seconds, addresses)
        if fresh:
            self.curl.setopt(pycurl.FRESH_CONNECT, 1)
            self._is_plain = False
        self._started = time.monotonic()

    def end(self) -> None:
        """Forget the request and its response."""
        del self.request, self.headers, self.body, self.error, self.stop

    def close(self) -> None:
        """Give up the handle."""
        self.curl.close()

    @property
    def has_nothing(self) -> bool:
        """Whether nothing has come on a connection that others had used before."""
        return self.headers is None and not self._lines and self.curl.getinfo(pycurl.NUM_CONNECTS) == 0

    @property
    def has_no_end(self) -> bool:
        """Whether nothing but the end of its connection says where the response ends: it may have been cut short."""
        headers = self.headers
        return (
            headers is not None
            and self.protocol != "h2"
            and self._has_body
            and b"Content-Length" not in headers
            and b"Transfer-Encoding" not in headers
        )

    @property
    def _has_body(self) -> bool:
        return self.request.method != "HEAD" and self.status not in (204, 304)

    def _tell_libcurl(self, request: Request, seconds: float, addresses: str | None) -> None:
        curl, options = self.curl, self._options
        if not self._is_plain:
            curl.reset()
            self._sent_headers, self._timeout = (), 0
            options.apply(curl)
            curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
            curl.setopt(pycurl.WRITEFUNCTION, self._on_body)
            if options.tells_of_tls:
                curl.setopt(pycurl.VERBOSE, 1)
                curl.setopt(pycurl.DEBUGFUNCTION, self._on_debug)
        self._is_plain = False  # unless all goes well
        self._is_plain = not options.apply_special(curl, request)
        if addresses is not None:
            curl.setopt(pycurl.RESOLVE, [addresses])
        curl.setopt(pycurl.URL, request.url)
        timeout = max(1, int(seconds * 1000))
        if timeout != self._timeout:
            curl.setopt(pycurl.TIMEOUT_MS, timeout)
            curl.setopt(pycurl.CONNECTTIMEOUT_MS, timeout)
            self._timeout = timeout
        headers = options.headers_of(request)
        if headers != self._sent_headers:
            curl.setopt(pycurl.HTTPHEADER, headers)
            self._sent_headers = headers

    def _on_header(self, line: bytes) -> int | None:
        if self.headers is not None:
            return _GO_ON  # a trailer
        if line.strip():
            self._lines.append(line)
            return _GO_ON
        lines, self._lines = self._lines, []
        match = _STATUS_LINE.match(lines[0]) if lines else None
        if not match:
            self.error = DownloadFailedError(f"{self.request.url}: its first line is no status line: {lines[:1]}")
            return _STOP
        version, self.status = match[1], int(match[2])
        if self.status < 200:
            return _GO_ON  # "100 Continue", say: the response is still to come
        self.protocol = "h2" if version == b"HTTP/2" else version.decode()
        self.headers = _parse(lines)
        self.request.meta["download_latency"] = time.monotonic() - self._started
        try:
            return self._check_headers(self.headers)
        except BaseException as e:  # noqa: BLE001 - raised later
            self.error = e
            return _STOP

    def _check_headers(self, headers: Headers) -> int | None:
        length = _length_of(headers)
        if self._signals.is_heard(signals.headers_received):
            self.stop = self._stopped_by(signals.headers_received, headers=headers, body_length=length)
            if self.stop:
                return _STOP
        if length is None or not self._has_body:
            return _GO_ON
        return self._check_size(length, "Expected to receive")

    def _on_body(self, data: bytes) -> int | None:
        self.body.write(data)
        self._received += len(data)
        try:
            if self._listens_to_bytes:
                self.stop = self._stopped_by(signals.bytes_received, data=data)
                if self.stop:
                    return _STOP
            return self._check_size(self._received, "Received")
        except BaseException as e:  # noqa: BLE001 - raised later
            self.error = e
            return _STOP

    def _check_size(self, size: int, verb: str) -> int | None:
        if 0 < self._maxsize < size:
            limit = f"download max size ({self._maxsize})"
            message = f"{verb} {size} bytes which is larger than {limit} in request {self.request}."
            _logger.warning("%s", message)
            self.body = BytesIO()
            self.error = DownloadCancelledError(message)
            return _STOP
        if 0 < self._warnsize < size and not self._warned:
            self._warned = True
            _logger.warning(
                "%s %d bytes which is larger than download warn size (%d) in request %s.",
                verb,
                size,
                self._warnsize,
                self.request,
            )
        return _GO_ON

    def _on_debug(self, kind: int, text: bytes) -> None:
        if kind == pycurl.INFOTYPE_TEXT and b"SSL connection" in text:
            _logger.debug("%s: %s", self.request.url, text.decode("utf-8", "replace").strip())

    def _stopped_by(self, signal: object, **arguments: object) -> StopDownload | None:
        results = self._signals.send_catch_log(signal, request=self.request, spider=self._crawler.spider, **arguments)
        for receiver, result in results:
            if isinstance(result, Failure) and isinstance(result.value, StopDownload):
                name = getattr(receiver, "__qualname__", receiver)
                _logger.debug("Download stopped for %s from signal handler %s", self.request, name)
                return result.value
        return None


def _parse(lines: list[bytes]) -> Headers:
    """A response's header *lines*, of which the first is its status line."""
    headers = Headers()
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        # What `Headers` would make of them: names in their usual letters, and lists of values, all of them bytes.
        dict.setdefault(headers, name.title(), []).append(value.strip())
    return headers


def _length_of(headers: Headers) -> int | None:
    value = headers.get(b"Content-Length")
    return int(value) if value is not None and value.isdigit() else None
