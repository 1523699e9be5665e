"""`CurlDownloadHandler`: Scrapy downloads with libcurl."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
import time
from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlparse, urlsplit

import pycurl
from scrapy import Request
from scrapy.core.downloader.handlers.base import BaseDownloadHandler
from scrapy.crawler import Crawler
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    NotConfigured,
    ResponseDataLossError,
    UnsupportedURLSchemeError,
)
from scrapy.http import Response
from scrapy.responsetypes import responsetypes
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.httpobj import urlparse_cached
from scrapy.utils.url import add_http_if_no_scheme
from twisted.internet.ssl import Certificate

from scrapy_batcher.config import Config
from scrapy_batcher.fast.addresses import Addresses
from scrapy_batcher.fast.curl_options import Options
from scrapy_batcher.fast.multi import Multi
from scrapy_batcher.fast.transfer import Transfer
from scrapy_batcher.redact import redact_url

_logger = logging.getLogger(__name__)

_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080}

_MOST_IDLE = 100  # connections that are kept when CONCURRENT_REQUESTS has no limit

_TLS_CODES = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CIPHER,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_ISSUER_ERROR,
        pycurl.E_SSL_INVALIDCERTSTATUS,
    }
)

# What a response that was cut short ends with: by an end, by a reset or a chunk that is none, and over HTTP/2, where
# libcurl also sends while it receives.
_HTTP2_STREAM = 92  # CURLE_HTTP2_STREAM, for which pycurl 7.49 has no name
_CUT_SHORT = frozenset({pycurl.E_PARTIAL_FILE, pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR, pycurl.E_HTTP2, _HTTP2_STREAM})

# What a kept connection ends with that the server has closed meanwhile.
_DIED = frozenset({pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_GOT_NOTHING})

# What a response whose length nobody knows ends with: servers end TLS without a word, or reset what they are done with.
_MAYBE_CUT_SHORT = frozenset({pycurl.E_OK, pycurl.E_RECV_ERROR})


class CurlDownloadHandler(BaseDownloadHandler):
    """Downloads ``http`` and ``https`` with libcurl, as Scrapy's own handler does with Twisted.

    It honours the same settings, ``meta`` keys, signals and errors. It needs asyncio: Scrapy's default reactor, or
    ``TWISTED_REACTOR_ENABLED=False``. What it does differently is in docs/fast.md.

    For any Scrapy project::

        DOWNLOAD_HANDLERS = {
            "http": "scrapy_batcher.fast.curl.CurlDownloadHandler",
            "https": "scrapy_batcher.fast.curl.CurlDownloadHandler",
        }

    :raises NotConfigured: when there is no asyncio
    :raises ValueError: when a setting has a value that libcurl cannot use
    """

    def __init__(self, crawler: Crawler) -> None:
        if not is_asyncio_available():
            raise NotConfigured(
                "CurlDownloadHandler needs asyncio: set TWISTED_REACTOR to"
                " twisted.internet.asyncioreactor.AsyncioSelectorReactor, or TWISTED_REACTOR_ENABLED to False"
            )
        super().__init__(crawler)
        _check_key_file()
        config = Config.from_settings(crawler.settings)
        self._options = Options(crawler.settings, http2=config.http2)
        self._addresses = Addresses(crawler.settings)
        self._max_idle = config.concurrency or _MOST_IDLE
        self._multi: Multi | None = None
        self._idle: list[Transfer] = []
        self._certificates: OrderedDict[int, Certificate] = OrderedDict()  # by connection
        self._warned_of_dataloss = False

    async def download_request(self, request: Request) -> Response:
        """The response to *request*: its own, no redirect's.

        :raises CannotResolveHostError: when the host, or the proxy's, has no address
        :raises DownloadConnectionRefusedError: when nobody listens there
        :raises DownloadTimeoutError: when it took longer than ``download_timeout``
        :raises DownloadCancelledError: when it is larger than ``download_maxsize``
        :raises ResponseDataLossError: when it was cut short, unless ``download_fail_on_dataloss`` is False
        :raises DownloadFailedError: whatever else went wrong
        :raises StopDownload: when a signal's receiver did, and wants the errback called
        :raises UnsupportedURLSchemeError: when the URL's scheme is another one
        :raises ValueError: when the URL, the proxy or the address to bind to cannot be used
        """
        if urlparse_cached(request).scheme not in ("http", "https"):
            raise UnsupportedURLSchemeError(f"CurlDownloadHandler does not download {request.url}")
        seconds = self._options.timeout_of(request)
        end = time.monotonic() + seconds
        place = _place_of(request)
        addresses = None
        if not self._addresses.are_known(*place):
            addresses = await self._look_up(request, place, seconds)
            seconds = end - time.monotonic()
        if self._multi is None:
            self._multi = Multi(self._max_idle)
        transfer = self._idle.pop() if self._idle else Transfer(self.crawler, self._options)
        try:
            transfer.begin(request, seconds, addresses)
            if addresses:
                self._addresses.were_told(*place)
            code, message = await self._multi.run(transfer.curl)
            if code in _DIED and transfer.has_nothing:
                # Of connections that were kept it has tried five, and each had been closed by the server.
                transfer.begin(request, end - time.monotonic(), fresh=True)
                code, message = await self._multi.run(transfer.curl)
            return self._response_of(transfer, code, message)
        finally:
            transfer.end()
            if self._multi.closed:
                transfer.close()
            else:
                self._idle.append(transfer)

    async def close(self) -> None:
        """Close all connections; downloads that are under way fail."""
        if self._multi:
            self._multi.close()
        for transfer in self._idle:
            transfer.close()
        self._idle.clear()

    async def _look_up(self, request: Request, place: tuple[str, int], seconds: float) -> str:
        try:
            return await asyncio.wait_for(self._addresses.of(*place), seconds)
        except asyncio.TimeoutError as e:
            raise _timed_out(request, seconds) from e

    def _response_of(self, transfer: Transfer, code: int, message: str) -> Response:
        flags = []
        if transfer.stop:
            flags.append("download_stopped")
        elif transfer.error:
            raise transfer.error
        elif transfer.has_no_end and code in _MAYBE_CUT_SHORT:
            flags.append("partial")
        elif code in _CUT_SHORT and transfer.headers is not None:
            self._check_dataloss(transfer.request, code, message)
            flags.append("dataloss")
        elif code:
            raise self._error_of(transfer, code, message)
        elif transfer.headers is None:  # libcurl thinks no ill of headers that end with their connection
            raise DownloadFailedError(f"{transfer.request.url}: there are no whole headers before the connection ends")
        assert transfer.headers is not None, "nothing is stopped before there are headers"
        request, body = transfer.request, transfer.body.getvalue()
        cls = responsetypes.from_args(headers=transfer.headers, url=request.url, body=body)
        response = cls(
            url=request.url.partition("#")[0],
            status=transfer.status,
            body=body,
            flags=flags,
            certificate=self._certificate_of(transfer),
            ip_address=_address(transfer.curl.getinfo(pycurl.PRIMARY_IP)),
            protocol=transfer.protocol,
        )
        response.headers = transfer.headers  # as an argument it would be copied, which takes as long as all of this
        if transfer.stop and transfer.stop.fail:
            transfer.stop.response = response
            raise transfer.stop
        return response

    def _check_dataloss(self, request: Request, code: int, message: str) -> None:
        if not request.meta.get("download_fail_on_dataloss", self._options.fail_on_dataloss):
            return
        if not self._warned_of_dataloss:
            self._warned_of_dataloss = True
            _logger.warning(
                "Got data loss in %s. To process broken responses set DOWNLOAD_FAIL_ON_DATALOSS to False."
                " This is not said of further requests.",
                request.url,
            )
        raise ResponseDataLossError(f"{request.url}: {message}") from pycurl.error(code, message)

    def _certificate_of(self, transfer: Transfer) -> Certificate | None:
        """That of the server; libcurl has it only with the first response on a connection."""
        if urlparse_cached(transfer.request).scheme != "https":
            return None
        connection = transfer.curl.getinfo(pycurl.CONN_ID)
        for chain in transfer.curl.getinfo(pycurl.INFO_CERTINFO)[:1]:
            pem = dict(chain)["Cert"]
            self._certificates[connection] = Certificate.loadPEM(pem)
            if len(self._certificates) > 2 * self._max_idle:
                self._certificates.popitem(last=False)
        certificate = self._certificates.get(connection)
        if certificate:
            self._certificates.move_to_end(connection)
        return certificate

    def _error_of(self, transfer: Transfer, code: int, message: str) -> Exception:
        """What Scrapy calls libcurl's error *code*."""
        request = transfer.request
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return _timed_out(request, self._options.timeout_of(request))
        if code in (pycurl.E_URL_MALFORMAT, pycurl.E_LOGIN_DENIED):
            return ValueError(f"{redact_url(request.url)}: {message}")
        text = f"{request.url}: {message} (libcurl's error {code})"
        error: Exception
        if code in (pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY):
            error = CannotResolveHostError(text)
        elif code == pycurl.E_COULDNT_CONNECT and transfer.curl.getinfo(pycurl.OS_ERRNO) == errno.ECONNREFUSED:
            error = DownloadConnectionRefusedError(text)
        else:
            error = DownloadFailedError(text)
        error.__cause__ = ssl.SSLError(code, message) if code in _TLS_CODES else pycurl.error(code, message)
        return error


def _check_key_file() -> None:
    """Say so when the keys of TLS cannot be written where they are wanted: libcurl goes on without a word."""
    if path := os.environ.get("SSLKEYLOGFILE"):
        try:
            with open(path, "ab"):
                pass
        except OSError as e:
            _logger.warning("Cannot write TLS session keys to SSLKEYLOGFILE: %s", e)


def _place_of(request: Request) -> tuple[str, int]:
    """The host and port that are connected to: those of *request*, or its proxy's."""
    proxy = request.meta.get("proxy")
    parts = urlparse(add_http_if_no_scheme(proxy)) if proxy else urlparse_cached(request)
    return _place(parts.scheme, parts.netloc)


@lru_cache(maxsize=10_000)
def _place(scheme: str, netloc: str) -> tuple[str, int]:
    parts = urlsplit(f"{scheme}://{netloc}")
    if not parts.hostname:
        raise ValueError(f"there is no host in {parts.geturl()}")
    return parts.hostname, parts.port or _PORTS.get(scheme, 80)


def _timed_out(request: Request, seconds: float) -> DownloadTimeoutError:
    return DownloadTimeoutError(f"Getting {request.url} took longer than {seconds:g} seconds.")


@lru_cache(maxsize=10_000)
def _address(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text)
