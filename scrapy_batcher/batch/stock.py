"""Before a job goes on, its feeds are looked at: each is as the job has left it, or is cut back to that."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from logging import LoggerAdapter
from pathlib import Path
from typing import Any

from scrapy_batcher.jobs.ledger import PENDING, FeedState, Ledger
from scrapy_batcher.outcome import FETCHED
from scrapy_batcher.outputs.feeds import FeedError, NamedFeed, why_not_columns
from scrapy_batcher.outputs.output import Output, cut_back


def take_stock(ledger: Ledger, root: Path, feeds: Sequence[NamedFeed], log: LoggerAdapter[Any]) -> Output:
    """The feeds of the job of *ledger*, ready to be gone on with.

    :param root: the job directory
    :param feeds: those that are named now
    :param log: where it is told what was found
    :raises FeedError, OutputError: when a feed has lost something, or would
    """
    tally = ledger.tally()
    done = sum(tally.values()) - tally.get(PENDING, 0)
    for feed in feeds:
        if done and feed.options.get("overwrite"):
            raise FeedError(
                f"{feed.uri} would be begun anew (-O, or overwrite in FEEDS), and {done:,} targets of this job are "
                "done and not fetched again: go on without that (-o), or begin again with another JOBDIR"
            )
        if feed.is_stdout:
            log.info("stdout cannot be cut back: after a stop some items may come once more on it")
    states = ledger.feeds()
    known: dict[str, FeedState] = {}
    for seen, state in states.items():
        path = Path(os.path.normpath(root / seen))
        known[str(path)] = state
        if path.exists() or not state.closed:
            if cut := _cut_back(path, state, root / f"{re.sub(r'[^0-9A-Za-z.-]+', '_', seen)}.cut"):
                log.info(
                    "%s is cut back by %s bytes, of targets that are fetched again; the job directory keeps them",
                    path,
                    f"{cut:,}",
                )
            ledger.enter_feed(seen, state._replace(closed=True))
        elif state.length:
            log.warning("%s is gone, and with it what this job has written there", path)
    _compare(known, feeds, tally.get(FETCHED, 0), log)
    return Output(root, states, ledger.enter_feed, stdout=any(feed.is_stdout for feed in feeds))


def _cut_back(path: Path, state: FeedState, kept: Path) -> int:
    try:
        return cut_back(path, state, kept)
    except OSError as e:
        raise FeedError(f"the feed {path} cannot be cut back: {e.strerror}") from e


def _compare(known: Mapping[str, FeedState], feeds: Sequence[NamedFeed], fetched: int, log: LoggerAdapter[Any]) -> None:
    """Tell of feeds that will have a part of the job only, and refuse one that has other columns than it is to have."""
    named = {feed.path: feed for feed in feeds if feed.path}
    for path, feed in named.items():
        if path in known:
            there = known[path].columns
            if there and feed.columns and there != feed.columns:
                raise FeedError(why_not_columns(path, there, feed.columns))
        elif fetched:
            log.warning("%s is new to this job: it will not have the %s pages before", path, f"{fetched:,}")
    if len(named) == len(feeds):  # not when one has a name that only its spider tells
        for path in known.keys() - named.keys():
            if known[path].length:
                log.warning("%s, which this job has written, is not named: it will not have the rest", path)
