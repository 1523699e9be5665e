"""Every command and every code block of the README and of docs/ does what it stands there for."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_twisted
from scrapy import signals

from scrapy_batcher import BatchSpider
from tests.conftest import ROOT, Project, make_project
from tests.crawling import run, watched
from tests.fileserver import FileServer
from tests.mockserver import MockServer

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(
    r"^(?P<mark><!-- not run: (?P<reason>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
_SITEMAP = (
    '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    "<url><loc>{0}</loc></url><url><loc>{1}</loc></url></urlset>"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, and why it is not run, if it is not."""

    document: Path
    number: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.document.name}-{self.number}"


def blocks(document: Path) -> list[Block]:
    found = enumerate(_FENCE.finditer(document.read_text()), 1)
    return [Block(document, number, match["language"], match["code"], match["reason"]) for number, match in found]


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
RUN = [block for block in BLOCKS if block.language and block.reason is None]
SHELL = sorted({block.document for block in RUN if block.language == "sh"})
PYTHON = [block for block in RUN if block.language == "python"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_each_block_is_run_or_says_why_not(document: Path) -> None:
    """No fence is overlooked, and what is neither shell nor Python, nor just a picture, is marked with a reason."""
    text = document.read_text()
    here = blocks(document)
    assert len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)) == 2 * len(here)
    assert text.count("<!-- not run") == sum(block.reason is not None for block in here)
    for block in here:
        assert block.reason is None or len(block.reason) > 10, block
        assert block.language in ("", "sh", "python") or block.reason, block
        assert block.language or not re.search(r"^(scrapy|pip|python3?) ", block.code, re.MULTILINE), block


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every link within the repository names a file that is there, and a heading of it."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target


@pytest.fixture(scope="module")
def scrapy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `scrapy` that begins at once."""
    folder = tmp_path_factory.mktemp("bin")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.forkserver", str(folder / "socket")],
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    script = folder / "scrapy"
    script.write_text(
        f'#!/bin/sh\nexec {sys.executable} -S -E {ROOT / "tests/forkserver.py"} {folder / "socket"} "$@"\n'
    )
    script.chmod(0o755)
    yield folder
    os.killpg(server.pid, signal.SIGTERM)  # with whatever commands are still there
    server.communicate()


@pytest.fixture
def files() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()


class Reader:
    """Somebody who types a document's commands, in a project, with lists of their own."""

    def __init__(self, project: Project, server: MockServer, files: FileServer) -> None:
        self.project, self.server, self.files = project, server, files
        good = [server.url(f"page/{number}", f"127.0.0.{number}") for number in (1, 2, 3)]
        lines = "".join(f"{url}\n" for url in [*good, server.url("status/404")])
        table = "url,link,id,sku,head,proxy_name\n" + "".join(
            f"{url},{url},{number},A-{number},,proxy:a\n" for number, url in enumerate(good)
        )
        for name in ("list.txt", "urls.txt", "old.txt"):
            project.write(name, lines)
        for name in ("list.csv", "photos.csv"):
            project.write(name, table)
        (project.path / "lists").mkdir()
        for name in ("list.csv.gz", "lists/one.csv.gz", "lists/two.csv.gz"):
            project.write(name, gzip.compress(table.encode()))
        project.write("urls.txt.gz", gzip.compress(lines.encode()))
        project.write("sitemap.xml", _SITEMAP.format(*good))
        files.files["sitemap.xml"] = (project.path / "sitemap.xml").read_bytes()
        pq.write_table(pa.table({"url": good}), project.path / "new.parquet")

    def here(self, code: str) -> str:
        """*code*, with what is on this machine in place of what is elsewhere, or is too much for a test."""
        for there, here in {
            "https://example.com/sitemap.xml": self.files.url("sitemap.xml"),
            "https://example.com/": self.server.url("page/"),
            "http://proxy.example:3128": self.server.url("")[:-1],
            "/page/a-page-that-is-missing": "/status/404",
            "/var/lib/node_exporter/": "",
            "METRICS=9410": "METRICS=0",
            "seq 8 | xargs -P 8": "seq 2 | xargs -P 2",
            "shard={}/8": "shard={}/2",
        }.items():
            code = code.replace(there, here)
        return code


@pytest.fixture
def reader(tmp_path: Path, server: MockServer, files: FileServer) -> Reader:
    return Reader(make_project(tmp_path), server, files)


@pytest.mark.parametrize("document", SHELL, ids=lambda document: document.name)
def test_commands(document: Path, reader: Reader, scrapy: Path) -> None:
    """A document's commands, typed one after the other, all end well, and leave the files that they name."""
    code = "".join(block.code for block in RUN if block.document == document and block.language == "sh")
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {
        "PATH": f"{scrapy}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(reader.project.path)]),
    }
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", reader.here(code)],
        cwd=reader.project.path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = shell.communicate(timeout=100)
    finally:
        shell.kill()
    assert shell.returncode == 0, output
    listed = (reader.project.path / "urls.txt").read_text().split()
    assert sorted(reader.server.control()["proxied"]) == sorted(listed if "http_proxy=" in code else [])
    logs = output + "".join(path.read_text() for path in reader.project.path.rglob("*.log"))
    assert "Traceback" not in logs, logs
    assert "incomplete" not in logs, logs
    crawls = len(re.findall(r"\bscrapy crawl ", code)) + code.count("seq ") - code.count("BATCHER_ENABLED=False")
    assert len(re.findall(r"Batch finished\n.* \+ 0 pending$", logs, re.MULTILINE)) == crawls, logs
    named = re.findall(r" -[oO] ([\w./{}-]+)(?= |$)", code, re.MULTILINE)
    outputs = [name.replace("{}", shard) for name in named for shard in ("12" if "{}" in name else "1")]
    assert outputs
    folder = reader.project.path / ("pages" if "startproject pages" in code else "")
    for name in outputs:
        assert (folder / name).exists(), name
        assert name == "more.jsonl" or (folder / name).stat().st_size > 0, name


@pytest.mark.parametrize("block", PYTHON, ids=str)
@pytest_twisted.ensureDeferred
async def test_python(block: Block, reader: Reader) -> None:
    """Settings are taken, and a batch is fetched with them; spiders and calls work."""
    code = reader.here(block.code)
    for proxy in re.findall(r"http://\w\.proxy\.example:3128", code):
        code = code.replace(proxy, reader.server.url("")[:-1])
    if "reactor.run()" in code:
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=100)
        return
    await _run_inside(code, reader)


async def _run_inside(code: str, reader: Reader) -> None:
    folder = reader.project.path
    names: dict[str, object] = {}
    if "limits_of(crawler)" in code:
        crawler = watched(BatchSpider, {"BATCHER_LIMITS": {"host:example.com": 1, "host:example.org": 1}})
        called = []

        def call() -> None:
            exec(code, {"crawler": crawler})
            called.append(True)

        crawler.signals.connect(call, signals.engine_started)
        await crawler.crawl(urls=str(folder / "list.csv"))
        assert called == [True]
        return
    path = reader.project.write("block.py", code)  # Scrapy looks into a callback's source
    exec(compile(code, path, "exec"), names)
    spiders = [value for value in names.values() if isinstance(value, type) and issubclass(value, BatchSpider)]
    spider = next((found for found in spiders if found is not BatchSpider), BatchSpider)
    settings = {name: value for name, value in names.items() if name.isupper() and name != "PROXIES"}
    if "BATCHER_BODIES" in settings:
        settings["BATCHER_BODIES"] = str(folder / "pages")
    feed = {"FEEDS": {str(folder / "items.jsonl"): {"format": "jsonlines"}}}
    crawler = await run(spider, str(folder / "list.csv"), {**feed, **settings})
    assert crawler.totals.outcomes == {"fetched": 3}
    assert len(reader.server.control()["proxied"]) == (3 if "PROXIES" in names else 0)
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert len(items) == 3


class Refs:
    """A pipeline that knows each item by its ``ref``."""

    def process_item(self, item):
        return item if item["ref"] else None


@pytest.mark.parametrize(
    ("settings", "outcomes"),
    [
        pytest.param({"ITEM_PIPELINES": {Refs: 200}}, {"failed/pipeline": 3, "failed/http-404": 1}, id="alltheplaces"),
        pytest.param({"HTTPERROR_ALLOW_ALL": True, "HTTPPROXY_ENABLED": False}, {"fetched": 4}, id="kingfisher"),
        pytest.param(
            {"EXTENSIONS": {"scrapy.extensions.closespider.CloseSpider": None}, "CLOSESPIDER_ITEMCOUNT": 1}
            | {"AUTOTHROTTLE_ENABLED": True, "AUTOTHROTTLE_START_DELAY": 0.01, "ROBOTSTXT_OBEY": True}
            | {"DOWNLOADER_MIDDLEWARES": {"scrapy.downloadermiddlewares.robotstxt.RobotsTxtMiddleware": 543}},
            {"fetched": 3, "failed/http-404": 1},
            id="city-scrapers",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_existing_projects(settings: dict, outcomes: dict[str, int], reader: Reader) -> None:
    """With what the three public projects set, a batch does as docs/existing-project.md says."""
    crawler = await run(BatchSpider, str(reader.project.path / "list.txt"), settings)
    assert crawler.totals.outcomes == outcomes
