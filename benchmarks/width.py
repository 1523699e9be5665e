"""Whether the width that was asked for is kept filled: pages of 100 ms, 100 at once.

A hundred workers and pages that take 100 ms make 1,000 pages a second, if every worker has the next page under way as
soon as one has come; a framework that needs a millisecond of processor time for a page cannot do it. Pages are small,
and counted by the server, which has a processor core of its own, as what is measured has: from the first request to the
last answer. Columns:

- pages a second, and of what is possible: what to look for is 95%
- how many requests were in flight at once at most, as the server saw it
- processor time of the whole process, start included, for a page

    python benchmarks/width.py [--runs 3] [--pages 5000] [--environments FOLDER]
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median

import environments
from common import Bench, Case, Run, bench, parser, print_table, rounds, spread
from environments import Environments

WIDTH = 100
DELAY = 0.1  # seconds, of each page
POSSIBLE = WIDTH / DELAY  # pages a second

SETTINGS = {"CONCURRENT_REQUESTS": WIDTH, "CONCURRENT_REQUESTS_PER_DOMAIN": WIDTH}


def crawl(b: Bench, case: Case, urls: Path, pages: int) -> tuple[Run, float, int]:
    """The run, its pages a second, and the most that were in flight."""
    b.server.report()  # from here on it counts
    run = b.crawl(case, urls, pages=pages, **SETTINGS)
    seen = b.server.report()["all"]
    return run, pages / seen["last"], seen["peak"]


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("--pages", type=int, default=5_000, help="in the list (%(default)s)")
    environments.add_option(options)
    given = options.parse_args()
    cases = list(Environments(given.environments).cases().values())
    measured = defaultdict(list)
    with bench("fair_server.py", pinned=True) as b:
        urls = b.folder / "urls.txt"
        urls.write_text("".join(b.server.url(f"{n}?delay={DELAY}\n") for n in range(given.pages)))
        for case in rounds(given.runs, cases):
            measured[case.name].append(crawl(b, case, urls, given.pages))

    def row(case: Case) -> list[object]:
        runs, rates, peaks = zip(*measured[case.name], strict=True)
        return [
            case.name,
            spread(rates, 0),
            f"{median(rates) / POSSIBLE:.1%}",
            max(peaks),
            f"{median(run.cpu for run in runs) * 1000 / given.pages:.2f} ms",
        ]

    print_table(
        f"{given.pages:,} pages of {DELAY} s, {WIDTH} at once, median (least–most) of {given.runs} runs",  # noqa: RUF001 - a dash
        ["", "pages a second", f"of {POSSIBLE:,.0f}", "most in flight", "CPU a page, start included"],
        [row(case) for case in cases],
    )


if __name__ == "__main__":
    main()
