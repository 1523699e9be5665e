"""Reports what a spider does to Prometheus, if ``BATCHER_METRICS`` says where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scrapy import signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured

from scrapy_batcher.config import Config
from scrapy_batcher.errors import refuse
from scrapy_batcher.throttling.rules import rules_of
from scrapy_batcher.values import ConfigError

if TYPE_CHECKING:
    from scrapy_batcher.monitoring.measures import Measures
    from scrapy_batcher.monitoring.outlets import Endpoint, Textfile


class MetricsExtension:
    """An extension that reports to Prometheus while a spider is open: its limits, and its batch if it has one. It is
    off unless ``BATCHER_METRICS`` is set. When it is off, prometheus_client is not even imported.
    """

    def __init__(self, measures: Measures, outlet: Endpoint | Textfile) -> None:
        self._measures = measures
        self._outlet = outlet

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> MetricsExtension:
        """
        :raises StartError: if prometheus_client is missing, or nothing can be served or written there
        """
        try:
            config = Config.from_settings(crawler.settings)
            if not config.enabled or config.metrics is None:
                raise NotConfigured
            limits = rules_of(crawler, config).limits
        except ConfigError as e:
            raise NotConfigured(str(e)) from e
        try:
            from scrapy_batcher.monitoring.measures import Measures  # noqa: PLC0415 - imports what is in an extra
            from scrapy_batcher.monitoring.outlets import Endpoint, Textfile  # noqa: PLC0415 - as above
        except ImportError as e:
            raise refuse(f"BATCHER_METRICS needs prometheus_client ({e}): pip install 'scrapy-batcher[metrics]'") from e
        measures = Measures(crawler, config, limits)
        outlet: Endpoint | Textfile
        try:
            if isinstance(config.metrics, Path):
                outlet = Textfile(config.metrics, config.metrics_seconds, measures.look)
            else:
                outlet = Endpoint(config.metrics, measures.look)
        except OSError as e:
            raise refuse(
                f"BATCHER_METRICS: {config.metrics} cannot be used: {e.strerror}; "
                "give each process a place of its own, where port 0 is any that is free"
            ) from e
        extension = cls(measures, outlet)
        for handler, signal in (
            (extension.spider_opened, signals.spider_opened),
            (extension.spider_closed, signals.spider_closed),
            (measures.response_downloaded, signals.response_downloaded),
        ):
            crawler.signals.connect(handler, signal)
        return extension

    def spider_opened(self) -> None:
        self._measures.is_running = True
        self._outlet.start()

    async def spider_closed(self) -> None:
        self._measures.is_running = False
        await self._outlet.stop()
