"""Log lines for each page are there when somebody reads them."""

from __future__ import annotations

import logging
import re

import pytest
from pytest_twisted import ensureDeferred

from scrapy_batcher import BatchSpider
from scrapy_batcher.adapters.logformatter import LogFormatter
from tests.conftest import Project
from tests.crawling import run
from tests.mockserver import MockServer


@pytest.mark.parametrize(("level", "lines"), [("INFO", 0), ("DEBUG", 1)])
def test_lines_by_level(project: Project, server: MockServer, level: str, lines: int) -> None:
    """At level DEBUG the log has both lines of a page, at INFO neither."""
    project.write("list.txt", server.url("page/one"))
    log = project.scrapy("crawl", "batch", "-a", "urls=list.txt", settings={"LOG_LEVEL": level}).log
    assert log.count("DEBUG: Crawled (200)") == lines
    assert log.count("DEBUG: Scraped from <200") == lines


class Heard(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += re.findall(r"^(Crawled|Scraped) (?:\(200\)|from)", record.getMessage())


@pytest.mark.parametrize(
    ("name", "level", "propagates", "heard"),
    [
        ("scrapy", logging.DEBUG, True, ["Crawled", "Scraped"]),
        ("scrapy.core.engine", logging.DEBUG, True, ["Crawled"]),
        ("scrapy.core.scraper", logging.NOTSET, False, ["Scraped"]),
        ("", logging.INFO, True, []),
        ("", logging.DEBUG, False, []),
    ],
)
@ensureDeferred
async def test_who_hears(
    server: MockServer,
    urls,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    level: int,
    propagates: bool,
    heard: list[str],
) -> None:
    """A handler anywhere above hears them, if its level lets it and they get there; nothing is made for nobody."""
    monkeypatch.setattr(logging.root, "handlers", [])
    root_level = logging.root.level
    logging.root.setLevel(logging.NOTSET)  # as Scrapy's own set-up has it
    monkeypatch.setattr(logging.getLogger("scrapy"), "propagate", propagates)
    handler = Heard(level)
    logging.getLogger(name).addHandler(handler)
    asked = []

    class Noting(LogFormatter):
        def crawled(self, request, response, spider):
            asked.append(super().crawled(request, response, spider))
            return asked[-1]

    try:
        await run(BatchSpider, urls(server.url("page/one")), {"LOG_FORMATTER": Noting, "LOG_LEVEL": "INFO"})
    finally:
        logging.root.setLevel(root_level)
        logging.getLogger(name).removeHandler(handler)
    assert handler.lines == heard
    assert [line is not None for line in asked] == ["Crawled" in heard]


@ensureDeferred
async def test_a_projects_own(server: MockServer, urls) -> None:
    """A project's own formatter is the one that is used."""

    class OwnFormatter(LogFormatter):
        pass

    crawler = await run(BatchSpider, urls(server.url("page/one")), {"LOG_FORMATTER": OwnFormatter})
    assert type(crawler.logformatter) is OwnFormatter
