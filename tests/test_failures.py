"""The failures file is a list of what was not fetched."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scrapy_batcher.batch.failures import FailuresFile
from scrapy_batcher.lists.lines import ROW_LIMIT
from scrapy_batcher.lists.rows import FAILURE_KEYS, Target
from scrapy_batcher.lists.sources import Source
from scrapy_batcher.outcome import Outcome

DNS = Outcome("failed/dns", error="no such name")


@pytest.fixture
def written(tmp_path):
    """A function that writes targets with their outcomes, and returns the file's path."""

    def write(*failures: tuple[Target, Outcome]) -> str:
        path = str(tmp_path / "failures.jsonl")
        file = FailuresFile(path)
        file.clear()
        for target, outcome in failures:
            file.write(target, outcome, 3)
        file.close()
        return path

    return write


def test_a_line_has_the_row_and_what_became_of_it(written):
    """A line holds the row, the outcome, the status, the error and the attempts."""
    path = written((Target(5, 7, "http://h/é", {"name": "ü"}), Outcome("failed/http-404", 404, "404 Not Found")))
    with open(path, encoding="utf-8") as file:
        line = json.loads(file.read())
    assert line == {
        "url": "http://h/é", "row": {"name": "ü"}, "line": 7,
        "outcome": "failed/http-404", "status": 404, "error": "404 Not Found", "attempts": 3,
    }  # fmt: skip
    assert line.keys() == FAILURE_KEYS


@pytest.mark.parametrize(
    ("url", "columns"),
    [
        ("http://h/", {}),
        ("http://h/", {"url": "other", "row": {}, "name": "two\nlines, \"quoted\"\u2028\0"}),
        ("http://h/" + "x" * 1000, {"n": [1, 2.5, None, {"deep": True}]}),
        ("http://h/", {"long": '"' * (ROW_LIMIT - 100)}),
        ("http://h/", {"long": "\x01" * (ROW_LIMIT - 100)}),
    ],
    ids=["bare", "names and quotes", "nested", "doubled by JSON", "six times as long in JSON"],
)  # fmt: skip
def test_a_line_read_back_is_the_row(written, url, columns):
    """A failures file read as a list gives the rows it was written for, also those near the limit of a row."""
    assert list(Source(written((Target(9, 12, url, columns), DNS)))) == [Target(1, 1, url, columns)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.csv", b"url,name\nhttp://h/,x,y\nhttp://h/,\xff\nnonsense,x\n,\"\nhttp://h/\n"),
        ("list.txt", b"http://h/\xff\nhttp://h/\0\nhttp://" + b"x" * ROW_LIMIT),
        ("list.jsonl", b'{"url": "http://h/"\n["http://h/"]\n'),
    ],
)  # fmt: skip
def test_an_invalid_row_read_back_is_invalid(tmp_path, written, name, data):
    """A row that could not be read is not taken for a URL when its line is read back."""
    (tmp_path / name).write_bytes(data)
    invalid = list(Source(str(tmp_path / name)))
    assert all(row.error for row in invalid)
    again = list(Source(written(*((row, Outcome("skipped/invalid", error=row.error)) for row in invalid))))
    assert [replace(row, line=0) for row in again] == [replace(row, line=0) for row in invalid]


def test_a_failures_file_is_a_list_in_any_format_of_columns(written):
    """The name of the URL's column does not matter to a failures file, which has its own."""
    assert [row.url for row in Source(written((Target(1, 1, "http://h/", {}), DNS)), None, "page")] == ["http://h/"]


def test_no_password_is_written(written):
    """Neither the URL's password nor that of a URL in another column is written."""
    columns = {"proxy": "http://user:secret@proxy/", "more": [{"x": "ftp://u:secret@h/"}, 1]}
    path = written((Target(1, 1, "http://user:secret@host/", columns), DNS))
    with open(path) as file:
        assert "secret" not in file.read()


def test_a_row_whose_password_was_left_out_is_not_fetched_without(written):
    """A URL that lost its password in a failures file is refused with that reason, not tried with asterisks."""
    (row,) = Source(written((Target(1, 1, "http://user:secret@host/", {}), DNS)))
    assert row.error == "its password was left out of the failures file"


def test_a_file_that_is_there_is_replaced(tmp_path, written):
    """What an earlier run left in the file is gone."""
    (tmp_path / "failures.jsonl").write_text("old\n")
    assert list(Source(written())) == []


def test_a_file_that_cannot_be_written(tmp_path):
    """A folder that is not there is an OSError at once."""
    with pytest.raises(FileNotFoundError):
        FailuresFile(str(tmp_path / "no" / "failures.jsonl"))
