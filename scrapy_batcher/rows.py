"""The lines of a list become rows: each a `Target`, also those that cannot be fetched because something is wrong with them."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeAlias
from urllib.parse import urlsplit

ROW_LIMIT = 64 * 1024  # bytes of one row; a longer one is invalid and is never held in memory whole

#: What a line of a failures file has; `failures.py` writes it, and a list with such lines is read back.
FAILURE_KEYS = frozenset({"url", "row", "line", "outcome", "status", "error", "attempts"})

_INVALID_LENGTH = 1000  # characters of an invalid row's text that are kept


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the list.

    :param id: its place in the list, from 1; the same row has the same id in every run over the same list
    :param line: the number of its (first) line in the file, from 1
    :param url: its URL as given; of an invalid row, its text
    :param columns: its other columns, by name
    :param error: what is wrong with an invalid row, ``None`` for one that can be fetched
    """

    id: int
    line: int
    url: str
    columns: dict[str, Any]
    error: str | None = None


class MissingColumn(Exception):
    """The list has no column that holds the URL; the message goes on from the list's name."""


class Lines:
    """The lines of a binary stream, without their ends: each bytes, or ``None`` when it is longer than a row may be."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.number = 0  # of the line given last
        self._stream = stream
        self._read = 0  # number of the line read last
        self._given_back: deque[tuple[int, bytes | None]] = deque()
        self._rows = 0

    def __iter__(self) -> Iterator[bytes | None]:
        return self

    def __next__(self) -> bytes | None:
        self.number, line = self._given_back.popleft() if self._given_back else self._next_from_stream()
        return line

    def give_back(self, lines: list[tuple[int, bytes | None]]) -> None:
        """Take back *lines*, each with its number, to be given again."""
        self._given_back.extendleft(reversed(lines))

    def peek(self) -> None:
        """Read the first line, so that what is wrong with the stream shows at once."""
        try:
            self.give_back([self._next_from_stream()])
        except StopIteration:
            return

    def target(self, url: str, columns: dict[str, Any]) -> Target:
        """The row on the line given last."""
        if error := why_not_a_url(url) or _why_not_columns(columns):
            return self.invalid(url, error)
        self._rows += 1
        return Target(self._rows, self.number, url, columns)

    def invalid(self, text: str | bytes | None, error: str) -> Target:
        """The row on the line given last, which has something wrong with it."""
        self._rows += 1
        if isinstance(text, bytes):
            text = text.decode(errors="backslashreplace")
        shown = (text or "")[:_INVALID_LENGTH].encode(errors="backslashreplace").decode()
        return Target(self._rows, self.number, shown, {}, error)

    def _next_from_stream(self) -> tuple[int, bytes | None]:
        line = self._stream.readline(ROW_LIMIT + 1)
        if not line:
            raise StopIteration
        self._read += 1
        too_long = len(line.rstrip(b"\r\n")) > ROW_LIMIT
        while len(line) > ROW_LIMIT and not line.endswith(b"\n"):
            line = self._stream.readline(ROW_LIMIT + 1)
        if self._read == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        return self._read, None if too_long else line.rstrip(b"\r\n")


def why_not_a_url(url: str) -> str | None:
    """What keeps *url* from being a URL that can be requested, ``None`` when nothing does."""
    if not url:
        return "it has no URL"
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in url):
        return "not a URL: it holds a control character"
    try:
        url.encode()
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading the port is what checks it
    except UnicodeEncodeError:
        return "not UTF-8: it holds half of a surrogate pair"
    except ValueError:  # whose message may quote what stands there: a password
        return "not a URL: its host or port cannot be read"
    if not parts.scheme:
        return "not a URL: it has no scheme such as https://"
    if parts.scheme in ("http", "https") and not parts.hostname:
        return "not a URL: it has no host"
    if any(c.isspace() for c in parts.netloc):
        return "not a URL: there is a space in its host"
    return None


def _why_not_columns(columns: dict[str, Any]) -> str | None:
    # JSON can spell half of a surrogate pair, which no output can be written with.
    if columns:
        try:
            json.dumps(columns, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "not UTF-8: a column holds half of a surrogate pair"
    return None


# -- one function for each row format: it takes the lines and the name of the URL's column -------------------------------


def _text(lines: Lines, url_field: str) -> Iterator[Target]:
    for line in _decoded(lines):
        if isinstance(line, Target):
            yield line
        elif not (url := line.strip()).startswith("#"):
            yield lines.target(url, {})


def _json_lines(lines: Lines, url_field: str) -> Iterator[Target]:
    decoded = _decoded(lines)
    first = [_json_row(lines, line, url_field, first=True) for line in _at_most_one(decoded)]
    return (row for part in (first, (_json_row(lines, line, url_field) for line in decoded)) for row in part)


def _json_row(lines: Lines, line: str | Target, url_field: str, first: bool = False) -> Target:
    if isinstance(line, Target):
        return line
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        return lines.invalid(line, f"broken JSON: {e}")
    if not isinstance(row, dict):
        return lines.invalid(line, f"not a JSON object but {type(row).__name__}")
    if row.keys() == FAILURE_KEYS and isinstance(row["row"], dict):
        url, columns = row["url"], row["row"]
    elif url_field in row:
        url, columns = row.pop(url_field), row
    elif first:
        raise MissingColumn(_no_column(url_field, row))
    else:
        return lines.invalid(line, f"it has no field {url_field!r}")
    if not isinstance(url, str):
        return lines.invalid(line, f"its URL is not text but {type(url).__name__}")
    return lines.target(url.strip(), columns)


def _separated(delimiter: str) -> Callable[[Lines, str], Iterator[Target]]:
    def rows(lines: Lines, url_field: str) -> Iterator[Target]:
        records = _cells(lines, delimiter)
        names: list[str] = []
        for header in _at_most_one(records):
            if isinstance(header, Target):
                raise MissingColumn(f"has a header that cannot be read: {header.error}")
            names = _column_names(header)
            if url_field not in names:
                raise MissingColumn(_no_column(url_field, names))
        return (_separated_row(lines, record, names, url_field) for record in records)

    return rows


def _separated_row(lines: Lines, cells: list[str] | Target, names: list[str], url_field: str) -> Target:
    if isinstance(cells, Target):
        return cells
    if len(cells) != len(names):
        few_or_many = "few" if len(cells) < len(names) else "many"
        error = f"too {few_or_many} columns: {len(cells)} where the header has {len(names)}"
        return lines.invalid(",".join(cells), error)
    columns: dict[str, Any] = dict(zip(names, cells, strict=True))
    return lines.target(columns.pop(url_field).strip(), columns)


RowParser: TypeAlias = Callable[[Lines, str], Iterator[Target]]

PARSERS: dict[str, RowParser] = {
    "txt": _text,
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "jsonl": _json_lines,
}


# -- what they share ----------------------------------------------------------------------------------------------------


def _decoded(lines: Lines) -> Iterator[str | Target]:
    """The lines that are not blank, as text; as an invalid row where that cannot be."""
    for line in lines:
        if error := _why_not_text(line):
            yield lines.invalid(line, error)
        elif line and line.strip():
            yield line.decode()


def _why_not_text(line: bytes | None) -> str | None:
    if line is None:
        return f"longer than {ROW_LIMIT // 1024} KiB"
    if b"\0" in line:
        return "it holds a NUL byte"
    try:
        line.decode()
    except UnicodeDecodeError as e:
        return f"not UTF-8: {e.reason} at byte {e.start + 1}"
    return None


def _cells(lines: Lines, delimiter: str) -> Iterator[list[str] | Target]:
    """The records of separated values, as an invalid row where there is none.

    A quoted cell may hold line ends. A quote that is never closed spoils only its own line: the lines after it, which
    the parser swallowed in search of the end, are read again.
    """
    taken: list[tuple[int, bytes | None]] = []

    def text() -> Iterator[str]:
        size = 0
        for line in lines:
            taken.append((lines.number, line))
            size += len(line or b"")
            if error := _why_not_text(line):
                raise csv.Error(error)
            if size > ROW_LIMIT:
                raise csv.Error(f"longer than {ROW_LIMIT // 1024} KiB, or a quote in it is never closed")
            assert line is not None
            yield line.decode() + "\n"

    while True:
        taken.clear()
        try:
            cells = next(csv.reader(text(), delimiter=delimiter, strict=True), None)
        except csv.Error as e:
            (lines.number, line), *others = taken
            lines.give_back(others)
            yield lines.invalid(line, f"broken row: {e}" if others else str(e))
            continue
        if cells is None:
            return
        lines.number = taken[0][0]
        if any(cell.strip() for cell in cells):
            yield cells


def _column_names(header: list[str]) -> list[str]:
    """The names in *header*; a column without one (a data frame's index, say) is called after its place."""
    names = [name.strip() or f"column_{place}" for place, name in enumerate(header, 1)]
    for name in names:
        if names.count(name) > 1:
            raise MissingColumn(f"has two columns named {name!r}; rename one of them")
    return names


def _no_column(url_field: str, names: Iterable[str]) -> str:
    listed = ", ".join(map(repr, names)) or "none"
    return f"has no column {url_field!r}: its columns are {listed}; name the one with the URL with -a url_field="


def _at_most_one(records: Iterator[Any]) -> Iterator[Any]:
    for record in records:
        yield record
        return
