"""The one line that switches scrapy-batcher on: ``ADDONS = {"scrapy_batcher.Addon": 300}``."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec

from scrapy.settings import BaseSettings, Settings

from scrapy_batcher.config import Config
from scrapy_batcher.cooperator import CooperatorExtension
from scrapy_batcher.metrics import MetricsExtension
from scrapy_batcher.outputs.feeds import (
    CsvItemExporter,
    FileFeedStorage,
    JsonLinesItemExporter,
    MarshalItemExporter,
    PickleItemExporter,
)
from scrapy_batcher.outputs.parquet import ParquetItemExporter
from scrapy_batcher.postpone import PostponeMiddleware
from scrapy_batcher.queue import LimitsPriorityQueue
from scrapy_batcher.recorder import RecordMiddleware
from scrapy_batcher.semaphore import SemaphoreMiddleware
from scrapy_batcher.values import boolean

_logger = logging.getLogger(__name__)

SPIDERS = "scrapy_batcher.spider"

_CURL = "scrapy_batcher.fast.curl.CurlDownloadHandler"

_ASYNCIO = "twisted.internet.asyncioreactor.AsyncioSelectorReactor"

_FEED_PARTS: dict[str, dict[str, type]] = {
    "FEED_STORAGES": {"": FileFeedStorage, "file": FileFeedStorage},
    "FEED_EXPORTERS": {
        "jsonlines": JsonLinesItemExporter,
        "jsonl": JsonLinesItemExporter,
        "jl": JsonLinesItemExporter,
        "csv": CsvItemExporter,
        "pickle": PickleItemExporter,
        "marshal": MarshalItemExporter,
        "parquet": ParquetItemExporter,
    },
}


class Addon:
    """A Scrapy add-on that adds every part in the right order.

    A part that the project has ordered by hand stays where it is. With ``BATCHER_ENABLED=False``, each part switches
    itself off.
    """

    @classmethod
    def update_pre_crawler_settings(cls, settings: BaseSettings) -> None:
        """Let ``scrapy crawl batch`` find the spider."""
        modules = settings.getlist("SPIDER_MODULES")
        if SPIDERS not in modules:
            # First, so that a spider of the project's own that is named "batch" takes its place.
            settings.set("SPIDER_MODULES", [SPIDERS, *modules], priority=settings.getpriority("SPIDER_MODULES") or 0)

    def update_settings(self, settings: Settings) -> None:
        """Add the middlewares and extensions, and the feed storage and exporters with which a job can continue a feed.

        The semaphore comes last, nearest the downloader. The extensions come first: so a faulty job directory is found
        by us, not by Scrapy, and no job is opened if its metrics cannot be."""
        settings.setdefault_in_component_priority_dict("DOWNLOADER_MIDDLEWARES", SemaphoreMiddleware, 1000)
        settings.setdefault_in_component_priority_dict("DOWNLOADER_MIDDLEWARES", RecordMiddleware, 999)
        settings.setdefault_in_component_priority_dict("DOWNLOADER_MIDDLEWARES", PostponeMiddleware, 0)
        settings.setdefault_in_component_priority_dict("EXTENSIONS", CooperatorExtension, -1)
        settings.setdefault_in_component_priority_dict("EXTENSIONS", MetricsExtension, -2)
        is_enabled = boolean(settings, "BATCHER_ENABLED", Config.enabled)
        if is_enabled:
            settings.set("SCHEDULER_PRIORITY_QUEUE", LimitsPriorityQueue, priority="addon")
        for name, parts in _FEED_PARTS.items():
            for key, part in parts.items():
                if key not in settings[name]:
                    settings[name].set(key, part, priority="addon")
        if is_enabled and _is_curl_wanted(settings) and _has_curl(settings):
            for scheme in ("http", "https"):
                if scheme not in settings["DOWNLOAD_HANDLERS"]:
                    # Not at a lower priority: without a reactor Scrapy sets another handler at this one.
                    settings["DOWNLOAD_HANDLERS"].set(scheme, _CURL, priority="project")


def _is_curl_wanted(settings: Settings) -> bool:
    """Whether libcurl can download, and nothing that the project has set would be lost by it."""
    has_asyncio = not settings.getbool("TWISTED_REACTOR_ENABLED", True) or settings["TWISTED_REACTOR"] == _ASYNCIO
    has_own_tls = (settings.getpriority("DOWNLOADER_CLIENTCONTEXTFACTORY") or 0) > 0
    return boolean(settings, "BATCHER_CURL", Config.curl) and has_asyncio and not has_own_tls


def _has_curl(settings: Settings) -> bool:
    """Whether there is a pycurl, and one that works; a warning when *settings* ask for what needs it."""
    if find_spec("pycurl") is None:
        if boolean(settings, "BATCHER_HTTP2", Config.http2):
            _logger.warning("BATCHER_HTTP2 needs pycurl: pip install 'scrapy-batcher[fast]'; without it, HTTP/1.1")
        return False
    try:
        import_module("scrapy_batcher.fast.curl")
    except ImportError as e:
        _logger.warning("Scrapy's own handler downloads, not libcurl, as pycurl cannot be used: %s", e)
        return False
    return True
