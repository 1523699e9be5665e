"""Pages per core: what a page costs in processor time, beside others who fetch the same list.

All fetch the same list from the same nginx, which has a processor core of its own, as they have: pages of 10 KB, 50 at
once, each an item with its URL, length and content in a file of JSON lines (curl writes a file for each page). Nobody
verifies certificates. After every run its output is compared with the list and the page: a page that is missing, comes
twice or differs ends the benchmark.

Each turn is a run with a short list and one with a long list, and what is shown is the difference, divided by the pages
between them: start-up, imports and opening the connections cancel out, for each in the way that is its own. Turns are
interleaved, and ratios are taken within a round, so that what slows the machine down for a while slows all of them.

- plain Scrapy: a spider whose ``start()`` loops over the file, as it comes
- the batch spider, in an environment without and with the ``fast`` extra
- minet: its pool of threads from Python, with pycurl (its command ``minet fetch``, and it without pycurl, cost more)
- crawlee: ``HttpCrawler``, its queue in memory (in files, as it comes, it costs several times as much)
- a bare aiohttp loop with a semaphore, and ``curl --parallel``: what is possible without what a framework does. Most of
  curl's cost is to make a file for each page; in memory, with ``TMPDIR=/dev/shm``, it is less

Columns: processor time a page (user and system, of the process and its children), pages for each second of it, that
beside plain Scrapy's, seconds on the clock, peak memory in the long run.

``--parts`` compares the parts of scrapy-batcher instead, each beside the same without it:

- ``CONCURRENT_ITEMS=1``, which the batch spider sets: Scrapy makes that many tasks for every response, 100 by default
- what the semaphore costs an ordinary spider, and the batch spider, at full width: what to look for is under 2%
- the batch spider's workers alone, on one iterator over the file: beside that, what the ledger costs, with turns,
  limits and outcomes
- a job directory, so that nothing is lost: what to look for is under 5%

``--bindings`` compares the two ways to libcurl from Python, as bare loops.

    python benchmarks/throughput.py [--runs 5] [--pages 5000] [--size 10KB] [--tls] [--gzip] [--all] [--parts]
        [--bindings] [--only scrapy batch …]

Environments are made with pip when they are first needed; nginx and curl are Debian's nginx-light and curl.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import environments
from common import HERE, NO_SEMAPHORE, SEMAPHORE, Usage, finish, need, on_core, parser, print_table, rounds, spread
from environments import ALONE, Environments
from nginx import SIZES, nginx, page

WIDTH = 50  # pages in flight
SHORT = 100  # pages: enough for every connection to be opened
LONGEST = 600  # seconds, of one run

OUTPUT = "items.jsonl"

CURL = "scrapy_batcher.fast.curl.CurlDownloadHandler"


@dataclass(frozen=True)
class Peer:
    """Who fetches a list: a row of the table.

    :param name: for ``--only``
    :param environment: where it runs; None for what Debian has
    :param command: of its Python interpreter and the list, what is run, in a new folder, and writes its output there
    :param beside: the name of the one that it is compared with
    """

    name: str
    title: str
    environment: str | None
    command: Callable[[str, Path], list[str]]
    beside: str = "scrapy"


def crawl(spider: str, **settings: object) -> Callable[[str, Path], list[str]]:
    """`scrapy crawl`, of the project in benchmark_project.py."""
    given = {"CONCURRENT_REQUESTS": WIDTH, "CONCURRENT_REQUESTS_PER_DOMAIN": WIDTH, **settings}
    if spider != "batch":
        given |= ALONE
    sets = [f"--set={key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in given.items()]
    return lambda python, urls: [
        *(python, "-m", "scrapy", "crawl", spider, "-a", f"urls={urls}", "-O", OUTPUT, *sets),
    ]


def script(file: str) -> Callable[[str, Path], list[str]]:
    return lambda python, urls: [python, str(HERE / "peers" / file), str(urls), OUTPUT, str(WIDTH)]


def curl(_: str, urls: Path) -> list[str]:
    """Its configuration names each page's file, by its place in the list."""
    lines = urls.read_text().splitlines()
    configuration = urls.with_suffix(".curl")
    configuration.write_text("".join(f'url = "{url}"\noutput = "pages/{n}"\n' for n, url in enumerate(lines)))
    return [
        *("curl", "--silent", "--show-error", "--fail", "--insecure", "--compressed", "--create-dirs"),
        *("--parallel", "--parallel-max", str(WIDTH), "--config", str(configuration)),
    ]


PEERS = [
    Peer("scrapy", "plain Scrapy", "scrapy", crawl("plain")),
    Peer("batch", "batch spider", "batch", crawl("batch")),
    Peer("fast", "batch spider, fast", "fast", crawl("batch")),
    Peer("minet", "minet, with pycurl", "minet", script("minet_pool.py")),
    Peer("crawlee", "crawlee", "crawlee", script("crawlee_crawler.py")),
    Peer("aiohttp", "bare aiohttp loop", "aiohttp", script("aiohttp_loop.py")),
    Peer("curl", "curl --parallel", None, curl),
]


def parts(name: str, title: str, **handlers: object) -> list[Peer]:
    """The batch spider in the environment *name* with fewer parts and with more, each beside the one before.

    :param handlers: settings that the add-on would make, for the one that is without it
    """
    free = crawl("batch", DOWNLOADER_MIDDLEWARES=NO_SEMAPHORE)
    return [
        Peer(f"{name}-workers", f"{title}: its workers alone", name, crawl("workers", CONCURRENT_ITEMS=1, **handlers)),
        Peer(f"{name}-free", f"{title}, without SemaphoreMiddleware", name, free, f"{name}-workers"),
        Peer(name, title, name, crawl("batch"), f"{name}-free"),
        Peer(f"{name}-job", f"{title}, with JOBDIR", name, crawl("batch", JOBDIR="job"), name),
    ]


PLAIN_SEMAPHORE = crawl("plain", DOWNLOADER_MIDDLEWARES=SEMAPHORE)

PARTS = [
    PEERS[0],
    Peer("scrapy-one", "plain Scrapy, CONCURRENT_ITEMS=1", "scrapy", crawl("plain", CONCURRENT_ITEMS=1)),
    Peer("scrapy-semaphore", "plain Scrapy with SemaphoreMiddleware", "batch", PLAIN_SEMAPHORE),
    *parts("batch", "batch spider"),
    *parts("fast", "batch spider, fast", DOWNLOAD_HANDLERS=dict.fromkeys(("http", "https"), CURL)),
]


BINDINGS = [
    Peer("pycurl", "bare pycurl loop", "fast", script("pycurl_loop.py")),
    Peer("curl_cffi", "bare curl_cffi loop", "curl_cffi", script("curl_cffi_loop.py"), "pycurl"),
]


class Bench:
    """Lists of a page at *site*, and runs over them, whose output is compared with what was asked for."""

    def __init__(self, folder: Path, found: Environments, site: str, size: str) -> None:
        self._folder = folder
        self._environments = found
        self._size = size
        self._page = page(size)
        self._site = site

    def run(self, peer: Peer, pages: int) -> Usage:
        urls = [f"{self._site}{self._size}/{n}" for n in range(pages)]
        file = self._folder / "urls.txt"
        file.write_text("".join(f"{url}\n" for url in urls))
        folder = self._folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        python = self._environments.python(peer.environment) if peer.environment else ""
        environment = {**os.environ, "PYTHONPATH": str(HERE), "SCRAPY_SETTINGS_MODULE": "benchmark_project"}
        log = folder / "log.txt"
        with log.open("w") as output:
            command = on_core(0, peer.command(python, file))
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
            usage = finish(process, LONGEST)
        wrong = f"it ended with status {process.returncode}" if process.returncode else self._fault(folder, urls)
        if wrong:
            sys.exit(f"{peer.title}, {pages:,} pages: {wrong}\n{log.read_text()[-5000:]}")
        shutil.rmtree(folder)
        return usage

    def _fault(self, folder: Path, urls: list[str]) -> str | None:
        """What is wrong with the output of a run."""
        missing = set(urls)
        for url, length, content in read_output(folder, urls):
            if url not in missing:
                return f"{url} came twice, or was not asked for"
            if length != SIZES[self._size] or content != self._page:
                return f"{url} is not as it was sent: {length:,} bytes, {content[:200]!r}"
            missing.remove(url)
        return f"{len(missing):,} pages are missing, {min(missing)} is one of them" if missing else None


def read_output(folder: Path, urls: list[str]) -> Iterator[tuple[str, int, str]]:
    """URL, length and content of each page in the output of a run."""
    if (folder / OUTPUT).exists():
        with (folder / OUTPUT).open() as lines:
            for line in lines:
                item = json.loads(line)
                yield item["url"], item["length"], item["content"]
    else:
        for file in folder.glob("pages/*"):
            body = file.read_bytes()
            yield urls[int(file.name)], len(body), body.decode()


@dataclass(frozen=True)
class Turn:
    """A run with the long list less one with the short list, for each page between them; seconds and MiB."""

    cpu: float
    wall: float
    peak: float


def measure(bench: Bench, peers: list[Peer], runs: int, pages: int) -> dict[str, list[Turn]]:
    """The turns of each peer, by its name."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    for peer in rounds(runs, peers):
        start, whole = bench.run(peer, SHORT), bench.run(peer, pages)
        between = pages - SHORT
        turn = Turn((whole.cpu - start.cpu) / between, (whole.wall - start.wall) / between, whole.peak)
        turns[peer.name].append(turn)
    return turns


def ratio(turns: dict[str, list[Turn]], one: str, other: str) -> list[float]:
    """How much processor time *one* takes for a page, beside *other*, in each round."""
    return [its.cpu / others.cpu for its, others in zip(turns[one], turns[other], strict=True)]


def rows(turns: dict[str, list[Turn]], peers: list[Peer]) -> Iterator[list[object]]:
    for peer in peers:
        its = turns[peer.name]
        beside = [1 / value for value in ratio(turns, peer.name, "scrapy")] if "scrapy" in turns else []
        yield [
            peer.title,
            spread([turn.cpu * 1000 for turn in its], 3),
            f"{median(1 / turn.cpu for turn in its):,.0f}",
            f"{median(beside):.2f}" if beside else "",
            spread([turn.wall * 1000 for turn in its], 3),
            f"{max(turn.peak for turn in its):,.0f}",
        ]


def part_rows(turns: dict[str, list[Turn]], peers: list[Peer]) -> Iterator[list[object]]:
    titles = {peer.name: peer.title for peer in peers}
    for peer in peers:
        is_compared = peer.beside in titles and peer.beside != peer.name
        more = [(value - 1) * 100 for value in ratio(turns, peer.name, peer.beside)] if is_compared else []
        yield [
            peer.title,
            spread([turn.cpu * 1000 for turn in turns[peer.name]], 3),
            spread(more, 1) if more else "",
            titles[peer.beside] if more else "",
        ]


def usable(peers: list[Peer], found: Environments) -> list[Peer]:
    """Those of *peers* that can run here: without the ``fast`` extra's part there is a row less, and a note."""
    if any(peer.environment is None for peer in peers):
        need("curl")
    names = {peer.environment: None for peer in peers if peer.environment}
    missing = {name for name in names if not found.is_usable(name)}
    for name in names:
        print(f"{name}: {'cannot be used here, left out' if name in missing else found.versions(name)}")
    return [peer for peer in peers if peer.environment not in missing]


def main() -> None:
    options = parser(__doc__, runs=5)
    options.add_argument("--pages", type=int, default=5_000, help="in the long list (%(default)s)")
    options.add_argument("--size", choices=SIZES, default="10KB", help="of a page (%(default)s)")
    options.add_argument("--tls", action="store_true", help="https, with a certificate made for it")
    options.add_argument("--gzip", action="store_true", help="pages are sent compressed")
    options.add_argument("--all", action="store_true", help="every size, and 10 KB with TLS, gzip and both")
    instead = options.add_mutually_exclusive_group()
    instead.add_argument("--parts", action="store_true", help="compare the parts of scrapy-batcher instead")
    instead.add_argument("--bindings", action="store_true", help="compare the ways to libcurl instead")
    options.add_argument("--only", nargs="+", metavar="NAME", help="leave the others out")
    environments.add_option(options)
    given = options.parse_args()
    peers = PARTS if given.parts else BINDINGS if given.bindings else PEERS
    names = [peer.name for peer in peers]
    if unknown := set(given.only or ()) - set(names):
        options.error(f"there is no {unknown.pop()!r}: choose from {', '.join(names)}")
    if given.pages <= SHORT:
        options.error(f"--pages must be more than the {SHORT} of the short list")
    found = Environments(given.environments)
    peers = usable([peer for peer in peers if not given.only or peer.name in given.only], found)
    variants = [(given.size, given.tls, given.gzip)]
    if given.all:
        variants = [(size, False, False) for size in SIZES]
        variants += [("10KB", True, False), ("10KB", False, True), ("10KB", True, True)]
    for size, tls, compressed in variants:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with nginx(folder / "nginx", tls=tls, compressed=compressed) as site:
                turns = measure(Bench(folder, found, site, size), peers, given.runs, given.pages)
        title = (
            f"{given.pages - SHORT:,} pages of {size}{', TLS' if tls else ''}{', gzip' if compressed else ''}, "
            f"{WIDTH} at once, median (least–most) of {given.runs} runs"  # noqa: RUF001 - a dash for a range
        )
        if given.parts or given.bindings:
            header = ["", "CPU a page, ms", "more, %", "than"]
            print_table(title, header, list(part_rows(turns, peers)))
        else:
            header = [
                "", "CPU a page, ms", "pages a CPU second", "beside plain Scrapy", "wall a page, ms", "peak memory, MiB"
            ]  # fmt: skip
            print_table(title, header, list(rows(turns, peers)))


if __name__ == "__main__":
    main()
