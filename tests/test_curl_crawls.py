"""libcurl in whole crawls: when the add-on chooses it, on which loops it runs, how it ends."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from scrapy.settings import Settings

from scrapy_batcher import Addon, addon
from tests.certificates import make_certificate, server_context
from tests.conftest import ROOT, Project
from tests.crawling import CURL
from tests.mockserver import MockServer
from tests.wire import Wire, always, page

HANDLERS = {"http": CURL, "https": CURL}

MakeWire = Callable[..., Wire]


# When it is chosen


def handlers(**settings: object) -> dict[str, object]:
    """The handlers of a project with the add-on and *settings*."""
    chosen = Settings(settings)
    Addon().update_settings(chosen)
    return dict(chosen["DOWNLOAD_HANDLERS"])


def test_chosen() -> None:
    """Where pycurl is installed, for http and https, on Scrapy's default reactor and without one."""
    assert handlers() == HANDLERS
    assert handlers(TWISTED_REACTOR_ENABLED=False) == HANDLERS


@pytest.mark.parametrize(
    "settings",
    [
        {"BATCHER_CURL": False},
        {"TWISTED_REACTOR": None},
        {"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"},
        {"DOWNLOADER_CLIENTCONTEXTFACTORY": "project.ContextFactory"},
    ],
)
def test_not_chosen(settings: dict) -> None:
    """Not where it is not wanted, cannot run, or would ignore the project's own TLS."""
    assert handlers(**settings) == {}


def test_not_chosen_for_what_has_a_handler() -> None:
    """A project's own handler stays, and the other scheme's is libcurl."""
    assert handlers(DOWNLOAD_HANDLERS={"http": "project.Handler"}) == {"http": "project.Handler", "https": CURL}
    assert handlers(DOWNLOAD_HANDLERS={"http": None, "https": None}) == {"http": None, "https": None}


def test_not_chosen_without_pycurl(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without the extra ``fast`` everything is as Scrapy has it; who wishes HTTP/2 is told what to install."""

    def find_none(name: str) -> ModuleSpec | None:
        assert name == "pycurl"
        return None

    monkeypatch.setattr(addon, "find_spec", find_none)
    assert handlers() == {}
    assert caplog.messages == []
    assert handlers(BATCHER_HTTP2=True) == {}
    sentence = "BATCHER_HTTP2 needs pycurl: pip install 'scrapy-batcher[fast]'; without it, HTTP/1.1"
    assert caplog.messages == [sentence]


@pytest.mark.parametrize("text", ["raise ImportError('another OpenSSL')", "version = 'PycURL/7.45.3 libcurl/7.88.1'"])
def test_a_pycurl_that_cannot_be_used(project: Project, server: MockServer, text: str) -> None:
    """A broken or older one, which is there for something else: one sentence, and Scrapy's own handler downloads."""
    project.write("pycurl.py", text)
    project.write("urls.txt", server.url("page/1"))
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", "-O", "items.jsonl")
    assert run.status == 0, run.log
    assert "Scrapy's own handler downloads, not libcurl, as pycurl cannot be used" in run.log
    assert len(project.items()) == 1


def test_a_system_whose_selectors_are_no_files(project: Project, server: MockServer) -> None:
    """As Windows: one sentence, and Scrapy's own handler downloads."""
    with (project.path / "project_settings.py").open("a") as settings:
        settings.write("\nimport selectors\nselectors.DefaultSelector = selectors.SelectSelector\n")
    project.write("urls.txt", server.url("page/1"))
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", "-O", "items.jsonl")
    assert run.status == 0, run.log
    assert "libcurl's sockets cannot be watched on this system" in run.log
    assert len(project.items()) == 1


def test_not_chosen_when_off() -> None:
    """With ``BATCHER_ENABLED`` off everything is as Scrapy has it."""
    assert handlers(BATCHER_ENABLED=False) == {}


def test_a_word_that_is_neither_true_nor_false() -> None:
    """It is refused by its name."""
    with pytest.raises(ValueError, match="BATCHER_CURL must be True or False, not 'maybe'"):
        handlers(BATCHER_CURL="maybe")


# Outcomes, the same with each handler


@pytest.mark.parametrize("curl", [True, False])
def test_outcomes(project: Project, server: MockServer, wire: MakeWire, curl: bool) -> None:
    """What goes wrong has the same name, whoever downloads, and a project's resolver is asked."""
    bomb = gzip.compress(b"x" * 1_000_000)
    expected = {
        server.url("page/1"): "fetched",
        server.url("redirect?to=/page/2"): "fetched",
        server.url("status/404"): "failed/http-404",
        "http://nowhere.example/": "failed/dns",
        "http://127.0.0.1:1/": "failed/refused",
        server.url("page/slow?gate=never"): "failed/timeout",
        server.url("page/1").replace("http:", "https:"): "failed/tls",
        server.url("truncated"): "failed/truncated",
        server.url("page/large?size=200000"): "failed/too-large",
        wire(always(page(bomb, b"Content-Encoding: gzip", b"Content-Type: text/html"))).url(): "failed/too-large",
        server.url("reset"): "failed/connection",
        server.url("garbage"): "failed/connection",
    }
    project.write("urls.txt", "\n".join(expected))
    settings = {
        "BATCHER_CURL": curl,
        "DOWNLOAD_TIMEOUT": 2,
        "DOWNLOAD_MAXSIZE": 100_000,
        "RETRY_ENABLED": False,
        "BATCHER_REST": False,
        "BATCHER_FAILURES": "failures.jsonl",
    }
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", "-O", "items.jsonl", settings=settings)
    assert run.status == 0, run.log
    failed = {row["url"]: row["outcome"] for row in project.items("failures.jsonl")}
    assert {url: failed.get(url, "fetched") for url in expected} == expected
    assert len(project.items()) == 2
    assert "Traceback" not in run.log


# The loops it runs on


SPIDER = """
import scrapy

class Pages(scrapy.Spider):
    name = "pages"
    start_urls = {urls!r}
    custom_settings = {settings!r}

    def parse(self, response):
        yield {{"url": response.url, "protocol": response.protocol}}
"""


ORDINARY = {"SPIDER_MODULES": "pages", "ADDONS": "{}"}


def write_spider(project: Project, *urls: str, **settings: object) -> None:
    """An ordinary spider, in a project without the add-on."""
    settings = {"DOWNLOAD_HANDLERS": HANDLERS, **settings}
    project.write("pages.py", SPIDER.format(urls=list(urls), settings=settings))


def test_for_any_project(project: Project, server: MockServer) -> None:
    """The handler works without the rest of scrapy-batcher."""
    write_spider(project, *(server.url(f"page/{n}") for n in range(20)))
    run = project.scrapy("crawl", "pages", "-O", "items.jsonl", settings=ORDINARY)
    assert run.status == 0, run.log
    assert len(project.items()) == 20


def test_without_a_reactor(project: Project, server: MockServer) -> None:
    """With ``TWISTED_REACTOR_ENABLED=False`` there is asyncio alone."""
    write_spider(
        project, *(server.url(f"page/{n}") for n in range(20)), server.url("").replace("127.0.0.1", "localhost")
    )
    settings = {**ORDINARY, "TWISTED_REACTOR_ENABLED": False}
    run = project.scrapy("crawl", "pages", "-O", "items.jsonl", settings=settings)
    assert run.status == 0, run.log
    assert len(project.items()) == 20
    assert run.stats["downloader/response_status_count/404"] == 1, "localhost is there, and has no such page"


@pytest.mark.parametrize("curl", [True, False])
def test_chosen_without_a_reactor(project: Project, server: MockServer, curl: bool) -> None:
    """The add-on's choice stands where Scrapy makes one of its own: a handler that calls itself experimental."""
    project.write("urls.txt", server.url("page/1"))
    settings = {"TWISTED_REACTOR_ENABLED": False, "BATCHER_CURL": curl, "TELNETCONSOLE_ENABLED": False}
    # Scrapy's choice is one of two, by what is installed, and each brings warnings along.
    command = [*project.command("crawl", "batch", "-a", "urls=urls.txt", "-O", "items.jsonl", settings=settings)]
    command[1:3] = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(project.path)])}
    run = subprocess.run(command, cwd=project.path, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert ("is experimental" in run.stderr) != curl
    assert len(project.items()) == 1


def test_on_another_reactor(project: Project, server: MockServer) -> None:
    """One sentence says what to do."""
    write_spider(project, server.url("page/1"))
    settings = {**ORDINARY, "TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"}
    run = project.scrapy("crawl", "pages", "-O", "items.jsonl", settings=settings)
    assert "CurlDownloadHandler needs asyncio: set TWISTED_REACTOR to" in run.log
    assert not server.control()["hits"]


# How it ends


def test_never_closed(wire: MakeWire) -> None:
    """An interpreter that ends with a handler, a connection and a download that nobody closed ends well."""
    silent = wire(lambda line: line.wait())
    program = f"""
import asyncio
from scrapy import Request, Spider
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.reactor import install_reactor
from scrapy_batcher.fast.curl import CurlDownloadHandler

async def main():
    global handler, download
    handler = CurlDownloadHandler(Crawler(Spider, Settings()))
    print((await handler.download_request(Request({wire(always(page())).url()!r}))).status)
    download = asyncio.ensure_future(handler.download_request(Request({silent.url()!r})))
    await asyncio.sleep(0.1)

install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
from twisted.internet import reactor
reactor.callWhenRunning(lambda: deferred_from_coro(main()).addBoth(lambda _: reactor.stop()))
reactor.run()
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "200\n"
    assert "Segmentation" not in run.stderr


def test_keys_are_logged(wire: MakeWire, tmp_path: Path) -> None:
    """libcurl writes the keys of TLS to ``SSLKEYLOGFILE``, if that is set when the process starts."""
    server = wire(always(page()), tls=server_context(make_certificate(tmp_path / "server.pem", "127.0.0.1")))
    program = f"from scrapy import cmdline; cmdline.execute(['scrapy', 'fetch', '--nolog', {server.url()!r}])"
    settings = f"DOWNLOAD_HANDLERS = {HANDLERS!r}\n"
    (tmp_path / "keysettings.py").write_text(settings)
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            "PATH": "",
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
            "SCRAPY_SETTINGS_MODULE": "keysettings",
            "SSLKEYLOGFILE": str(tmp_path / "keys"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout == "ok\n", run.stderr
    assert "CLIENT_HANDSHAKE_TRAFFIC_SECRET" in (tmp_path / "keys").read_text()
