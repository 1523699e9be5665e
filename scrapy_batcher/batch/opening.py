"""What a batch needs before it starts is checked, and opened; what is wrong with it is said in one sentence."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, runtime_checkable

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.utils.log import SpiderLoggerAdapter

from scrapy_batcher.batch.books import Books
from scrapy_batcher.batch.failures import FailuresFile
from scrapy_batcher.batch.stock import take_stock
from scrapy_batcher.config import Config
from scrapy_batcher.errors import refuse
from scrapy_batcher.jobs.database import LedgerError
from scrapy_batcher.jobs.jobdir import JobDir, JobDirError
from scrapy_batcher.jobs.ledger import Ledger, Owner
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.shard import WHOLE
from scrapy_batcher.lists.sources import Source, SourceError
from scrapy_batcher.outputs.archive import Archive, archives
from scrapy_batcher.outputs.bodies import Bodies, bodies_of
from scrapy_batcher.outputs.feeds import FeedError, NamedFeed, check_feed, check_parquet, named_feeds
from scrapy_batcher.outputs.names import Template
from scrapy_batcher.outputs.output import Output, OutputError, outputs
from scrapy_batcher.throttling.rules import rules_of
from scrapy_batcher.values import ConfigError

# What a job is refused for that has another one: the fields of an `Owner`.
_OWNED = ("spider", "list's format", "url_field", "shard", "BATCHER_SHARD_BY")


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
            files_named = [*feeds, *_warc(config)]
            failures = _check_paths(spider, config, files_named)
            jobdir = _open_jobdir(spider, config.jobdir, crawler, feeds, files) if config.jobdir else None
            file = _open_failures(failures, files) if failures else None
            ledger = _open_ledger(spider, jobdir.ledger if jobdir else None, files)
            spider.source.resume(ledger.mark, jobdir.spool if jobdir else None)
            output = _open_output(spider, crawler, config, jobdir, ledger, files_named, files)
            if spider.source.shard != WHOLE:
                spider.logger.info("Shard %s of the list, by %s", spider.source.shard, spider.source.shard.by)
            if jobdir:  # last, as a refusal is no run
                for path in jobdir.set_aside(killed=ledger.history.begin_run()):
                    spider.logger.info("Scrapy cannot go on with what it had kept, which is in %s now", path)
            books = Books(
                config,
                rules_of(crawler, config),
                crawler.stats,
                spider.logger,
                ledger,
                output,
                file,
                spider.source,
                files,
            )
        except (ConfigError, FeedError, JobDirError, LedgerError, OutputError, SourceError) as e:
            raise refuse(str(e)) from e
        failed.pop_all()
        return books


def _check_paths(spider: Batch, config: Config, feeds: list[NamedFeed]) -> str | None:
    """The path of the failures file, if one is asked for."""
    failures = spider.failures or config.failures
    if not config.concurrency:
        raise refuse("CONCURRENT_REQUESTS is 0, no limit: a batch has as many workers, so it needs a number")
    for feed in feeds:
        check_parquet(feed)
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


def _open_jobdir(spider: Batch, path: str, crawler: Crawler, feeds: list[NamedFeed], files: ExitStack) -> JobDir:
    """The job directory at *path*, when *feeds* are such as a job can keep its promise of."""
    for feed in feeds:
        check_feed(feed, crawler.settings)
    jobdir = JobDir(path)
    files.callback(jobdir.close)
    return jobdir


def _open_ledger(spider: Batch, path: Path | None, files: ExitStack) -> Ledger:
    """The ledger at *path*, or a temporary one, which belongs to the batch of *spider*."""
    ledger = Ledger(path)
    files.callback(ledger.close)
    source = spider.source
    given = Owner(spider.name, source.row_format, source.url_field, str(source.shard), source.shard.by)
    owner = ledger.belong(given)
    for what, theirs, ours in zip(_OWNED, owner, given, strict=True):
        if theirs != ours:
            raise refuse(f"the {what} of the job in {path} is {theirs!r}, not {ours!r}: give that, or another JOBDIR")
    return ledger


def _warc(config: Config) -> list[NamedFeed]:
    """The WARC file, which is looked after as feeds are."""
    return [NamedFeed(config.warc, str(Path(config.warc).resolve()), None, {})] if config.warc else []


def _open_output(
    spider: Batch,
    crawler: Crawler,
    config: Config,
    jobdir: JobDir | None,
    ledger: Ledger,
    feeds: list[NamedFeed],
    files: ExitStack,
) -> Output | None:
    """What is written in step with the ledger: feeds with a job, bodies and the WARC file with and without one."""
    if jobdir:
        output = outputs[crawler] = take_stock(ledger, jobdir.path, feeds, spider.logger)
    elif config.bodies or config.warc:
        output = Output(Path.cwd(), {}, ledger.enter_feed, stdout=False)
    else:
        return None
    if config.bodies:
        job = jobdir.path if jobdir else None
        try:
            bodies = Bodies(Path(config.bodies), Template(config.bodies_names), job, ledger.seen, output.fail)
        except OSError as e:
            raise refuse(f"the folder BATCHER_BODIES {config.bodies} cannot be used: {e.strerror}") from e
        files.callback(bodies.close)
        output.waits.append(bodies.sync)
        bodies_of[crawler] = bodies
    if config.warc:
        try:
            archive = Archive.open(config.warc, output, crawler)
        except ImportError as e:
            raise refuse("BATCHER_WARC needs warcio: pip install 'scrapy-batcher[warc]'") from e
        except OSError as e:
            raise refuse(f"the file BATCHER_WARC {config.warc} cannot be written: {e.strerror}") from e
        files.callback(archive.feed.close)
        archives[crawler] = archive
    return output


def _open_failures(path: str, files: ExitStack) -> FailuresFile:
    try:
        file = FailuresFile(path)
    except OSError as e:
        raise refuse(f"the failures file {path} cannot be written: {e.strerror}") from e
    files.callback(file.close)
    if not file.is_one():
        raise refuse(f"{path} has something else than failures in it, which would be overwritten: name another")
    return file
