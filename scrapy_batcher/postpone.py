"""A retry, and a redirect to where there is no room, do not wait in a worker: they end the visit until later."""

from __future__ import annotations

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured

from scrapy_batcher.cooperator import CooperatorExtension


class PostponeMiddleware:
    """A downloader middleware that has a batch look at each further request of a visit, before anything else does.
    Order it first: ``{"scrapy_batcher.PostponeMiddleware": 0}``.

    Whether there is a retry, and where a redirect goes, is decided by Scrapy's middlewares, or the project's; when, is
    decided here.
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
