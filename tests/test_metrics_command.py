"""Metrics of `scrapy crawl` in a process of its own: on every reactor, and what is wrong with it, in a sentence."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Project
from tests.mockserver import MockServer
from tests.scraping import ENDPOINT, in_file, is_free, scrape
from tests.test_command_line import REACTORS, wait_until


def port_of(project: Project, process: subprocess.Popen) -> int:
    """That of the endpoint of *process*, as its log tells it."""
    log = project.path / "log.txt"
    wait_until(lambda: log.exists() and ENDPOINT.search(log.read_text()) is not None, process)
    host, port = ENDPOINT.search(log.read_text()).groups()
    assert host == "127.0.0.1"
    return int(port)


@pytest.mark.parametrize("reactor", REACTORS.values(), ids=REACTORS)
def test_on_every_reactor(project: Project, server: MockServer, reactor: dict) -> None:
    """The endpoint tells the same on every reactor, and without one; it is gone when the process is."""
    project.write("urls.txt", f"{server.url('page/1')}\n{server.url('page/2?gate=g')}\n")
    arguments = ("crawl", "batch", "-a", "urls=urls.txt", "--logfile", "log.txt")
    process = project.popen(*arguments, settings={**reactor, "BATCHER_METRICS": 0})
    port = port_of(project, process)
    metrics = scrape(port, lambda m: m.get("batcher_ledger_rows", state="pending") == 1)
    assert metrics.by("batcher_outcomes_total", "outcome") == {"fetched": 1}
    server.control("open?gate=g")
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, b"")
    assert is_free(port)


def test_a_list_that_has_grown(project: Project, server: MockServer) -> None:
    """A list that was read to its end is so no more, once it has further rows."""
    first, second = f"{server.url('page/1')}\n".encode(), f"{server.url('page/2')}\n".encode()
    arguments = ("crawl", "batch", "-a", "urls=-", "--logfile", "log.txt")
    assert project.scrapy(*arguments, settings={"JOBDIR": "job"}, stdin=first).status == 0
    process = project.popen(*arguments, settings={"JOBDIR": "job", "BATCHER_METRICS": 0}, stdin=subprocess.PIPE)
    port = port_of(project, process)
    assert scrape(port).get("batcher_list_read") == 1
    process.stdin.write(first + second)
    process.stdin.flush()
    metrics = scrape(port, lambda m: m.get("batcher_ledger_rows", state="fetched") == 2)
    assert metrics.get("batcher_list_read") == 0
    process.communicate(timeout=100)
    assert process.returncode == 0


@pytest.mark.parametrize("reactor", REACTORS.values(), ids=REACTORS)
def test_a_textfile_on_every_reactor(project: Project, server: MockServer, reactor: dict) -> None:
    """So does the textfile."""
    project.write("urls.txt", f"{server.url('page/1')}\n{server.url('status/404')}\n")
    settings = {**reactor, "BATCHER_METRICS": "batch.prom"}
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", settings=settings)
    assert run.status == 0, run.log
    metrics = in_file(project.path / "batch.prom")
    assert metrics.by("batcher_ledger_rows", "state") == {"fetched": 1, "failed/http-404": 1}
    assert metrics.get("batcher_running") == 0
    assert metrics.get("batcher_latency_seconds_count") == 2


def test_a_port_that_is_taken(project: Project, server: MockServer) -> None:
    """The command ends with one sentence and a non-zero status, before anything is fetched."""
    project.write("urls.txt", server.url("page/1"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {"BATCHER_METRICS": taken.getsockname()[1], "JOBDIR": "job"}
        run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", settings=settings)
    assert run.status == 1
    assert "Address already in use; give each process a place of its own" in run.log
    assert "Traceback" not in run.log
    assert server.control()["hits"] == {}
    assert not (project.path / "job").exists()


def test_without_the_extra(project: Project) -> None:
    """Who wishes metrics without prometheus_client is told what to install; who does not needs none."""
    project.write("prometheus_client.py", "raise ImportError('it is not here')")
    project.write("urls.txt", "")
    arguments = ("crawl", "batch", "-a", "urls=urls.txt")
    run = project.scrapy(*arguments, settings={"BATCHER_METRICS": 0})
    assert run.status == 1
    assert "BATCHER_METRICS needs prometheus_client (it is not here): pip install 'scrapy-batcher[metrics]'" in run.log
    assert "Traceback" not in run.log
    assert project.scrapy(*arguments).status == 0


def test_off_by_default(project: Project) -> None:
    """Unless it is wished nothing is served, and prometheus_client is not even imported."""
    project.write("urls.txt", "")
    code = """
import sys
from scrapy.crawler import CrawlerProcess
from scrapy_batcher import BatchSpider
settings = {"LOG_ENABLED": False, "TELNETCONSOLE_ENABLED": False, "REMOTE_CONTROL_ENABLED": False}
process = CrawlerProcess({**settings, **dict(arg.split("=") for arg in sys.argv[1:])})
process.crawl(BatchSpider, urls="urls.txt")
process.start()
print("prometheus_client" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    for arguments, is_imported in ([], "False"), (["BATCHER_METRICS=batch.prom"], "True"):
        run = subprocess.run(
            [*command, *arguments], cwd=project.path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=100
        )
        assert run.stdout.decode().strip() == is_imported, run.stderr.decode()


def test_the_documentation(project: Project, server: MockServer) -> None:
    """The commands in docs/metrics.md do what it says, but for where the textfile is."""
    section = (ROOT / "docs/metrics.md").read_text()
    commands = re.findall(r"^scrapy (crawl .*)$", section, re.MULTILINE)
    assert len(commands) == 2
    project.write("list.txt", server.url("page/1"))
    for command in commands:
        command = command.replace("/var/lib/node_exporter/", "").replace("=9410", "=0")
        run = project.scrapy(*command.split())
        assert run.status == 0, run.log
    assert in_file(project.path / "batch.prom").by("batcher_ledger_rows", "state") == {"fetched": 1}
