"""A retry, or a redirect to where there is no room, does not wait in a worker: it ends the visit until later."""

from __future__ import annotations

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured

from scrapy_batcher.cooperator import CooperatorExtension


class PostponeMiddleware:
    """A downloader middleware that shows the batch each further request of a visit, before any other middleware sees
    it. Order it first: ``{"scrapy_batcher.PostponeMiddleware": 0}``.

    Scrapy's middlewares, or the project's, decide whether to retry, and where a redirect goes. This one decides when.
    """

    def __init__(self, cooperator: CooperatorExtension) -> None:
        self._cooperator = cooperator

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> PostponeMiddleware:
        cooperator = crawler.get_extension(CooperatorExtension)
        if cooperator is None or cooperator.books is None:
            raise NotConfigured
        return cls(cooperator)

    def process_request(self, request: Request) -> None:
        self._cooperator.on_the_way(request)
