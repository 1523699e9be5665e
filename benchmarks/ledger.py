"""What a ledger costs: to load a list into it, on the disk, and to go on with a long job.

- CPU seconds and wall seconds to read a list and load it, a hundred rows at a time, each such slice committed, and the
  disk waited for after 10,000
- the longest slice, in milliseconds: for so long the event loop does nothing else
- bytes of the ledger's file for each row, after the load, and when half of the rows are settled
- microseconds of CPU to claim a target, as fair turns have it, and the longest time that one claim took
- seconds from the start of ``scrapy crawl batch`` on that job, half of it done, to the first request that it sends, of
  which the first row, a new job with a list of ten, says how much is Scrapy's and Python's own start

Each with all rows on one host, and with each row on a host of its own.

    python benchmarks/ledger.py [--runs 5] [--rows 100000 1000000]
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import defaultdict
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from statistics import median

from common import Bench, Case, bench, parser, print_table, rounds

from scrapy_batcher import Source
from scrapy_batcher.batch.turns import Turns
from scrapy_batcher.config import Config
from scrapy_batcher.jobs.ledger import Ledger, Owner, Settlement
from scrapy_batcher.outcome import FETCHED, Answer, Outcome
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limiters import HOST, TOTAL
from scrapy_batcher.throttling.limits import Limits
from scrapy_batcher.throttling.rules import Rules

SLICE = 100  # rows, as the extension loads them
LOOPBACK = int(ip_address("127.0.0.0"))

SYNC = 10_000  # rows after which the disk is waited for: the extension's second

BATCH = Case("batch spider", "batch")


RULES = Rules(Config(), Limits({TOTAL: Limit(16), f"{HOST}*": Limit(8)}))


def load(job: Path, urls: Path) -> dict[str, float]:
    """Make the job of a batch over the list *urls*, half of it done."""
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir()
    ledger = Ledger(job / "ledger.sqlite")
    ledger.belong(Owner("batch", "txt", "url"))
    rows = Source(str(urls)).marked()
    longest, count = 0.0, 0
    cpu, wall = time.process_time(), time.perf_counter()
    while some := list(islice(rows, SLICE)):
        began = time.perf_counter()
        ledger.load([(target, RULES.keys_for(target), None) for target, _ in some], some[-1][1])
        longest = max(longest, time.perf_counter() - began)
        count += len(some)
        if count % SYNC == 0:
            ledger.sync()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    ledger.complete_list(ledger.mark)
    ledger.close()
    loaded = (job / "ledger.sqlite").stat().st_size
    ledger = Ledger(job / "ledger.sqlite")
    claims = settle_half(ledger, count)
    ledger.close()
    settled = (job / "ledger.sqlite").stat().st_size
    return {
        "cpu": cpu, "wall": wall, "longest": longest, "loaded": loaded / count, "settled": settled / count, **claims
    }  # fmt: skip


def settle_half(ledger: Ledger, count: int) -> dict[str, float]:
    """Claim half of *count* targets, and settle them, a thousand at a time."""
    turns = Turns(ledger.lanes, RULES.limits)
    cpu = longest = 0.0
    for _ in range(count // 2 // 1000):
        claims = []
        began = time.process_time()
        for _ in range(1000):
            before = time.perf_counter()
            claim = turns.claim()
            longest = max(longest, time.perf_counter() - before)
            assert claim, "there are more, and no limit is reached"
            RULES.limits.cancel(claim)
            claims.append(claim)
        cpu += time.process_time() - began
        ledger.settle(
            [Settlement(claim.target.id, Outcome(FETCHED, 200), 1, time.time(), Answer(1000, 0.1)) for claim in claims],
            {},
        )
        ledger.sync()
    turns.close()
    return {"claim": cpu / (count // 2), "longest claim": longest}


def write_hosts(b: Bench, count: int) -> Path:
    """A list of *count* URLs, each on an address of its own in 127.0.0.0/8."""
    port = b.server.url("").rstrip("/").rpartition(":")[2]
    file = b.folder / f"hosts-{count}.txt"
    with file.open("w") as lines:
        addresses = (ip_address(LOOPBACK + n) for n in range(2, count + 2))
        lines.writelines(f"http://{address}:{port}/page/1000\n" for address in addresses)
    return file


def resume(b: Bench, urls: Path) -> float:
    """Seconds from the start of the process to the first request that reaches the server."""
    requests = b.server.requests()
    began = time.perf_counter()
    with (b.folder / "log.txt").open("w") as log:
        process = b.start(
            BATCH, urls, "-o", log, REPORT=b.folder / "report.json", JOBDIR="job", CLOSESPIDER_ITEMCOUNT=1
        )
        while b.server.requests() == requests:
            if process.poll() is not None:
                sys.exit(f"it sent no request:\n{(b.folder / 'log.txt').read_text()[-5000:]}")
            time.sleep(0.002)
        seconds = time.perf_counter() - began
        process.wait(120)
    return seconds


def main() -> None:
    options = parser(__doc__, runs=5)
    options.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="(%(default)s)")
    given = options.parse_args()
    measured: dict[str, list[dict[str, float]]] = defaultdict(list)
    with bench() as b:
        lists = {f"{length:,}": (length, b.write_list("page/1000", length)) for length in (10, *given.rows)}
        lists |= {f"{length:,}, a host each": (length, write_hosts(b, length)) for length in given.rows}
        job = b.folder / "job"
        for name in rounds(given.runs, list(lists)):
            length, urls = lists[name]
            b.folder.joinpath("items.jsonl").unlink(missing_ok=True)
            shutil.rmtree(job, ignore_errors=True)
            costs = load(job, urls) if length > 10 else {}
            measured[name].append({**costs, "resume": resume(b, urls)})

    def row(list_name: str) -> list[object]:
        def middle(name: str, digits: int, factor: float = 1) -> str:
            values = [run[name] * factor for run in measured[list_name] if name in run]
            return f"{median(values):,.{digits}f}" if values else ""

        return [
            list_name, middle("cpu", 2), middle("wall", 2), middle("longest", 1, 1000), middle("loaded", 0),
            middle("settled", 0), middle("claim", 1, 1e6), middle("longest claim", 1, 1000), middle("resume", 2),
        ]  # fmt: skip

    print_table(
        f"Ledgers, medians of {given.runs} runs",
        [
            "rows", "to load: CPU s", "wall s", "longest slice, ms",
            "bytes a row, loaded", "half of it settled", "a claim, us", "longest, ms", "to the first request, s",
        ],
        [row(name) for name in lists],
    )  # fmt: skip


if __name__ == "__main__":
    main()
