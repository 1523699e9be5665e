"""Scrapy's feeds, made so that a job can be stopped at any moment: where that can be, and why where it cannot."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
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

from scrapy_batcher.item import BatchItem, plain_fields
from scrapy_batcher.outputs.output import Feed, Output, OutputError, outputs
from scrapy_batcher.redact import redact

logger = logging.getLogger(__name__)


class FileFeedStorage(feedexport.FileFeedStorage):
    """Scrapy's own storage of local files, but for a batch with a job directory: then what is in the file stands for
    settled targets, and survives whatever ends the process.

    It has the name of Scrapy's, since stats are named after it. Of that it uses ``path`` and ``write_mode``, which are
    not documented (checked on Scrapy 2.18.0 and 2.19.0): tests/test_resume.py fails when one goes away.
    """

    _output: Output | None = None

    def open(self, spider: Spider) -> IO[bytes]:
        output = self._output = outputs.get(spider.crawler)
        if output is None:
            return super().open(spider)
        try:
            return cast("IO[bytes]", output.open(Path(self.path).resolve(), overwrite=self.write_mode == "wb"))
        except Exception as e:  # noqa: BLE001 - the batch ends with it, and says so once; Scrapy would for each item
            output.fail(e)
            return BytesIO()

    def store(self, file: IO[bytes]) -> Deferred[None] | None:
        if self._output is None:
            return super().store(file)
        return deferred_from_coro(self._output.close(file))


# -- exporters whose file is one record behind the other, so that it can be cut between any two and gone on with -----


class RecordExporter(exporters.BaseItemExporter):
    """An exporter that tells a job's feed when it could not write an item: nothing of that is written then.

    The exporters below are Scrapy's own with this in front. One of a project's own needs it too, to write the feed of a
    job, and as the first of its bases: ``class Mine(RecordExporter, MyExporter): pass``.
    """

    def __init__(self, file: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(file, *args, **kwargs)  # type: ignore[call-arg]  # the exporter behind this one takes them
        self._feed = file if isinstance(file, Feed) else None
        if self._feed:
            self._feed.ready = True

    def export_item(self, item: Any) -> None:
        try:
            super().export_item(item)  # type: ignore[safe-super]  # that of the exporter behind this one
        except BaseException:
            if self._feed:
                self._feed.spoil()
            raise

    def get_serialized_fields(
        self, item: Any, default_value: Any = None, include_empty: bool | None = None
    ) -> Iterable[tuple[str, Any]]:
        """What Scrapy gives, for less where that is each field of a batch's item as it is."""
        whole = super().get_serialized_fields
        if isinstance(item, BatchItem) and not include_empty and self._exports_what_there_is(whole):
            names = plain_fields(type(item))  # type: ignore[arg-type]  # a class can be hashed, its instances cannot
            values = vars(item)
            if names and values.keys() >= names:
                return [(name, values[name]) for name in names]
        return whole(item, default_value, include_empty)

    def _exports_what_there_is(self, whole: Any) -> bool:
        """Whether it exports the fields that an item has, no others, and each as it is; *whole* is the method that says
        so in the exporter behind this one."""
        base = exporters.BaseItemExporter
        is_own = (whole.__func__, type(self).serialize_field) != (base.get_serialized_fields, base.serialize_field)
        return self.fields_to_export is None and not (self.export_empty_fields or is_own)


class JsonLinesItemExporter(RecordExporter, exporters.JsonLinesItemExporter):
    """Scrapy's JSON lines, for feeds of jobs too."""


class PickleItemExporter(RecordExporter, exporters.PickleItemExporter):
    """Scrapy's pickles, for feeds of jobs too."""


class MarshalItemExporter(RecordExporter, exporters.MarshalItemExporter):
    """Scrapy's marshal format, for feeds of jobs too."""


class CsvItemExporter(RecordExporter, exporters.CsvItemExporter):
    """Scrapy's CSV, for feeds of jobs too: such a file has one header, and every row is under it."""

    def __init__(self, file: Any, include_headers_line: bool = True, **kwargs: Any) -> None:
        if isinstance(file, Feed) and not file.tell():
            # The byte order mark, where the encoding has one: it would come with the first row that is exported, which
            # need not be the first that is in the file.
            file.write_ahead("".encode(kwargs.get("encoding") or "utf-8"))
        super().__init__(file, include_headers_line, **kwargs)
        self._watches = False  # for fields that have no column

    def export_item(self, item: Any) -> None:
        if self._feed and self.include_headers_line:
            self.include_headers_line = False
            self._write_header(self._feed, item)
        if self._watches and (left_out := ItemAdapter(item).keys() - set(self.fields_to_export or ())):
            self._watches = False
            names = ", ".join(sorted(map(repr, left_out)))
            logger.warning("A CSV feed has no column %s, and cannot be given one any more: it is left out", names)
        super().export_item(item)

    def _write_header(self, feed: Feed, item: Any) -> None:
        if not self.fields_to_export:
            self._watches = True
            self.fields_to_export = feed.columns or list(ItemAdapter(item).field_names())
        columns = columns_of(self.fields_to_export)
        if feed.columns and feed.columns != columns:
            feed.output.fail(OutputError(why_not_columns(feed.path, feed.columns, columns)))
        elif not feed.columns:
            self.csv_writer.writerow(columns.values())
            feed.write_ahead(feed.take()[0])
            feed.columns = columns


def columns_of(fields: Any) -> dict[str, str]:
    """The columns that the feed option *fields* chooses: a list of names, or a dictionary from names to titles."""
    return dict(fields) if isinstance(fields, Mapping) else {name: name for name in fields}


def why_not_columns(path: object, there: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The sentence for a CSV file that has other columns than those that it is to have."""
    return (
        f"{path} has the columns {', '.join(there.values())}, not {', '.join(wanted.values())}: name those, or another "
        "feed"
    )


# -- what is promised of a feed -----------------------------------------------------------------------------


class FeedError(Exception):
    """A feed cannot be used as it is to be; the message names it and says why, and what to do."""


@dataclass(frozen=True)
class NamedFeed:
    """An entry of ``FEEDS``.

    :param uri: where its items go, without a password
    :param path: the file, when it is one with a name that is known beforehand
    :param columns: those of a CSV file, if they are chosen
    :param options: as in ``FEEDS``
    """

    uri: str
    path: str | None
    columns: Mapping[str, str] | None
    options: Mapping[str, Any]

    @property
    def row_format(self) -> str:
        """Its format, as ``FEED_EXPORTERS`` knows it."""
        return str(self.options.get("format") or Path(self.uri).suffix.removeprefix("."))

    @property
    def is_stdout(self) -> bool:
        return urlparse(self.uri).scheme == "stdout"


def named_feeds(settings: BaseSettings) -> list[NamedFeed]:
    """The feeds that *settings* name."""
    named = settings.getdict("FEEDS")
    if settings.get("FEED_URI"):  # deprecated, and still obeyed
        named = {settings.get("FEED_URI"): {"format": settings.get("FEED_FORMAT")}, **named}
    feeds = []
    for given, options in named.items():
        uri = str(given)
        path = file_uri_to_path(uri) if uri.startswith("file:") else uri
        is_file = urlparse(uri).scheme in ("", "file") and "%(" not in uri
        fields = options.get("fields") or settings.getdictorlist("FEED_EXPORT_FIELDS")
        columns = columns_of(fields) if fields else None
        feeds.append(NamedFeed(redact(uri), str(Path(path).resolve()) if is_file else None, columns, options))
    return feeds


def check_parquet(feed: NamedFeed) -> None:
    """Check that *feed* can be a Parquet file, if it is to be one.

    :raises FeedError: when what that needs is not installed, or it would be added to a file
    """
    if feed.row_format != "parquet":
        return
    if find_spec("pyarrow") is None:
        raise FeedError(
            f"the feed {feed.uri} needs pyarrow: pip install 'scrapy-batcher[parquet]', or choose jsonl or csv"
        )
    if feed.path and not feed.options.get("overwrite") and Path(feed.path).is_file() and Path(feed.path).stat().st_size:
        raise FeedError(
            f"the feed {feed.uri} has something in it already, and nothing can be added to a Parquet file: "
            "overwrite it with -O, or name another"
        )


def check_feed(feed: NamedFeed, settings: BaseSettings) -> None:
    """Check that *feed* can be gone on with after a stop.

    :raises FeedError: when it cannot
    """
    if why := _why_not(feed, settings):
        raise FeedError(f"the feed {feed.uri} cannot be used with JOBDIR: {why}")


def _why_not(feed: NamedFeed, settings: BaseSettings) -> str | None:
    storages, formats = settings.getwithbase("FEED_STORAGES"), settings.getwithbase("FEED_EXPORTERS")
    storage = load_object(storages.get(urlparse(feed.uri).scheme) or storages["file"])
    if not formats.get(feed.row_format):
        return f"its format {feed.row_format!r} is unknown; choose jsonl or csv"
    exporter = load_object(formats[feed.row_format])
    if not (isinstance(exporter, type) and issubclass(exporter, RecordExporter)):
        return (
            f"after a stop nothing can be added to what {exporter.__qualname__} has written; choose jsonl or csv, or, "
            f"where that is one record behind the other, give it {RecordExporter.__module__}.{RecordExporter.__name__} "
            "as its first base"
        )
    if feed.options.get("batch_item_count", settings.getint("FEED_EXPORT_BATCH_ITEM_COUNT")):
        return "with batch_item_count its files are closed before the last targets in them are settled; leave that out"
    if feed.options.get("postprocessing"):
        return "what postprocessing makes of it cannot be cut back after a crash; compress the file afterwards"
    if feed.path and (why := _why_not_writable(Path(feed.path))):
        return why
    if feed.is_stdout or issubclass(storage, FileFeedStorage):
        return None
    return f"{storage.__name__} stores it when all is done, so a crash loses all of it; name a file, and copy that"


def _why_not_writable(path: Path) -> str | None:
    """What keeps *path* from being written, or made, ``None`` when nothing does."""
    place = path
    while not place.exists():
        place = place.parent
    if place == path and not place.is_file():
        return "it is not a file"
    if place != path and not place.is_dir():
        return f"{os.path.relpath(place)} is not a directory"
    return None if os.access(place, os.W_OK) else f"{os.path.relpath(place)} is read-only for this user"
