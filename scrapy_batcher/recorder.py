"""`RecordMiddleware`: writes each response to the WARC file, if there is one, as the download handler gave it."""

from __future__ import annotations

from weakref import WeakSet

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.http import Response

from scrapy_batcher.cooperator import CooperatorExtension
from scrapy_batcher.outputs.archive import Archive, archives


class RecordMiddleware:
    """A downloader middleware that records what was sent to a server, and what came back, in ``BATCHER_WARC``.

    Order it right before `SemaphoreMiddleware`, which is last: ``{"scrapy_batcher.RecordMiddleware": 999}``. There, a
    body is as it was sent, compressed or not. Redirects, robots.txt and retries are responses of their own. Responses
    from a cache never come by.

    The records of a target's requests are written when the target is settled, or put back to be tried again. Those of
    other requests are written at once.
    """

    def __init__(self, cooperator: CooperatorExtension, archive: Archive) -> None:
        self._cooperator = cooperator
        self._archive = archive
        self._sent: WeakSet[Request] = WeakSet()  # by identity: on their way to the download handler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> RecordMiddleware:
        cooperator, archive = crawler.get_extension(CooperatorExtension), archives.get(crawler)
        if cooperator is None or archive is None:
            raise NotConfigured
        return cls(cooperator, archive)

    def process_request(self, request: Request) -> None:
        if request.url.startswith(("http:", "https:")):
            self._sent.add(request)

    async def process_response(self, request: Request, response: Response) -> Response:
        if request not in self._sent:
            return response
        self._sent.discard(request)
        output = self._archive.feed.output
        try:
            lines = [await self._archive.lines(request, response)]
            if visit := self._cooperator.visit_of(request):
                visit.lines += lines
            else:
                output.append(lines)
        except Exception as e:  # noqa: BLE001 - it is no failure of this page: the batch ends with it
            output.fail(e)
        return response

    def process_exception(self, request: Request, exception: Exception) -> None:
        self._sent.discard(request)
