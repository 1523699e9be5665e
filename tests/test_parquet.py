"""A feed that is a Parquet file: what its columns hold, how much of it is in memory, and what is promised of it."""

from __future__ import annotations

import io
import json
import logging
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pyarrow.parquet as pq
import pytest

from scrapy_batcher.outputs.parquet import ParquetItemExporter
from tests.conftest import Project
from tests.mockserver import MockServer


class Name(str):
    """Text, of a class of its own."""


class Number(IntEnum):
    ONE = 1


def exported(*items: dict[str, Any], **kwargs: Any) -> pq.ParquetFile:
    file = io.BytesIO()
    exporter = ParquetItemExporter(file, **kwargs)
    exporter.start_exporting()
    for item in items:
        exporter.export_item(item)
    exporter.finish_exporting()
    return pq.ParquetFile(io.BytesIO(file.getvalue()))


def test_what_columns_hold() -> None:
    """A column has the type that all its values have; text, when they have none in common."""
    now = datetime.now(timezone.utc)
    rows = [
        {
            "i": 1,
            "f": 1,
            "b": True,
            "s": "é",
            "d": now,
            "y": b"\0",
            "n": None,
            "m": 1,
            "l": [1, {"a": "é"}],
            "big": 2**70,
        },
        {"i": -5, "f": 0.5, "b": False, "s": "", "d": now, "y": b"", "n": None, "m": "x", "l": {}, "late": 1},
    ]
    table = exported(*rows).read()
    types = {name: str(table.schema.field(name).type) for name in table.schema.names}
    assert types == {
        "i": "int64", "f": "double", "b": "bool", "s": "string", "d": "timestamp[us, tz=UTC]", "y": "binary",
        "n": "string", "m": "string", "l": "string", "big": "string", "late": "int64",
    }  # fmt: skip
    one, two = table.to_pylist()
    assert one == {**rows[0], "f": 1.0, "m": "1", "l": '[1, {"a": "é"}]', "big": str(2**70), "late": None}
    assert two == {**rows[1], "l": "{}", "big": None}


def test_other_types() -> None:
    """A value of a type that no column has is what JSON makes of it, text without its quotes and numbers as such."""
    row = {"date": date(2026, 11, 29), "decimal": Decimal("1.50"), "name": Name("é"), "number": Number.ONE, "set": {1}}
    table = exported(row).read()
    assert table.to_pylist() == [{"date": "2026-11-29", "decimal": "1.50", "name": "é", "number": 1, "set": "[1]"}]
    assert str(table.schema.field("number").type) == "int64"


def test_a_field_name_that_no_file_can_have() -> None:
    """An item with a field whose name cannot be written is refused, and takes no other with it."""
    file = io.BytesIO()
    exporter = ParquetItemExporter(file)
    with pytest.raises(UnicodeEncodeError):
        exporter.export_item({"\ud800": 1})
    exporter.export_item({"v": 1})
    exporter.finish_exporting()
    assert pq.read_table(io.BytesIO(file.getvalue())).to_pylist() == [{"v": 1}]


def test_memory_is_bounded() -> None:
    """Rows are written a group at a time: by their number, and by their size."""
    large = exported(*({"content": "x" * 1000} for _ in range(100)), group_bytes=10_000)
    assert [large.metadata.row_group(n).num_rows for n in range(large.num_row_groups)] == [10] * 10
    many = exported(*({"n": n} for n in range(25_000)))
    assert [many.metadata.row_group(n).num_rows for n in range(many.num_row_groups)] == [10_000, 10_000, 5_000]
    assert many.read().column("n").to_pylist() == list(range(25_000))


@pytest.mark.parametrize(
    ("value", "late"),
    [
        *((1, "x"), (1, 2**64), (1, True), (1.5, "x"), (True, 1), (b"x", "x"), ("x", object())),
        *(("x", "\ud800"), ("x", ["\ud800"]), ("x", {"\ud800": 1})),
        (datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 1)),
    ],
)
def test_what_does_not_fit(value: object, late: object) -> None:
    """An item that does not fit into a column is refused, and takes no other with it."""
    file = io.BytesIO()
    exporter = ParquetItemExporter(file, group_bytes=0)
    exporter.export_item({"v": value})
    with pytest.raises((ValueError, TypeError)):
        exporter.export_item({"v": late})
    exporter.export_item({"v": value})
    exporter.finish_exporting()
    assert pq.read_table(io.BytesIO(file.getvalue())).column("v").to_pylist() == [value, value]


@pytest.mark.parametrize(
    ("value", "late", "kept"), [(1.5, 2, 2.0), ("x", 5, "5"), ("x", b"\xff", "\\xff"), (1, None, None)]
)
def test_what_fits_later(value: object, late: object, kept: object) -> None:
    """What a column can have in another form is there in that form."""
    assert exported({"v": value}, {"v": late}, group_bytes=0).read().column("v").to_pylist() == [value, kept]


def test_the_chosen_columns(caplog: pytest.LogCaptureFixture) -> None:
    """A feed's fields choose columns, their order and titles; a field that comes too late is told of once."""
    rows = [{"a": 1, "b": 2}, {"b": 3}]
    assert exported(*rows, fields_to_export=["b", "c"]).read().to_pylist() == [{"b": 2, "c": None}, {"b": 3, "c": None}]
    assert exported(*rows, fields_to_export={"b": "B", "a": "A"}).read().to_pylist() == [
        {"B": 2, "A": 1},
        {"B": 3, "A": None},
    ]
    with caplog.at_level(logging.WARNING):
        table = exported({"a": 1}, {"a": 2, "z": 3}, {"a": 2, "z": 3}, group_bytes=0).read()
    assert table.to_pylist() == [{"a": 1}, {"a": 2}, {"a": 2}]
    assert [r.getMessage() for r in caplog.records] == [
        "A Parquet feed has no column 'z', and cannot be given one any more: it is left out"
    ]


def test_no_items() -> None:
    """A feed without items is a Parquet file with no rows, and the columns that are chosen."""
    assert exported().read().num_rows == 0
    assert exported(fields_to_export=["a"]).read().schema.names == ["a"]


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, one sentence says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'scrapy-batcher\[parquet\]'"):
        ParquetItemExporter(io.BytesIO())


LINE = 'FEED_EXPORTERS = {"parquet": "scrapy_batcher.outputs.parquet.ParquetItemExporter"}\n'


def test_a_crawl(project: Project, server: MockServer) -> None:
    """`-O items.parquet` has what JSON lines have, with the one line in the settings that Scrapy's command line needs;
    without it, FEEDS has it."""
    urls = [server.url(f"page/{n}") for n in range(30)]
    project.write("list.csv", "url,n\n" + "".join(f"{url},{n}\n" for n, url in enumerate(urls)))
    command = ("crawl", "batch", "-a", "urls=list.csv")
    feeds = {name: {"format": name.partition(".")[2]} for name in ("items.jsonl", "feeds.parquet")}
    run = project.scrapy(*command, settings={"FEEDS": json.dumps(feeds), "BATCHER_FIELDS": "url,status,length,headers"})
    assert run.status == 0, run.log
    rows = pq.read_table(project.path / "feeds.parquet").to_pylist()
    assert [{**row, "headers": json.loads(row["headers"])} for row in rows] == project.items()
    project.write("project_settings.py", (project.path / "project_settings.py").read_text() + LINE)
    run = project.scrapy(*command, "-O", "items.parquet")
    assert run.status == 0, run.log
    assert sorted(pq.read_table(project.path / "items.parquet").column("url").to_pylist()) == sorted(urls)


def test_a_file_that_is_there(project: Project) -> None:
    """Behind a Parquet file there can be no other: a batch that would add to one is refused, with a sentence."""
    project.write("urls.txt", "http://127.0.0.1:1/")
    project.write("items.parquet", b"PAR1")
    feeds = json.dumps({"items.parquet": {"format": "parquet"}})
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", settings={"FEEDS": feeds, "LOG_LEVEL": "ERROR"})
    assert run.status == 1
    assert (
        "the feed items.parquet has something in it already, and nothing can be added to a Parquet file: overwrite it "
        "with -O, or name another" in run.log
    )
    assert len(run.log.splitlines()) == 1, run.log
    assert (project.path / "items.parquet").read_bytes() == b"PAR1"
    file = io.BytesIO(b"PAR1")
    file.seek(0, io.SEEK_END)
    with pytest.raises(ValueError, match="needs a file of its own"):
        ParquetItemExporter(file)


def test_a_job(project: Project) -> None:
    """Nothing can be added to a Parquet file: as the feed of a job it is refused, with a sentence."""
    project.write("urls.txt", "http://127.0.0.1:1/")
    feeds = json.dumps({"items.parquet": {"format": "parquet"}})
    settings = {"FEEDS": feeds, "JOBDIR": "job", "LOG_LEVEL": "ERROR"}
    run = project.scrapy("crawl", "batch", "-a", "urls=urls.txt", settings=settings)
    assert run.status == 1
    assert (
        "the feed items.parquet cannot be used with JOBDIR: after a stop nothing can be added to what "
        "ParquetItemExporter has written; choose jsonl or csv" in run.log
    )
    assert len(run.log.splitlines()) == 1
