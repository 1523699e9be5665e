"""What the tests share: a mock server in its own process, and real `scrapy` commands in a project of their own."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings

from tests.downloads import Client
from tests.jobs import Work
from tests.mockserver import MockServer
from tests.wire import Script, Wire

ROOT = Path(__file__).parent.parent

settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


@pytest.fixture(scope="session")
def running_server() -> Iterator[MockServer]:
    server = MockServer()
    yield server
    server.close()


@pytest.fixture
def server(running_server: MockServer) -> MockServer:
    """The mock server, with its counts at zero."""
    running_server.control("clear")
    return running_server


@pytest.fixture
def urls(tmp_path: Path) -> Callable[..., str]:
    """Writes a list, and gives its path."""

    def write(*urls: str) -> str:
        path = tmp_path / "urls.txt"
        path.write_text("".join(f"{url}\n" for url in urls))
        return str(path)

    return write


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    """Starts servers that do as they are told."""
    wires = []

    def start(script: Script, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Wire:
        wires.append(Wire(script, host=host, tls=tls))
        return wires[-1]

    yield start
    for wire in wires:
        wire.close()


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """Makes download handlers over libcurl, with the settings it is given."""
    clients = []

    def make(**settings: object) -> Client:
        clients.append(Client(**settings))
        return clients[-1]

    yield make
    for client in clients:
        pytest_twisted.blockon(client.close())


@dataclass
class Run:
    """A finished command."""

    status: int
    log: str
    output: str

    @property
    def stats(self) -> dict[str, object]:
        """Scrapy's stats, as the project's extension dumped them."""
        return json.loads(self.log.rsplit("STATS ", 1)[1].splitlines()[0])


@dataclass
class Project:
    """A Scrapy project in a folder of its own, with nothing in its settings but the add-on."""

    path: Path

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def command(self, *args: str, settings: Mapping[str, object] | None = None) -> list[str]:
        sets = [f"--set={name}={value}" for name, value in (settings or {}).items()]
        return [sys.executable, "-W", "error", "-m", "scrapy", *args, *sets]

    def popen(self, *args: str, settings: Mapping[str, object] | None = None, **kwargs: object) -> subprocess.Popen:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.path)]),
            "PYTHONUNBUFFERED": "1",
        }
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            self.command(*args, settings=settings), cwd=self.path, env=environment, **{**streams, **kwargs}
        )

    def scrapy(self, *args: str, settings: Mapping[str, object] | None = None, stdin: bytes = b"") -> Run:
        """Run `scrapy` with *args*, to its end."""
        process = self.popen(*args, settings=settings, stdin=subprocess.PIPE)
        try:
            output, log = process.communicate(stdin, timeout=100)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Run(process.returncode, log.decode(), output.decode())

    def items(self, name: str = "items.jsonl") -> list[dict]:
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


SETTINGS = """
BOT_NAME = "tests"
ADDONS = {"scrapy_batcher.Addon": 300}
SPIDER_MODULES = ["project_spiders"]
EXTENSIONS = {"project_spiders.DumpStats": 0}
TELNETCONSOLE_ENABLED = False
REMOTE_CONTROL_ENABLED = False
TWISTED_DNS_RESOLVER = "project_spiders.LoopbackResolver"
LOG_LEVEL = "INFO"
"""

SPIDERS = '''
import json, logging
from scrapy import signals
from scrapy.resolver import CachingThreadedResolver
from twisted.internet import defer, error


class DumpStats:
    @classmethod
    def from_crawler(cls, crawler):
        self = cls()
        self.stats = crawler.stats
        crawler.signals.connect(self.spider_closed, signals.spider_closed)
        return self

    def spider_closed(self):
        logging.getLogger("stats").info("STATS %s", json.dumps(self.stats.get_stats(), default=str))


class LoopbackResolver(CachingThreadedResolver):
    """Knows addresses and no names, so that no test asks the network for one."""

    def getHostByName(self, name, timeout=()):
        if name.replace(".", "").isdigit():
            return defer.succeed(name)
        return defer.fail(error.DNSLookupError(f"no such name: {name}"))
'''


def make_project(path: Path) -> Project:
    project = Project(path)
    project.write("scrapy.cfg", "[settings]\ndefault = project_settings\n")
    project.write("project_settings.py", SETTINGS)
    project.write("project_spiders.py", SPIDERS)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)
