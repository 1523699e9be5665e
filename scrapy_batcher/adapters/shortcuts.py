"""What Scrapy's own downloader middlewares do for most pages, in fewer steps."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MethodType
from typing import Any

from scrapy import Request
from scrapy.downloadermiddlewares.cookies import CookiesMiddleware
from scrapy.downloadermiddlewares.httpauth import HttpAuthMiddleware
from scrapy.downloadermiddlewares.redirect import MetaRefreshMiddleware
from scrapy.downloadermiddlewares.stats import DownloaderStats, get_header_size, get_status_size
from scrapy.http import HtmlResponse, Response
from scrapy.http.cookies import CookieJar
from scrapy.utils.decorators import _warn_spider_arg
from scrapy.utils.httpobj import urlparse_cached
from w3lib.http import headers_dict_to_raw

Method = Callable[..., Any]


def shortcut(method: Method) -> Method:
    """What does the same as *method* of a downloader middleware, for less, where that is one of Scrapy's own; else
    *method* itself.

    Such a method is called without the wrapper that warns of the argument ``spider``, which nobody passes here. One of
    a subclass, or one that was put in its place, is called as it is.

    Not documented, checked on Scrapy 2.18.0 and 2.19.0: ``_warn_spider_arg``, ``CookiesMiddleware.jars``,
    ``CookieJar._cookies``, ``DownloaderStats.stats``, ``get_header_size()``, ``get_status_size()``,
    ``HttpAuthMiddleware._auth``. tests/test_shortcuts.py compares each with what it stands for.
    """
    middleware, function = getattr(method, "__self__", None), getattr(method, "__func__", None)
    if getattr(function, "__code__", None) is not _WRAPPER:
        return method
    whole = MethodType(function.__wrapped__, middleware)  # type: ignore[union-attr]  # one with our code has it
    cls, name = type(middleware), whole.__name__
    if (cls, name) in _SHORT and function is getattr(cls, name):
        return _SHORT[cls, name](middleware, whole)
    return whole


@_warn_spider_arg
def _wrapped() -> None:
    """One that is wrapped as Scrapy's are."""


_WRAPPER = _wrapped.__code__


def _count_request(middleware: DownloaderStats, whole: Method) -> Method:
    stats = middleware.stats

    def process_request(request: Request) -> Any:
        parts = urlparse_cached(request)
        path = parts.path or "/"
        # What is rare, and not simply added up. A URL's host can be other than ASCII where it cannot be encoded.
        if request.method != "GET" or path.startswith("//") or not request.url.isascii():
            return whole(request)
        size = len("GET  HTTP/1.1\r\nHost: \r\n\r\n") + len(path) + len(parts.hostname or "") + len(request.body)
        for part in (parts.params, parts.query):
            if part:
                size += len(part) + 1
        # As a plain dictionary headers are gone through without putting each name into its usual letters again.
        if headers := dict(request.headers):
            size += len(headers_dict_to_raw(headers) or b"") + 2
        stats.inc_value("downloader/request_count")
        stats.inc_value("downloader/request_method_count/GET")
        stats.inc_value("downloader/request_bytes", size)
        return None

    return process_request


def _count_response(middleware: DownloaderStats, whole: Method) -> Method:
    stats = middleware.stats

    def process_response(request: Request, response: Response) -> Response:
        head = get_header_size(dict(response.headers)) + get_status_size(response.status) + 4
        stats.inc_value("downloader/response_count")
        stats.inc_value(f"downloader/response_status_count/{response.status}")
        stats.inc_value("downloader/response_bytes", len(response.body) + head)
        return response

    return process_response


def _authorize(middleware: HttpAuthMiddleware, whole: Method) -> Method:
    def process_request(request: Request) -> Any:
        meta = request.meta
        return whole(request) if middleware._auth or "http_user" in meta or "http_pass" in meta else None

    return process_request


def _send_cookies(middleware: CookiesMiddleware, whole: Method) -> Method:
    def process_request(request: Request) -> Any:
        meta = request.meta
        if meta.get("dont_merge_cookies") or request.cookies:
            return whole(request)
        jar = middleware.jars[meta.get("cookiejar")]
        if type(jar) is not CookieJar or jar._cookies:  # a project may have put jars of its own there
            return whole(request)
        request.headers.pop(b"Cookie", None)  # with none in the jar there is none to be sent
        return None

    return process_request


def _keep_cookies(middleware: CookiesMiddleware, whole: Method) -> Method:
    def process_response(request: Request, response: Response) -> Any:
        headers = response.headers
        return whole(request, response) if b"Set-Cookie" in headers or b"Set-Cookie2" in headers else response

    return process_response


def _find_refresh(middleware: MetaRefreshMiddleware, whole: Method) -> Method:
    def process_response(request: Request, response: Response) -> Any:
        if not isinstance(response, HtmlResponse):
            return response  # and its text is not asked for: decoded it may be large, and nobody may need it
        # Where Scrapy looks. As bytes, since only ASCII's letters are put into lower case at one go; and without the s,
        # which has a second form.
        text = response.text[:4096].encode("ascii", "replace").lower()
        may_have_one = (
            b"refre" in text or (b"&" in text and _ENTITY.search(text)) or (b"!--" in text and _COMMENT.search(text))
        )
        return whole(request, response) if may_have_one else response

    return process_response


# What may be a letter of "refre", or, to w3lib before 2.5, nothing within it. An expression that begins with plain
# text is fast, so what comes before that is looked at behind it; and whether there is such text is found still faster.
_ENTITY = re.compile(rb"&(?:#|(?<=[ref]&))")
_COMMENT = re.compile(rb"<!--(?<=[ref]<!--)")


_SHORT: dict[tuple[type, str], Callable[[Any, Method], Method]] = {
    (DownloaderStats, "process_request"): _count_request,
    (DownloaderStats, "process_response"): _count_response,
    (HttpAuthMiddleware, "process_request"): _authorize,
    (CookiesMiddleware, "process_request"): _send_cookies,
    (CookiesMiddleware, "process_response"): _keep_cookies,
    (MetaRefreshMiddleware, "process_response"): _find_refresh,
}
