"""Makes rows of the lines of a list: each is a `Target`, even one that is invalid."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

from scrapy_batcher.lists.lines import LINE_LIMIT, Lines, Mark, Place, why_not_text
from scrapy_batcher.lists.separated import Broken, Records
from scrapy_batcher.redact import one_line, redact_url

#: What a line of a failures file has; `failures.py` writes it, and a list with such lines is read back.
FAILURE_KEYS = frozenset({"url", "row", "line", "outcome", "status", "error", "attempts"})

#: What it has beside them when the list has several files.
FILE_KEY = "file"

_FAILURE_KEYS_WITH_FILE = FAILURE_KEYS | {FILE_KEY}

_INVALID_LENGTH = 1000  # characters of an invalid row's text that are kept
_LISTED_LENGTH = 300  # characters of a list's column names that a message shows
_DEPTH = 50  # of a JSON value; far deeper, and neither the ledger nor a feed can write it

# What most URLs look like. For them this one look is enough: a list of millions is read in the time that it takes.
_ORDINARY = re.compile(r"https?://[A-Za-z0-9.-]+(?::(?:[1-5][0-9]{4}|[0-9]{1,4}))?(?:[/?#][!-~]*)?")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """One row of the list.

    :param id: its place in the list, from 1; the same row has the same id in every run over the same list
    :param line: the number of its (first) line in the file, from 1
    :param url: its URL, as given; for an invalid row without one, its text
    :param columns: its other columns, by name
    :param error: what is wrong with an invalid row; ``None`` if it can be fetched
    :param file: the name of its file, if the list has several
    """

    id: int
    line: int
    url: str
    columns: dict[str, Any]
    error: str | None = None
    file: str = ""

    def __repr__(self) -> str:
        # It is in the meta of a request, so it may be logged: without a password.
        wrong = f" invalid: {self.error}" if self.error else ""
        return f"<Target {self.id} {self.where} {redact_url(self.url)}{wrong}>"

    @property
    def where(self) -> str:
        """Its position in the list, in words."""
        return f"{self.file} line {self.line}" if self.file else f"line {self.line}"


class MissingColumnError(Exception):
    """The list has no column that holds the URL; the message goes on from the list's name."""


class Placed(Protocol):
    """What rows are made of, and knows the place behind the last of them."""

    place: Place


class Marked(Protocol):
    """A file of a list, in which is marked how far its rows go."""

    mark: Mark
    file: str


class Rows:
    """Gives each row its number, and marks in *file* how far the rows go that were made of *read*."""

    def __init__(self, file: Marked, read: Placed) -> None:
        self._file = file
        self._read = read

    def target(self, line: int, url: str, columns: dict[str, Any]) -> Target:
        """The row on *line*, invalid when *url* is none."""
        return Target(self._next(), line, url, columns, why_not_a_url(url), self._file.file)

    def invalid(self, line: int, text: str | bytes | None, error: str, columns: dict[str, Any] | None = None) -> Target:
        """The row on *line*, which has something wrong with it."""
        if isinstance(text, bytes):
            text = text.decode(errors="backslashreplace")
        # Redacted before it is cut, which may take away the @ that tells a password.
        shown = redact_url((text or "").strip())[:_INVALID_LENGTH].encode(errors="backslashreplace").decode()
        return Target(self._next(), line, shown, columns or {}, error, self._file.file)

    def _next(self) -> int:
        self._file.mark = Mark(self._file.mark.rows + 1, self._read.place)
        return self._file.mark.rows


def why_not_a_url(url: str) -> str | None:
    """What keeps *url* from being a URL that can be requested, ``None`` when nothing does."""
    if _ORDINARY.fullmatch(url):
        return None
    if not url:
        return "it has no URL"
    if _CONTROL.search(url):
        return "not a URL: it holds a control character"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading the port is what checks it
    except ValueError:  # whose message may quote what stands there: a password
        return "not a URL: its host or port cannot be read"
    if not parts.scheme[:1].isalpha():  # Python 3.10 takes the 127.0.0.1 of 127.0.0.1:80 for one
        return "not a URL: it has no scheme such as https://"
    if parts.scheme in ("http", "https") and not parts.hostname:
        return "not a URL: it has no host"
    if any(c.isspace() for c in parts.netloc):
        return "not a URL: there is a space in its host"
    return None


# -- one function for each row format: it takes the lines and the name of the URL's column -------------------

RowParser: TypeAlias = Callable[[Lines, str], Iterator[Target]]


def _text(lines: Lines, url_field: str) -> Iterator[Target]:
    rows = Rows(lines, lines)
    for number, data in lines:
        if data and data.lstrip().startswith(b"#"):
            continue
        if error := why_not_text(data):
            yield rows.invalid(number, data, error)
        elif data and (url := data.decode().strip()):
            yield rows.target(number, url, {})


def _json_lines(lines: Lines, url_field: str) -> Iterator[Target]:
    rows = Rows(lines, lines)
    filled = ((number, data) for number, data in lines if data is None or data.strip())
    # The first row is read at once, so that a missing field shows at once.
    first = [_json_row(rows, *line, url_field, first=True) for line in islice(filled, 1)]
    return chain((row for row in first if not lines.skipped), (_json_row(rows, *line, url_field) for line in filled))


def _json_row(rows: Rows, number: int, data: bytes | None, url_field: str, first: bool = False) -> Target:
    if error := why_not_text(data, LINE_LIMIT):
        return rows.invalid(number, data, error)
    assert data is not None
    text = data.decode()
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as e:
        return rows.invalid(number, text, f"broken JSON: {e}")
    is_failure = is_failure_line(row)
    if error := (None if is_failure else why_not_text(data)) or why_not_columns(row, text):
        return rows.invalid(number, text, error)
    if is_failure:
        return _failed_row(rows, number, row)
    if url_field not in row:
        if first:
            raise MissingColumnError(_no_column(url_field, row))
        return rows.invalid(number, text, f"it has no field {url_field!r}")
    url = row.pop(url_field)
    if not isinstance(url, str):
        return rows.invalid(number, text, f"its URL is not text but {type(url).__name__}")
    return rows.target(number, url.strip(), row)


def is_failure_line(line: Any) -> bool:
    """Whether *line*, read from JSON, is one of a failures file."""
    return (
        isinstance(line, dict)
        and FAILURE_KEYS <= line.keys() <= _FAILURE_KEYS_WITH_FILE
        and isinstance(line["row"], dict)
    )


def _failed_row(rows: Rows, number: int, failure: dict[str, Any]) -> Target:
    """The row that a line of a failures file was written for."""
    url, columns = str(failure["url"]), failure["row"]
    if failure["outcome"] == "skipped/invalid":
        # Its text may look like a URL, as that of a row with too many columns does.
        return rows.invalid(number, url, str(failure["error"]), columns)
    if why_not_a_url(url) is None and urlsplit(url).password == "***":
        return rows.invalid(number, url, "its password was left out of the failures file", columns)
    return rows.target(number, url, columns)


def why_not_columns(row: Any, text: str) -> str | None:
    """What keeps *row*, which is *text* in JSON, from being used, though it is JSON."""
    if not isinstance(row, dict):
        return f"not a JSON object but {type(row).__name__}"
    if text.count("[") + text.count("{") > _DEPTH and _deeper_than(_DEPTH, row):
        return f"nested more than {_DEPTH} levels deep"
    if "\\u" in text:  # with which JSON can spell half of a surrogate pair
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "not UTF-8: it holds half of a surrogate pair"
    return None


def _deeper_than(levels: int, value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper_than(levels - 1, part) for part in inner)


def _separated(delimiter: str) -> RowParser:
    def parse(lines: Lines, url_field: str) -> Iterator[Target]:
        records = Records(lines, delimiter)
        rows = Rows(lines, records)
        # A record without a filled cell is a blank line.
        filled = ((n, cells) for n, cells in records if isinstance(cells, Broken) or any(map(str.strip, cells)))
        names: list[str] = []
        for _, header in islice(filled, 1):
            if isinstance(header, Broken):
                raise MissingColumnError(f"has a header that cannot be read: {header.error}")
            names = column_names(header, url_field)
        return (_separated_row(rows, number, cells, names, url_field, delimiter) for number, cells in filled)

    return parse


def _separated_row(
    rows: Rows, number: int, cells: list[str] | Broken, names: list[str], url_field: str, delimiter: str
) -> Target:
    if isinstance(cells, Broken):
        return rows.invalid(number, cells.data, cells.error)
    if len(cells) != len(names):
        few_or_many = "few" if len(cells) < len(names) else "many"
        error = f"too {few_or_many} columns: {len(cells)} where the header has {len(names)}"
        return rows.invalid(number, delimiter.join(cells), error)
    columns: dict[str, Any] = dict(zip(names, cells, strict=True))
    return rows.target(number, columns.pop(url_field).strip(), columns)


def column_names(header: Sequence[str], url_field: str) -> list[str]:
    """The names in *header*; a column without one (a data frame's index, say) is called after its place.

    :raises MissingColumnError: when none is called *url_field*, or two are called the same
    """
    names = [name.strip() or f"column_{place}" for place, name in enumerate(header, 1)]
    if url_field not in names:
        raise MissingColumnError(_no_column(url_field, names))
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise MissingColumnError(f"has two columns named {name!r}; rename one of them")
        seen.add(name)
    return names


def _no_column(url_field: str, names: Iterable[str]) -> str:
    listed = one_line(", ".join(map(repr, names)) or "none", _LISTED_LENGTH)
    return f"has no column {url_field!r}: its columns are {listed}; name the one with the URL with -a url_field="


PARSERS: dict[str, RowParser] = {
    "txt": _text,
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "jsonl": _json_lines,
}
