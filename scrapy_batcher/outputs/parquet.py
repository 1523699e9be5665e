"""`ParquetItemExporter`: a feed that is a Parquet file, written with pyarrow (extra ``parquet``)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from typing import Any, BinaryIO

from scrapy.exporters import BaseItemExporter
from scrapy.utils.serialize import ScrapyJSONEncoder

from scrapy_batcher.outputs.feeds import columns_of

_logger = logging.getLogger(__name__)

_GROUP_ROWS = 10_000
_GROUP_BYTES = 8 * 2**20

_INT64 = range(-(2**63), 2**63)


class ParquetItemExporter(BaseItemExporter):
    """Writes items to a Parquet file, a row group at a time, so that memory does not grow with their number.

    The columns, and what they hold, are those of the items in the first row group: numbers, truths, bytes and times
    as such; text; and, as JSON, what is of several types, or a list or a dictionary. The feed's ``fields`` choose
    columns, and their order. An item whose value does not fit into its column is refused.

    The file can be read when it is closed, not before, and cannot be gone on with: so a feed of a job cannot have this
    format.

    :param compression: what pyarrow calls it: ``snappy``, ``zstd``, ``gzip``, ``none``, …
    :param group_bytes: of text and bytes in a row group, about
    :raises ImportError: without pyarrow
    :raises ValueError: when *file* has something in it
    """

    def __init__(
        self, file: BinaryIO, *, compression: str = "snappy", group_bytes: int = _GROUP_BYTES, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        try:
            self._pa, self._parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ImportError as e:
            raise ImportError("a Parquet feed needs pyarrow: pip install 'scrapy-batcher[parquet]'") from e
        if file.seekable() and file.tell():
            raise ValueError("a Parquet feed needs a file of its own: what is in this one would not be found any more")
        self._file = file
        self._compression = compression
        self._group_bytes = group_bytes
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0  # of text and bytes in them
        self._writer: Any = None
        self._columns: dict[str, Callable[[str, Any], Any]] = {}  # what makes a value of each of them
        self._watches = True  # for fields that have no column

    def export_item(self, item: Any) -> None:
        row = {_plain(name): _plain(value) for name, value in self.get_serialized_fields(item)}
        if self._writer:
            row = self._fitted(row)
        self._rows.append(row)
        self._bytes += sum(len(value) for value in row.values() if isinstance(value, (str, bytes)))
        if self._bytes >= self._group_bytes or len(self._rows) >= _GROUP_ROWS:
            self._write()

    def finish_exporting(self) -> None:
        self._write()
        self._writer.close()

    def _fitted(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._watches and (left_out := row.keys() - self._columns.keys()):
            self._watches = False
            names = ", ".join(sorted(map(repr, left_out)))
            _logger.warning("A Parquet feed has no column %s, and cannot be given one any more: it is left out", names)
        return {name: fit(name, row.get(name)) for name, fit in self._columns.items()}

    def _write(self) -> None:
        if not self._writer:
            self._begin()
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._writer.schema))
        self._rows.clear()
        self._bytes = 0

    def _begin(self) -> None:
        """Choose the columns, by the rows that there are."""
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        if self.fields_to_export:
            names = list(columns_of(self.fields_to_export).values())
        pa = self._pa
        time = pa.timestamp("us", tz="UTC")
        types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), bytes: pa.binary(), datetime: time}
        schema = []
        for name in names:
            kind = _kind_of([row[name] for row in self._rows if row.get(name) is not None])
            schema.append(pa.field(name, types.get(kind, pa.string())))
            self._columns[name] = _FITS.get(kind, _text)
        self._rows = [{name: fit(name, row.get(name)) for name, fit in self._columns.items()} for row in self._rows]
        self._writer = self._parquet.ParquetWriter(self._file, pa.schema(schema), compression=self._compression)


def _plain(value: Any) -> Any:
    """*value* as a column can have it: of what no column has a type for, what JSON makes of it; a list or a dictionary
    is JSON, as text.

    :raises TypeError, ValueError: when it cannot be written at all
    """
    if value is not None and type(value) is not str and type(value) not in _FITS:
        value = _ENCODER.encode(value)
        if value[0] not in "[{":
            value = json.loads(value)  # a date's text, the number of an enum
    if type(value) is str and not value.isascii():
        value.encode()  # half of a surrogate pair
    return value


def _kind_of(values: list[Any]) -> type:
    """The type of all *values*; text for what is of several."""
    kinds = {type(value) for value in values}
    if int in kinds and not all(value in _INT64 for value in values if type(value) is int):
        return str
    if kinds == {int, float}:
        return float
    if kinds == {datetime} and not all(value.tzinfo for value in values):
        return str
    return kinds.pop() if len(kinds) == 1 else str


def _only(kind: type) -> Callable[[str, Any], Any]:
    def fit(name: str, value: Any) -> Any:
        if value is None or type(value) is kind:
            return value
        raise ValueError(f"the Parquet column {name!r} has {kind.__name__} values: {value!r} does not fit")

    return fit


def _whole(name: str, value: Any) -> Any:
    if value is None or (type(value) is int and value in _INT64):
        return value
    raise ValueError(f"the Parquet column {name!r} has whole numbers of 64 bits: {value!r} does not fit")


def _number(name: str, value: Any) -> Any:
    return float(value) if type(value) is int else _only(float)(name, value)


def _time(name: str, value: Any) -> Any:
    if value is None or (type(value) is datetime and value.tzinfo):
        return value
    raise ValueError(f"the Parquet column {name!r} has times with a time zone: {value!r} does not fit")


def _text(name: str, value: Any) -> Any:
    if value is None or type(value) is str:
        return value
    if type(value) is bytes:
        return value.decode(errors="backslashreplace")
    return value.isoformat() if type(value) is datetime else _ENCODER.encode(value)


_ENCODER = ScrapyJSONEncoder(ensure_ascii=False)

_FITS: dict[type, Callable[[str, Any], Any]] = {
    bool: _only(bool),
    int: _whole,
    float: _number,
    bytes: _only(bytes),
    datetime: _time,
}
