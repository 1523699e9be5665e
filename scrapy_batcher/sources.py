"""A location becomes an iterator of `Target`s."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from scrapy_batcher.compression import COMPRESSIONS, READ_ERRORS, decompressed
from scrapy_batcher.lines import START, ChangedError, Lines, Mark
from scrapy_batcher.redact import one_line
from scrapy_batcher.rows import PARSERS, MissingColumnError, Target
from scrapy_batcher.shard import WHOLE, Shard
from scrapy_batcher.spool import Spool

STDIN = "-"

_ERROR_LENGTH = 1000  # characters

_OTHER_NAMES = {"text": "txt", "jl": "jsonl", "jsonlines": "jsonl", "ndjson": "jsonl"}


class SourceError(Exception):
    """The list cannot be read, or not to its end; the message names it and says why."""


class Source:
    """The list at *location*, or a shard of it: iterate over it once for its rows, invalid ones included.

    :param location: a path, or ``-`` for stdin
    :param format: ``txt``, ``csv``, ``tsv`` or ``jsonl``, with ``.gz``, ``.bz2``, ``.xz`` or ``.zst`` behind it when
        compressed; ``None`` takes it from the file's name
    :param url_field: the column that holds the URL (``txt`` has none)
    :ivar shard: which of its rows are given; ``WHOLE`` for all of them
    :raises SourceError: at once, for whatever can be known before the first row: an unreadable file, an unknown
        format, a compression that is not what the name says, a missing column. Of stdin nothing is read before the
        first row is asked for, so that nobody waits for who writes it
    """

    def __init__(self, location: str, format: str | None = None, url_field: str = "url", shard: Shard = WHOLE) -> None:
        self.location = location
        self.url_field = url_field
        self.shard = shard
        self.row_format, self._compression = _parse_format(location, format)
        self.spool: Spool | None = None
        self._start = START
        self._lines: Lines | None = None
        with ExitStack() as files, self._complaining():
            self._raw = files.enter_context(_open(location))
            self._stat = os.fstat(self._raw.fileno())
            if location != STDIN:
                self._open()
            self._files = files.pop_all()

    def resume(self, mark: Mark, spool: Path | None = None) -> None:
        """Begin where an earlier reading of the same list ended.

        :param mark: how far that went, as `marked` has given it with the last row
        :param spool: the file in which stdin is kept, so that it can be resumed
        :raises SourceError: when it is not the same list up to there; of stdin, when its first row is asked for
        """
        self._start = mark
        if self.location == STDIN and spool:
            with self._complaining():
                self.spool = self._files.enter_context(Spool(self._raw, spool))
                self._raw = io.BufferedReader(self.spool)
        if self._lines and mark != START:
            with self._complaining():
                self._lines.skip(mark)

    def __iter__(self) -> Iterator[Target]:
        """The rows, in the order of the list.

        :raises SourceError: when the list breaks off; the rows before that have been given
        """
        return (target for target, _ in self.marked())

    def marked(self) -> Iterator[tuple[Target, Mark]]:
        """The rows, each with how far the list was read to have it.

        :raises SourceError: when the list breaks off; the rows before that have been given
        """
        # Whoever iterates closes: a thread that waits for a line cannot have its file closed by another one.
        with self._files.pop_all(), self._complaining():
            lines = self._lines
            if not lines:
                lines = self._open()
                if self._start != START:
                    lines.skip(self._start)
            for target in self._rows:
                if self.spool and self.spool.is_all and lines.is_cut and lines.mark.place == lines.place:
                    break  # an earlier run was ended in the middle of this line, and there is no more of it now
                if self.shard.has(target):
                    yield target, lines.mark

    @property
    def mark(self) -> Mark:
        """How far the list was read, rows of other shards included. To be asked for when that has ended."""
        return self._lines.mark if self._lines else self._start

    def is_file(self, path: str) -> bool:
        """Whether the list is the file at *path*, by whatever name, or as stdin."""
        return os.path.exists(path) and os.path.samestat(os.stat(path), self._stat)

    def close(self) -> None:
        """Close the file of a list that nobody iterates over after all."""
        self._files.close()

    def __str__(self) -> str:
        return "stdin" if self.location == STDIN else self.location

    def _open(self) -> Lines:
        lines = self._lines = Lines(decompressed(self._raw, self._compression))
        lines.peek()
        self._rows = PARSERS[self.row_format](lines, self.url_field)
        return lines

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except READ_ERRORS as e:
            read = self._lines.place.lines if self._lines else 0
            what = f"broke off after line {read}" if read else "cannot be read"
            why = (isinstance(e, OSError) and e.strerror) or str(e) or type(e).__name__
            raise SourceError(one_line(f"{self} {what}: {why}", _ERROR_LENGTH)) from e
        except MissingColumnError as e:
            raise SourceError(one_line(f"{self} {e}", _ERROR_LENGTH)) from e
        except ChangedError as e:
            raise SourceError(f"{self} {e}: give the list that this job was begun with, or another JOBDIR") from e


def _open(location: str) -> IO[bytes]:
    if location != STDIN:
        return open(location, "rb")
    if sys.stdin is None:
        raise OSError("it is closed")
    # A descriptor of our own: when the process ends while a thread waits for a line, sys.stdin is not in its hands.
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb")


def _parse_format(location: str, format: str | None) -> tuple[str, str]:
    """The row format and the compression (``""`` for none) that *format*, or else the name of *location*, asks for."""
    if format is None:
        parts = [suffix[1:] for suffix in Path(location).suffixes[-2:]]
        if len(parts) == 2 and parts[1].lower() not in COMPRESSIONS:
            parts = parts[1:]  # the dots before belong to the name: list.2026-11.csv
    else:
        parts = format.split(".")
    named = ".".join(parts)
    parts = [part.lower() for part in parts]
    compression = parts.pop() if parts and parts[-1] in COMPRESSIONS else ""
    row_format = parts[0] if parts else "txt"
    row_format = _OTHER_NAMES.get(row_format, row_format)
    if row_format not in PARSERS or len(parts) > 1:
        raise SourceError(
            f"the list {one_line(location, _ERROR_LENGTH)} has an unknown format {named!r}: "
            f"pass -a format= with one of {', '.join(PARSERS)}, "
            f"and .{', .'.join(COMPRESSIONS)} behind it when compressed"
        )
    return row_format, compression
