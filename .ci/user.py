"""Code of somebody who uses scrapy-batcher and asks ``mypy --strict`` about it: our annotations have to do for that."""

from __future__ import annotations

from collections.abc import Iterator

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response

from scrapy_batcher import BatchSpider, Limit, Outcome, Target, Totals, limits_of
from scrapy_batcher.signals import batch_finished


class Titles(BatchSpider):
    name = "titles"

    def make_request(self, target: Target) -> Request:
        head = bool(target.columns.get("head"))
        return super().make_request(target).replace(method="HEAD" if head else "GET")

    def parse(self, response: Response, **kwargs: object) -> Iterator[dict[str, str | None]]:
        target: Target = response.meta["batcher_target"]
        yield {"url": target.url, "title": response.css("title::text").get()}


class Watch:
    """Tells of a batch, and asks less of one host."""

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.totals: Totals | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Watch:
        watch = cls(crawler)
        crawler.signals.connect(watch.on_finished, batch_finished)
        return watch

    def slow_down(self, host: str, limit: Limit) -> dict[str, int]:
        limits = limits_of(self.crawler)
        limits.change(f"host:{host}", concurrency=limit.concurrency, rate=0.5)
        limits.rest(f"host:{host}", 60)
        return {key: len(each.holders) for key, each in limits.statistics().items()}

    async def on_finished(self, totals: Totals) -> None:
        self.totals = totals
        print(totals.read, totals.fetched, totals.outcomes, totals.error or "")


def told(outcome: Outcome, target: Target) -> str:
    return outcome.describe(target, attempts=1)
