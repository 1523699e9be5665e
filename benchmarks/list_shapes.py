"""What the shape of a long list costs in memory: many hosts or few, shuffled or by host.

A batch over a list of each shape goes on until all of the list is read into its ledger, beside one over 1,000 rows of
the same shape. Both fetch their first 1,000 pages as fast as they can; behind those the server takes 5 s for each, so
that the pages of the two are about as many, and what differs is the list. Columns:

- peak memory of the process (``VmHWM``) with the short list and the long one, and the difference: what to look for is
  that it stays small, and about the same for all shapes
- pages that came in the long run
- seconds from the opening of the spider to its first request, and until the long list was read
- the longest time in which the event loop did not come round

    python benchmarks/list_shapes.py [--runs 1] [--rows 1000000] [shape ...]

A million rows take two minutes or more for each shape, a million hosts among them: each row's host is then an address
of its own in 127.0.0.0/8.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from common import Bench, Case, Run, bench, parser, print_table, rounds

BATCH = Case("batch spider", "batch")

SHORT = 1_000  # rows, and pages that are answered at once
DELAY = 5  # seconds, for the others
HOSTS = 1_000


def address(number: int) -> str:
    """The loopback address with that *number*, from 0."""
    number += 2
    return f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def shuffled(rows: int) -> Iterator[str]:
    chance = random.Random(1)
    return (address(chance.randrange(HOSTS)) for _ in range(rows))


def by_host(rows: int) -> Iterator[str]:
    return (address(n * HOSTS // rows) for n in range(rows))


def nine_tenths(rows: int) -> Iterator[str]:
    chance = random.Random(1)
    return (address(0 if chance.random() < 0.9 else chance.randrange(1, HOSTS)) for _ in range(rows))


def each_its_own(rows: int) -> Iterator[str]:
    return map(address, range(rows))


def one_host(rows: int) -> Iterator[str]:
    return (address(0) for _ in range(rows))


SHAPES: dict[str, tuple[str, Callable[[int], Iterator[str]]]] = {
    "shuffled": (f"{HOSTS:,} hosts, shuffled", shuffled),
    "by-host": (f"{HOSTS:,} hosts, by host", by_host),
    "nine-tenths": ("nine tenths on one host", nine_tenths),
    "each-its-own": ("a host for each row", each_its_own),
    "one-host": ("one host", one_host),
}


def write_list(b: Bench, shape: str, rows: int) -> Path:
    file = b.folder / "urls.txt"
    with file.open("w") as lines:
        for n, host in enumerate(SHAPES[shape][1](rows)):
            lines.write(b.server.url(f"{n}?prompt={SHORT}&delay={DELAY}\n", host))
    return file


def crawl(b: Bench, shape: str, rows: int) -> Run:
    urls = write_list(b, shape, rows)
    b.server.report()  # from here on it counts
    leave = {"LEAVE": urls} if rows > SHORT else {}
    run = b.crawl(BATCH, urls, pages=SHORT, seconds=120 + rows * 0.001, CLOCK=True, **leave)
    if run.stats["batcher/rows"] < rows:
        sys.exit(f"{shape}: only {run.stats['batcher/rows']:,} rows of {rows:,} were read when the crawl was left")
    return run


def main() -> None:
    options = parser(__doc__, runs=1)
    options.add_argument("--rows", type=int, default=1_000_000, help="in the long lists (%(default)s)")
    options.add_argument("shape", nargs="*", help=f"of {', '.join(SHAPES)}; all by default")
    given = options.parse_args()
    if unknown := set(given.shape) - SHAPES.keys():
        options.error(f"there is no shape {unknown.pop()!r}: choose from {', '.join(SHAPES)}")
    if given.rows <= SHORT:
        options.error(f"--rows must be more than the {SHORT:,} of the short lists")
    shapes = [shape for shape in SHAPES if shape in (given.shape or SHAPES)]
    measured: dict[tuple[str, int], list[Run]] = defaultdict(list)
    with bench("fair_server.py") as b:
        for shape, rows in rounds(given.runs, [(shape, rows) for shape in shapes for rows in (SHORT, given.rows)]):
            measured[shape, rows].append(crawl(b, shape, rows))

    def row(shape: str) -> list[object]:
        def middle(stat: str) -> float:
            return median(run.stats[stat] for run in measured[shape, given.rows])

        short, long = (median(run.peak for run in measured[shape, n]) for n in (SHORT, given.rows))
        return [
            SHAPES[shape][0], f"{short:.0f} MiB", f"{long:.0f} MiB", f"{long - short:+.0f} MiB",
            f"{middle('item_scraped_count'):,.0f}", f"{middle('first_request'):.3f} s",
            f"{middle('list_read'):.0f} s", f"{middle('stall'):.3f} s",
        ]  # fmt: skip

    print_table(
        f"Lists of {given.rows:,} rows, left when they were read, beside {SHORT:,} rows, medians of {given.runs}",
        [
            "", f"{SHORT:,} rows", f"{given.rows:,} rows", "difference", "pages", "first request after",
            "list read after", "longest stall",
        ],
        [row(shape) for shape in shapes],
    )  # fmt: skip


if __name__ == "__main__":
    main()
