"""What a page becomes, and what Scrapy's exporters make of it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from datetime import datetime, timedelta

import pytest
from itemadapter import ItemAdapter
from scrapy import Request
from scrapy.exporters import CsvItemExporter, JsonLinesItemExporter
from scrapy.http import HtmlResponse, Response, TextResponse

from scrapy_batcher.config import FIELDS, Config
from scrapy_batcher.item import BatchItem, Body, make_item
from scrapy_batcher.lists.rows import Target

URL = "http://user:secret@host/page"


BASE = Config.fields


def item_of(response=None, fields=BASE, columns=True, body=None, **row):
    return make_item(Target(1, 1, URL, row), response or TextResponse(URL, body=b"text"), fields, columns, body)


def exported(exporter, *items) -> str:
    file = io.BytesIO()
    exporter = exporter(file)
    exporter.start_exporting()
    for item in items:
        exporter.export_item(item)
    exporter.finish_exporting()
    return file.getvalue().decode()


@pytest.mark.parametrize(
    ("response", "content", "is_base64"),
    [
        (TextResponse(URL, body="é".encode(), encoding="utf-8"), "é", False),
        (HtmlResponse(URL, body=b"\xe9", headers={"Content-Type": "text/html; charset=latin-1"}), "é", False),
        (HtmlResponse(URL, body='<meta charset="cp1252">€'.encode("cp1252")), '<meta charset="cp1252">€', False),
        (HtmlResponse(URL, body=b"\xff broken", encoding="utf-8"), "\N{REPLACEMENT CHARACTER} broken", False),
        (TextResponse(URL, body=b"\x1f\x8b\0"), "H4sA", True),
        (TextResponse(URL, body="UTF-16".encode("utf-16"), encoding="utf-16"), "UTF-16", False),
        (Response(URL, body=bytes(range(256))), base64.b64encode(bytes(range(256))).decode(), True),
        (TextResponse(URL), "", False),
        (Response(URL), "", True),
    ],
    ids=["utf-8", "latin-1", "as it says", "broken utf-8", "NUL", "utf-16", "binary", "empty text", "empty binary"],
)  # fmt: skip
def test_content(response, content, is_base64):
    """Content is the text as Scrapy decodes it, or base64 and says so; length is in bytes of the body."""
    item = item_of(response)
    assert (item.url, item.length) == (URL, len(response.body))
    assert (item.content, item.base64) == (content, is_base64)
    assert isinstance(item, BatchItem)


def test_fields():
    """The fields that a setting chooses are there, under their names and in their order."""
    headers = {"Content-Type": "text/html; charset=utf-8", "Set-Cookie": ["a=1", "b=2"]}
    response = HtmlResponse("http://u:secret@host/end", status=201, headers=headers)
    response.request = Request(URL, meta={"download_latency": 0.5})
    item = item_of(response, FIELDS[::-1], body=Body("a/b.html", "ab12"))
    fields = ItemAdapter(item).asdict()
    assert list(fields) == [*FIELDS[::-1]]
    assert datetime.fromisoformat(fields.pop("fetched_at")).utcoffset() == timedelta(0)
    assert fields == {
        "url": URL,
        "length": 0,
        "content": "",
        "base64": False,
        "sha256": "ab12",
        "path": "a/b.html",
        "status": 201,
        "headers": {"Content-Type": ["text/html; charset=utf-8"], "Set-Cookie": ["a=1", "b=2"]},
        "final_url": "http://u:***@host/end",
        "content_type": "text/html; charset=utf-8",
        "encoding": "utf-8",
        "elapsed": 0.5,
    }


@pytest.mark.parametrize("fields", [("length",), ("base64", "url"), ("content", "status"), ("sha256",)])
def test_only_the_chosen_fields(fields):
    """What is not chosen is not there; its name is free for a column."""
    item = item_of(fields=fields, headers="a column", content="another")
    columns = ["headers", "row_content" if "content" in fields else "content"]
    assert list(ItemAdapter(item)) == list(ItemAdapter(item).field_names()) == [*fields, *columns]
    assert not hasattr(item, "encoding")


def test_the_sum_of_a_body_without_a_file():
    """sha256 is that of the body, also when it is in no file; path has nothing to be then."""
    assert item_of(fields=("sha256",)).sha256 == hashlib.sha256(b"text").hexdigest()
    with pytest.raises(ValueError, match=r"await save_body\(response\) first"):
        item_of(fields=("path",))


def test_fields_of_a_response_that_lacks_them():
    """What a response does not have is None: its content type, the encoding of bytes, the time of a cached page."""
    response = Response(URL, request=Request(URL))
    item = item_of(response, ("content_type", "encoding", "elapsed"))
    assert (item.content_type, item.encoding, item.elapsed) == (None, None, None)


NAMES = {
    "name": "name",
    "not an identifier": "not an identifier",
    "class": "class",
    "": "",
    "é": "é",
    "url": "row_url",
    "length": "row_length",
    "base64": "row_base64",
    "status": "row_status",
    "__class__": "row___class__",
    "__dict__": "row___dict__",
    "__annotations__": "row___annotations__",
    "__dataclass_fields__": "row___dataclass_fields__",
    "mro": "mro",
    "self": "self",
}


@pytest.mark.parametrize(("column", "field"), NAMES.items())
def test_columns(column, field):
    """A column of any name becomes a field; one that collides with a field, or with Python, is prefixed."""
    item = item_of(fields=(*BASE, "status"), **{column: "value"})
    assert ItemAdapter(item)[field] == "value"
    assert list(ItemAdapter(item)) == ["url", "length", "content", "base64", "status", field]
    assert (item.url, item.status) == (URL, 200)


@pytest.mark.parametrize("names", [["url", "row_url"], ["row_url", "url"], ["row_row_url", "url", "row_url"]])
def test_a_prefixed_column_takes_no_other_column_s_name(names):
    """Only the column that collides is renamed, in whatever order they stand."""
    fields = ItemAdapter(item_of(**{name: name for name in names})).asdict()
    assert all(fields[name] == name for name in names if name != "url")
    assert list(fields.values()).count("url") == 1
    assert len(fields) == 4 + len(names)


def test_columns_can_be_left_out():
    """A setting keeps the row's own columns out of the item."""
    assert list(ItemAdapter(item_of(columns=False, name="x"))) == ["url", "length", "content", "base64"]


def test_scrapy_s_exporters_write_it():
    """Scrapy's JSON-lines and CSV feeds have every field, whatever its name."""
    columns = {"a name": 'x, "y"\n', "n": [1, {"m": None}], "url": "given"}
    item = item_of(fields=(*BASE, "status"), **columns)
    (line,) = exported(JsonLinesItemExporter, item).splitlines()
    assert json.loads(line) == ItemAdapter(item).asdict()
    (row,) = csv.DictReader(io.StringIO(exported(CsvItemExporter, item), newline=""))
    assert row["a name"] == columns["a name"]
    assert (row["url"], row["row_url"], row["status"], row["content"]) == (URL, "given", "200", "text")


def test_items_of_rows_with_other_columns_have_their_own():
    """A row without a column has no such field, and values never move from one item to another."""
    items = [item_of(**{f"column {number % 70}": number}) for number in range(200)]
    for number, item in enumerate(items):
        assert list(ItemAdapter(item).items())[4:] == [(f"column {number % 70}", number)]


def test_repr_shows_neither_content_nor_password():
    """What Scrapy logs of an item is its URL without the password, and its size."""
    item = item_of(fields=(*BASE, "final_url"), name="column value")
    assert repr(item) == str(item) == "<BatchItem http://user:***@host/page 4 bytes>"
    assert repr(item_of(fields=("content",))) == "<BatchItem>"


def test_items_are_equal_by_all_their_fields():
    """Items that differ in a column only are not equal."""
    assert item_of(name="x") == item_of(name="x")
    assert item_of(name="x") != item_of(name="y")
    assert item_of(name="x") != item_of()
    assert item_of() != item_of(fields=("url",))
