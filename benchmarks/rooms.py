"""Where the time goes: what each part of the code takes of a page's processor time.

Plain Scrapy, the batch spider, and that with the extra ``fast`` fetch the list of ``throughput.py`` from the same
nginx, and samples are taken of what they are at. A run with a short list is taken off, as there. A sample counts for
the innermost function that is in one of the parts: what a library does counts for the part that has called it. The
sampling itself takes time, so that the sum is a little more than ``throughput.py`` says.

    python benchmarks/rooms.py [--runs 3] [--pages 5000] [--environments FOLDER]
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import environments
from common import HERE, parser, print_table, rounds
from environments import Environments
from nginx import nginx
from throughput import PEERS, SHORT, Bench, Peer

COUNTS = "counts.json"

NAMES = ("scrapy", "batch", "fast")


def sampled(peer: Peer, counts: Path) -> Peer:
    """*peer*, with its samples counted in the file *counts*."""

    def command(python: str, urls: Path) -> list[str]:
        _, _, _, *arguments = peer.command(python, urls)  # of: python -m scrapy …
        return [python, str(HERE / "peers" / "sampled.py"), str(counts), *arguments]

    return Peer(peer.name, peer.title, peer.environment, command)


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("--pages", type=int, default=5_000, help="in the long list (%(default)s)")
    environments.add_option(options)
    given = options.parse_args()
    found = Environments(given.environments)
    taken: dict[str, list[Counter[str]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = folder / COUNTS
        peers = [sampled(peer, counts) for peer in PEERS if peer.name in NAMES and found.is_usable(peer.environment)]
        with nginx(folder / "nginx", tls=False, compressed=False) as site:
            b = Bench(folder, found, site, "10KB")
            for peer in rounds(given.runs, peers):
                sums: list[tuple[Counter[str], float]] = []
                for pages in (SHORT, given.pages):
                    cpu = b.run(peer, pages).cpu
                    sums.append((Counter(json.loads(counts.read_text())), cpu))
                (start, start_cpu), (whole, cpu) = sums
                # By its share of the samples, for they may be fewer than were asked for.
                each = (cpu - start_cpu) / (given.pages - SHORT) / (whole.total() - start.total())
                whole.subtract(start)
                taken[peer.title].append(Counter({room: count * each for room, count in whole.items()}))
    means = {title: {room: mean(c[room] for c in runs) for room in set().union(*runs)} for title, runs in taken.items()}
    names = {room for shares in means.values() for room in shares}
    order = sorted(names, key=lambda room: -max(shares.get(room, 0) for shares in means.values()))
    table = [[room, *(f"{shares.get(room, 0) * 1000:.3f}" for shares in means.values())] for room in order]
    table.append(["sum", *(f"{sum(shares.values()) * 1000:.3f}" for shares in means.values())])
    title = f"Milliseconds of processor time a page, {given.pages - SHORT:,} pages, mean of {given.runs} runs"
    print_table(title, ["", *means], table)


if __name__ == "__main__":
    main()
