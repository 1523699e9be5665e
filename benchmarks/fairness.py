"""How near to the ideal a list is worked through when its hosts differ.

Hosts are loopback addresses, a page is known by what it takes its host in seconds, and every way to crawl has the same
limits: 16 at once in all, 2 per host, 1 for the host that is called limited. The ideal is what no crawl that keeps the
limits can beat: the longest any host needs, or all work by the total limit, if that is longer. Scenarios:

- mixed: 50 hosts, shuffled; sorted: the same list by host
- zipf-sorted: 300 hosts of which the n-th has an n-th of the first one's pages, the largest last; zipf-mixed: shuffled
- slow: a host that takes 2 s a page among a hundred
- limited: half of the list is on the limited host
- refusing: a host that answers 429 with ``Retry-After: 1`` to all but 5 requests in any second, among others
- redirects: a fifth of the list is on a fast host that redirects to the limited one

Columns, all of them as the *server* saw it, so that no process's start counts:

- seconds from the first request to the last answer, and their ratio to the ideal. A ratio below 1 means that limits
  were not kept; ``>`` that the crawl was ended after ``--longest`` seconds
- unhindered: the same ratio for all but the slow, limited, refusing or redirecting hosts: until they were done, to
  their own ideal, which leaves room for as much of the others as is in flight in the ideal. Below 1 also when those
  were kept waiting
- peak/limit: requests in flight at once to the host that was most above its limit (or nearest to it), and that limit

Below the tables: pages that never came, requests that were refused, and a total limit that was not kept. Plain Scrapy
is a spider whose ``start()`` yields all requests: it is run once, and stands in both tables. Everything takes about
five minutes, ``--quick`` less than two, with coarser ratios: a crawl's first and last tenths of a second weigh more.

    python benchmarks/fairness.py [--runs 1] [--quick] [--longest 45] [scenario ...]
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any
from urllib.parse import quote

from common import SEMAPHORE, Bench, Case, Server, bench, parser, print_table, rounds

TOTAL = 16
PER_HOST = 2
PAGE = 0.1  # seconds
LIMITED = "127.0.0.2"  # at most 1 at once
SLOW = "127.0.0.3"
REFUSING = "127.0.0.4"
REDIRECTING = "127.0.0.5"

SETTINGS = {
    "CONCURRENT_REQUESTS": TOTAL,
    "CONCURRENT_REQUESTS_PER_DOMAIN": PER_HOST,
    "DOWNLOAD_SLOTS": {LIMITED: {"concurrency": 1}},
    "RETRY_TIMES": 10_000,
    "RETRY_GIVE_UP_LOG_LEVEL": "INFO",
}

BATCH = Case("batch", "batch")
PLAIN = Case("plain Scrapy", "plain")
ADDON = Case("with the add-on", "plain", {"ADDONS": {"scrapy_batcher.Addon": 300}})
MIDDLEWARE = Case("the middleware alone", "plain", {"DOWNLOADER_MIDDLEWARES": SEMAPHORE})

TABLES = {"Batch spiders": [BATCH, PLAIN], "Ordinary spiders": [ADDON, PLAIN, MIDDLEWARE]}

WAYS = [BATCH, PLAIN, ADDON, MIDDLEWARE]


@dataclass(frozen=True)
class Page:
    """A page that takes *host* so many *seconds*, and then perhaps leads *to* another."""

    host: str
    seconds: float = PAGE
    rate: int | None = None
    to: Page | None = None

    def url(self, server: Server, number: int) -> str:
        query = f"delay={self.seconds}"
        if self.rate:
            query += f"&rate={self.rate}"
        if self.to:
            query += f"&to={quote(self.to.url(server, number), safe='')}"
        return server.url(f"{number}?{query}", self.host)

    @property
    def last(self) -> Page:
        """The page that one ends at."""
        return self.to.last if self.to else self


@dataclass(frozen=True)
class Scenario:
    """A list, and what an ideal crawl makes of it.

    :param hindered: hosts that the others must not wait for
    """

    name: str
    pages: Sequence[Page]
    hindered: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def ideal(self) -> float:
        """Seconds that it takes at least."""
        return self._ideal(self._work, TOTAL)

    @cached_property
    def unhindered_ideal(self) -> float:
        """Seconds until the hosts that nothing hinders can be done."""
        hindered = sum(self._work[host] for host in self.hindered)
        work = {host: seconds for host, seconds in self._work.items() if host not in self.hindered}
        return self._ideal(work, TOTAL - hindered / self.ideal)

    @cached_property
    def answers(self) -> Counter[str]:
        """Pages that end at each host."""
        return Counter(page.last.host for page in self.pages)

    @cached_property
    def _work(self) -> Mapping[str, float]:
        work: Counter[str] = Counter()
        for page in self.pages:
            step: Page | None = page
            while step:
                work[step.host] += step.seconds
                step = step.to
        return work

    def _ideal(self, work: Mapping[str, float], room: float) -> float:
        longest = max(seconds / limit_of(host) for host, seconds in work.items())
        # A host that lets 5 through in any second lets the first 5 through at once.
        refused = [math.ceil(self.answers[page.host] / page.rate) - 1 + page.seconds for page in self._rates(work)]
        return max(sum(work.values()) / room, longest, *refused, 0)

    def _rates(self, hosts: Iterable[str]) -> set[Page]:
        return {page for page in self.pages if page.rate and page.host in hosts}


@dataclass(frozen=True)
class Result:
    """What the server saw of one crawl.

    :param seconds: infinite when it did not come to its end
    """

    seconds: float
    unhindered: float
    peak: int
    limit: int
    total_peak: int
    fetched: int
    refused: int


def limit_of(host: str) -> int:
    return 1 if host == LIMITED else PER_HOST


def addresses(count: int) -> list[str]:
    return [f"127.1.{n // 250}.{n % 250 + 1}" for n in range(count)]


def shuffled(pages: Iterable[Page]) -> list[Page]:
    pages = list(pages)
    random.Random(1).shuffle(pages)
    return pages


def uneven(sizes: Iterable[tuple[str, int]], seconds: float = PAGE) -> list[Page]:
    """Pages of *seconds* on average, by host: as many as its size. Were they all the same, answers would come in waves,
    in which the last waits for the processor till the others are worked through."""
    chance = random.Random(2)
    return [Page(host, round(chance.uniform(0.5, 1.5) * seconds, 3)) for host, size in sizes for _ in range(size)]


def spread_over(count: int, pages: int, seconds: float = PAGE) -> list[Page]:
    """As near to *pages* as is the same number for each of *count* hosts, by host."""
    return uneven([(host, max(1, round(pages / count))) for host in addresses(count)], seconds)


def zipf(scale: float) -> list[Page]:
    """The smallest host first."""
    count, pages = round(300 * scale), 640 * scale
    whole = sum(1 / n for n in range(1, count + 1))
    sizes = [max(1, round(pages / whole / n)) for n in range(count, 0, -1)]
    return uneven(zip(addresses(count), sizes, strict=True))


def mixed(scale: float) -> Scenario:
    return Scenario("mixed", shuffled(spread_over(50, round(800 * scale))))


def sorted_(scale: float) -> Scenario:
    return Scenario("sorted", spread_over(50, round(800 * scale)))


def zipf_sorted(scale: float) -> Scenario:
    return Scenario("zipf-sorted", zipf(scale))


def zipf_mixed(scale: float) -> Scenario:
    return Scenario("zipf-mixed", shuffled(zipf(scale)))


def slow(scale: float) -> Scenario:
    slow = [Page(SLOW, 2)] * (2 * max(2, round(4 * scale)))
    return Scenario("slow", shuffled(slow + spread_over(99, round(800 * scale))), frozenset({SLOW}))


def limited(scale: float) -> Scenario:
    half = round(80 * scale)
    return Scenario("limited", shuffled(uneven([(LIMITED, half)]) + spread_over(20, half, 0.2)), frozenset({LIMITED}))


def refusing(scale: float) -> Scenario:
    refusing = [Page(REFUSING, rate=5)] * (5 * max(3, round(20 * scale)))
    return Scenario("refusing", shuffled(refusing + spread_over(50, round(1000 * scale))), frozenset({REFUSING}))


def redirects(scale: float) -> Scenario:
    fifth = round(75 * scale)
    redirects = [Page(REDIRECTING, 0.02, to=Page(LIMITED))] * fifth
    pages = shuffled(redirects + spread_over(50, 4 * fifth))
    return Scenario("redirects", pages, frozenset({REDIRECTING, LIMITED}))


SCENARIOS: dict[str, Callable[[float], Scenario]] = {
    "mixed": mixed,
    "sorted": sorted_,
    "zipf-sorted": zipf_sorted,
    "zipf-mixed": zipf_mixed,
    "slow": slow,
    "limited": limited,
    "refusing": refusing,
    "redirects": redirects,
}


def crawl(b: Bench, way: Case, scenario: Scenario, longest: int) -> Result:
    urls = b.folder / f"{scenario.name}.txt"
    urls.write_text("".join(f"{page.url(b.server, n)}\n" for n, page in enumerate(scenario.pages)))
    b.server.report()
    run = b.crawl(way, urls, pages=0, seconds=longest + 30, CLOSESPIDER_TIMEOUT=longest, **SETTINGS)
    seen = b.server.report()
    hosts = seen["hosts"]

    def last(of: set[str]) -> float:
        done = all(host in hosts and hosts[host]["answers"].get("200", 0) >= scenario.answers[host] for host in of)
        return max(hosts[host]["last"] for host in of) if done else math.inf

    # Of those that are at their limit, one with a low limit says more.
    worst = max(hosts, key=lambda host: (hosts[host]["peak"] / limit_of(host), -limit_of(host)))
    return Result(
        # A crawl that has left pages out of itself has come to its end, too.
        seconds=seen["all"]["last"] if run.stats["finish_reason"] == "finished" else math.inf,
        unhindered=last(scenario.answers.keys() - scenario.hindered),
        peak=hosts[worst]["peak"],
        limit=limit_of(worst),
        total_peak=seen["all"]["peak"],
        fetched=run.stats.get("item_scraped_count", 0),
        refused=seen["all"]["answers"].get("429", 0),
    )


def row(scenario: Scenario, results: Sequence[Sequence[Result]], longest: int) -> list[object]:
    """A row of a table: the *results* of each of its ways."""
    cells: list[object] = [scenario.name, f"{scenario.ideal:.1f}"]
    cells.append(f"{scenario.unhindered_ideal:.1f}" if scenario.hindered else "")
    for runs in results:
        seconds, unhindered = median(run.seconds for run in runs), median(run.unhindered for run in runs)
        cells.append(f"{seconds:.1f}" if seconds < math.inf else f">{longest}")
        cells.append(_ratio(seconds, scenario.ideal, longest))
        cells.append(_ratio(unhindered, scenario.unhindered_ideal, longest) if scenario.hindered else "")
        worst = max(runs, key=lambda run: run.peak / run.limit)
        cells.append(f"{worst.peak}/{worst.limit}")
    return cells


def _ratio(seconds: float, ideal: float, longest: int) -> str:
    return f"{seconds / ideal:.2f}" if seconds < math.inf else f">{longest / ideal:.1f}"


def notes(scenario: Scenario, way: Case, runs: Sequence[Result]) -> Iterable[str]:
    fetched, pages = min(run.fetched for run in runs), len(scenario.pages)
    if fetched < pages:
        yield f"{fetched:,} of {pages:,} pages were fetched"
    if refused := max(run.refused for run in runs):
        yield f"{refused:,} requests were refused"
    if (peak := max(run.total_peak for run in runs)) > TOTAL:
        yield f"{peak} requests were in flight at once, where {TOTAL} are allowed"


def main() -> None:
    options = parser(__doc__, runs=1)
    options.add_argument("--quick", action="store_true", help="a quarter of the pages, and of zipf's hosts")
    options.add_argument("--longest", type=int, default=45, help="seconds that a crawl may take (%(default)s)")
    options.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; all by default")
    given = options.parse_args()
    if unknown := set(given.scenario) - SCENARIOS.keys():
        options.error(f"there is no scenario {unknown.pop()!r}: choose from {', '.join(SCENARIOS)}")
    scale = 0.25 if given.quick else 1
    scenarios = [make(scale) for name, make in SCENARIOS.items() if name in (given.scenario or SCENARIOS)]
    measured: dict[tuple[str, str], list[Any]] = defaultdict(list)
    with bench("fair_server.py") as b:
        for scenario, way in rounds(given.runs, [(scenario, way) for scenario in scenarios for way in WAYS]):
            measured[scenario.name, way.name].append(crawl(b, way, scenario, given.longest))
    for title, ways in TABLES.items():
        rows = [row(s, [measured[s.name, way.name] for way in ways], given.longest) for s in scenarios]
        header = ["", "ideal s", "unhindered ideal s"]
        for way in ways:
            header += [f"{way.name}: s", "ratio", "unhindered ratio", "peak/limit"]
        print_table(f"{title}, {TOTAL} at once, {PER_HOST} per host, median of {given.runs}", header, rows)
    print()
    for scenario in scenarios:
        for way in WAYS:
            for note in notes(scenario, way, measured[scenario.name, way.name]):
                print(f"{scenario.name}, {way.name}: {note}")


if __name__ == "__main__":
    main()
