"""Lines of separated values (CSV, TSV) become records, and a broken one takes no other with it."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from scrapy_batcher.lists.lines import ROW_LIMIT, Lines, Place, why_not_text

UNCLOSED = "a quote in it is never closed"


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that is no record: its bytes, where there are any, and why."""

    data: bytes | None
    error: str


Record: TypeAlias = "tuple[int, list[str] | Broken]"
"""The number of its first line, and its cells."""


class Records:
    """The records in *lines*; a quoted cell may hold line ends.

    A quote that is never closed spoils only its own line: the lines ahead, where its end was looked for, are then
    records of their own. Each line is looked at once for that, so that no number of such quotes takes quadratic time.

    :ivar place: the place behind the last record
    """

    def __init__(self, lines: Lines, delimiter: str) -> None:
        self.place = lines.place
        self._lines = lines
        self._delimiter = delimiter
        self._ahead: deque[_Line] = deque()  # read already, to find where a quote is closed
        self._open_to = 0  # the number of the last line known to leave a quote open that was open before
        self._failure: Exception | None = None  # what ended the lines; raised when those before it have been given

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        if not (self._ahead or self._read_ahead()):
            raise self._failure or StopIteration
        first = self._pop()
        try:
            cells = self._cells([first.text])
            if cells is None:
                cells = self._cells([first.text, *self._to_the_closing_quote(first)])
            assert cells is not None
        except csv.Error as e:
            return first.number, Broken(first.data, str(e).partition(" - ")[0])
        return first.number, cells

    def _read_ahead(self) -> bool:
        """Read one more line, if there is one."""
        if self._failure:
            return False
        try:
            number, data = next(self._lines)
        except StopIteration:
            return False
        except Exception as e:  # noqa: BLE001 - raised by __next__, after the lines read before it
            self._failure = e
            return False
        self._ahead.append(_Line(number, data, self._lines.place))
        return True

    def _pop(self) -> _Line:
        line = self._ahead.popleft()
        self.place = line.place
        return line

    def _to_the_closing_quote(self, first: _Line) -> list[str]:
        """Take the lines after *first* up to the one that closes the quote it leaves open."""
        ahead = max(0, self._open_to - first.number)
        start = first.place.length - len(first.data or b"")
        while True:
            if ahead == len(self._ahead) and not self._read_ahead():
                raise csv.Error(UNCLOSED)
            last = self._ahead[ahead]
            if last.place.length - start > ROW_LIMIT:
                raise csv.Error(f"longer than {ROW_LIMIT // 1024} KiB, or {UNCLOSED}")
            if self._closes(last):
                return [self._pop().text for _ in range(ahead + 1)]
            self._open_to = last.number
            ahead += 1

    def _closes(self, line: _Line) -> bool:
        """Whether *line* closes a quote that is open before it, and with it the record."""
        if line.closes is None:
            try:
                line.closes = self._cells(['"' + line.text]) is not None
            except csv.Error:
                line.breaks = True
                line.closes = False
        if line.breaks:
            raise csv.Error(UNCLOSED)
        return line.closes

    def _cells(self, texts: list[str]) -> list[str] | None:
        """The cells of the record that *texts* make, ``None`` when they leave a quote open.

        :raises csv.Error: when they make none
        """
        try:
            return next(csv.reader(_then_more(texts), delimiter=self._delimiter, strict=True))
        except _MoreError:
            return None


@dataclass(slots=True)
class _Line:
    number: int
    data: bytes | None
    place: Place  # behind it
    closes: bool | None = None  # a quote that is open before it; None: not looked at
    breaks: bool = False  # a quote that is open before it, by what follows a quote in it

    @property
    def text(self) -> str:
        if error := why_not_text(self.data):
            raise csv.Error(error)
        assert self.data is not None
        return self.data.decode()


class _MoreError(Exception):
    """The parser asks for one more line."""


def _then_more(texts: list[str]) -> Iterator[str]:
    yield from texts
    raise _MoreError
