"""A stream becomes numbered lines, none of which is held in memory whole when it is too long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TypeAlias

ROW_LIMIT = 64 * 1024  # bytes of one row; a longer one is invalid

#: Bytes of one line. A line of a failures file holds a row, of which JSON may write each byte as six, and what became
#: of it.
LINE_LIMIT = 8 * ROW_LIMIT

Line: TypeAlias = "tuple[int, bytes | None]"
"""The number of a line, from 1, and its bytes with their end; ``None`` when it is longer than `LINE_LIMIT`."""


class Lines:
    """The lines of a binary stream, without the byte order mark.

    :ivar read: how many were read
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.read = 0
        self._stream = stream
        self._first: Line | None = None

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        if self._first:
            line, self._first = self._first, None
            return line
        return self._next()

    def peek(self) -> None:
        """Read the first line, so that what is wrong with the stream shows at once."""
        self._first = next(self, None)

    def _next(self) -> Line:
        most = LINE_LIMIT + 2  # with \r\n
        data = part = self._stream.readline(most)
        if not data:
            raise StopIteration
        while len(part) == most and not part.endswith(b"\n"):
            part = self._stream.readline(most)
        self.read += 1
        if self.read == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        return self.read, None if _longer_than(LINE_LIMIT, data) else data


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
