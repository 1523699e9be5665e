"""Sitemaps, and indexes that lead to them, become rows. Neither their XML is trusted, nor where they lead."""

from __future__ import annotations

import gzip
import json
from collections import deque
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, cast
from urllib.parse import unquote, urljoin
from xml.parsers import expat

from scrapy_batcher.lists.compression import READ_ERRORS, reason
from scrapy_batcher.lists.lines import LINE_LIMIT, ROW_LIMIT, BrokenError, ChangedError, Mark
from scrapy_batcher.lists.locations import name_of, open_location
from scrapy_batcher.lists.remote import is_remote, is_web
from scrapy_batcher.lists.rows import Rows, Target, why_not_a_url
from scrapy_batcher.redact import one_line

COLUMNS = ("lastmod", "changefreq", "priority")

_FIELDS = frozenset({"loc", *COLUMNS})

_ROOTS = {"urlset": "url", "sitemapindex": "sitemap"}  # with what they have

_CHUNK = 64 * 1024  # bytes that are parsed at a time
_DEPTH = 50  # of elements
_LEVELS = 3  # of indexes that lead to indexes; there is to be one
_MOST = 50_000  # sitemaps that are led to: as many as an index may have

_ERROR_LENGTH = 300  # characters

_GZIP = b"\x1f\x8b"


class Sitemap:
    """The rows of a sitemap, or of those that an index leads to, in its order, one sitemap at a time.

    What is wrong with one of those for good, it is not there or is no sitemap, is one invalid row. What may be better
    the next time ends the rows. A place in it has the length and the CRC of its rows, written down one behind the
    other.

    :param start: the rows before them in the list, and what the place of the first of them begins with
    :param file: what it is called in its rows, if the list has several files; what an index leads to is called by its
        own name
    :param location: where it is
    :raises BrokenError: when it is no sitemap; from its rows, when it breaks off
    """

    unit = "bytes"
    is_cut = False

    def __init__(self, stream: IO[bytes], start: Mark, file: str, location: str) -> None:
        self.place = start.place
        self.mark = start
        self.file = file
        self._given = Rows(self, self)
        self._led = {location}
        self.rows = self._of(_Document(stream), location, 1)

    def skip(self, mark: Mark) -> bool:
        """Go on to *mark*, where an earlier reading of the same sitemaps ended, or to the end when there is less;
        returns whether there was as much.

        :raises ChangedError: when other rows are before it
        """
        while self.place.length < mark.place.length:
            if next(self.rows, None) is None:
                return False
        if (self.place.length, self.place.crc) != (mark.place.length, mark.place.crc):
            raise ChangedError(f"has other URLs in its first {mark.rows:,} than when they were read before")
        self.mark = mark
        return True

    def _of(self, document: _Document, location: str, level: int) -> Iterator[Target]:
        file = self.file
        for entry in document:
            if entry.error:
                yield self._invalid(entry.line, entry.loc, entry.error)
            elif document.is_index:
                yield from self._led_to(entry, location, level)
                self.file = file
            else:
                columns = {name: entry.fields.get(name) for name in COLUMNS}
                self._go_on(entry.line, json.dumps([entry.loc, columns]))
                yield self._given.target(entry.line, entry.loc, columns)

    def _led_to(self, entry: _Entry, location: str, level: int) -> Iterator[Target]:
        """The rows of the sitemap that *entry* of the index at *location* leads to."""
        file = self.file
        try:
            child = self._next(location, entry.loc, level)
            with open_location(child) as stream:
                document = _Document(stream)
                self.file = name_of(child)
                yield from self._of(document, child, level + 1)
        except _RefusedError as e:
            yield self._invalid(entry.line, entry.loc, f"a sitemap that is not read: {e}")
        except (FileNotFoundError, IsADirectoryError) as e:
            yield self._invalid(entry.line, entry.loc, f"a sitemap that cannot be read: {e.strerror}")
        except BrokenError as e:
            if self.file == file:
                yield self._invalid(entry.line, entry.loc, f"a sitemap that cannot be read: {e}")
            else:
                yield self._invalid(self.place.lines, entry.loc, f"a sitemap that broke off: {e}")
        except READ_ERRORS as e:
            self.place = self.place._replace(lines=entry.line)
            raise OSError(f"the sitemap {name_of(child)}: {reason(e)}") from e

    def _next(self, location: str, loc: str, level: int) -> str:
        """The location that *loc* means, in an index at *location* on this *level*, which is read then.

        :raises _RefusedError: when it is not to be read
        """
        child = _child(location, loc)
        if child in self._led:
            raise _RefusedError("it was led to before")
        if level > _LEVELS or len(self._led) > _MOST:
            raise _RefusedError(f"it is behind more than {_LEVELS} indexes, or one of more than {_MOST:,}")
        self._led.add(child)
        return child

    def _invalid(self, line: int, url: str, error: str) -> Target:
        self._go_on(line, url)
        return self._given.invalid(line, url, one_line(error, _ERROR_LENGTH))

    def _go_on(self, line: int, row: str) -> None:
        self.place = self.place.after(f"{row}\n".encode())._replace(lines=line)


class _Entry(NamedTuple):
    """A ``<url>`` or ``<sitemap>``, the line it begins on, and what is wrong with it."""

    line: int
    fields: dict[str, str]
    error: str | None

    @property
    def loc(self) -> str:
        return self.fields.get("loc", "")


class _Document:
    """The entries of one sitemap or index, parsed as they are asked for, strictly: an XML parser that mends what is
    wrong leaves out parts of a URL.

    A document type is refused, and with it every entity but XML's own five. Nothing in it makes more of it than it is
    long, and of no part more than `LINE_LIMIT` bytes are kept.

    :ivar is_index: whether its entries lead to sitemaps
    :raises BrokenError: now, and when it is iterated over
    :raises Exception: one of `compression.READ_ERRORS`, likewise
    """

    def __init__(self, stream: IO[bytes]) -> None:
        is_zipped = stream.peek(2)[:2] == _GZIP  # type: ignore[attr-defined]  # IO[bytes] lacks it; all of ours have it
        self._stream = cast("IO[bytes]", gzip.GzipFile(fileobj=stream, mode="rb")) if is_zipped else stream
        self._parser = parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype
        parser.DefaultHandler = self._other  # all the rest: comments, instructions
        self._entries: deque[_Entry] = deque()
        self._depth = 0
        self._root = ""
        self._space = ""  # the root's namespace, and that of all that counts
        self._silent = 0  # bytes parsed since something was found in them: of one comment, say
        self._fields: dict[str, str] | None = None  # of the entry that is being read
        self._name = ""  # of the field that is
        self._line = 0
        self._length = 0  # of the entry
        self._twice = ""  # the field that the entry has more than once
        self._ended = False
        self._blank = 0  # lines before the document
        self._begun = False
        self._failure: BrokenError | None = None  # what ended it; raised when the entries before it have been given
        while not self._root and not self._ended:
            self._parse()
        if not self._root and self._failure:
            raise self._failure

    @property
    def is_index(self) -> bool:
        return self._root == "sitemapindex"

    def __iter__(self) -> Iterator[_Entry]:
        while self._entries or not self._ended:
            while self._entries:
                yield self._entries.popleft()
            if not self._ended:
                self._parse()
        if self._failure:
            raise self._failure

    def _parse(self) -> None:
        data = self._stream.read(_CHUNK)
        self._ended = not data
        self._silent += len(data)
        try:
            self._parser.Parse(data if self._root else self._without_blanks(data), self._ended)
            if self._silent > LINE_LIMIT:
                raise BrokenError(f"a piece of it is longer than {LINE_LIMIT // 1024} KiB")
        except (expat.ExpatError, BrokenError) as e:
            self._failure = e if isinstance(e, BrokenError) else BrokenError(f"it is no XML: {e}")
            self._ended = True
        except (LookupError, ValueError) as e:  # of Python's codecs
            self._failure = BrokenError(f"it has an encoding that cannot be read: {e}")
            self._ended = True

    def _without_blanks(self, data: bytes) -> bytes:
        """*data* without what is blank before the document: no XML, but many sites have it."""
        if self._begun:
            return data
        document = data.lstrip()
        self._blank += data.count(b"\n", 0, len(data) - len(document))
        self._begun = bool(document)
        return document

    # -- what expat calls --------------------------------------------------------------------------------------

    def _start(self, name: str, attributes: Any) -> None:
        self._silent = 0
        self._depth += 1
        if self._depth > _DEPTH:
            raise BrokenError(f"its elements are nested more than {_DEPTH} levels deep")
        space, _, local = name.rpartition("}")
        if self._depth == 1:
            if local not in _ROOTS:
                raise BrokenError(f"no sitemap: its root is <{local}>, not <urlset> or <sitemapindex>")
            self._root, self._space = local, space
        elif self._depth == 2 and (space, local) == (self._space, _ROOTS[self._root]):
            self._fields, self._length, self._twice = {}, 0, ""
            self._line = self._parser.CurrentLineNumber + self._blank
        elif self._depth == 3:
            self._name = local if space == self._space and local in _FIELDS else ""
            if self._fields and self._name in self._fields:
                self._twice = self._name

    def _text(self, text: str) -> None:
        self._silent = 0
        if self._depth == 3 and self._fields is not None and self._name:
            self._length += len(text.encode())
            if self._length <= ROW_LIMIT:
                self._fields[self._name] = self._fields.get(self._name, "") + text

    def _end(self, name: str) -> None:
        self._silent = 0
        if self._depth == 2 and self._fields is not None:
            fields = {name: text.strip() for name, text in self._fields.items()}
            error = f"it has more than one <{self._twice}>" if self._twice else None
            error = f"longer than {ROW_LIMIT // 1024} KiB" if self._length > ROW_LIMIT else error
            self._entries.append(_Entry(self._line, fields, error))
            self._fields = None
        self._depth -= 1

    def _other(self, data: str) -> None:
        self._silent = 0

    def _doctype(self, *args: Any) -> None:
        raise BrokenError("it has a document type (<!DOCTYPE), which no sitemap needs and is not read")


class _RefusedError(Exception):
    """An index must not lead there; the message says why."""


def _child(location: str, loc: str) -> str:
    """The location that *loc* means, in an index at *location*.

    :raises _RefusedError: when an index there must not lead there
    """
    if is_web(location) or is_web(loc):
        try:
            child = urljoin(location, loc) if is_web(location) else loc
        except ValueError as e:
            raise _RefusedError(str(e)) from e
        if not is_web(child):
            raise _RefusedError("an index on the web leads to the web only")
        if error := why_not_a_url(child):
            raise _RefusedError(error)
        return child
    path = unquote(loc)
    if not path or "\0" in path or is_remote(path) or path.startswith("/") or ".." in path.split("/"):
        raise _RefusedError("an index leads to the web, or to what is in its own folder")
    path = "/".join(part for part in path.split("/") if part not in ("", "."))  # each place has one name
    folder = location.rpartition("/")[0]
    return f"{folder}/{path}" if folder else path
