"""What the benchmarks share: the server's process, `scrapy crawl` in a process of its own, and tables of medians."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any
from urllib.request import urlopen

HERE = Path(__file__).parent

SEMAPHORE = {"scrapy_batcher.SemaphoreMiddleware": 1000}
NO_SEMAPHORE = {"scrapy_batcher.SemaphoreMiddleware": None}


@dataclass(frozen=True, eq=False)
class Case:
    """One way to crawl: a row of a table.

    :param spider: ``plain`` or ``batch``
    :param settings: what makes it this case
    :param job: whether it has a ``JOBDIR``, a new one each time
    """

    name: str
    spider: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    job: bool = False


@dataclass(frozen=True)
class Run:
    """A finished crawl.

    :param wall: seconds, of the whole process
    :param cpu: seconds, of the whole process
    :param stats: Scrapy's, and those of ``benchmark_project``
    """

    wall: float
    cpu: float
    stats: dict[str, Any]


class Server:
    """``server.py``, or another *file*, running."""

    def __init__(self, file: str = "server.py") -> None:
        command = [sys.executable, str(HERE / file)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._port = self._process.stdout.readline().strip()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self._port}/{path}"

    def peak(self) -> int:
        """How many requests were in flight at once, at most, since this was last asked."""
        return self._ask("peak")

    def requests(self) -> int:
        """How many requests there were."""
        return self._ask("requests")

    def report(self) -> dict[str, Any]:
        """What was seen since this was last asked, of ``fair_server.py``."""
        return self._ask("report")

    def _ask(self, what: str) -> Any:
        with urlopen(self.url(what), timeout=10) as response:
            return json.loads(response.read())

    def close(self) -> None:
        self._process.communicate()


class Bench:
    """A server, a folder for lists and feeds, and crawls."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def write_list(self, path: str, count: int) -> Path:
        """A list of *count* URLs that begin with *path*."""
        file = self.folder / f"{path.replace('/', '-')}-{count}.txt"
        with file.open("w") as lines:
            lines.writelines(self.server.url(f"{path}/{n}\n") for n in range(count))
        return file

    def crawl(self, case: Case, urls: Path, *, pages: int, seconds: float = 120, **settings: Any) -> Run:
        """Run *case* over the list *urls*, with further *settings*.

        :param pages: how many items must come out, at least
        :param seconds: after which it is killed
        """
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        given = {**settings, **case.settings, "REPORT": report}
        if case.job:
            shutil.rmtree(self.folder / "job", ignore_errors=True)
            given["JOBDIR"] = "job"
        with (self.folder / "log.txt").open("w+") as log:
            started = time.monotonic()
            process = self.start(case, urls, "-O", log, **given)
            limit = threading.Timer(seconds, process.kill)
            limit.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                limit.cancel()
                if process.returncode is None:
                    process.kill()
            wall = time.monotonic() - started
            log.seek(0)
            stats = json.loads(report.read_text()) if report.exists() else {}
            if process.returncode or stats.get("log_count/ERROR") or stats.get("item_scraped_count", 0) < pages:
                sys.exit(f"{case.name} failed with status {process.returncode}:\n{log.read()[-5000:]}")
        return Run(wall, usage.ru_utime + usage.ru_stime, stats)

    def start(self, case: Case, urls: Path, output: str, log: IO[str], **settings: Any) -> subprocess.Popen[bytes]:
        """Begin to run *case*, with just these *settings*.

        :param output: ``-O`` to write the feed items.jsonl anew, ``-o`` to go on with it
        :param log: where its log goes
        """
        sets = [f"--set={name}={_as_text(value)}" for name, value in settings.items()]
        command = [sys.executable, "-m", "scrapy", "crawl", case.spider, "-a", f"urls={urls}", output, "items.jsonl"]
        path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "SCRAPY_SETTINGS_MODULE": "benchmark_project"}
        return subprocess.Popen([*command, *sets], cwd=self.folder, env=environment, stderr=log)


@contextmanager
def bench(server_file: str = "server.py") -> Iterator[Bench]:
    server = Server(server_file)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Bench(server, Path(folder))
    finally:
        server.close()


def parser(doc: str, *, runs: int) -> ArgumentParser:
    """A command line with ``--runs``, that shows the first line of *doc* as its help."""
    parser = ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument(
        "--runs", type=int, default=runs, help="of each case, of which the median is shown (%(default)s)"
    )
    return parser


def rounds(runs: int, cases: Sequence[Any]) -> Iterator[Any]:
    """The *cases* in turn, *runs* times over: what slows the machine down for a while slows all of them."""
    for number in range(runs):
        for place, case in enumerate(cases):
            if sys.stderr.isatty():
                print(f"\rround {number + 1} of {runs}, {place + 1} of {len(cases)} ", end="", file=sys.stderr)
            yield case
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)


def spread(values: Sequence[float], digits: int) -> str:
    """The median of *values*, and how far they lie apart."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"  # noqa: RUF001 - a dash for a range


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table that is also Markdown: the first column to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    print(f"\n{title}\n")
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")


def _as_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
