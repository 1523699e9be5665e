"""How long it takes from the engine's start to the first request, however long the list.

Lists of ten, a million and ten million rows, plain text and compressed CSV; a crawl is closed after its first page.
Columns:

- seconds from ``engine_started`` to the first request (``request_reached_downloader``): what to look for is 0.2 s at
  most, and the same in all rows
- seconds of the whole process: the interpreter's and Scrapy's own start, and how soon it ends when it is told to

    python benchmarks/startup.py [--runs 5] [--urls 10 1000000 10000000] [--environments FOLDER]

The longest lists take a minute to write, and half a gigabyte of TMPDIR.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from pathlib import Path
from statistics import median

import environments
from common import Bench, Case, Run, bench, parser, print_table, rounds, spread
from environments import Environments

CHUNK = 10_000  # rows that are written at once


def write(b: Bench, length: int) -> dict[str, Path]:
    """A list of *length* rows, by the format it is in."""
    text, csv = b.folder / f"{length}.txt", b.folder / f"{length}.csv.gz"
    with text.open("w") as lines, gzip.open(csv, "wt", compresslevel=1) as rows:
        rows.write("url,id\n")
        address = b.server.url("page/1000")
        for first in range(0, length, CHUNK):
            numbers = range(first, min(first + CHUNK, length))
            lines.write("".join(f"{address}/{n}\n" for n in numbers))
            rows.write("".join(f"{address}/{n},{n}\n" for n in numbers))
    return {"txt": text, "csv.gz": csv}


def main() -> None:
    options = parser(__doc__, runs=5)
    options.add_argument("--urls", type=int, nargs="+", default=[10, 1_000_000, 10_000_000], help="rows in the lists")
    environments.add_option(options)
    given = options.parse_args()
    cases = [case for case in Environments(given.environments).cases(jobs=True).values() if case.spider == "batch"]
    measured: dict[tuple[str, int, Case], list[Run]] = defaultdict(list)
    with bench(pinned=True) as b:
        lists = {(kind, length): file for length in given.urls for kind, file in write(b, length).items()}
        for kind, length, case in rounds(given.runs, [(*key, case) for key in lists for case in cases]):
            run = b.crawl(case, lists[kind, length], pages=1, CLOCK=True, CLOSESPIDER_ITEMCOUNT=1)
            measured[kind, length, case].append(run)

    def row(kind: str, length: int, case: Case) -> list[object]:
        runs = measured[kind, length, case]
        waits = [run.stats["first_request"] - run.stats["engine_started"] for run in runs]
        return [f"{length:,}", kind, case.name, spread(waits, 3), f"{median(run.wall for run in runs):.2f} s"]

    print_table(
        f"From the engine's start to the first request, median (least–most) of {given.runs} runs",  # noqa: RUF001 - a dash
        ["rows in the list", "format", "", "first request after, s", "whole process"],
        [row(*key, case) for key in lists for case in cases],
    )


if __name__ == "__main__":
    main()
