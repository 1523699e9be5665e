"""`Measures`: what Prometheus is told of a spider: what is counted anyway, when it asks (extra ``metrics``)."""

from __future__ import annotations

import platform
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import scrapy
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.utils import floatToGoString
from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response

import scrapy_batcher
from scrapy_batcher.batch.books import Books
from scrapy_batcher.batch.opening import Batch
from scrapy_batcher.config import Config
from scrapy_batcher.cooperator import CooperatorExtension
from scrapy_batcher.jobs.ledger import PENDING
from scrapy_batcher.lists.shard import WHOLE
from scrapy_batcher.monitoring.histogram import Histogram
from scrapy_batcher.outcome import NAMES
from scrapy_batcher.throttling.limiters import HOST
from scrapy_batcher.throttling.limits import Limits

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)

_BYTES = (1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 1e8)

_HOSTS = f"{HOST}*"

_ODD_STATUS = re.compile(r"(failed/http-)(?!\d{3}$).*")


class Measures:
    """Those of the spider of *crawler*.

    Each sample has the spider's name, and of a shard or a job that too: so several processes are told apart, also where
    their textfiles meet. What else a label has is of a list that code or settings make: never a host or a URL.

    :param limits: those of *crawler*; by their names are told those that *config* names
    :ivar is_running: whether the spider is open
    """

    def __init__(self, crawler: Crawler, config: Config, limits: Limits) -> None:
        self._crawler = crawler
        self._limits = limits
        self._keys = [*(key for key in config.limits if not key.startswith(HOST)), _HOSTS]
        labels = _labels(crawler, config)
        self._names, self._values = list(labels), list(labels.values())  # of the labels that all samples have
        self._started = time.time()
        self._latencies = Histogram(_SECONDS)
        self._sizes = Histogram(_BYTES)
        self.is_running = False

    def response_downloaded(self, request: Request, response: Response) -> None:
        latency = request.meta.get("download_latency")
        if latency is not None:
            self._latencies.note(latency)
        self._sizes.note(len(response.body))

    def look(self) -> list[Metric]:
        """Everything, as it is now. To be called where it is counted: in the event loop."""
        cooperator = self._crawler.get_extension(CooperatorExtension)
        books = cooperator.books if cooperator else None
        return [*self._of_run(), *self._of_limits(), *(self._of_job(books) if books else ())]

    def _of_run(self) -> Iterator[Metric]:
        versions = {
            "version": scrapy_batcher.__version__,
            "scrapy": scrapy.__version__,
            "python": platform.python_version(),
        }
        build = InfoMetricFamily("batcher_build", "Versions of scrapy-batcher, Scrapy and Python.", labels=self._names)
        build.add_metric(self._values, versions)
        yield build
        yield self._gauge("batcher_running", "Whether the spider is open.", self.is_running)
        yield self._gauge("batcher_start_time_seconds", "Unix time at which this run began.", self._started)
        yield self._counter("batcher_retries", "Retries, as Scrapy counts them.", self._stat("retry/count"))
        yield self._histogram("batcher_latency_seconds", "Time until a response began to come.", self._latencies)
        yield self._histogram("batcher_response_size_bytes", "Body of a response, as it was sent.", self._sizes)

    def _of_limits(self) -> Iterator[Metric]:
        now = self._limits.now()
        held, waiting = dict.fromkeys(self._keys, 0), dict.fromkeys(self._keys, 0)
        active, resting = self._limits.hosts(now)
        for key, limiter in self._limits.items():
            if limiter.held or limiter.waiting:  # few of them
                name = key if key in held else f"{key.partition(':')[0]}:*"
                if name in held:  # not of those that are ours: of sites whose robots.txt is to come
                    held[name] += limiter.held
                    waiting[name] += limiter.waiting
        most = {key: self._limits.limit(key).concurrency for key in self._keys}
        yield self._gauges("batcher_limit_concurrency", "Permits there are, of each host or name.", "limit", most)
        yield self._gauges("batcher_limit_in_flight", "Requests that hold a permit.", "limit", held)
        yield self._gauges("batcher_limit_waiting", "Requests that wait for a permit.", "limit", waiting)
        yield self._gauge("batcher_hosts_active", "Hosts from which something is downloaded.", active)
        yield self._gauge("batcher_hosts_resting", "Hosts that are left alone for a while.", resting)
        waits, seconds = self._stat("batcher/permits/waits"), self._stat("batcher/permits/wait_seconds")
        yield self._counter("batcher_permit_waits", "Requests that waited for a permit.", waits)
        yield self._counter("batcher_permit_wait_seconds", "Time that they waited, together.", seconds)

    def _of_job(self, books: Books) -> Iterator[Metric]:
        counts = books.counts
        rows = {**dict.fromkeys(NAMES, 0), **counts.outcomes}  # from 0 on, or their first would be missing from a rate
        ended = _bounded({name: count - counts.before[name] for name, count in rows.items()})
        rows = {**_bounded(rows), PENDING: counts.pending}
        postponed = self._stat("batcher/postponed")
        yield self._counters("batcher_outcomes", "Targets that ended so in this run.", "outcome", ended)
        yield self._counter("batcher_postponed", "Retries that were put back into the ledger.", postponed)
        yield self._counter("batcher_fetched_bytes", "Bodies of the pages fetched in this run.", books.bytes)
        yield self._gauges("batcher_ledger_rows", "Targets of the job: pending, or by outcome.", "state", rows)
        yield self._gauge("batcher_list_rows", "Rows of the list that the job has read.", counts.read)
        yield self._gauge("batcher_list_read", "Whether the list was read to its end.", counts.complete)
        checkpoints = SummaryMetricFamily(
            "batcher_checkpoint_duration_seconds", "Time that checkpoints took.", labels=self._names
        )
        checkpoints.add_metric(self._values, books.checkpoints.made, books.checkpoints.took)
        yield checkpoints

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=self._names)
        family.add_metric(self._values, value)
        return family

    def _gauges(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[*self._names, label])
        for each, value in values.items():
            family.add_metric([*self._values, each], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=self._names)
        family.add_metric(self._values, value)
        return family

    def _counters(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        family = CounterMetricFamily(name, text, labels=[*self._names, label])
        for each, value in values.items():
            family.add_metric([*self._values, each], value)
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(name, text, labels=self._names)
        buckets = [(_text(bound), float(count)) for bound, count in histogram.buckets]
        family.add_metric(self._values, buckets, histogram.sum)
        return family

    def _stat(self, name: str) -> float:
        return float(self._crawler.stats.get_value(name) or 0)


def _labels(crawler: Crawler, config: Config) -> dict[str, str]:
    spider = crawler.spider
    assert spider is not None, "extensions are made for a spider"
    labels = {"spider": spider.name}
    if isinstance(spider, Batch) and spider.source.shard != WHOLE:
        labels["shard"] = str(spider.source.shard)
    if config.jobdir:
        labels["jobdir"] = config.jobdir.encode("utf-8", "backslashreplace").decode()  # a path may be no UTF-8
    return labels


def _bounded(counts: Mapping[str, int]) -> dict[str, int]:
    """*counts* by outcome; those of statuses that are none together: a server may send any number."""
    bounded: Counter[str] = Counter()
    for name, count in counts.items():
        bounded[_ODD_STATUS.sub(r"\1other", name)] += count
    return bounded


def _text(bound: float) -> str:
    """*bound* as it is written in a label."""
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # prometheus_client gives it no types
