"""What the benchmarks share: the server's process, `scrapy crawl` in a process of its own, and tables of medians."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
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

LOOK = 0.05  # seconds between two looks at a process

SEMAPHORE = {"scrapy_batcher.SemaphoreMiddleware": 1000}
NO_SEMAPHORE = {"scrapy_batcher.SemaphoreMiddleware": None}


@dataclass(frozen=True, eq=False)
class Case:
    """One way to crawl: a row of a table.

    :param spider: ``plain`` or ``batch``
    :param settings: what makes it this case
    :param job: whether it has a ``JOBDIR``, a new one each time
    :param python: the interpreter, of the environment that it runs in
    """

    name: str
    spider: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    job: bool = False
    python: str = sys.executable


@dataclass(frozen=True)
class Usage:
    """What a process used, from its start to its end.

    :param wall: seconds
    :param cpu: seconds of processor time, user and system, its children's too
    :param peak: MiB of memory, its own
    :param samples: its memory in MiB at so many seconds after its start
    """

    wall: float
    cpu: float
    peak: float
    samples: list[tuple[float, float]]


@dataclass(frozen=True)
class Run(Usage):
    """A finished crawl.

    :param stats: Scrapy's, and those of ``benchmark_project``
    """

    stats: dict[str, Any]


def need(*tools: str) -> None:
    """End with a sentence when one of *tools* is not there; ``nginx from nginx-light`` names its package."""
    for tool in tools:
        name, _, package = tool.partition(" from ")
        if not shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])):
            sys.exit(f"this benchmark needs {name}: apt-get install --no-install-recommends {package or name}")


def on_core(number: int, command: Sequence[object]) -> list[str]:
    """*command* on the processor core with that *number* alone: 0 for what is measured, 1 for the server."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("this benchmark needs two processor cores: one for the server, one for what is measured")
    need("taskset from util-linux")
    return ["taskset", "--cpu-list", str(cores[number]), *map(str, command)]


def memory_of(pid: int) -> tuple[float, float]:
    """MiB that a process has in memory now, and had at most; zeros when it has ended."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    now, most = (int(status.get(name, "0").split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def finish(process: subprocess.Popen[Any], seconds: float) -> Usage:
    """Wait for *process* to end, and look at its memory meanwhile.

    :param seconds: after which it is killed
    """
    # Its own peak is looked up: getrusage() begins with that of the process that started it.
    started, peak, samples = time.monotonic(), 0.0, []
    end = select.poll()
    descriptor = os.pidfd_open(process.pid)
    end.register(descriptor, select.POLLIN)
    try:
        while not end.poll(LOOK * 1000):
            elapsed = time.monotonic() - started
            if elapsed > seconds:
                process.kill()
                break
            now, most = memory_of(process.pid)
            peak = max(peak, most)
            samples.append((elapsed, now))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        os.close(descriptor)
        if process.returncode is None:
            process.kill()
    return Usage(time.monotonic() - started, usage.ru_utime + usage.ru_stime, peak, samples)


class Server:
    """``server.py``, or another *file*, running.

    :param pinned: whether on a processor core of its own
    """

    def __init__(self, file: str = "server.py", *, pinned: bool = False) -> None:
        command = [sys.executable, str(HERE / file)]
        if pinned:
            command = on_core(1, command)
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

    def seconds(self) -> float:
        """How long it was from the first request to the last answer, since this was last asked, of ``server.py``."""
        return self._ask("seconds")

    def report(self) -> dict[str, Any]:
        """What was seen since this was last asked, of ``fair_server.py``."""
        return self._ask("report")

    def _ask(self, what: str) -> Any:
        with urlopen(self.url(what), timeout=10) as response:
            return json.loads(response.read())

    def close(self) -> None:
        self._process.communicate()


class Bench:
    """A server, a folder for lists and feeds, and crawls.

    :param pinned: whether crawls run on a processor core of their own
    """

    def __init__(self, server: Server, folder: Path, *, pinned: bool = False) -> None:
        self.server = server
        self.folder = folder
        self._pinned = pinned

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
            process = self.start(case, urls, "-O", log, **given)
            usage = finish(process, seconds)
            log.seek(0)
            stats = json.loads(report.read_text()) if report.exists() else {}
            if process.returncode or stats.get("log_count/ERROR") or stats.get("item_scraped_count", 0) < pages:
                sys.exit(f"{case.name} failed with status {process.returncode}:\n{log.read()[-5000:]}")
        return Run(**vars(usage), stats=stats)

    def start(self, case: Case, urls: Path, output: str, log: IO[str], **settings: Any) -> subprocess.Popen[bytes]:
        """Begin to run *case*, with just these *settings*.

        :param output: ``-O`` to write the feed items.jsonl anew, ``-o`` to go on with it
        :param log: where its log goes
        """
        sets = [f"--set={name}={_as_text(value)}" for name, value in settings.items()]
        command = [
            case.python,
            "-m",
            "scrapy",
            "crawl",
            case.spider,
            "-a",
            f"urls={urls}",
            output,
            "items.jsonl",
            *sets,
        ]
        if self._pinned:
            command = on_core(0, command)
        path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "SCRAPY_SETTINGS_MODULE": "benchmark_project"}
        return subprocess.Popen(command, cwd=self.folder, env=environment, stderr=log)


@contextmanager
def bench(server_file: str = "server.py", *, pinned: bool = False) -> Iterator[Bench]:
    """A bench with *server_file* running.

    :param pinned: whether server and crawls run on a processor core each
    """
    server = Server(server_file, pinned=pinned)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Bench(server, Path(folder), pinned=pinned)
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
