"""Example 7 of the walk-through with real figures, and whether a limit is kept.

Two tables:

- Four pages that take a second each, as in the walk-through: how long from the first request to the last response (on
  the crawl's own clock, without the start of the process), beside what its author measured. What to look for: at full
  width the semaphore costs about nothing over a crawl without one; with one permit the pages come one after the other.
  The author's pages took a little over half a second, so his 2.5 s for four in a row are our 4.
- A list of pages on one host, ``CONCURRENT_REQUESTS=32`` and ``CONCURRENT_REQUESTS_PER_DOMAIN=1``: how many requests
  the *server* had before it at once. What to look for: 1 is what was asked for.

    python benchmarks/seed_examples.py [--runs 3] [--urls 64]
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from common import SEMAPHORE, Bench, Case, bench, parser, print_table, rounds

UNLIMITED = {"CONCURRENT_REQUESTS": 0, "CONCURRENT_REQUESTS_PER_DOMAIN": 1000}
ONE_PER_HOST = {"CONCURRENT_REQUESTS": 32, "CONCURRENT_REQUESTS_PER_DOMAIN": 1}


def semaphore(name: str, spider: str = "plain", **settings: int) -> Case:
    return Case(name, spider, {"DOWNLOADER_MIDDLEWARES": SEMAPHORE, **settings})


FOUR_PAGES = {
    Case("plain Scrapy", "plain"): "DeferredList alone: 1.2 s",
    semaphore("semaphore, no limit", **UNLIMITED): "",
    semaphore("semaphore, 4 permits", CONCURRENT_REQUESTS=32, CONCURRENT_REQUESTS_PER_DOMAIN=4): "maxRun 4: 1.3 s",
    semaphore("semaphore, 1 permit", **ONE_PER_HOST): "maxRun 1: 2.5 s",
    semaphore("batch spider, 4 workers", "batch", CONCURRENT_REQUESTS=4): "",
}

CAP = [
    Case("plain Scrapy", "plain", ONE_PER_HOST),
    semaphore("plain Scrapy with SemaphoreMiddleware", **ONE_PER_HOST),
    semaphore("batch spider", "batch", **ONE_PER_HOST),
]


def crawl(bench: Bench, case: Case, path: str, pages: int) -> tuple[float, int]:
    """Seconds from the first request to the last response, and the peak the server saw."""
    bench.server.peak()
    stats = bench.crawl(case, bench.write_list(path, pages), pages=pages, CLOCK=True).stats
    return stats["last_response"] - stats["first_request"], bench.server.peak()


def four_pages(bench: Bench, runs: int) -> None:
    measured = defaultdict(list)
    for case in rounds(runs, [*FOUR_PAGES]):
        measured[case.name].append(crawl(bench, case, "slow/1", 4))
    rows = []
    for case, author in FOUR_PAGES.items():
        seconds, peaks = zip(*measured[case.name], strict=True)
        rows.append([case.name, f"{median(seconds):.2f} s", max(peaks), author])
    print_table(
        f"Four pages of a second each, median of {runs} runs",
        ["", "first request to last response", "peak on the server", "the author, 2008"],
        rows,
    )


def cap(bench: Bench, runs: int, urls: int) -> None:
    measured = defaultdict(list)
    for case in rounds(runs, CAP):
        measured[case.name].append(crawl(bench, case, "slow/0.05", urls))
    rows = []
    for case in CAP:
        seconds, peaks = zip(*measured[case.name], strict=True)
        rows.append([case.name, max(peaks), f"{median(seconds):.2f} s"])
    print_table(
        f"{urls} pages of 0.05 s from one host, CONCURRENT_REQUESTS=32, CONCURRENT_REQUESTS_PER_DOMAIN=1, {runs} runs",
        ["", "peak on the server", "first request to last response"],
        rows,
    )


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("--urls", type=int, default=64, help="pages in the second table (%(default)s)")
    given = options.parse_args()
    with bench() as b:
        four_pages(b, given.runs)
        cap(b, given.runs, given.urls)


if __name__ == "__main__":
    main()
