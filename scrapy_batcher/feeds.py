"""Scrapy's feeds, made so that a job can be stopped at any moment: where that can be, and why where it cannot."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlparse

from itemadapter import ItemAdapter
from scrapy import Spider, exporters
from scrapy.extensions import feedexport
from scrapy.settings import BaseSettings
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.misc import load_object
from twisted.internet.defer import Deferred
from w3lib.url import file_uri_to_path

from scrapy_batcher.output import Feed, outputs
from scrapy_batcher.redact import redact

logger = logging.getLogger(__name__)


class FileFeedStorage(feedexport.FileFeedStorage):
    """Scrapy's own storage of local files, but for a batch with a job directory: then what is in the file stands for
    settled targets, and survives whatever ends the process.

    It has the name of Scrapy's, since stats are named after it.
    """

    def open(self, spider: Spider) -> IO[bytes]:
        if output := outputs.get(spider.crawler):
            return cast("IO[bytes]", output.open(Path(self.path).resolve(), overwrite=self.write_mode == "wb"))
        return super().open(spider)

    def store(self, file: IO[bytes]) -> Deferred[None] | None:
        if isinstance(file, Feed):
            return deferred_from_coro(file.output.close(file))
        return super().store(file)


class CsvItemExporter(exporters.CsvItemExporter):
    """Scrapy's own CSV exporter, but a file that a job goes on with has one header, and every row is under it."""

    def __init__(self, file: Any, include_headers_line: bool = True, **kwargs: Any) -> None:
        super().__init__(file, include_headers_line=include_headers_line, **kwargs)
        self._feed = file if isinstance(file, Feed) and include_headers_line else None
        self._watches = False  # for fields that have no column

    def export_item(self, item: Any) -> None:
        if self._feed:
            self._keep_one_header(self._feed, item)
        super().export_item(item)

    def _keep_one_header(self, feed: Feed, item: Any) -> None:
        if self.include_headers_line:
            self.include_headers_line = False
            if not self.fields_to_export:
                self._watches = True
                self.fields_to_export = feed.header or list(ItemAdapter(item).field_names())
            if not feed.header:
                header = header_of(self.fields_to_export)
                self.csv_writer.writerow(header)
                feed.write_header(header)
        if self._watches and (left_out := ItemAdapter(item).keys() - set(self.fields_to_export or ())):
            self._watches = False
            names = ", ".join(sorted(map(repr, left_out)))
            logger.warning("%s has no column %s: to have it, name all fields in FEED_EXPORT_FIELDS", feed.path, names)


def header_of(fields: Any) -> list[str]:
    """The header of a CSV file with the feed option *fields*: a list of names, or a dictionary from names to titles."""
    return list(fields.values() if isinstance(fields, Mapping) else fields)


# -- what is promised of a feed -----------------------------------------------------------------------------

#: Exporters whose file is one record behind the other, so that it can be cut between any two and gone on with.
_RECORDS = (
    exporters.JsonLinesItemExporter,
    exporters.PickleItemExporter,
    exporters.MarshalItemExporter,
    CsvItemExporter,
)


class FeedError(Exception):
    """A feed cannot be used as it is to be; the message names it and says why, and what to do."""


@dataclass(frozen=True)
class NamedFeed:
    """An entry of ``FEEDS``.

    :param uri: where its items go, without a password
    :param path: the file, when it is one with a name that is known beforehand
    :param options: as in ``FEEDS``
    """

    uri: str
    path: str | None
    options: Mapping[str, Any]

    @property
    def takes_all(self) -> bool:
        """Whether every item goes into it."""
        return not self.options.get("item_classes") and not self.options.get("item_filter")

    @property
    def is_stdout(self) -> bool:
        return urlparse(self.uri).scheme == "stdout"


def named_feeds(settings: BaseSettings) -> list[NamedFeed]:
    """The feeds that *settings* name."""
    feeds = []
    for given, options in settings.getdict("FEEDS").items():
        uri = str(given)
        path = file_uri_to_path(uri) if uri.startswith("file:") else uri
        is_file = urlparse(uri).scheme in ("", "file") and "%(" not in uri
        feeds.append(NamedFeed(redact(uri), str(Path(path).resolve()) if is_file else None, options))
    return feeds


def check_feed(feed: NamedFeed, settings: BaseSettings) -> None:
    """Check that *feed* can be gone on with after a stop.

    :raises FeedError: when it cannot
    """
    if why := _why_not(feed, settings):
        raise FeedError(f"the feed {feed.uri} cannot be used with JOBDIR: {why}")


def _why_not(feed: NamedFeed, settings: BaseSettings) -> str | None:
    storages, formats = settings.getwithbase("FEED_STORAGES"), settings.getwithbase("FEED_EXPORTERS")
    storage = load_object(storages.get(urlparse(feed.uri).scheme) or storages["file"])
    row_format = feed.options.get("format") or Path(feed.uri).suffix.removeprefix(".")
    if not formats.get(row_format):
        return f"its format {row_format!r} is unknown; choose jsonl or csv"
    exporter = load_object(formats[row_format])
    if not (isinstance(exporter, type) and issubclass(exporter, _RECORDS)):
        return f"after a stop nothing can be added to a file of format {row_format}; choose jsonl or csv"
    if feed.options.get("batch_item_count", settings.getint("FEED_EXPORT_BATCH_ITEM_COUNT")):
        return "with batch_item_count its files are closed before the last targets in them are settled; leave that out"
    if feed.options.get("postprocessing"):
        return "what postprocessing makes of it cannot be cut back after a crash; compress the file afterwards"
    if feed.is_stdout or issubclass(storage, FileFeedStorage):
        return None
    return f"{storage.__name__} stores it when all is done, so a crash loses all of it; name a file, and copy that"
