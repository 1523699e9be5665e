"""Example 8 of the walk-through: what a long list costs, in memory and in waiting.

A plain spider, whose ``start()`` loops over the file, and the batch spider read the same lists, and both are closed
after a fixed number of pages (or go through all of a shorter list), so that what differs is the list alone. Columns:

- peak memory of the process (``VmHWM``). What to look for: that it stays the same from row to row.
- seconds from the opening of the spider to its first request
- the longest time in which the event loop did not come round: for so long nothing is downloaded, no timeout fires and
  Ctrl-C is not heard. Other processes on the machine add to it: some hundredths of a second are noise.
- seconds of the whole process
- how many runs the medians are of: a case that took longer than half a minute is not run again

    python benchmarks/list_length.py [--runs 3] [--urls 1000 100000 1000000] [--pages 2000] [--whole]

``--whole`` goes through all of every list, which takes minutes for every 100,000 rows. Memory then also grows with the
pages of the last ``DOWNLOAD_TIMEOUT`` seconds (180), with both spiders: timers of finished downloads stay till then.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from common import Case, Run, bench, parser, print_table, rounds

PLAIN = Case("plain Scrapy", "plain")
BATCH = Case("batch spider", "batch")

LONG = 30  # seconds: what takes longer runs once


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("--urls", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], help="rows in the lists")
    options.add_argument("--pages", type=int, default=2_000, help="after which a crawl is closed (%(default)s)")
    options.add_argument("--whole", action="store_true", help="do not close it")
    given = options.parse_args()
    measured: dict[tuple[Case, int], list[Run]] = defaultdict(list)
    with bench() as b:
        lists = {length: b.write_list("page/1000", length) for length in given.urls}
        for case, length in rounds(given.runs, [(case, length) for length in lists for case in (PLAIN, BATCH)]):
            if any(run.wall > LONG for run in measured[case, length]):
                continue
            run = b.crawl(
                case,
                lists[length],
                pages=length if given.whole else min(given.pages, length),
                seconds=60 + length * (0.02 if given.whole else 0.0003),
                CLOCK=True,
                CLOSESPIDER_ITEMCOUNT=0 if given.whole else given.pages,
            )
            measured[case, length].append(run)

    def row(case: Case, length: int) -> list[object]:
        runs = measured[case, length]
        first, stall = (median(run.stats[name] for run in runs) for name in ("first_request", "stall"))
        memory, wall = (median(getattr(run, name) for run in runs) for name in ("peak", "wall"))
        return [
            f"{length:,}",
            case.name,
            f"{memory:,.0f} MiB",
            f"{first:.3f} s",
            f"{stall:.3f} s",
            f"{wall:.1f} s",
            len(runs),
        ]

    print_table(
        f"Lists {'gone through' if given.whole else f'left after {given.pages:,} pages'}, medians",
        ["rows in the list", "", "peak memory", "first request after", "longest stall", "whole process", "runs"],
        [row(case, length) for length in lists for case in (PLAIN, BATCH)],
    )


if __name__ == "__main__":
    main()
