"""Reads a list, made of one file or of several in a row, as an iterator of `Target`s."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from zlib import crc32

from scrapy_batcher.lists.compression import READ_ERRORS, reason
from scrapy_batcher.lists.formats import FormatError, Part, Reading
from scrapy_batcher.lists.lines import START, BrokenError, ChangedError, Mark, Place
from scrapy_batcher.lists.locations import STDIN, LocationError, is_local, locations_in, name_of, open_location
from scrapy_batcher.lists.remote import is_remote
from scrapy_batcher.lists.rows import MissingColumnError, Target
from scrapy_batcher.lists.shard import WHOLE, Shard
from scrapy_batcher.lists.spool import Spool
from scrapy_batcher.redact import one_line

_ERROR_LENGTH = 1000  # characters

_BREAKS: tuple[type[Exception], ...] = (*READ_ERRORS, BrokenError)


class SourceError(Exception):
    """The list cannot be read, or not to its end; the message names it and says why."""


class Source:
    """The list at *location*, or a shard of it. Iterate over it once to get its rows, including invalid ones.

    :param location: a path, a location that fsspec knows, or ``-`` for stdin; or several of them and patterns, as
        `locations_in` takes them
    :param format: ``txt``, ``csv``, ``tsv``, ``jsonl``, ``sitemap``, ``parquet`` or ``arrow``; if compressed (not the
        last two), followed by ``.gz``, ``.bz2``, ``.xz`` or ``.zst``. ``None`` tells it from each file's name, or else
        from how the file begins
    :param url_field: the column that holds the URL (``txt`` and ``sitemap`` have none)
    :ivar shard: which of its rows are given; ``WHOLE`` for all of them
    :raises SourceError: at once, for whatever can be known before the first row: an unreadable file, an unknown
        format, a compression that is not what the name says, a missing column. All local files are inspected. Nothing
        is read from stdin before the first row is asked for, so nobody waits for whoever writes to it
    """

    def __init__(self, location: str, format: str | None = None, url_field: str = "url", shard: Shard = WHOLE) -> None:
        self.location = location
        self.url_field = url_field
        self.shard = shard
        self.spool: Spool | None = None
        self.mark = START  #: How far the list was read, rows of other shards included
        self._goal = START  # where its reading is to begin
        self._name = str(self)  # of what is being read
        self._reading: Reading | None = None
        self._before = 0  # the length of the parts before it
        with ExitStack() as files, self._complaining():
            self._parts = [Part.of(each, format) for each in locations_in(location)]
            self._behind = iter(self._parts)  # the parts that were not begun
            self._part = next(self._behind)
            if self._part.location == STDIN:
                self._raw = files.enter_context(open_location(STDIN))
                self._stats = [os.fstat(self._raw.fileno())]
            else:
                self._stats = [self._look_into(part) for part in self._parts if not is_remote(part.location)]
                self._open(self._part, files)
            self._files = files.pop_all()

    @property
    def row_format(self) -> str:
        """Its format; for several files, every format that one of them has."""
        return ", ".join(dict.fromkeys(part.row_format or "?" for part in self._parts))

    def resume(self, mark: Mark, spool: Path | None = None) -> None:
        """Begin where an earlier reading of the same list ended.

        :param mark: how far that reading went, as `marked` gave it with the last row
        :param spool: the file in which stdin is kept, so that it can be resumed
        :raises SourceError: if it is not the same list up to there; for stdin, and for lists that are not only in local
            files, this is raised when the first row is asked for
        """
        self._goal = mark
        with self._complaining():
            if self._part.location == STDIN and spool:
                self.spool = self._files.enter_context(Spool(self._raw, spool))
                self._raw = io.BufferedReader(self.spool)
            if all(is_local(part.location) for part in self._parts):
                self._begin(self._files)

    def __iter__(self) -> Iterator[Target]:
        """The rows, in the order of the list.

        :raises SourceError: if the list breaks off, after the rows before that
        """
        return (target for target, _ in self.marked())

    def marked(self) -> Iterator[tuple[Target, Mark]]:
        """The rows, each with a mark of how far the list was read to get it.

        :raises SourceError: if the list breaks off, after the rows before that
        """
        # Whoever iterates closes: a thread that waits for a line cannot have its file closed by another one.
        with self._files.pop_all() as files, self._complaining():
            reading: Reading | None = self._begin(files)
            while reading:
                for target in reading.rows:
                    if self.spool and self.spool.is_all and reading.is_cut and reading.mark.place == reading.place:
                        break  # an earlier run was ended in the middle of this line, and there is no more of it now
                    self.mark = _moved(reading.mark, self._before)
                    if self.shard.has(target):
                        yield target, self.mark
                reading = self._next(reading, files)

    def is_file(self, path: str) -> bool:
        """Whether the file at *path*, under any name or as stdin, is the list or one of its files."""
        return os.path.exists(path) and any(os.path.samestat(os.stat(path), stat) for stat in self._stats)

    def close(self) -> None:
        """Close the file of a list that is not iterated over after all."""
        self._files.close()

    def __str__(self) -> str:
        return name_of(self.location)

    def _look_into(self, part: Part) -> os.stat_result:
        """What the system knows of the file of *part*; what is wrong with it shows, if it can be opened once more."""
        self._name, self._reading = part.name, None
        stat = os.stat(part.location)
        if part is not self._part and is_local(part.location):
            with ExitStack() as files:
                self._open(part, files)
        return stat

    def _open(self, part: Part, files: ExitStack, start: Mark = START) -> Reading:
        self._name, self._reading = part.name, None
        stream = self._raw if part.location == STDIN else files.enter_context(open_location(part.location))
        file = part.name if len(self._parts) > 1 else ""
        self._reading = part.read(stream, self.url_field, start, file)
        return self._reading

    def _begin(self, files: ExitStack) -> Reading:
        """Go on to where the reading is to begin.

        :raises ChangedError: when it is not the same list up to there
        """
        reading = self._reading or self._open(self._part, files)
        goal, self._goal = self._goal, START
        if goal == START:
            return reading
        while not reading.skip(_moved(goal, -self._before)):
            length = self._before + reading.place.length
            following = self._next(reading, files)
            if not following:
                raise ChangedError(
                    f"ends after {length:,} {reading.unit}, where {goal.place.length:,} were read before"
                )
            reading = following
        self.mark = goal
        return reading

    def _next(self, reading: Reading, files: ExitStack) -> Reading | None:
        """The part behind that of *reading*, which is at its end; ``None`` when that was the last."""
        part = next(self._behind, None)
        if not part:
            return None
        files.close()
        self._part = part
        self._before += reading.place.length
        # Where one file ends and the next begins is a part of what the list is.
        return self._open(part, files, Mark(self.mark.rows, Place(crc=crc32(b"\0", reading.place.crc))))

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except _BREAKS as e:
            read = self._reading.place.lines if self._reading else 0
            what = f"broke off after line {read}" if read else "cannot be read"
            raise SourceError(one_line(f"{self._name} {what}: {reason(e)}", _ERROR_LENGTH)) from e
        except MissingColumnError as e:
            raise SourceError(one_line(f"{self._name} {e}", _ERROR_LENGTH)) from e
        except (LocationError, FormatError) as e:
            raise SourceError(one_line(str(e), _ERROR_LENGTH)) from e
        except ChangedError as e:
            where = "" if self._name == str(self) else f", up to {self._name},"
            raise SourceError(
                f"{self}{where} {e}: give the list that this job was begun with, or another JOBDIR"
            ) from e


def _moved(mark: Mark, length: int) -> Mark:
    """*mark*, seen from *length* before it."""
    return Mark(mark.rows, mark.place._replace(length=mark.place.length + length)) if length else mark
