"""`BatchSpider`: makes requests of targets, items of responses, and logged outcomes of failures."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

import scrapy
from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.settings import BaseSettings
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from w3lib.http import basic_auth_header

from scrapy_batcher.addon import Addon
from scrapy_batcher.batch.visits import TARGET_KEY
from scrapy_batcher.config import Config
from scrapy_batcher.cooperator import CooperatorExtension
from scrapy_batcher.errors import refuse
from scrapy_batcher.item import BatchItem, Body, make_item
from scrapy_batcher.lists.overrides import overrides_of
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.shard import WHOLE, Shard
from scrapy_batcher.lists.sources import Source, SourceError
from scrapy_batcher.outcome import Outcome, attempts_of, error_text, exception_of, failure_names, outcome_of, refusal
from scrapy_batcher.outputs.bodies import bodies_of
from scrapy_batcher.values import ConfigError


class BatchSpider(scrapy.Spider):
    """Fetches every URL of a list: ``scrapy crawl batch -a urls=list.txt``.

    Subclasses override `parse`, `make_request` and `on_failure`.

    :param urls: the list: a path, a location that fsspec knows, or ``-`` for stdin; or several files and patterns,
        separated by commas, as `locations.locations_in` takes them
    :param format: its format, as `Source` takes it; by default, told from each file's name
    :param url_field: the column that holds the URL
    :param failures: path of the failures file; by default, the setting ``BATCHER_FAILURES``
    :param shard: the part of the list that this process works on: ``2/8`` for the second of eight; by default, all
    :param retry: outcomes to try again once the list is done: ``failed``, or single ones: ``failed/timeout,failed/dns``
    :raises StartError: if there is no list, it cannot be read, or an argument has a value that cannot be used
    """

    name = "batch"

    def __init__(
        self,
        name: str | None = None,
        *,
        urls: str | None = None,
        format: str | None = None,
        url_field: str = "url",
        failures: str | None = None,
        retry: str = "",
        shard: str = "1/1",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if not urls:
            raise refuse("there is no list of URLs: pass -a urls=FILE, or -a urls=- for stdin")
        self.failures = failures
        try:
            self.retry = failure_names(retry)
            self.source = Source(urls, format, url_field, Shard.parse(shard))
        except (SourceError, ValueError) as e:
            raise refuse(str(e)) from e

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> BatchSpider:
        try:
            config = Config.from_settings(crawler.settings)
        except ConfigError as e:
            raise refuse(str(e)) from e
        spider = super().from_crawler(crawler, *args, **kwargs)
        if spider.source.shard != WHOLE:
            spider.source.shard = replace(spider.source.shard, by=config.shard_by)
        return spider

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Switch scrapy-batcher on, and set what suits one item a page; the project's own settings take precedence."""
        super().update_settings(settings)
        settings.setdefault_in_component_priority_dict("ADDONS", Addon, 300)
        # As custom_settings would: at a lower priority the crawler process puts its own value back.
        settings.set("ADDONS", settings.getdict("ADDONS"), priority="spider")
        settings.set("SCHEDULER", "scrapy_batcher.scheduler.Scheduler", priority="addon")
        settings.set("DOWNLOADER", "scrapy_batcher.adapters.downloader.Downloader", priority="addon")
        settings.set("LOG_FORMATTER", "scrapy_batcher.adapters.logformatter.LogFormatter", priority="addon")
        settings.set("STATS_CLASS", "scrapy_batcher.adapters.stats.StatsCollector", priority="addon")
        # Scrapy makes this many tasks for every response.
        settings.set("CONCURRENT_ITEMS", 1, priority="addon")
        # The errback says it once, with the reason and the attempts.
        settings.set("RETRY_GIVE_UP_LOG_LEVEL", "DEBUG", priority="addon")

    async def start(self) -> AsyncIterator[Any]:
        """Wait while the extension runs the batch. Without the extension, yield the requests lazily, to Scrapy."""
        cooperator = self.crawler.get_extension(CooperatorExtension)
        if cooperator is None:
            self.logger.warning("CooperatorExtension is off: there will be no totals, and no files but feeds")
            async for request in self._requests():
                yield request
            return
        # How Scrapy stops a spider on a reactor other than asyncio's: the batch ends in order without us.
        with contextlib.suppress(CancelledError):
            await cooperator.run(self)

    def make_request(self, target: Target) -> Request:
        """The request for *target*. The columns that ``BATCHER_OVERRIDES`` allows decide how it is sent. A user name
        and password in its URL become an ``Authorization`` header, so that no log shows them.

        :raises ValueError: if the URL cannot be requested; the target is then ``skipped/invalid``
        """
        url, headers = _without_credentials(target.url)
        overrides = overrides_of(target, self._config.overrides) if self._config.overrides else {}
        return Request(
            url,
            headers=headers | overrides.pop("headers", {}),
            callback=self.parse,
            errback=self.on_failure,
            dont_filter=True,
            meta={TARGET_KEY: target},
            **overrides,
        )

    # All arguments that there may be, which is how a type checker is told that a subclass's need not take them.
    def parse(self, response: Response, *args: Any, **kwargs: Any) -> Any:
        """Return items, further requests, or both, for a page; by default, one `BatchItem`.

        With ``BATCHER_BODIES``, the default has to be awaited, because it writes the body to a file first.
        """
        if self._config.bodies:
            return self._parse_saved(response)
        return self._items(response)

    async def save_body(self, response: Response) -> Body:
        """Write the body of *response* to a file in ``BATCHER_BODIES``. A target has one such file, for its own page. A
        further request with the target in its meta would replace it.

        :raises RuntimeError: if there is no such folder, or *response* has no target
        :raises Exception: if the file cannot be written; the batch then ends, and the target stays pending
        """
        if (bodies := bodies_of.get(self.crawler)) is None:
            raise RuntimeError(
                "there is no folder for bodies: name one with BATCHER_BODIES, and leave the extension on"
            )
        if (target := response.meta.get(TARGET_KEY)) is None:
            raise RuntimeError("save_body() names a file after a row of the list: a further request is for none")
        return await bodies.save(target, response)

    async def _parse_saved(self, response: Response) -> list[BatchItem]:
        return self._items(response, await self.save_body(response))

    def _items(self, response: Response, body: Body | None = None) -> list[BatchItem]:
        config, target = self._config, response.meta[TARGET_KEY]
        return [make_item(target, response, config.fields, config.columns, body, config.overrides)]

    def on_failure(self, failure: Failure) -> Any:
        """Called with a failure, after all retries; by default, logs one line.

        ``failure.value`` is the exception, and ``failure.request.meta["batcher_target"]`` is the target. The outcome is
        counted and recorded, whatever this returns.
        """
        request: Request = failure.request  # type: ignore[attr-defined]  # the last one made for the target
        exception = exception_of(failure)
        outcome = outcome_of(exception)
        self.logger.warning(
            outcome.describe(request.meta[TARGET_KEY], attempts_of(request)),
            exc_info=exception if outcome.name == "failed/other" and "***@" not in (outcome.error or "") else None,
        )

    @cached_property
    def _config(self) -> Config:
        return Config.from_settings(self.settings)

    async def _requests(self) -> AsyncIterator[Request]:
        for target in self.source:
            while self.crawler.engine.needs_backout():
                await self.crawler.signals.wait_for(signals.scheduler_empty)
            outcome = refusal(target, self._config)
            if outcome is None:
                try:
                    yield self.make_request(target)
                except ValueError as e:
                    outcome = Outcome("skipped/invalid", error=error_text(e))
            if outcome:
                self.logger.warning(outcome.describe(target, 0))


def _without_credentials(url: str) -> tuple[str, dict[str, Any]]:
    """*url* without its user name and password, and the headers that stand for them."""
    if "@" not in url:
        return url, {}  # most of them
    parts = urlsplit(url)
    if not parts.username and not parts.password:
        return url, {}
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, {"Authorization": basic_auth_header(user, password, encoding="utf-8")}
