"""Which format and compression a list has, by its name or by how it begins; and how each format is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Protocol

from scrapy_batcher.lists.columnar import Table
from scrapy_batcher.lists.compression import COMPRESSIONS, compression_of, decompressed
from scrapy_batcher.lists.lines import Lines, Mark, Place
from scrapy_batcher.lists.locations import STDIN, name_of
from scrapy_batcher.lists.remote import is_remote
from scrapy_batcher.lists.rows import PARSERS, Target
from scrapy_batcher.lists.sitemap import Sitemap

_TEXT = "txt"  # the format of what says nothing of it

_TABLES = ("parquet", "arrow")  # which are compressed inside, and read from wherever in the file

_FORMATS = (*PARSERS, "sitemap", *_TABLES)

_OTHER_NAMES = {
    "text": "txt",
    "jl": "jsonl",
    "jsonlines": "jsonl",
    "ndjson": "jsonl",
    "xml": "sitemap",
    "parq": "parquet",
    "pq": "parquet",
    "feather": "arrow",
    "ipc": "arrow",
    "arrows": "arrow",
}


class FormatError(Exception):
    """There is no such format; the message is a sentence."""


class Reading(Protocol):
    """A file of a list that is being read, of whichever format.

    :ivar rows: what is still to come
    :ivar mark: how far the rows went that it gave
    :ivar place: how far it was read: at its end, behind all there is
    :ivar unit: what the length of a place counts
    """

    rows: Iterator[Target]
    mark: Mark
    place: Place
    unit: str

    @property
    def is_cut(self) -> bool:
        """Whether what was read last may not be there whole."""

    def skip(self, mark: Mark) -> bool:
        """Go on to *mark*, or to the end when there is less; returns whether there was as much.

        :raises ChangedError: when something else is there than what *mark* was behind
        """


@dataclass
class Part:
    """A file of a list.

    :param row_format: ``None`` until it was read for the first time, when nothing but how it begins says it
    :param compression: ``""`` for none, or until then
    """

    location: str
    row_format: str | None
    compression: str

    @property
    def name(self) -> str:
        """What it is called in a message."""
        return name_of(self.location)

    @classmethod
    def of(cls, location: str, format: str | None) -> Part:
        """The one at *location*, in *format*, or else what its name asks for.

        :raises FormatError: when that is none that we know
        """
        return cls(location, *_parse(location, format))

    def read(self, stream: IO[bytes], url_field: str, start: Mark, file: str) -> Reading:
        """Begin to read it.

        :param stream: what is at its location
        :param start: the rows that were before it in the list, and what its place begins with
        :param file: what is called the file of its rows, if the list has several
        :raises Exception: one of `compression.READ_ERRORS`, `BrokenError` or `MissingColumnError`, for what can be
            known before the first row
        """
        if self.row_format is None and not self.compression:
            self.compression = compression_of(_beginning(stream))
        stream = decompressed(stream, self.compression)
        if self.row_format is None:
            self.row_format = _begun(_beginning(stream))
        if self.row_format == "sitemap":
            return Sitemap(stream, start, file, self.location)
        if self.row_format in _TABLES:
            return Table(stream, self.row_format, url_field, start, file)
        lines = Lines(stream, start, file)
        lines.peek()
        lines.rows = PARSERS[self.row_format](lines, url_field)
        return lines


def _parse(location: str, format: str | None) -> tuple[str | None, str]:
    """The row format, ``None`` when nothing says it, and the compression."""
    if format is None:
        parts = [suffix[1:] for suffix in PurePosixPath(_path_in(location)).suffixes[-2:]]
        if len(parts) == 2 and parts[1].lower() not in COMPRESSIONS:
            parts = parts[1:]  # the dots before belong to the name: list.2026-11.csv
    else:
        parts = format.split(".")
    named = ".".join(parts)
    parts = [part.lower() for part in parts]
    compression = parts.pop() if parts and parts[-1] in COMPRESSIONS else ""
    if not parts:
        return _TEXT if location == STDIN else None, compression  # stdin is not waited for
    row_format = _OTHER_NAMES.get(parts[0], parts[0])
    if row_format not in _FORMATS or len(parts) > 1:
        raise FormatError(
            f"the list {name_of(location)} has an unknown format {named!r}: pass -a format= with one of "
            f"{', '.join(_FORMATS)}, and .{', .'.join(COMPRESSIONS)} behind it when compressed"
        )
    if compression and row_format in _TABLES:
        raise FormatError(
            f"the list {name_of(location)} is {row_format} within .{compression}: decompress it, as {row_format} is "
            "read from wherever in the file, and compressed inside"
        )
    return row_format, compression


def _beginning(stream: IO[bytes]) -> bytes:
    """What *stream* begins with; nothing is taken of it."""
    return stream.peek(64)[:64]  # type: ignore[attr-defined, no-any-return]  # IO[bytes] lacks it; all of ours have it


def _begun(beginning: bytes) -> str:
    """The row format of what has this *beginning*."""
    for magic, row_format in ((b"PAR1", "parquet"), (b"ARROW1", "arrow")):
        if beginning.startswith(magic):
            return row_format
    # No URL begins so.
    return "sitemap" if beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") else _TEXT


def _path_in(location: str) -> str:
    """The part of *location* that a file is named by."""
    if not is_remote(location):
        return location
    link = next((link for link in location.split("::") if "://" in link), location)
    scheme, _, path = link.partition("://")
    path = re.split("[?#]", path)[0]
    return path.partition("/")[2] if scheme.lower() in ("http", "https") else path
