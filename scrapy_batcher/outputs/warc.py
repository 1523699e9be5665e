"""The records of a WARC file, made with warcio (extra ``warc``)."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from http.client import responses
from io import BytesIO

import scrapy
from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Headers, Response
from scrapy.utils.httpobj import urlparse_cached
from warcio.statusandheaders import StatusAndHeaders  # type: ignore[import-untyped]  # it has no types
from warcio.warcwriter import WARCWriter  # type: ignore[import-untyped]  # it has no types

from scrapy_batcher.redact import redact

_VERSION = "1.1"

_STANDARD = "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/"

_SECRET = frozenset({"authorization", "proxy-authorization"})

# What a download handler's flags say of a response that is not whole, in the standard's words.
_TRUNCATED = {"dataloss": "disconnect", "download_stopped": "unspecified"}


class _Headers(StatusAndHeaders):  # type: ignore[misc]  # it has no types
    """Headers as they are, of which warcio itself would encode with ``%`` what is not ASCII."""

    def compute_headers_buffer(self, header_filter: object = None) -> None:
        self.headers_buff = self.to_bytes(header_filter, "latin-1")


class Records:
    """Makes records.

    :param is_zipped: whether each is a gzip member, as in a ``.warc.gz``
    """

    def __init__(self, *, is_zipped: bool) -> None:
        self._is_zipped = is_zipped

    def info(self, name: str, crawler: Crawler) -> bytes:
        """The one with which the file *name* begins: what has written it."""
        buffer, writer = self._writer()
        settings = crawler.settings
        record = writer.create_warcinfo_record(
            name,
            {
                "software": f"scrapy-batcher, Scrapy {scrapy.__version__}",
                "format": f"WARC File Format {_VERSION}",
                "conformsTo": _STANDARD,
                "robots": "obey" if settings.getbool("ROBOTSTXT_OBEY") else "ignore",
                "http-header-user-agent": settings["USER_AGENT"],
            },
        )
        writer.write_record(record)
        return buffer.getvalue()

    def of(self, request: Request, response: Response) -> bytes:
        """Those of *response*, as it was received just now, and of *request*, as it was to be sent."""
        buffer, writer = self._writer()
        url = redact(request.url.partition("#")[0])
        about = {
            "WARC-Record-ID": f"<{uuid.uuid4().urn}>",
            "WARC-Date": datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        if response.ip_address and not request.meta.get("proxy"):  # else it is the proxy's
            about["WARC-IP-Address"] = str(response.ip_address)
        for flag in _TRUNCATED.keys() & response.flags:
            about["WARC-Truncated"] = _TRUNCATED[flag]
        protocol = response.protocol or "HTTP/1.1"
        if not protocol.startswith("HTTP/1"):
            # WARC has no form for its headers: they are written as HTTP/1.1 has them.
            about["WARC-Protocol"], protocol = protocol, "HTTP/1.1"
        received = writer.create_warc_record(
            url,
            "response",
            payload=BytesIO(response.body),
            length=len(response.body),
            http_headers=_Headers(
                f"{response.status} {responses.get(response.status, '')}".strip(),
                list(_received(response.headers)),
                protocol=protocol,
            ),
            warc_headers_dict=about,
        )
        sent = writer.create_warc_record(
            url,
            "request",
            payload=BytesIO(request.body),
            length=len(request.body),
            http_headers=_Headers(_request_line(request), list(_sent(request)), is_http_request=True),
            warc_headers_dict={"WARC-Record-ID": f"<{uuid.uuid4().urn}>"},
        )
        writer.write_request_response_pair(sent, received)
        return buffer.getvalue()

    def _writer(self) -> tuple[BytesIO, WARCWriter]:
        buffer = BytesIO()
        return buffer, WARCWriter(buffer, gzip=self._is_zipped, warc_version=_VERSION)


def _request_line(request: Request) -> str:
    parts = urlparse_cached(request)
    path = f"{parts.path or '/'}{';' if parts.params else ''}{parts.params}"
    return f"{request.method} {path}{'?' if parts.query else ''}{parts.query} HTTP/1.1"


def _sent(request: Request) -> Iterator[tuple[str, str]]:
    if "Host" not in request.headers:
        yield "Host", urlparse_cached(request).netloc.rpartition("@")[2]
    for name, value in _pairs(request.headers):
        if name.lower() not in _SECRET:
            yield name, value
    if request.body and "Content-Length" not in request.headers:
        yield "Content-Length", str(len(request.body))


def _received(headers: Headers) -> Iterator[tuple[str, str]]:
    for name, value in _pairs(headers):
        # The body is without it, and a reader that believes the header would look for chunks.
        yield ("X-Archive-Orig-Transfer-Encoding" if name.lower() == "transfer-encoding" else name), value


def _pairs(headers: Headers) -> Iterable[tuple[str, str]]:
    for name, values in headers.items():
        for value in values:
            yield name.decode("latin-1"), value.decode("latin-1")
