"""What a page costs in processor time, beyond starting up.

Each case crawls a long and a short list, and the difference is divided by the pages between them: start-up, import and
opening the connections cancel out. Pages of 10 KB, 50 at once; each becomes an item with its content, in a JSON-lines
feed. The client's processor time alone is counted (user and system, of its process), not the server's; but the server
shares the machine, and on two cores its caches too, so read the ratios rather than the milliseconds.

- plain Scrapy, as it comes: a spider with a ``start()`` and a ``parse()`` that yields
- plain Scrapy, ``CONCURRENT_ITEMS=1``: Scrapy makes that many tasks for *every* response, 100 by default. The batch
  spider sets it to 1, so this is the row to compare it with. It is still ahead of that, as it makes a request only when
  it is sent: nothing is put into Scrapy's queue, nor looked up among the requests seen before.
- plain Scrapy with SemaphoreMiddleware alone: against the first row, what the semaphore costs an ordinary spider
- the batch spider, and without SemaphoreMiddleware: what the semaphore costs there, at full width
- the batch spider with ``JOBDIR``: what it costs that nothing is lost

    python benchmarks/cost.py [--runs 5] [--urls 1500]
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from common import NO_SEMAPHORE, SEMAPHORE, Case, bench, parser, print_table, rounds, spread

SHORT = 100  # pages: enough for every connection to be opened
WIDTH = {"CONCURRENT_REQUESTS": 50, "CONCURRENT_REQUESTS_PER_DOMAIN": 50}

BATCH = Case("batch spider", "batch")

CASES = [
    Case("plain Scrapy", "plain"),
    Case("plain Scrapy, CONCURRENT_ITEMS=1", "plain", {"CONCURRENT_ITEMS": 1}),
    Case("plain Scrapy with SemaphoreMiddleware", "plain", {"DOWNLOADER_MIDDLEWARES": SEMAPHORE}),
    BATCH,
    Case("batch spider without SemaphoreMiddleware", "batch", {"DOWNLOADER_MIDDLEWARES": NO_SEMAPHORE}),
    Case("batch spider with JOBDIR", "batch", job=True),
]


def main() -> None:
    options = parser(__doc__, runs=5)
    options.add_argument("--urls", type=int, default=1_500, help="pages in the long list (%(default)s)")
    given = options.parse_args()
    if given.urls <= SHORT:
        options.error(f"--urls must be more than the {SHORT} of the short list")
    cpu = defaultdict(list)  # milliseconds a page
    wall = defaultdict(list)
    with bench() as b:
        short, long = (b.write_list("page/10000", pages) for pages in (SHORT, given.urls))
        for case in rounds(given.runs, CASES):
            start = b.crawl(case, short, pages=SHORT, **WIDTH)
            whole = b.crawl(case, long, pages=given.urls, **WIDTH)
            cpu[case.name].append((whole.cpu - start.cpu) * 1000 / (given.urls - SHORT))
            wall[case.name].append((whole.wall - start.wall) * 1000 / (given.urls - SHORT))

    def ratio(case: Case, other: Case) -> float:
        """To another case in the same round: a round that the machine was slow in counts no more than another."""
        return median(own / its for own, its in zip(cpu[case.name], cpu[other.name], strict=True))

    print_table(
        f"{given.urls - SHORT:,} pages of 10 KB, 50 at once, median (least–most) of {given.runs} runs",  # noqa: RUF001 - a dash
        ["", "CPU a page, ms", "to plain Scrapy", "to the batch spider", "wall a page, ms"],
        [
            [
                case.name,
                spread(cpu[case.name], 2),
                f"{ratio(case, CASES[0]):.2f}",
                f"{ratio(case, BATCH):.2f}",
                spread(wall[case.name], 2),
            ]
            for case in CASES
        ],
    )


if __name__ == "__main__":
    main()
