"""A location becomes rows, or one clear sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys

import pytest

from scrapy_batcher.lists.compression import zstd
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.sources import Source, SourceError

LISTS = {
    "txt": b"http://a/\n# comment\n\nhttp://b/\n",
    "csv": b"url,name\nhttp://a/,x\n\nhttp://b/,y\n",
    "tsv": b"url\tname\nhttp://a/\tx\n\nhttp://b/\ty\n",
    "jsonl": b'{"url": "http://a/"}\n\n{"url": "http://b/"}\n',
}
COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}
COMPRESSED = [ending for ending in COMPRESS if ending]


def written(path, data):
    path.write_bytes(data)
    return str(path)


def complaint(location, *args) -> str:
    with pytest.raises(SourceError) as raised:
        Source(str(location), *args)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("row_format", LISTS)
@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("by_name", [True, False])
def test_every_format_with_every_compression(tmp_path, row_format, ending, by_name):
    """A list is read in each format and compression, which its name says, or else the argument."""
    name = f"list.2026-11.{row_format.upper()}{ending}" if by_name else "list.data"
    path = written(tmp_path / name, COMPRESS[ending](LISTS[row_format]))
    rows = list(Source(path, None if by_name else row_format + ending))
    assert [(row.id, row.url, row.error) for row in rows] == [(1, "http://a/", None), (2, "http://b/", None)]
    assert rows[1].line == 4 - (row_format == "jsonl")


@pytest.mark.parametrize(
    ("name", "row_format"),
    [("urls", "txt"), ("urls.text", "txt"), ("x.jl", "jsonl"), ("x.ndjson", "jsonl"), ("x.y.jsonlines", "jsonl")],
)
def test_other_names_of_formats(tmp_path, name, row_format):
    """The usual other names of a format are known, and a name without any is plain text."""
    assert len(list(Source(written(tmp_path / name, LISTS[row_format])))) == 2


def test_a_compression_alone_is_of_plain_text(tmp_path):
    """A file named only .gz is compressed plain text."""
    assert len(list(Source(written(tmp_path / "urls.gz", gzip.compress(LISTS["txt"]))))) == 2


@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_name_that_says_nothing(tmp_path, ending):
    """A file without an ending that is compressed is known by how it begins."""
    assert len(list(Source(written(tmp_path / "urls", COMPRESS[ending](LISTS["txt"]))))) == 2


@pytest.mark.parametrize("ending", COMPRESSED)
def test_compressed_files_one_behind_the_other(tmp_path, ending):
    """Compressed files that were put together, as `cat` does, are one list."""
    data = b"".join(COMPRESS[ending](b"http://%d/\n" % number) for number in range(3))
    assert [row.url for row in Source(written(tmp_path / f"l{ending}", data))] == [
        "http://0/",
        "http://1/",
        "http://2/",
    ]


def test_the_column_of_the_url_is_chosen(tmp_path):
    """The URL is in the column that is named, and the one called url is then like any other."""
    path = written(tmp_path / "list.csv", b"url,page\nx,http://a/\n")
    assert list(Source(path, url_field="page")) == [Target(1, 2, "http://a/", {"url": "x"})]


HEAD_AND_ROW = {
    "csv": (b"url,name\n", b"http://h%d/,x\n"),
    "jsonl": (b"", b'{"url": "http://h%d/"}\n'),
}


def long_list(row_format: str) -> bytes:
    """Longer than a block of any compression."""
    head, row = HEAD_AND_ROW[row_format]
    return head + b"".join(row % (number * 7919 % 100_003) for number in range(15_000))


@pytest.mark.parametrize("row_format", ["csv", "jsonl"])
@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_truncated_list_gives_what_was_read(tmp_path, row_format, ending):
    """A compressed list that was cut short gives its rows in order up to there, then says after which line."""
    whole = long_list(row_format)
    everything = list(Source(written(tmp_path / "whole", whole), row_format))
    compressed = bz2.compress(whole, 1) if ending == ".bz2" else COMPRESS[ending](whole)
    rows = []
    with pytest.raises(SourceError) as raised:
        rows.extend(Source(written(tmp_path / "cut", compressed[:-20]), row_format + ending))
    assert rows
    assert rows == everything[: len(rows)]
    assert f"cut broke off after line {rows[-1].line}: " in str(raised.value)


def test_a_list_that_breaks_off_behind_an_open_quote_loses_no_row(tmp_path):
    """Lines that were read ahead, to find where a quote is closed, are given before the error is."""
    whole = long_list("csv").replace(b",x\n", b',"x\n', 1)
    path = written(tmp_path / "list.csv.gz", gzip.compress(whole)[:-20])
    rows = []
    with pytest.raises(SourceError) as raised:
        rows.extend(Source(path))
    assert [row.line for row in rows] == list(range(2, len(rows) + 2))
    assert [row.line for row in rows if row.error] == [2]
    assert f"after line {rows[-1].line}:" in str(raised.value)


@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_list_cut_in_its_first_line_is_refused_at_once(tmp_path, ending):
    """A compressed list of which nothing can be read is refused before the batch starts."""
    data = COMPRESS[ending](b"http://h/")
    assert "cannot be read: Compressed" in complaint(written(tmp_path / f"list{ending}", data[: len(data) - 2]))


def test_a_damaged_list_gives_what_was_read(tmp_path):
    """A list whose checksum is wrong gives its rows, then says so."""
    data = bytearray(gzip.compress(LISTS["txt"]))
    data[-8] ^= 1
    rows = []
    with pytest.raises(SourceError, match=r"broke off after line 4: CRC check failed"):
        rows.extend(Source(written(tmp_path / "list.gz", data)))
    assert len(rows) == 2


# -- refused at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_compression_that_the_file_does_not_have(tmp_path, ending):
    """A plain file with the name of a compressed one is refused at once."""
    path = written(tmp_path / f"list{ending}", LISTS["txt"] * 10)
    assert complaint(path).startswith(f"{path} cannot be read: ")


@pytest.mark.parametrize("row_format", ["csv", "tsv", "jsonl"])
def test_a_missing_column_is_refused_at_once(tmp_path, row_format):
    """A list without the URL's column is refused before its first row, with its name and what to do."""
    path = written(tmp_path / f"list.{row_format}", LISTS[row_format])
    sentence = complaint(path, None, "page")
    assert sentence.startswith(f"{path} has no column 'page': its columns are 'url'")
    assert sentence.endswith("-a url_field=")


@pytest.mark.parametrize(
    ("location", "row_format", "named"),
    [
        ("list.pdf", None, "'pdf'"),
        ("list.gz", "pdf.gz", "'pdf.gz'"),
        ("list", "csv.zip", "'csv.zip'"),
        ("list", "gz.csv", "'gz.csv'"),
        ("list", "", "''"),
        ("list.2026.gz", None, "'2026.gz'"),
        ("http://user:secret@host/list.pdf", None, "http://user:***@host/"),
    ],
)
def test_an_unknown_format_is_refused_at_once(location, row_format, named):
    """An unknown format is refused by name, with those that are known."""
    sentence = complaint(location, row_format)
    assert named in sentence
    assert "txt, csv, tsv, jsonl, sitemap, parquet, arrow, and .gz, .bz2, .xz, .zst" in sentence


def test_a_file_that_cannot_be_opened(tmp_path):
    """A file that is not there, or is a folder, is refused in one sentence that names it once."""
    assert complaint(tmp_path / "no") == f"{tmp_path}/no cannot be read: No such file or directory"
    assert complaint(tmp_path) == f"{tmp_path} cannot be read: Is a directory"
    assert "secret" not in complaint("http://user:secret@127.0.0.1:1/list")


# -- stdin -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stdin(tmp_path, monkeypatch):
    """A function that puts its argument on stdin."""
    files = []

    def put(data: bytes) -> None:
        files.append(open(written(tmp_path / "stdin", data)))  # noqa: SIM115 - closed below
        monkeypatch.setattr(sys, "stdin", files[0])

    yield put
    for file in files:
        assert not file.closed  # it is not ours to close
        file.close()


@pytest.mark.parametrize("ending", COMPRESS)
def test_stdin(stdin, ending):
    """A list comes from stdin as it does from a file; its format is plain text unless it is said."""
    stdin(COMPRESS[ending](LISTS["csv"]))
    source = Source("-", f"csv{ending}")
    assert [row.url for row in source] == ["http://a/", "http://b/"]
    assert str(source) == "stdin"


def test_stdin_is_plain_text_by_default_and_not_waited_for(monkeypatch):
    """A batch starts before the first line of a pipe is there."""
    reading, writing = os.pipe()
    with open(reading) as pipe, open(writing, "wb", buffering=0) as other_end:
        monkeypatch.setattr(sys, "stdin", pipe)
        rows = iter(Source("-"))
        other_end.write(b"http://a/\n")
        assert next(rows).url == "http://a/"
        rows.close()


def test_stdin_that_is_not_there(monkeypatch):
    """A closed stdin is refused in one sentence."""
    monkeypatch.setattr(sys, "stdin", None)
    assert complaint("-") == "stdin cannot be read: it is closed"
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert complaint("-").startswith("stdin cannot be read: ")


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_is_closed(tmp_path):
    """The file is closed at the end, when the rows are not wanted any more, and by close()."""
    path = written(tmp_path / "list.gz", gzip.compress(LISTS["txt"]))
    at_start = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    list(Source(path))
    rows = iter(Source(path))
    next(rows)
    rows.close()
    Source(path).close()
    complaint(path, "csv.gz")
    assert at_start is None or len(os.listdir("/proc/self/fd")) == at_start
