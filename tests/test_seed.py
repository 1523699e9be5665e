"""The eight examples that this project reproduces inside Scrapy, and what their readers asked for: a test each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from itemadapter import ItemAdapter
from pytest_twisted import ensureDeferred
from scrapy import signals

from scrapy_batcher import BatchSpider, Totals
from scrapy_batcher.signals import batch_finished
from tests.conftest import Project
from tests.crawling import crawl, make_crawler, until
from tests.mockserver import MockServer


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(*lines: str, name: str = "urls.txt") -> str:
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return str(tmp_path / name)

    return write


@ensureDeferred
async def test_example_1_just_a_deferred_list(server: MockServer, write) -> None:
    """A batch ends by itself when all pages have finished, and one signal carries its totals."""
    crawler = make_crawler(BatchSpider)
    received: list[Totals] = []

    def finished(totals: Totals) -> None:
        received.append(totals)

    crawler.signals.connect(finished, batch_finished)
    await crawler.crawl(urls=write(*(server.url(f"page/{n}") for n in range(4))))
    assert [totals.fetched for totals in received] == [4]
    assert crawler.stats.get_value("finish_reason") == "finished"


@ensureDeferred
async def test_example_2_simple_result_manipulation(server: MockServer, write) -> None:
    """Every URL of the list ends in exactly one outcome, and the outcomes add up to the list."""
    crawler = make_crawler(BatchSpider)
    received: list[Totals] = []

    def finished(totals: Totals) -> None:
        received.append(totals)

    crawler.signals.connect(finished, batch_finished)
    await crawler.crawl(urls=write(server.url("page/1"), server.url("status/404"), "mailto:a@b", server.url("page/2")))
    [totals] = received
    assert totals.outcomes == {"fetched": 2, "failed/http-404": 1, "skipped/unsupported-scheme": 1}
    assert (totals.read, totals.fetched, totals.failed, totals.skipped, totals.pending) == (4, 2, 1, 1, 0)
    assert totals.adds_up


@ensureDeferred
async def test_example_3_page_callbacks_too(server: MockServer, write) -> None:
    """An item leaves as soon as its page is there, while others are still on their way."""
    crawler = make_crawler(BatchSpider)
    scraped: list[str] = []

    def item_scraped(item) -> None:
        scraped.append(item.url)

    crawler.signals.connect(item_scraped, signals.item_scraped)
    slow, quick = server.url("page/slow?gate=3"), server.url("page/quick")
    done = crawler.crawl(urls=write(slow, quick))
    await until(lambda: scraped == [quick])
    assert server.control()["in_flight"]["*"] == 1
    server.control("open?gate=3")
    await done
    assert scraped == [quick, slow]


@ensureDeferred
async def test_example_4_results_with_more_structure(server: MockServer, write) -> None:
    """An item holds url, length and content, and itemadapter knows it."""
    crawler = make_crawler(BatchSpider)
    items: list[dict] = []

    def item_scraped(item) -> None:
        items.append(ItemAdapter(item).asdict())

    crawler.signals.connect(item_scraped, signals.item_scraped)
    url = server.url("page/1")
    await crawler.crawl(urls=write(url))
    page = "<html><head><title>1</title></head><body>xxxxxxxxxx</body></html>"
    assert items == [{"url": url, "length": len(page), "content": page, "base64": False}]


class Columns(BatchSpider):
    """Notes what its callback and its errback know of the row they are called for."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.known: dict[str, tuple[str, str]] = {}

    def parse(self, response):
        target = response.meta["batcher_target"]
        self.known[target.columns["id"]] = ("callback", target.url)
        return super().parse(response)

    def on_failure(self, failure):
        target = failure.request.meta["batcher_target"]
        self.known[target.columns["id"]] = ("errback", target.url)


@ensureDeferred
async def test_example_5_passing_values_to_callbacks(server: MockServer, write) -> None:
    """A row's own columns reach its own callback, errback and item; the requested URL is kept through redirects."""
    urls = {
        "a": server.url("redirect?to=/page/elsewhere"),
        "b": server.url("status/404"),
        "c": server.url("page/slow?delay=0.1"),
        "d": "http://127.0.0.1:1/",
        "e": server.url("page/quick"),
    }
    crawler = make_crawler(Columns)
    items: dict[str, str] = {}

    def item_scraped(item) -> None:
        items[ItemAdapter(item)["id"]] = item.url

    crawler.signals.connect(item_scraped, signals.item_scraped)
    await crawler.crawl(urls=write("url,id", *(f"{url},{id}" for id, url in urls.items()), name="urls.csv"))
    assert crawler.spider.known == {id: ("errback" if id in "bd" else "callback", url) for id, url in urls.items()}
    assert items == {id: urls[id] for id in "ace"}


def test_example_6_adding_some_error_checking(project: Project, server: MockServer) -> None:
    """A 404 and a domain that does not resolve are logged with their reason, counted and recorded; the rest goes on."""
    project.write(
        "urls.txt",
        "\n".join(
            [
                server.url("page/1"),
                server.url("status/404"),
                "http://no-such-domain.invalid/",
                server.url("page/2"),
            ]
        ),
    )
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", "-a", "failures=failures.jsonl", "-O", "items.jsonl")
    assert run.status == 0
    assert {item["url"] for item in project.items()} == {server.url("page/1"), server.url("page/2")}
    assert f"failed/http-404 {server.url('status/404')}: 404 Not Found (line 2, 1 attempt)" in run.log
    assert "failed/dns http://no-such-domain.invalid/: CannotResolveHostError" in run.log
    assert run.stats["batcher/outcomes/failed/http-404"] == run.stats["batcher/outcomes/failed/dns"] == 1
    assert {row["outcome"] for row in project.items("failures.jsonl")} == {"failed/http-404", "failed/dns"}
    assert "Traceback" not in run.log


@pytest.mark.parametrize(("max_run", "peak"), [(1, 1), (4, 4), (0, 4)])
def test_example_7_batching_with_deferred_semaphore(
    project: Project, server: MockServer, max_run: int, peak: int
) -> None:
    """Four pages that take a second: at most maxRun at a time; with 4, or no limit, all four at once."""
    project.write(
        "project_settings.py",
        (project.path / "project_settings.py").read_text() + "ADDONS = {}\n"
        "DOWNLOADER_MIDDLEWARES = {'scrapy_batcher.SemaphoreMiddleware': 1000}\n",
    )
    project.write(
        "four.py",
        f"""
import scrapy
class Four(scrapy.Spider):
    name = "four"
    start_urls = [f"{server.url("page/")}{{n}}?delay=1" for n in range(4)]
    def parse(self, response):
        yield {{"url": response.url}}
""",
    )
    run = project.scrapy("runspider", "four.py", settings={"CONCURRENT_REQUESTS": max_run})
    assert run.stats["item_scraped_count"] == 4
    assert server.peak() == peak


def test_example_8_throttling_with_cooperator(project: Project, server: MockServer) -> None:
    """With 25,000 rows and N workers never more than N requests and a few are alive, and the memory is that of 100."""
    project.write(
        "watched.py",
        """
from scrapy.utils.trackref import live_refs
from scrapy import Request, signals
from scrapy_batcher import BatchSpider

class Watched(BatchSpider):
    name = "watched"
    most = 0
    custom_settings = {
        "DOWNLOADER_MIDDLEWARES": {"watched.Answers": 950},
        "DOWNLOADER_MIDDLEWARES_BASE": {}, "SPIDER_MIDDLEWARES_BASE": {},
    }

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.spider_closed, signals.spider_closed)
        return spider

    def parse(self, response):
        self.most = max(self.most, sum(len(refs) for cls, refs in live_refs.items() if issubclass(cls, Request)))

    def spider_closed(self):
        stats = self.crawler.stats
        stats.set_value("most_requests", self.most)
        # Not getrusage(): its peak begins with that of the process that started this one.
        status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
        stats.set_value("peak_kib", int(status["VmHWM"].split()[0]))

class Answers:
    "Answers in the server's place, so that the test is quick."
    def process_request(self, request):
        from scrapy.http import HtmlResponse
        return HtmlResponse(request.url, body=b"<p>", request=request)
""",
    )
    peaks = {}
    for rows in (100, 25_000):
        project.write("urls.txt", "".join(f"http://host-{n % 1000}.invalid/{n}\n" for n in range(rows)))
        settings = {"EXTENSIONS": '{"project_spiders.DumpStats": 1}', "CONCURRENT_REQUESTS": 10, "CONCURRENT_ITEMS": 1}
        run = project.scrapy("runspider", "watched.py", "-a", "urls=urls.txt", settings=settings)
        assert run.status == 0, run.log
        assert run.stats["batcher/outcomes/fetched"] == rows
        assert run.stats["most_requests"] <= 10 + 5
        peaks[rows] = run.stats["peak_kib"]
    assert peaks[25_000] - peaks[100] < 10 * 1024, "KiB"


@ensureDeferred
async def test_asked_for_the_response_headers(server: MockServer, write) -> None:
    """Response headers and status can be chosen as item fields."""
    crawler = make_crawler(BatchSpider, BATCHER_FIELDS=["url", "status", "headers"])
    items: list[dict] = []

    def item_scraped(item) -> None:
        items.append(ItemAdapter(item).asdict())

    crawler.signals.connect(item_scraped, signals.item_scraped)
    await crawler.crawl(urls=write(server.url("page/1")))
    assert items[0]["status"] == 200
    assert items[0]["headers"]["Content-Type"] == ["text/html; charset=utf-8"]


@ensureDeferred
async def test_asked_why_a_timeout_counts_the_wait(server: MockServer, write) -> None:
    """The timeout counts from the moment a download really starts: waiting for a permit never eats it."""
    # One at a time, each takes a third of the timeout: the last has waited for longer than the timeout.
    crawler = await crawl(
        BatchSpider,
        urls=write(*(server.url(f"page/{n}?delay=1") for n in range(5))),
        settings={"CONCURRENT_REQUESTS_PER_DOMAIN": 1, "DOWNLOAD_TIMEOUT": 3, "RETRY_ENABLED": False},
    )
    assert crawler.stats.get_value("batcher/outcomes/fetched") == 5


@ensureDeferred
async def test_asked_about_one_request_at_a_time(server: MockServer, write) -> None:
    """The width is what was asked for: with 5 workers, 5 requests are on the server at once."""
    crawler = make_crawler(BatchSpider, CONCURRENT_REQUESTS=5)
    done = crawler.crawl(urls=write(*(server.url(f"page/{n}?gate=5") for n in range(12))))
    await until(lambda: server.control()["in_flight"].get("*") == 5)
    server.control("open?gate=5")
    await done
    assert server.peak() == 5
