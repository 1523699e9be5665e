"""Parquet and Arrow files are lists: their values, their places, and what is wrong with them."""

from __future__ import annotations

import datetime
import io
import json
import os
import sys
import tracemalloc
import uuid
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_twisted import ensureDeferred

from scrapy_batcher.lists import columnar
from scrapy_batcher.lists.lines import ROW_LIMIT, START
from scrapy_batcher.lists.shard import Shard
from scrapy_batcher.lists.sources import Source, SourceError
from tests.jobs import Stops, Work, complaint
from tests.mockserver import MockServer

settings.register_profile("columnar", deadline=None, max_examples=40)  # a deadline would depend on the machine
settings.load_profile("columnar")


def parquet(table: pa.Table, rows: int = 3) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rows)
    return sink.getvalue()


def ipc_file(table: pa.Table, rows: int = 3) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def ipc_stream(table: pa.Table, rows: int = 3) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def feather(table: pa.Table, rows: int = 3) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(table, sink, chunksize=rows, compression="zstd")
    return sink.getvalue()


FORMATS = {"parquet": parquet, "arrow": ipc_file, "arrows": ipc_stream, "feather": feather}


def list_of(count: int, seed: str = "") -> pa.Table:
    return pa.table({"n": list(range(count)), "url": [f"http://h{n}/{seed}" for n in range(count)]})


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


# -- rows --------------------------------------------------------------------------------------------------------------

forms = st.sampled_from(sorted(FORMATS))
text = st.text(st.characters(codec="utf-8"), max_size=5)
deep = st.fixed_dictionaries({"a": text, "b": st.lists(st.integers(0, 9), max_size=2)})
columns = st.fixed_dictionaries(
    {
        "text": st.lists(st.none() | text, min_size=8, max_size=8),
        "whole": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=8, max_size=8),
        "real": st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=8),
        "yes": st.lists(st.booleans(), min_size=8, max_size=8),
        "list": st.lists(st.lists(st.none() | text, max_size=3), min_size=8, max_size=8),
        "deep": st.lists(deep, min_size=8, max_size=8),
    }
)


@given(forms, columns, st.integers(0, 8), st.integers(1, 9), st.integers(1, 3))
def test_round_trip(form, drawn, count, rows, number):
    """What is written is what is read, nested values too, in batches of any size; a shard has its part of it."""
    names = {"text": pa.string(), "whole": pa.int64(), "real": pa.float64(), "yes": pa.bool_()}
    table = pa.table(
        {"url": [f"http://h{n}/" for n in range(8)], **{n: pa.array(v, names.get(n)) for n, v in drawn.items()}}
    )
    expected = [
        (n + 1, n + 1, f"http://h{n}/", {name: values[n] for name, values in drawn.items()}) for n in range(count)
    ]
    with TemporaryDirectory() as folder:
        path = written(Path(folder, f"list.{form}"), FORMATS[form](table.slice(0, count), rows))
        assert [(row.id, row.line, row.url, row.columns) for row in Source(path)] == expected
        shard = Shard(number, 3)
        assert list(Source(path, shard=shard)) == [row for row in Source(path) if shard.has(row)]


@given(forms, st.integers(0, 12), st.integers(1, 7), st.data())
def test_from_the_mark_of_any_row(form, count, rows, data):
    """From the mark of any row on there are those behind it, in the same file and among others."""
    with TemporaryDirectory() as folder:
        Path(folder, "1.txt").write_text("http://a/\n")
        written(Path(folder, f"2.{form}"), FORMATS[form](list_of(count), rows))
        written(Path(folder, f"3.{form}"), FORMATS[form](list_of(count, "x"), rows))
        for location in (f"{folder}/2.{form}", f"{folder}/*"):
            source = Source(location)
            whole = list(source.marked())
            done = data.draw(st.integers(0, len(whole)))
            again = Source(location)
            again.resume(whole[done - 1][1] if done else START)
            assert list(again.marked()) == whole[done:]
            assert again.mark == source.mark


def test_values_that_json_does_not_have(tmp_path):
    """Each value that JSON lacks becomes one that it has."""
    moment = datetime.datetime(2026, 11, 28, 1, 2, 3)
    table = pa.table(
        {
            "url": ["http://a/"],
            "bytes": [b"text"],
            "binary": [b"\xff\x00"],
            "decimal": [Decimal("1.50")],
            "date": [moment.date()],
            "time": [moment.time()],
            "naive": pa.array([moment], pa.timestamp("s")),
            "nano": pa.array([1795827723000000001], pa.timestamp("ns")),
            "zoned": pa.array([moment], pa.timestamp("ms", "Europe/Berlin")),
            "took": pa.array([datetime.timedelta(seconds=90)]),
            "nan": [float("nan")],
            "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
            "kind": pa.array(["x"]).dictionary_encode(),
            "none": pa.nulls(1),
        }
    )
    [row] = Source(written(tmp_path / "list.arrow", ipc_file(table)))
    assert row.columns == {
        "bytes": "text",
        "binary": "/wA=",
        "decimal": "1.50",
        "date": "2026-11-28",
        "time": "01:02:03",
        "naive": "2026-11-28T01:02:03",
        "nano": "2026-11-28T01:02:03.000000001",
        "zoned": "2026-11-28T01:02:03.000Z",
        "took": 90.0,
        "nan": None,
        "map": [["a", 1]],
        "kind": "x",
        "none": None,
    }
    json.dumps(row.columns, allow_nan=False)


def test_rows_that_cannot_be_used(tmp_path):
    """A row that cannot be used is invalid, with its reason, and takes no other with it."""
    broken = pa.array([b"a", b"b", b"c", b"d", b"\xff", b"x"]).cast(pa.binary())
    table = pa.table(
        {
            "url": ["http://a/", None, "nonsense", " http://b/ ", "http://c/", "http://d/"],
            "text": pa.StringArray.from_buffers(6, *broken.buffers()[1:]),
            "long": ["", "", "", "", "", "x" * ROW_LIMIT],
        }
    )
    rows = list(Source(written(tmp_path / "list.parquet", parquet(table, 10))))
    assert [(row.line, row.url, row.error) for row in rows if not row.error] == [
        (1, "http://a/", None),
        (4, "http://b/", None),
    ]
    assert [row.error.split(":")[0] for row in rows if row.error] == [
        "it has no URL",
        "not a URL",
        "it cannot be read",
        "longer than 64 KiB",
    ]


def test_urls_that_are_no_text(tmp_path):
    """A column of numbers has no URLs."""
    path = written(tmp_path / "list.parquet", parquet(list_of(2)))
    assert [row.error for row in Source(path, url_field="n")] == ["its URL is not text but int"] * 2


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_a_missing_column(tmp_path):
    """A file without the column is refused with the columns that it has."""
    for form, write in FORMATS.items():
        path = written(tmp_path / f"list.{form}", write(list_of(2)))
        assert complaint(path, None, "page") == (
            f"{path} has no column 'page': its columns are 'n', 'url'; name the one with the URL with -a url_field="
        )


def test_two_columns_of_one_name(tmp_path):
    """Two columns of the same name are refused."""
    table = pa.Table.from_arrays([pa.array(["http://a/"])] * 2, names=["url", "url"])
    assert "has two columns named 'url'" in complaint(written(tmp_path / "list.arrow", ipc_file(table)))


@pytest.mark.parametrize("form", ["parquet", "arrow", "feather"])
def test_cut_at_its_end(tmp_path, form):
    """A file that was cut short is refused at once, as its end tells what is where."""
    path = written(tmp_path / f"list.{form}", FORMATS[form](list_of(5000), 1000)[:-100])
    with pytest.raises(SourceError, match=f"list.{form} cannot be read: ") as raised:
        Source(path)
    assert "\n" not in str(raised.value)


def test_a_stream_that_was_cut(tmp_path):
    """A stream that was cut short gives the rows of its whole batches, and says so."""
    path = written(tmp_path / "list.arrows", ipc_stream(list_of(5000), 1000)[:-2000])
    rows = []
    with pytest.raises(SourceError, match="broke off after line 4000: "):
        rows.extend(Source(path))
    assert len(rows) == 4000


@pytest.mark.parametrize(
    ("name", "why"), [("a.parquet.gz", "parquet within .gz"), ("a.arrow.zst", "arrow within .zst")]
)
def test_compressed_from_outside(name, why):
    """These have a compression of their own: another one around them is refused."""
    assert why in complaint(name)


def test_no_such_file(tmp_path):
    """What is none is refused."""
    assert "cannot be read: " in complaint(written(tmp_path / "list.parquet", b"http://a/\n" * 10))
    assert "cannot be read: " in complaint(written(tmp_path / "list.arrow", b"http://a/\n" * 10))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_without_pyarrow(tmp_path, monkeypatch, form):
    """Without pyarrow one sentence says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = written(tmp_path / f"list.{form}", FORMATS[form](list_of(1)))
    assert complaint(path).endswith("pip install 'scrapy-batcher[parquet]'")


@pytest.mark.parametrize("form", FORMATS)
def test_by_content(tmp_path, form):
    """A file whose name says nothing is known by how it begins."""
    path = written(tmp_path / "list", FORMATS[form](list_of(2)))
    if form != "arrows":  # which begins like nothing in particular
        assert len(list(Source(path))) == 2


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("other", ["another row", "fewer rows"])
def test_another_file(tmp_path, form, other):
    """A file that is another one than the rows were read from is refused."""
    path = tmp_path / f"list.{form}"
    marks = [mark for _, mark in Source(written(path, FORMATS[form](list_of(10)))).marked()]
    written(path, FORMATS[form](list_of(10, "x") if other == "another row" else list_of(5)))
    source = Source(str(path))
    with pytest.raises(SourceError, match="another JOBDIR"):
        source.resume(marks[7])
    source.close()


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_row_groups_that_are_done_are_not_read(tmp_path, monkeypatch):
    """A job that goes on reads nothing of the row groups that it is through with."""
    count = 60_000
    path = tmp_path / "list.parquet"
    pq.write_table(list_of(count), path, row_group_size=count // 3, compression="none", use_dictionary=False)
    marks = [mark for _, mark in Source(str(path)).marked()]
    read = []
    original = columnar._Parquet.batches
    monkeypatch.setattr(
        columnar._Parquet,
        "batches",
        lambda self, first: ((read.append(b), (b, t))[1] for b, t in original(self, first)),
    )
    source = Source(str(path))
    source.resume(marks[count // 3 * 2 + 5000])
    assert next(iter(source)).id == count // 3 * 2 + 5002
    assert min(read) >= count // 3 * 2


def test_memory(tmp_path):
    """A row group, however long, is read a piece at a time."""
    count = 120_000
    path = tmp_path / "list.parquet"
    table = pa.table({"url": [f"http://h{n}/{os.urandom(60).hex()}" for n in range(count)]})
    pq.write_table(table, path, row_group_size=count, compression="none", use_dictionary=False)
    del table
    assert path.stat().st_size > 14_000_000
    before = pa.total_allocated_bytes()
    peak = 0
    tracemalloc.start()
    for row in Source(str(path)):
        if row.id % 1000 == 0:
            peak = max(peak, pa.total_allocated_bytes() - before)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000, peak
    assert python < 5_000_000, python


def test_a_value_of_another_kind():
    """What nobody has thought of is text."""
    value = uuid.UUID(int=1)
    assert columnar._plain([value]) == [str(value)]


# -- a job -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet", "arrows"])
@ensureDeferred
async def test_a_job(server: MockServer, work: Work, form: str) -> None:
    """A job is stopped and gone on with; every row is fetched once, with its columns."""
    urls = [server.url(f"page/{n}") for n in range(20)]
    table = pa.table({"url": urls, "tags": [[str(n)] for n in range(20)]})
    work.list = Path(written(work.folder / f"list.{form}", FORMATS[form](table, 6)))
    for _ in range(3):
        await work.run(Stops, pages=4)
    crawler = await work.run()
    assert crawler.totals.outcomes == {"fetched": 20}
    items = [json.loads(line) for line in (work.folder / "items.jsonl").read_text().splitlines()]
    assert sorted((item["url"], item["tags"]) for item in items) == sorted(
        (url, [str(n)]) for n, url in enumerate(urls)
    )
