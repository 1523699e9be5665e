"""What a batch needs before it starts is checked, and opened; what is wrong with it is said in one sentence."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, runtime_checkable

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.utils.log import SpiderLoggerAdapter

from scrapy_batcher.books import Books
from scrapy_batcher.config import Config
from scrapy_batcher.database import LedgerError
from scrapy_batcher.errors import refuse
from scrapy_batcher.failures import FailuresFile
from scrapy_batcher.feeds import FeedError, NamedFeed, check_feed, named_feeds, why_not_columns
from scrapy_batcher.jobdir import JobDir, JobDirError
from scrapy_batcher.ledger import PENDING, Ledger, Owner
from scrapy_batcher.output import Output, OutputError, cut_back, outputs
from scrapy_batcher.rows import Target
from scrapy_batcher.sources import Source, SourceError


@runtime_checkable
class Batch(Protocol):
    """A spider that has a list.

    :ivar failures: path of its failures file; ``None`` for what ``BATCHER_FAILURES`` says
    :ivar retry: outcomes that are tried again when the list is through
    """

    name: str
    source: Source
    failures: str | None
    retry: tuple[str, ...]

    @property
    def logger(self) -> SpiderLoggerAdapter: ...

    def make_request(self, target: Target) -> Request: ...


def open_books(spider: Batch, crawler: Crawler, config: Config) -> Books:
    """Open the books of the batch of *spider*; with ``JOBDIR``, those of its job, which is locked then.

    :raises StartError: when something is wrong with its list, its feeds, its failures file or its job directory
    """
    files = ExitStack()  # what is open
    with ExitStack() as failed:
        failed.enter_context(files)
        files.callback(spider.source.close)
        try:
            feeds = named_feeds(crawler.settings)
            failures = _check_paths(spider, config, feeds)
            output = None
            if config.jobdir:
                for feed in feeds:
                    check_feed(feed, crawler.settings)
                jobdir = JobDir(config.jobdir)
                files.callback(jobdir.close)
                ledger = _open_ledger(spider, jobdir.ledger, files)
                spider.source.resume(ledger.mark, jobdir.spool)
                output = outputs[crawler] = _open_output(spider, ledger, Path(config.jobdir).resolve(), feeds)
            else:
                ledger = _open_ledger(spider, None, files)
            file = _open_failures(failures, files) if failures else None
            books = Books(config, crawler.stats, spider.logger, ledger, output, file, spider.source, files)
        except (FeedError, JobDirError, LedgerError, OutputError, SourceError) as e:
            raise refuse(str(e)) from e
        failed.pop_all()
        return books


def _check_paths(spider: Batch, config: Config, feeds: list[NamedFeed]) -> str | None:
    """The path of the failures file, if one is asked for."""
    failures = spider.failures or config.failures
    if not config.concurrency:
        raise refuse("CONCURRENT_REQUESTS is 0, no limit: a batch has as many workers, so it needs a number")
    for feed in feeds:
        if feed.path and spider.source.is_file(feed.path):
            raise refuse(f"the feed {feed.uri} is the list itself, which it would spoil: name another")
    paths = [feed.path for feed in feeds if feed.path]
    for path in paths:
        if paths.count(path) > 1:
            raise refuse(f"{path} is named twice as a feed: leave one out")
    if failures and spider.source.is_file(failures):
        raise refuse(f"the failures file {failures} is the list itself, which it would overwrite: name another")
    if failures and str(Path(failures).resolve()) in paths:
        raise refuse(f"the failures file {failures} is a feed too: name another")
    return failures


def _open_ledger(spider: Batch, path: Path | None, files: ExitStack) -> Ledger:
    """The ledger at *path*, or a temporary one, which belongs to the batch of *spider*."""
    ledger = Ledger(path)
    files.callback(ledger.close)
    given = Owner(spider.name, spider.source.row_format, spider.source.url_field)
    owner = ledger.belong(given)
    for what, theirs, ours in zip(("spider", "list's format", "url_field"), owner, given, strict=True):
        if theirs != ours:
            raise refuse(f"the {what} of the job in {path} is {theirs!r}, not {ours!r}: give that, or another JOBDIR")
    return ledger


def _open_output(spider: Batch, ledger: Ledger, root: Path, feeds: list[NamedFeed]) -> Output:
    """The feeds as the job has left them, each cut back to what is settled."""
    states = ledger.feeds()
    done = sum(count for state, count in ledger.tally().items() if state != PENDING)
    for feed in feeds:
        if done and feed.options.get("overwrite"):
            raise refuse(
                f"{feed.uri} would be begun anew with -O, and {done:,} targets of this job are done and not fetched "
                "again: go on with -o, or begin again with another JOBDIR"
            )
        if feed.path and not os.access(place := _nearest(Path(feed.path)), os.W_OK):
            raise refuse(f"the feed {feed.uri} cannot be written: {os.path.relpath(place)} is read-only for this user")
        if feed.is_stdout:
            spider.logger.info("stdout cannot be cut back: after a stop some items may come once more on it")
    columns = {feed.path: feed.columns for feed in feeds}
    for seen, state in states.items():
        path = os.path.normpath(root / seen)
        if not state.closed:
            try:
                cut = cut_back(Path(path), state)
            except OSError as e:
                raise refuse(f"the feed {path} cannot be cut back: {e.strerror}") from e
            ledger.enter_feed(seen, state._replace(closed=True))
            if cut:
                spider.logger.info("%s is cut back by %s bytes, which are fetched again", path, f"{cut:,}")
        if state.columns and (wanted := columns.get(path)) and wanted != state.columns:
            raise refuse(why_not_columns(path, state.columns, wanted))
    return Output(root, states, ledger.enter_feed, stdout=any(feed.is_stdout for feed in feeds))


def _nearest(path: Path) -> Path:
    """*path*, or the nearest of the folders it is to be in that is there."""
    return path if path.exists() else _nearest(path.parent)


def _open_failures(path: str, files: ExitStack) -> FailuresFile:
    try:
        file = FailuresFile(path)
    except OSError as e:
        raise refuse(f"the failures file {path} cannot be written: {e.strerror}") from e
    files.callback(file.close)
    return file
