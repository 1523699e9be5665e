"""A stream becomes numbered lines, no too long one held in memory whole; and a place among them is found again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, TypeAlias

ROW_LIMIT = 64 * 1024  # bytes of one row; a longer one is invalid

#: Bytes of one line. A line of a failures file holds a row, of which JSON may write each byte as six, and what became
#: of it.
LINE_LIMIT = 8 * ROW_LIMIT

_CHUNK = 1024 * 1024  # bytes that are skipped at a time

Line: TypeAlias = "tuple[int, bytes | None]"
"""The number of a line, from 1, and its bytes with their end; ``None`` when it is longer than `LINE_LIMIT`."""


class Place(NamedTuple):
    """A place between two lines of a list, and what tells whether another list is the same up to there.

    :param lines: lines before it, in its file
    :param length: bytes before it, of the list as it is without its compression, files before this one included; of
        what has no lines, what `Table` and `Sitemap` count
    :param crc: the CRC-32 of those bytes. It grows line by line and is checked a megabyte at a time, both at next to no
        cost; it is to tell a list from another one, not from one that somebody forged
    """

    lines: int = 0
    length: int = 0
    crc: int = 0

    def after(self, data: bytes, lines: int = 0) -> Place:
        """The place behind *data*, which ends so many lines."""
        return Place(self.lines + lines, self.length + len(data), zlib.crc32(data, self.crc))


class Mark(NamedTuple):
    """How far a list was read: how many rows it gave, and the place behind the last of them."""

    rows: int
    place: Place


START = Mark(0, Place())


class ChangedError(Exception):
    """The list is not the one that was read before; the message goes on from the list's name."""


class BrokenError(Exception):
    """What is in a file is not of its format, from here on; the message says why."""


class Lines:
    """The lines of a binary stream, without the byte order mark.

    :param start: the rows before them, and what the place of the first of them begins with
    :param file: what the file is called that its rows are of, when there are several
    :ivar place: the place behind the last line that was read
    :ivar mark: how far the rows go that were made of them; kept here by who makes them
    :ivar rows: those that are still to be made; kept here by who makes them
    :ivar skipped: whether `skip` left some out
    """

    unit = "bytes"

    def __init__(self, stream: IO[bytes], start: Mark = START, file: str = "") -> None:
        self.place = start.place
        self.mark = start
        self.rows: Iterator[Any] = iter(())
        self.file = file
        self.skipped = False
        self._before = self.place  # the place before the last line that was read
        self._last = b""  # that line
        self._stream = stream
        self._first: Line | None = None

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        if self._first:
            line, self._first = self._first, None
            return line
        return self._next()

    @property
    def is_cut(self) -> bool:
        """Whether nothing ended the last line that was read."""
        return not self._last.endswith(b"\n")

    def peek(self) -> None:
        """Read the first line, so that what is wrong with the stream shows at once."""
        self._first = next(self, None)

    def skip(self, mark: Mark) -> bool:
        """Go on to *mark*, where an earlier reading of the same lines ended, or to the end when there are fewer bytes;
        returns whether there were as many.

        :raises ChangedError: when it is not the same stream up to there, or the line there goes on
        """
        self._first, self.skipped = None, True
        place, last, behind = self.place, self._last, b""
        while place.length < mark.place.length:
            last = self._stream.read(min(_CHUNK, mark.place.length - place.length))
            if not last:
                self.place = place
                return False
            place = place.after(last)
        if place.length > mark.place.length:
            # The list was one line without an end, and what was read of that line now is more than was there.
            inside = mark.place.length - self._before.length
            last, behind = last[:inside], last[inside:]
            place = self._before.after(last)
        elif not last.endswith(b"\n"):
            behind = self._stream.readline(2)
        if place.crc != mark.place.crc:
            raise ChangedError(
                f"has other text in its first {mark.place.lines:,} lines than when they were read before"
            )
        # The last line there was, if nothing ended it, may have got its end.
        if behind not in (b"", b"\n", b"\r\n"):
            raise ChangedError(f"has more on line {mark.place.lines:,} than when it was read before, as its last line")
        self.place = place.after(behind)._replace(lines=mark.place.lines)
        self.mark = mark
        return True

    def _next(self) -> Line:
        most = LINE_LIMIT + 2  # with \r\n
        data = part = self._stream.readline(most)
        if not data:
            raise StopIteration
        self._before, self._last = self.place, data
        self.place = self.place.after(part, lines=1)
        while len(part) == most and not part.endswith(b"\n"):
            part = self._stream.readline(most)
            self.place = self.place.after(part)
        if self.place.lines == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        return self.place.lines, None if _longer_than(LINE_LIMIT, data) else data


def why_not_text(data: bytes | None, limit: int = ROW_LIMIT) -> str | None:
    """What keeps the line *data* from being text of at most *limit* bytes, ``None`` when nothing does."""
    if data is None or _longer_than(limit, data):
        return f"longer than {ROW_LIMIT // 1024} KiB"
    if b"\0" in data:
        return "it holds a NUL byte"
    try:
        data.decode()
    except UnicodeDecodeError as e:
        return f"not UTF-8: {e.reason} at byte {e.start + 1}"
    return None


def _longer_than(limit: int, data: bytes) -> bool:
    return len(data) > limit and len(data.removesuffix(b"\n").removesuffix(b"\r")) > limit
