"""Lines become rows: what is read is what was written, and what cannot be read is an invalid row and nothing worse."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scrapy_batcher.lists import rows
from scrapy_batcher.lists.lines import LINE_LIMIT, ROW_LIMIT, Lines
from scrapy_batcher.lists.rows import PARSERS, MissingColumnError, Target, why_not_a_url

settings.register_profile("rows", deadline=None, max_examples=60)  # a deadline would depend on the machine
settings.load_profile("rows")

HEADER = {"txt": b"", "csv": b"url,name\n", "tsv": b"url\tname\n", "jsonl": b""}
DELIMITER = {"csv": ",", "tsv": "\t"}


def parse(data: bytes, row_format: str, url_field: str = "url") -> list[Target]:
    return list(PARSERS[row_format](Lines(io.BytesIO(data)), url_field))


def given_as(data: bytes, row_format: str = "csv") -> list[tuple[int, str, bool]]:
    return [(row.line, row.url, row.error is None) for row in parse(data, row_format)]


# -- what is written is what is read -----------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
urls = st.builds("https://{}.example/{}".format, st.integers(0, 99), st.text("abc/?&=%#@:;,\"'é|", max_size=10))
tables = st.lists(st.fixed_dictionaries({"url": urls, "name": text, "note": text}), max_size=8)
line_ends = st.sampled_from(["\n", "\r\n"])
flags = st.booleans()


def written(body: str, bom: bool, last_end: bool) -> bytes:
    body = body if last_end else body.removesuffix("\n").removesuffix("\r")
    return (b"\xef\xbb\xbf" if bom else b"") + body.encode()


@given(st.lists(urls, max_size=8), line_ends, flags, flags)
def test_text_round_trip(addresses, end, bom, last_end):
    """Any list of URLs, with any line ends, comments and blank lines, reads back the same, with its line numbers."""
    body = "".join(f"# comment{end}{url}{end} {end}" for url in addresses)
    rows = parse(written(body, bom, last_end), "txt")
    assert [(row.url, row.error) for row in rows] == [(url, None) for url in addresses]
    assert [row.line for row in rows] == [3 * place + 2 for place in range(len(addresses))]


# The formats are drawn, not parametrized: pytest-twisted 1.14 wraps a test of hypothesis once for each parameter.
@given(st.sampled_from(["csv", "tsv"]), tables, line_ends, flags, flags)
@example("csv", [{"url": "https://h/", "name": 'a\r\n"b\n,"', "note": ""}] * 2, "\r\n", True, False)
def test_separated_round_trip(row_format, table, end, bom, last_end):
    """Any table that `csv` writes reads back the same: quotes, delimiters and line ends in its cells included."""
    # Before Python 3.13 `csv` does not quote a cell for a \r in it when lines end in \n.
    quoting = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL
    file = io.StringIO(newline="")
    columns = ["url", "name", "note"]
    writer = csv.DictWriter(file, columns, delimiter=DELIMITER[row_format], lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows(table)
    rows = parse(written(file.getvalue(), bom, last_end), row_format)
    assert [{"url": row.url, **row.columns} for row in rows] == table
    assert [(row.id, row.error) for row in rows] == [(place, None) for place in range(1, len(table) + 1)]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(st.tuples(urls, st.dictionaries(text.filter(lambda name: name != "url"), values, max_size=3)), max_size=8),
    line_ends, flags, flags, flags,
)  # fmt: skip
def test_json_lines_round_trip(table, end, bom, last_end, ascii_only):
    """Any JSON objects with a URL read back the same, nested ones included."""
    body = "".join(json.dumps({"url": url, **columns}, ensure_ascii=ascii_only) + end for url, columns in table)
    rows = parse(written(body, bom, last_end), "jsonl")
    assert [(row.url, row.columns, row.error) for row in rows] == [(*row, None) for row in table]


@given(st.from_regex(rows._ORDINARY, fullmatch=True))
def test_ordinary_urls(url):
    """What the quick look takes for a URL, the long one would too."""
    assert why_not_a_url(url) is None
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port is None or parts.port < 65536
    assert not any(c.isspace() for c in url)


# -- what is not fit to be read ----------------------------------------------------------------------------------------

hostile = st.lists(
    st.sampled_from([b'"', b'""', b",", b"\t", b"\n", b"\r", b"\0", b"{", b"}", b"[", b"\\u", b"http://a/", b'"url":'])
    | st.binary(max_size=4),
    max_size=60,
).map(b"".join)


@given(st.sampled_from(list(PARSERS)), hostile)
def test_arbitrary_bytes_give_rows(row_format, data):
    """Whatever a file holds, its rows have ids without a gap and lines in order, and it raises nothing."""
    try:
        rows = parse(HEADER[row_format] + data, row_format)
    except MissingColumnError:
        assert row_format == "jsonl"  # its first line is an object without a URL
        return
    assert [row.id for row in rows] == list(range(1, len(rows) + 1))
    assert [row.line for row in rows] == sorted({row.line for row in rows})
    for row in rows:
        assert row.error or why_not_a_url(row.url) is None
        json.dumps([row.url, row.columns, row.error], ensure_ascii=False).encode()


csv_lines = st.sampled_from(['a","b', '"w', 'x"y,z', "http://a/,ok", '"http://a/","ok"', ',"v', '"""",""', "q\r"])


@given(st.lists(csv_lines, max_size=12))
def test_every_line_is_a_row_or_part_of_one(lines):
    """No line of a CSV file vanishes: each is a row, an invalid row, or inside the record that begins before it."""
    rows = parse("".join(["url,name\n", *(f"{line}\n" for line in lines)]).encode(), "csv")
    starts = {row.line: row for row in rows}
    open_record = False
    for number, line in enumerate(lines, 2):
        if row := starts.get(number):
            open_record = row.error is None or row.error.startswith("too ")
        else:
            assert open_record, (line, rows)


BAD = {
    "txt": [
        (b"nonsense", "not a URL"),
        (b"127.0.0.1:80/path", "it has no scheme"),
        (b"http://a b/", "a space in its host"),
        (b"http://h:99999/", "not a URL"),
        (b"http:///path", "it has no host"),
        (b"http://[::1/", "not a URL"),
        (b"http://caf\xe9/", "not UTF-8"),
        (b"http://a/\0", "a NUL byte"),
        (b"http://a/\x1b[31m", "a control character"),
        (b"http://a/" + b"x" * ROW_LIMIT, "longer than 64 KiB"),
    ],
    "csv": [
        (b"nonsense,x", "not a URL"),
        (b",x", "no URL"),
        (b"http://bad/", "too few columns: 1 where the header has 2"),
        (b"http://bad/,x,y", "too many columns: 3 where the header has 2"),
        (b"http://bad/,\xff", "not UTF-8"),
        (b"http://bad/,\0", "a NUL byte"),
        (b"http://bad/," + b"x" * ROW_LIMIT, "longer than 64 KiB"),
        (b'"http://bad/,x', "never closed"),
        (b'http://bad/,"x', "never closed"),
        (b'http://bad/,"x"y', "expected after"),
        (b"http://bad/,a\rb", "new-line character seen in unquoted field"),
    ],
    "jsonl": [
        (b'{"url": "nonsense"}', "not a URL"),
        (b'{"url": "http://a/"', "broken JSON"),
        (b'{"address": "http://a/"}', "no field 'url'"),
        (b'{"url": 5}', "not text but int"),
        (b'["http://a/"]', "not a JSON object but list"),
        (b"5", "not a JSON object but int"),
        (b'{"url": "http://a/", "x": "\xff"}', "not UTF-8"),
        (b'{"url": "http://a/", "x": "\0"}', "a NUL byte"),
        (b'{"url": "http://a/", "x": "\\ud800"}', "half of a surrogate pair"),
        (b'{"url": "http://a/", "x": ' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 50"),
        (b'{"url": "http://a/", "x": ' + b"[" * 30000 + b"]" * 30000 + b"}", ""),  # broken or nested: Python decides
        (b'{"url": "http://a/", "x": ' + b"9" * 5000 + b"}", "broken JSON: Exceeds the limit"),
        (b'{"url": "http://a/", "x": "' + b"x" * ROW_LIMIT + b'"}', "longer than 64 KiB"),
        (b'{"url": "http://a/", "x": "' + b"x" * LINE_LIMIT + b'"}', "longer than 64 KiB"),
    ],
}  # fmt: skip
GOOD = {"txt": b"http://good/%d", "csv": b"http://good/%d,x", "jsonl": b'{"url": "http://good/%d"}'}


@pytest.mark.parametrize(
    ("row_format", "bad", "why"),
    [pytest.param(kind, *row, id=f"{kind}-{row[0][:25]!r}") for kind, rows in BAD.items() for row in rows],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_bad_row_is_invalid_and_the_list_goes_on(row_format, bad, why, end):
    """A bad row is one invalid row with its line number, and no row before or behind it is lost."""
    good = GOOD[row_format]
    header = HEADER[row_format].splitlines()
    data = end.join([*header, good % 1, bad, good % 3, good % 4]) + end
    rows = parse(data, row_format)
    assert [row.url for row in rows if not row.error] == [f"http://good/{number}" for number in (1, 3, 4)]
    (invalid,) = [row for row in rows if row.error]
    assert invalid.line == len(header) + 2
    assert why in invalid.error


def test_an_invalid_row_keeps_what_could_be_read_of_it():
    """An invalid row has its columns where there are any, else the start of its text."""
    assert parse(b"url,name\nhtp//x,n\n", "csv")[0].columns == {"name": "n"}
    assert parse(b"http://a/\xff\n", "txt")[0].url == "http://a/\\xff"
    assert len(parse(b"\xff" * 5000, "txt")[0].url) == 1000


@pytest.mark.parametrize(
    ("line", "url", "columns"),
    [
        (b'http://a/,"two\nlines"', "http://a/", {"name": "two\nlines"}),
        (b'http://a/,"x\n\n"', "http://a/", {"name": "x\n\n"}),
        (b'http://a/,5" pipe', "http://a/", {"name": '5" pipe'}),
        (b'http://a/?q="x",y', 'http://a/?q="x"', {"name": "y"}),
        (b'http://a/,"say ""hi"""', "http://a/", {"name": 'say "hi"'}),
        (b'http://a/,  "x"', "http://a/", {"name": '  "x"'}),
    ],
)
@pytest.mark.parametrize("unclosed_before", [b"", b'http://a/,"x\n', b'"x\n' * 3])
def test_quotes_in_csv(line, url, columns, unclosed_before):
    """Line ends in a quoted cell and quotes in an unquoted one are text, also right behind a quote never closed."""
    *spoilt, row, last = parse(b"url,name\n" + unclosed_before + line + b"\nhttp://last/,x\n", "csv")
    assert (row.url, row.columns, row.error) == (url, columns, None)
    assert last.url == "http://last/"
    assert len(spoilt) == unclosed_before.count(b"\n")
    assert all(row.error for row in spoilt)


def test_an_unclosed_quote_does_not_spoil_a_record_of_several_lines_behind_it():
    """Where a quote is closed is found anew for each record, also in lines that were read ahead for another."""
    tail = b'x5","multi\n' + b"plain\n" * 3 + b'end"\n' + b"http://a/,b\n"
    rows = parse(b'url,name\n"never\n' + b"http://f/,x\n" * 5500 + tail, "csv")
    assert rows[0].error
    assert [row.columns["name"] for row in rows[-2:]] == ["multi\nplain\nplain\nplain\nend", "b"]
    assert len(rows) == 1 + 5500 + 2


class CountingDecodes(io.BytesIO):
    """Counts the lines that are read from it."""

    count = 0

    def readline(self, size: int = -1) -> bytes:
        self.count += 1
        return super().readline(size)


@pytest.mark.parametrize("line", [b'a","b\n', b',"\n', b'"x\n', b'a","' + b"b" * 100 + b"\n", b'"\n'])
def test_many_unclosed_quotes_take_linear_time(line, monkeypatch):
    """A file of nothing but quotes never closed costs a few looks at each line, not one for each line before it."""
    looks = 0
    real = csv.reader

    def counted(texts, **options):
        def count():
            nonlocal looks
            for piece in texts:
                looks += 1
                yield piece

        return real(count(), **options)

    monkeypatch.setattr("scrapy_batcher.lists.separated.csv.reader", counted)
    lines = 20_000
    stream = CountingDecodes(b"url,name\n" + line * lines)
    assert all(row.error for row in PARSERS["csv"](Lines(stream), "url"))
    assert looks <= 4 * lines
    assert stream.count <= 3 * lines


def test_a_header_of_many_columns_takes_linear_time():
    """A hostile header with tens of thousands of columns is read at once, and refused in a short sentence."""
    names = ",".join(f"c{number}" for number in range(9000))
    assert len(parse(f"url,{names}\n".encode(), "csv")) == 0
    with pytest.raises(MissingColumnError) as raised:
        parse(f"{names}\n".encode(), "csv")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize(("extra", "valid"), [(0, True), (1, False)])
def test_the_limit_of_a_row_is_64_kib_without_its_end(end, extra, valid):
    """A row of exactly 64 KiB is fetched whatever ends it, one of a byte more is invalid."""
    url = b"http://a/".ljust(ROW_LIMIT + extra, b"x")
    (row, *others) = parse(url + end, "txt")
    assert (row.error is None, others) == (valid, [])
    assert not valid or row.url == url.decode()


class Long(io.RawIOBase):
    """A stream that begins with *head* and goes on with *piece* for 20 MB."""

    def __init__(self, head: bytes, piece: bytes) -> None:
        self.head, self.block, self.left = head, piece * (8192 // len(piece)), 20_000_000

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data, self.head = self.head or self.block[: self.left], b""
        buffer[: len(data)] = data
        self.left -= len(data)
        return len(data)


@pytest.mark.parametrize("row_format", PARSERS)
@pytest.mark.parametrize("piece", [b"x", b'x",\n'], ids=["no line end", "no closed quote"])
def test_memory_of_a_row_is_bounded(row_format, piece):
    """A line of 20 MB is never held in memory whole, nor are the lines behind a quote that is never closed."""
    lines = Lines(io.BufferedReader(Long(HEADER[row_format] + b'"', piece)))
    tracemalloc.start()
    try:
        first = next(PARSERS[row_format](lines, "url"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert first.error
    assert peak < 12_000_000


# -- columns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row_format", "data", "sentence"),
    [
        ("csv", b"address,name\nhttp://a/,x\n", "has no column 'url': its columns are 'address', 'name';"),
        ("tsv", b"url,name\nhttp://a/,x\n", "has no column 'url': its columns are 'url,name';"),
        ("jsonl", b'{"address": "http://a/"}\n', "has no column 'url': its columns are 'address';"),
        ("jsonl", b"{}\n", "its columns are none;"),
        ("csv", b"url,x,x\n", "has two columns named 'x'; rename one of them"),
        ("csv", b"url,\0\n", "has a header that cannot be read: it holds a NUL byte"),
        ("csv", b'url,"x\n', "has a header that cannot be read: a quote in it is never closed"),
    ],
)
def test_a_missing_column_is_told_at_once(row_format, data, sentence):
    """A list without the URL's column is refused before its first row, with the columns it has."""
    with pytest.raises(MissingColumnError) as raised:
        PARSERS[row_format](Lines(io.BytesIO(data)), "url")
    assert sentence in str(raised.value)


def test_a_list_without_a_header_shows_no_password():
    """A CSV file whose first line is a row already is refused without the password in it."""
    with pytest.raises(MissingColumnError) as raised:
        parse(b"http://user:secret@host/,x\n", "csv")
    assert "secret" not in str(raised.value)
    assert "user:***@host" in str(raised.value)


def test_columns_get_the_name_of_their_place_when_they_have_none():
    """A column without a name, a data frame's index say, is called after its place."""
    (row,) = parse(b",url,\n7,http://a/,x\n", "csv")
    assert row.columns == {"column_1": "7", "column_3": "x"}


@pytest.mark.parametrize("row_format", PARSERS)
def test_an_empty_list_has_no_rows(row_format):
    """A file with nothing in it, or only blank lines, is a list of no rows."""
    assert parse(b"", row_format) == parse(b"\xef\xbb\xbf\r\n \n", row_format) == []


def test_rows_of_empty_cells_are_blank_lines():
    """A CSV line with nothing in any cell, as spreadsheets leave them, is no row."""
    assert [row.url for row in parse(b"url,name\n,\nhttp://a/,\n , \n", "csv")] == ["http://a/"]


def test_a_comment_need_not_be_utf_8():
    """A comment is skipped whatever it holds."""
    assert given_as(b"# caf\xe9\n #" + b"x" * 100_000 + b"\nhttp://a/\n", "txt") == [(3, "http://a/", True)]


# -- passwords ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row_format", "data"),
    [
        ("txt", b"http://user:secret@host/"),
        ("txt", b"http://user:my secret@host/"),
        ("txt", b"http://user:se/secret@host/"),
        ("txt", b"http://user:secret@host:port/"),
        ("txt", b"http://u:" + b"secret" * 1000 + b"@h/\0"),
        ("csv", b"url,name\nhttp://user:secret@host/,x,y\n"),
        ("jsonl", b'{"url": "http://user:secret@host/"'),
        ("jsonl", rb'{"url": "http:\/\/user:secret@host\/"'),
    ],
)
def test_a_password_is_in_no_repr_and_in_no_error(row_format, data):
    """Neither a row's repr nor what is wrong with it shows the password of its URL."""
    (row,) = parse(data, row_format)
    assert "secret" not in repr(row)
    assert "secret" not in str(row.error)
