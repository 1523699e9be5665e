"""Whether memory stays flat over a long list that is gone through to its end.

Each case fetches all of a short list and all of a long one, pages of 1 KB, 50 at once, from a server on a processor
core of its own, and its resident memory is looked up many times a second. Columns:

- memory when a tenth, a quarter, half and all of the run's time was over
- peak memory (``VmHWM``), and the difference to the short list's: what to look for is less than 10 MiB

The spiders: plain Scrapy, and the batch spider without and with the ``fast`` extra and ``JOBDIR``.

    python benchmarks/memory.py [--runs 1] [--urls 10000 1000000] [--only batch fast …] [--environments FOLDER]

A million pages take the batch spider some 20 minutes, plain Scrapy twice that, and both write a gigabyte into TMPDIR.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median

import environments
from common import Case, Run, bench, parser, print_table, rounds
from environments import Environments

SIZE = 1_000  # bytes
PARTS = (0.1, 0.25, 0.5, 1.0)  # of the run's time

SETTINGS = {"CONCURRENT_REQUESTS": 50, "CONCURRENT_REQUESTS_PER_DOMAIN": 50}


def main() -> None:
    options = parser(__doc__, runs=1)
    options.add_argument("--urls", type=int, nargs="+", default=[10_000, 1_000_000], help="rows in the lists")
    options.add_argument("--only", nargs="+", metavar="NAME", help="scrapy, batch, batch-job, fast or fast-job")
    environments.add_option(options)
    given = options.parse_args()
    cases = Environments(given.environments).cases(jobs=True)
    if unknown := set(given.only or ()) - cases.keys():
        options.error(f"there is no {unknown.pop()!r}: choose from {', '.join(cases)}")
    chosen = [case for name, case in cases.items() if name in (given.only or cases)]
    lengths = sorted(given.urls)
    measured: dict[tuple[Case, int], list[Run]] = defaultdict(list)
    with bench(pinned=True) as b:
        lists = {length: b.write_list(f"page/{SIZE}", length) for length in lengths}
        for case, length in rounds(given.runs, [(case, length) for length in lengths for case in chosen]):
            run = b.crawl(case, lists[length], pages=length, seconds=60 + length * 0.01, **SETTINGS)
            measured[case, length].append(run)

    def row(case: Case, length: int) -> list[object]:
        runs = measured[case, length]
        peak, least = (median(run.peak for run in measured[case, n]) for n in (length, lengths[0]))
        return [
            case.name,
            f"{length:,}",
            *(f"{median(memory_at(run, part) for run in runs):,.1f}" for part in PARTS),
            f"{peak:,.1f}",
            f"{peak - least:+,.1f}",
            f"{median(run.wall for run in runs):,.0f} s",
        ]

    print_table(
        f"Lists gone through to their end, MiB of memory, medians of {given.runs} runs",
        [
            "", "rows in the list", *(f"at {part:.0%}" for part in PARTS), "peak", "to the short list", "whole process"
        ],
        [row(case, length) for case in chosen for length in lengths],
    )  # fmt: skip


def memory_at(run: Run, part: float) -> float:
    """MiB of memory when that *part* of the time was over: what was last seen by then."""
    # A process that is just ending has none.
    seen = [(seconds, memory) for seconds, memory in run.samples if memory]
    return [memory for seconds, memory in seen if seconds <= max(part * run.wall, seen[0][0])][-1]


if __name__ == "__main__":
    main()
