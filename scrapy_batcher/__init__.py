"""Feeds Scrapy any list of URLs: exact limits, flat memory, nothing lost.

===============================  ============================================================================
`Addon`                          switches everything on: ``ADDONS = {"scrapy_batcher.Addon": 300}``
`BatchSpider`, `BatchItem`       the spider ``batch``, and what a page becomes
`SemaphoreMiddleware`            at most N downloads in flight in total, and at most n per host
`LimitsPriorityQueue`            a scheduler's queue that gives out what may be downloaded now
`limits_of`, `Limit`             the limits of a crawler, which can be changed while it runs; one such limit
`PostponeMiddleware`             makes retries wait in the ledger
`RecordMiddleware`               records what was sent and received in the WARC file
`fast.curl.CurlDownloadHandler`  downloads with libcurl; with the extra ``fast``
`MetricsExtension`               reports to Prometheus; with the extra ``metrics``
`CooperatorExtension`            N workers on one shared iterator: each request is made when its turn comes
`Target`, `Source`, `Shard`      a row of the list, the list, and a part of it for one of several processes
`Outcome`, `Totals`              how one target ended, and how all of them did
`signals.batch_finished`         sent with the `Totals` when the last visit is over
`StartError`                     says why a batch could not start
===============================  ============================================================================
"""

from scrapy_batcher import signals
from scrapy_batcher.addon import Addon
from scrapy_batcher.batch.progress import Totals
from scrapy_batcher.cooperator import CooperatorExtension
from scrapy_batcher.errors import StartError
from scrapy_batcher.item import BatchItem
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.shard import Shard
from scrapy_batcher.lists.sources import Source
from scrapy_batcher.metrics import MetricsExtension
from scrapy_batcher.outcome import Outcome
from scrapy_batcher.postpone import PostponeMiddleware
from scrapy_batcher.queue import LimitsPriorityQueue
from scrapy_batcher.recorder import RecordMiddleware
from scrapy_batcher.semaphore import SemaphoreMiddleware
from scrapy_batcher.spider import BatchSpider
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.rules import limits_of

__version__ = "0.1.0"

__all__ = [
    "Addon",
    "BatchItem",
    "BatchSpider",
    "CooperatorExtension",
    "Limit",
    "LimitsPriorityQueue",
    "MetricsExtension",
    "Outcome",
    "PostponeMiddleware",
    "RecordMiddleware",
    "SemaphoreMiddleware",
    "Shard",
    "Source",
    "StartError",
    "Target",
    "Totals",
    "limits_of",
    "signals",
]
