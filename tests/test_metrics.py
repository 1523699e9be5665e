"""What Prometheus is told of a spider, while it is open and at its end.

tests/test_reactors.py runs this file once more on another reactor than asyncio's.
"""

from __future__ import annotations

import gc
import json
import logging
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import scrapy
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread

import scrapy_batcher
from scrapy_batcher import BatchSpider, StartError
from scrapy_batcher.jobs.ledger import Ledger
from scrapy_batcher.monitoring import outlets
from scrapy_batcher.monitoring.measures import Measures, _bounded
from tests.conftest import ROOT
from tests.crawling import Pages, finish, make_crawler, run, until, watched
from tests.mockserver import MockServer
from tests.scraping import ENDPOINT, get, in_file, is_free, scrape

ADDON = {"ADDONS": {"scrapy_batcher.Addon": 300}}
ANY_PORT = {"BATCHER_METRICS": 0}
QUEUE = "scrapy.pqueues.ScrapyPriorityQueue"  # which knows no limits, so that requests wait in the middleware


@pytest.fixture
def textfile(tmp_path: Path) -> Path:
    (tmp_path / "collector").mkdir()
    return tmp_path / "collector" / "batch.prom"


def begin(path: str, settings: dict[str, Any], **kwargs: Any) -> Deferred[None]:
    return Deferred.fromCoroutine(finish(watched(BatchSpider, settings), path, **kwargs))


async def ports(caplog: pytest.LogCaptureFixture, number: int = 1) -> list[int]:
    """Those of so many endpoints, as the log tells them."""
    await until(lambda: len(ENDPOINT.findall(caplog.text)) == number)
    return [int(port) for _, port in ENDPOINT.findall(caplog.text)]


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# -- the endpoint ------------------------------------------------------------------------------------------------------


@ensureDeferred
async def test_while_it_runs(server: MockServer, urls, caplog) -> None:
    """An endpoint on the loopback tells what is counted so far, and is gone when the spider is closed."""
    began = time.time()
    gated = [server.url(f"page/{n}?gate=g", f"127.0.0.{n}") for n in (1, 2, 3)]
    path = urls(server.url("page/a?size=5000"), server.url("page/b"), server.url("status/404"), "nonsense", *gated)
    done = begin(path, ANY_PORT)
    [port] = await ports(caplog)
    metrics = await deferToThread(
        scrape, port, lambda m: sum(m.by("batcher_outcomes_total", "outcome").values()) == 4 and
        m.get("batcher_limit_in_flight", limit="*") == 3 and m.get("batcher_list_read") == 1
    )  # fmt: skip
    outcomes = {"fetched": 2, "failed/http-404": 1, "skipped/invalid": 1}
    assert metrics.by("batcher_outcomes_total", "outcome") == outcomes
    assert metrics.get("batcher_outcomes_total", outcome="failed/dns") == 0
    assert metrics.by("batcher_ledger_rows", "state") == {**outcomes, "pending": 3}
    assert metrics.get("batcher_list_rows") == 7
    assert metrics.by("batcher_limit_in_flight", "limit") == {"*": 3, "host:*": 3}
    assert metrics.by("batcher_limit_concurrency", "limit") == {"*": 16, "host:*": 8}
    assert metrics.get("batcher_hosts_active") == 3
    assert metrics.get("batcher_running") == 1
    assert began <= metrics.get("batcher_start_time_seconds") <= time.time()
    assert metrics.get("batcher_build_info", version=scrapy_batcher.__version__, scrapy=scrapy.__version__) == 1
    assert metrics.get("batcher_latency_seconds_count") == 3
    assert metrics.get("batcher_latency_seconds_bucket", le="+Inf") == 3
    assert 0 < metrics.get("batcher_latency_seconds_sum") < time.time() - began
    assert metrics.get("batcher_response_size_bytes_bucket", le="3000.0") == 2
    assert metrics.get("batcher_response_size_bytes_bucket", le="10000.0") == 3
    assert metrics.get("batcher_response_size_bytes_sum") > metrics.get("batcher_fetched_bytes_total") > 5000
    assert {sample.labels["spider"] for sample in metrics.samples} == {"batch"}
    with pytest.raises(ConnectionRefusedError):  # as it would not be, were it served at all of the machine's addresses
        socket.create_connection(("127.0.0.2", port), timeout=5)
    server.control("open?gate=g")
    await done
    assert is_free(port)
    assert "metrics" not in [thread.name for thread in threading.enumerate()]


@ensureDeferred
@pytest.mark.skipif(not has_ipv6(), reason="there is no loopback of IPv6 on this machine")
async def test_ipv6(server: MockServer, urls, caplog) -> None:
    """An address of IPv6 is one, too; the log has its URL."""
    done = begin(urls(server.url("page/1?gate=g")), {"BATCHER_METRICS": "[::1]:0"})
    await until(lambda: "Metrics are at http://[::1]:" in caplog.text)
    [url] = re.findall(r"http://\[::1\]:[1-9]\d*/metrics", caplog.text)
    with await deferToThread(urlopen, url, timeout=20) as response:
        assert b"batcher_running" in response.read()
    server.control("open?gate=g")
    await done


@ensureDeferred
async def test_openmetrics(server: MockServer, urls, caplog) -> None:
    """Who asks for OpenMetrics gets it, as its parser wants it."""
    done = begin(urls(server.url("page/1?gate=g")), ANY_PORT)
    [port] = await ports(caplog)
    text = await deferToThread(get, port, "application/openmetrics-text")
    assert "batcher_outcomes" in {family.name for family in text_string_to_metric_families(text)}
    server.control("open?gate=g")
    await done


@ensureDeferred
async def test_it_is_looked_up_in_the_event_loop(server: MockServer, urls, caplog, monkeypatch) -> None:
    """Nothing of the batch is looked at from another thread, however many scrapes come at once."""
    threads, look = [], Measures.look

    def noted(measures: Measures) -> object:
        threads.append(threading.current_thread())
        return look(measures)

    monkeypatch.setattr(Measures, "look", noted)
    done = begin(urls(server.url("page/1?gate=g")), ANY_PORT)
    [port] = await ports(caplog)
    scrapes = [deferToThread(get, port) for _ in range(5)]
    pages = await DeferredList(scrapes, fireOnOneErrback=True)
    assert all("batcher_running" in page for _, page in pages)
    assert set(threads) == {threading.current_thread()}
    assert len(threads) == 5
    server.control("open?gate=g")
    await done


@ensureDeferred
async def test_a_loop_that_does_not_answer(server: MockServer, urls, caplog, monkeypatch) -> None:
    """A scrape that the event loop has no time for is answered, too: that there is nothing to be told."""
    monkeypatch.setattr(outlets, "_PATIENCE", 0.01)
    done = begin(urls(server.url("page/1?gate=g")), ANY_PORT)
    [port] = await ports(caplog)
    with ThreadPoolExecutor() as pool, pytest.raises(HTTPError, match="503") as error:
        pool.submit(get, port).result()  # meanwhile the loop waits here
    assert error.value.read() == b"The event loop has not answered within 0.01 seconds.\n"
    error.value.close()
    server.control("open?gate=g")
    await done


@ensureDeferred
async def test_several_crawlers(server: MockServer, urls, caplog) -> None:
    """Each of several spiders of a process has its own endpoint, with what is its own; ordinary ones have it too."""
    path = urls(server.url("page/1"), server.url("page/2?gate=g"))
    batch = begin(path, ANY_PORT)
    ordinary = make_crawler(Pages, **ADDON, **ANY_PORT).crawl([server.url(f"page/{n}?gate=g") for n in (3, 4)])
    looks = [
        await deferToThread(scrape, port, lambda m: m.get("batcher_limit_in_flight", limit="*") > 0)
        for port in await ports(caplog, 2)
    ]
    [one] = [m for m in looks if {sample.labels["spider"] for sample in m.samples} == {"batch"}]
    [other] = [m for m in looks if {sample.labels["spider"] for sample in m.samples} == {"pages"}]
    assert "batcher_outcomes_total" in one.types
    assert "batcher_outcomes_total" not in other.types
    server.control("open?gate=g")
    await DeferredList([batch, ordinary], fireOnOneErrback=True)


# -- the textfile ------------------------------------------------------------------------------------------------------


@ensureDeferred
async def test_at_the_end(server: MockServer, urls, tmp_path, textfile) -> None:
    """At the end the textfile has what the ledger has, and that the spider is not running any more."""
    path = urls(
        *(server.url(f"page/{n}") for n in range(20)), server.url("status/404"), server.url("reset"), "nonsense"
    )
    job = tmp_path / "job"
    await run(BatchSpider, path, {"BATCHER_METRICS": textfile, "JOBDIR": str(job)})
    ledger = Ledger(job / "ledger.sqlite", read_only=True)
    tally = ledger.tally()
    ledger.close()
    assert tally == {"fetched": 20, "failed/http-404": 1, "failed/connection": 1, "skipped/invalid": 1}
    metrics = in_file(textfile)
    assert metrics.by("batcher_ledger_rows", "state") == metrics.by("batcher_outcomes_total", "outcome") == tally
    assert metrics.get("batcher_ledger_rows", state="pending") == 0
    assert metrics.get("batcher_list_rows") == 23
    assert metrics.get("batcher_running") == 0
    assert metrics.get("batcher_retries_total") == metrics.get("batcher_postponed_total") == 1
    assert metrics.get("batcher_checkpoint_duration_seconds_count") >= 1
    assert metrics.get("batcher_checkpoint_duration_seconds_sum") > 0
    assert {sample.labels["jobdir"] for sample in metrics.samples} == {str(job)}
    assert list(textfile.parent.iterdir()) == [textfile]


@ensureDeferred
async def test_a_job_directory_that_is_no_text(server: MockServer, urls, tmp_path, textfile) -> None:
    """A label is UTF-8, whatever the bytes of a path are."""
    job = str(tmp_path / "\udcffé")
    await run(BatchSpider, urls(server.url("page/1")), {"BATCHER_METRICS": textfile, "JOBDIR": job})
    assert {sample.labels["jobdir"] for sample in in_file(textfile).samples} == {f"{tmp_path}/\\udcffé"}


@ensureDeferred
async def test_every_so_often(server: MockServer, urls, textfile, caplog) -> None:
    """The textfile is written while it runs; when that fails it is said, the batch goes on, and so do the writings."""
    path = urls(server.url("page/1"), server.url("page/2?gate=g"))
    done = begin(path, {"BATCHER_METRICS": str(textfile), "BATCHER_METRICS_SECONDS": 0.01})
    await until(lambda: textfile.exists() and in_file(textfile).by("batcher_ledger_rows", "state") ==
        {"fetched": 1, "pending": 1})  # fmt: skip
    away = textfile.parent.rename(textfile.parent.with_name("away"))
    await until(
        lambda: f"The metrics in {textfile} are those of before, as it cannot be written: No such" in caplog.text
    )
    away.rename(textfile.parent)
    textfile.unlink()
    await until(textfile.exists)
    server.control("open?gate=g")
    await done
    assert in_file(textfile).by("batcher_ledger_rows", "state") == {"fetched": 2}


@ensureDeferred
async def test_runs_of_a_job(server: MockServer, urls, tmp_path, textfile) -> None:
    """Counters begin at 0 in each run, and nothing is taken from them; gauges are those of the whole job."""
    settings = {"BATCHER_METRICS": textfile, "JOBDIR": str(tmp_path / "job")}
    path = urls(server.url("page/1"), server.url("status/404"), server.url("status/404?2"))
    await run(BatchSpider, path, settings, retry="failed")
    metrics = in_file(textfile)
    assert metrics.by("batcher_outcomes_total", "outcome") == {"fetched": 1, "failed/http-404": 4}
    assert metrics.by("batcher_ledger_rows", "state") == {"fetched": 1, "failed/http-404": 2}
    await run(BatchSpider, path, settings)
    metrics = in_file(textfile)
    assert metrics.by("batcher_outcomes_total", "outcome") == {}
    assert metrics.get("batcher_outcomes_total", outcome="failed/http-404") == 0
    assert metrics.by("batcher_ledger_rows", "state") == {"fetched": 1, "failed/http-404": 2}
    assert metrics.get("batcher_list_read") == 1
    await run(BatchSpider, path, settings, retry="failed")
    metrics = in_file(textfile)
    assert metrics.by("batcher_outcomes_total", "outcome") == {"failed/http-404": 2}
    assert metrics.get("batcher_fetched_bytes_total") == 0


@ensureDeferred
async def test_a_shard(server: MockServer, urls, textfile) -> None:
    """Every sample of a shard tells which it is."""
    hosts = [f"127.0.0.{n}" for n in range(1, 9)]
    await run(
        BatchSpider, urls(*(server.url("page/1", host) for host in hosts)), {"BATCHER_METRICS": textfile}, shard="2/2"
    )
    assert {sample.labels["shard"] for sample in in_file(textfile).samples} == {"2/2"}


# -- limits and hosts --------------------------------------------------------------------------------------------------


class Named(Pages):
    """Its requests are of named limits."""

    async def start(self):
        async for request in super().start():
            request.meta["batcher_limits"] = [
                "mine" if request.meta["number"] % 2 else f"proxy:{request.meta['number']}"
            ]
            yield request


def names_of(request: scrapy.Request) -> list[str]:
    """A function for BATCHER_LIMITS_FUNCTION."""
    return [f"proxy:{request.url}", "mine"]


@ensureDeferred
async def test_a_thousand_hosts(server: MockServer, urls, textfile) -> None:
    """However many hosts and names of a family there are, no label has one of them."""
    settings = {
        "BATCHER_METRICS": textfile,
        "BATCHER_LIMITS": {"proxy:*": 4, "mine": 16, "host:127.0.1.1": {"concurrency": 3}},
        "BATCHER_LIMITS_FUNCTION": names_of,
        "DOWNLOAD_SLOTS": {"127.0.1.2": {"concurrency": 1}},
    }
    hosts = [f"127.0.{n // 250}.{n % 250 + 1}" for n in range(1000)]
    crawler = await run(BatchSpider, urls(*(server.url("page/1", host) for host in hosts)), settings)
    assert crawler.totals.outcomes == {"fetched": 1000}
    metrics = in_file(textfile)
    limits = {sample.labels["limit"] for sample in metrics.samples if "limit" in sample.labels}
    assert limits == {"*", "host:*", "proxy:*", "mine"}
    assert "127.0." not in metrics.text
    assert len(metrics.samples) < 150
    assert metrics.get("batcher_latency_seconds_count") == 1000


@ensureDeferred
async def test_limits(server: MockServer, caplog) -> None:
    """By each named limit it is told what is in flight and waits; of families, and of hosts, together."""
    listed = [server.url(f"page/1?gate={gate}", f"127.0.0.{n}") for n, gate in enumerate("hggggg", 1)]
    limits = {"proxy:*": 2, "mine": 1}
    done = make_crawler(Named, **ADDON, **ANY_PORT, BATCHER_LIMITS=limits, SCHEDULER_PRIORITY_QUEUE=QUEUE).crawl(listed)
    [port] = await ports(caplog)
    metrics = await deferToThread(scrape, port, lambda m: m.get("batcher_limit_waiting", limit="mine") == 2)
    assert metrics.by("batcher_limit_in_flight", "limit") == {"*": 4, "host:*": 4, "proxy:*": 3, "mine": 1}
    assert metrics.by("batcher_limit_waiting", "limit") == {"*": 2, "host:*": 2, "mine": 2}
    assert metrics.by("batcher_limit_concurrency", "limit") == {"*": 16, "host:*": 8, "proxy:*": 2, "mine": 1}
    assert metrics.get("batcher_hosts_active") == 4
    server.control("open?gate=g")
    metrics = await deferToThread(scrape, port, lambda m: m.get("batcher_permit_waits_total") == 2)
    assert metrics.get("batcher_permit_wait_seconds_total") > 0
    server.control("open?gate=h")
    await done


@ensureDeferred
async def test_sites_with_a_robots_txt(server: MockServer, urls, caplog) -> None:
    """What is kept for each site, so that its robots.txt comes first, is not told: it is no limit of the user's."""
    done = begin(urls(server.url("page/1?gate=g")), {**ANY_PORT, "ROBOTSTXT_OBEY": True})
    [port] = await ports(caplog)
    metrics = await deferToThread(
        scrape, port, lambda m: m.get("batcher_latency_seconds_count") == m.get("batcher_hosts_active") == 1
    )
    assert metrics.by("batcher_limit_in_flight", "limit") == {"*": 1, "host:*": 1}
    assert metrics.by("batcher_limit_concurrency", "limit") == {"*": 16, "host:*": 8}
    server.control("open?gate=g")
    await done


@ensureDeferred
async def test_hosts_that_rest(server: MockServer, urls, caplog) -> None:
    """A host that has asked for rest is counted as long as that is."""
    path = urls(server.url("busy/1?after=1000", "127.0.0.1"), server.url("page/2?gate=g", "127.0.0.2"))
    done = begin(path, {**ANY_PORT, "RETRY_ENABLED": False})
    [port] = await ports(caplog)
    metrics = await deferToThread(scrape, port, lambda m: m.get("batcher_hosts_resting") == 1)
    assert metrics.get("batcher_hosts_active") == 1
    server.control("open?gate=g")
    await done


def test_statuses_that_are_none() -> None:
    """A server that sends statuses out of its head makes no new label with each."""
    counts = {"fetched": 1, "failed/http-999": 2, "failed/dns": 3, **{f"failed/http-{n}": 1 for n in range(1000, 9000)}}
    assert _bounded(counts) == {"fetched": 1, "failed/http-999": 2, "failed/dns": 3, "failed/http-other": 8000}


# -- what keeps it from starting ---------------------------------------------------------------------------------------


@ensureDeferred
async def test_places_that_cannot_be_used(server: MockServer, tmp_path) -> None:
    """Without metrics, when they are wished, no spider starts: one sentence says why."""
    (tmp_path / "folder.prom").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for place, why in {
            port: f"127.0.0.1:{port} cannot be used: Address already in use",
            "192.0.2.1:1": "192.0.2.1:1 cannot be used: Cannot assign requested address",
            tmp_path / "no" / "x.prom": f"{tmp_path}/no/x.prom cannot be used: No such file or directory",
            tmp_path / "folder.prom": f"{tmp_path}/folder.prom cannot be used: Is a directory",
        }.items():
            with pytest.raises(StartError, match=f"^BATCHER_METRICS: {re.escape(why)}.*; give each process a place"):
                await make_crawler(Pages, **ADDON, BATCHER_METRICS=place).crawl([server.url("page/1")])
    assert server.control()["hits"] == {}


@ensureDeferred
async def test_another_reason_not_to_start(server: MockServer, urls, tmp_path) -> None:
    """A port that was had before something else was found wrong is given back."""
    (tmp_path / "job").write_text("no folder")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(StartError, match="job"):
        await make_crawler(BatchSpider, BATCHER_METRICS=port, JOBDIR=str(tmp_path / "job")).crawl(
            urls=urls(server.url("page/1"))
        )
    gc.collect()
    assert is_free(port)


# -- what is written about it ------------------------------------------------------------------------------------------


@ensureDeferred
async def test_the_documentation(server: MockServer, urls, textfile) -> None:
    """docs/metrics.md has exactly the metrics there are, with their types."""
    await run(BatchSpider, urls(server.url("page/1")), {"BATCHER_METRICS": textfile})
    table = dict(re.findall(r"^\| `(batcher_\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert table == in_file(textfile).types


@ensureDeferred
async def test_the_dashboard(server: MockServer, urls, textfile) -> None:
    """docs/grafana.json, and each example in docs/metrics.md, asks for nothing but what is told."""
    await run(BatchSpider, urls(server.url("page/1")), {"BATCHER_METRICS": textfile})
    told = {sample.name for sample in in_file(textfile).samples}
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"batcher_\w+", "".join(queries)))
    of_what_is_chosen = '{spider=~"$spider",jobdir=~"$jobdir"'
    assert [query for query in queries if len(re.findall("batcher_", query)) != query.count(of_what_is_chosen)] == []
    assert asked <= told
    assert {name for name in in_file(textfile).types if not any(one.startswith(name) for one in asked)} == set()
    [examples] = re.findall(r"^```promql\n(.*?)^```$", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"batcher_\w+", examples)) <= told
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"]))) <= {*variables, "__rate_interval"}
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers)) > 10
