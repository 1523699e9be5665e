"""What a project of somebody's writes, with annotations: mypy is as strict with it as with the package.

It is never run: what these do is tested elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from scrapy import Request, Spider
from scrapy.crawler import Crawler
from scrapy.exporters import BaseItemExporter
from scrapy.http import Response
from twisted.python.failure import Failure

from scrapy_batcher import BatchSpider, Limit, Outcome, Target, Totals, limits_of
from scrapy_batcher.outputs.feeds import RecordExporter
from scrapy_batcher.signals import batch_finished


class Titles(BatchSpider):
    """The README's own."""

    name = "titles"

    def make_request(self, target: Target) -> Request:
        return super().make_request(target).replace(method="HEAD" if target.columns.get("head") else "GET")

    def parse(self, response: Response) -> Iterator[dict[str, Any]]:
        target: Target = response.meta["batcher_target"]
        yield {"id": target.columns["id"], "title": response.css("title::text").get()}

    def on_failure(self, failure: Failure) -> Iterator[dict[str, Any]]:
        super().on_failure(failure)
        yield {"error": str(failure.type)}


class Saving(BatchSpider):
    name = "saving"

    async def parse(self, response: Response, **kwargs: Any) -> AsyncIterator[dict[str, Any]]:
        body = await self.save_body(response)
        yield {"path": body.path, "sha256": body.sha256}


class Adding(BatchSpider):
    name = "adding"

    async def parse(self, response: Response) -> list[Any]:
        [item] = await super().parse(response)
        return [item, {"of": response.url}]


class Watching:
    """An extension."""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Watching:
        self = cls()
        crawler.signals.connect(self.finished, batch_finished)
        return self

    def finished(self, totals: Totals, spider: Spider) -> None:
        spider.logger.info("%d of %d", totals.fetched, totals.read)


def slow_down(crawler: Crawler, host: str, limit: Limit) -> dict[str, int]:
    limits = limits_of(crawler)
    limits.change(f"host:{host}", concurrency=limit.concurrency, rate=0.5)
    limits.rest(f"host:{host}", 60)
    return {key: len(each.holders) for key, each in limits.statistics().items()}


def told(outcome: Outcome, target: Target) -> str:
    return outcome.describe(target, attempts=1)


class Lines(RecordExporter, BaseItemExporter):
    """One of somebody's own that a job can go on with."""
