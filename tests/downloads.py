"""Downloads with `CurlDownloadHandler` alone, without a crawl around it."""

from __future__ import annotations

from typing import Any

from scrapy import Request, Spider
from scrapy.http import Response
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.misc import build_from_crawler
from twisted.internet.defer import Deferred

from scrapy_batcher.fast.curl import CurlDownloadHandler
from tests.crawling import TIMEOUT, make_crawler


class Client:
    """A handler with *settings*."""

    def __init__(self, **settings: Any) -> None:
        self.crawler = make_crawler(Spider, **{"DOWNLOAD_TIMEOUT": TIMEOUT, **settings})
        self.handler = build_from_crawler(CurlDownloadHandler, self.crawler)

    def get(self, url: str, **kwargs: Any) -> Deferred[Response]:
        """The response to a request for *url*; *kwargs* are those of `scrapy.Request`."""
        return self.send(Request(url, **kwargs))

    def send(self, request: Request) -> Deferred[Response]:
        return deferred_from_coro(self.handler.download_request(request))

    def close(self) -> Deferred[None]:
        return deferred_from_coro(self.handler.close())
