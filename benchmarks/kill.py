"""What is lost, and what is fetched twice, when a crawl is killed again and again: `kill -9`, then the same command.

The batch spider and plain Scrapy, each with a ``JOBDIR``, go through the same list (pages of 1 KB, one in twenty
missing), and are killed at random moments; the last run is left to end. Columns:

- targets that were never fetched, though the last run said "finished"
- pages that have no line in the feed, and lines that are there once more, or torn
- requests beside one for each target, in all and for each kill. The batch spider promises that they are no more than
  what was in flight and ``BATCHER_CHECKPOINT_TARGETS`` outcomes

    python benchmarks/kill.py [--targets 100000] [--kills 10] [--seed 1]
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections import Counter

from common import Bench, Case, bench, parser, print_table

CASES = [Case("plain Scrapy", "plain"), Case("batch spider", "batch")]

SETTINGS = {"CONCURRENT_REQUESTS": 50, "CONCURRENT_REQUESTS_PER_DOMAIN": 50, "JOBDIR": "job", "LOG_LEVEL": "INFO"}

LONGEST = 3600  # seconds, for one case


def run(b: Bench, case: Case, targets: int, kills: int, seed: int) -> list[object]:
    """Go through the list, being killed *kills* times."""
    b.folder.joinpath("items.jsonl").unlink(missing_ok=True)
    shutil.rmtree(b.folder / "job", ignore_errors=True)
    urls = b.folder / "urls.txt"
    missing = [n for n in range(targets) if n % 20 == 0]
    lines = [b.server.url(f"{'missing' if n % 20 == 0 else 'page/1000'}/{n}\n") for n in range(targets)]
    urls.write_text("".join(lines))
    moments = random.Random(seed)
    started, before, killed, log = time.monotonic(), b.server.requests(), 0, ""
    while True:
        with (b.folder / "log.txt").open("w+") as file:
            process = b.start(case, urls, "-o", file, REPORT=b.folder / "report.json", **SETTINGS)
            at = b.server.requests() + moments.randrange(2 * targets // (kills + 1))
            while process.poll() is None:
                if killed < kills and b.server.requests() >= at:
                    process.kill()
                    killed += 1
                    break
                if time.monotonic() - started > LONGEST:
                    process.kill()
                    sys.exit(f"{case.name} takes longer than {LONGEST} seconds")
                time.sleep(0.01)
            process.wait()
            file.seek(0)
            log = file.read()
        if process.returncode == 0:
            break
    requests = b.server.requests() - before
    fetched: Counter[str] = Counter()
    torn = 0
    for line in (b.folder / "items.jsonl").read_text().splitlines():
        try:
            fetched[json.loads(line)["url"]] += 1
        except ValueError:
            torn += 1
    pages = targets - len(missing)
    return [
        case.name,
        killed,
        "finished" if "Spider closed (finished)" in log else "?",
        f"{pages - len(fetched):,}",
        f"{sum(fetched.values()) - len(fetched):,}",
        torn,
        f"{requests - targets:+,}",
        f"{(requests - targets) / max(killed, 1):+,.0f}",
        f"{time.monotonic() - started:,.0f} s",
    ]


def main() -> None:
    options = parser(__doc__, runs=1)
    options.add_argument("--targets", type=int, default=100_000, help="(%(default)s)")
    options.add_argument("--kills", type=int, default=10, help="(%(default)s)")
    options.add_argument("--seed", type=int, default=1, help="of the moments (%(default)s)")
    given = options.parse_args()
    with bench() as b:
        rows = [run(b, case, given.targets, given.kills, given.seed) for case in CASES]
    print_table(
        f"{given.targets:,} targets, 50 at once, one run each",
        [
            "", "kills", "the last run said", "pages without a line", "lines too many", "torn lines",
            "requests beyond one a target", "a kill", "in all",
        ],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
