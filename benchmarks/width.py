"""Whether the width that was asked for is kept filled: pages of 100 ms, 100 at once.

A hundred workers and pages that take 100 ms make 1,000 pages a second, if every worker has the next page under way as
soon as one has come; what needs a millisecond of processor time for a page cannot do it. Pages are small, and the
server counts them, which has a processor core of its own, as what is measured has: from the first request to the last
answer. The bare aiohttp loop is there to show how much of it server and machine leave possible. Columns:

- pages a second, and of what is possible: what to look for is 95%
- how many requests were in flight at once at most, as the server saw it
- processor time of the whole process, start included, for a page

    python benchmarks/width.py [--runs 3] [--pages 5000] [--environments FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import environments
from common import HERE, Bench, Case, Usage, bench, finish, on_core, parser, print_table, rounds, spread
from environments import Environments

WIDTH = 100
DELAY = 0.1  # seconds, of each page
POSSIBLE = WIDTH / DELAY  # pages a second

LONGEST = 120  # seconds, of one run

SETTINGS = {"CONCURRENT_REQUESTS": WIDTH, "CONCURRENT_REQUESTS_PER_DOMAIN": WIDTH}

AIOHTTP = "bare aiohttp loop"


def fetch(b: Bench, python: str, urls: Path) -> Usage:
    """What the least does that there is."""
    script = [python, HERE / "peers" / "aiohttp_loop.py", urls, b.folder / "items.jsonl", WIDTH]
    process = subprocess.Popen(on_core(0, script))
    usage = finish(process, LONGEST)
    if process.returncode:
        sys.exit(f"{AIOHTTP} failed with status {process.returncode}")
    return usage


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("--pages", type=int, default=5_000, help="in the list (%(default)s)")
    environments.add_option(options)
    given = options.parse_args()
    found = Environments(given.environments)
    cases: dict[str, Case | None] = {case.name: case for case in found.cases().values()}
    cases[AIOHTTP] = None
    python = found.python("aiohttp")
    measured: dict[str, list[tuple[float, int, float]]] = defaultdict(list)
    with bench(pinned=True) as b:
        urls = b.write_list(f"slow/{DELAY}", given.pages)
        for name in rounds(given.runs, list(cases)):
            b.server.peak(), b.server.seconds()  # from here on they count
            case = cases[name]
            if case:
                usage: Usage = b.crawl(case, urls, pages=given.pages, seconds=LONGEST, **SETTINGS)
            else:
                usage = fetch(b, python, urls)
            measured[name].append((given.pages / b.server.seconds(), b.server.peak(), usage.cpu))

    def row(name: str) -> list[object]:
        rates, peaks, cpu = zip(*measured[name], strict=True)
        return [
            name,
            spread(rates, 0),
            f"{median(rates) / POSSIBLE:.1%}",
            max(peaks),
            f"{median(cpu) * 1000 / given.pages:.2f} ms",
        ]

    print_table(
        f"{given.pages:,} pages of {DELAY} s, {WIDTH} at once, median (least–most) of {given.runs} runs",  # noqa: RUF001 - a dash
        ["", "pages a second", f"of {POSSIBLE:,.0f}", "most in flight", "CPU a page, start included"],
        [row(name) for name in cases],
    )


if __name__ == "__main__":
    main()
