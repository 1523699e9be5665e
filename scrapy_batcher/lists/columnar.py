"""Parquet and Arrow files become rows (extra ``parquet``), a batch at a time."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from importlib import import_module
from io import SEEK_END
from typing import IO, Any, Protocol
from zlib import crc32

from scrapy_batcher.lists.lines import ROW_LIMIT, BrokenError, ChangedError, Mark, Place
from scrapy_batcher.lists.rows import Rows, Target, column_names, why_not_columns
from scrapy_batcher.redact import one_line

_BATCH = 1000  # rows that become Python's at a time
_ERROR_LENGTH = 300  # characters
_BUFFER = 256 * 1024  # bytes of each column of a row group that are read at a time


class Table:
    """The rows of a Parquet or Arrow file.

    A place in it has rows for its lines and its length. Its CRC is that of what tells the file from others, which
    costs less than to read it once more (`_Batches.crc`), and of the URL of the row before it.

    :param row_format: ``parquet``, or ``arrow``: an IPC file (Feather) or stream
    :param start: the rows before them in the list, and what the place of the first of them begins with
    :param file: what the file is called that its rows are of, when there are several
    :raises BrokenError: when it is no such file; from its rows, when it breaks off
    :raises MissingColumnError: when it has no column *url_field*
    :raises OSError: when pyarrow is not installed
    """

    unit = "rows"
    is_cut = False

    def __init__(self, stream: IO[bytes], row_format: str, url_field: str, start: Mark, file: str) -> None:
        self.place = start.place
        self.mark = start
        self.file = file
        self._url_field = url_field
        self._arrow = _pyarrow("pyarrow")
        self._given = Rows(self, self)
        with self._broken():
            self._batches: _Batches = (_Parquet if row_format == "parquet" else _Arrow)(stream, start.place.crc)
            self._names = column_names(self._batches.names, url_field)
            self._batches.identify(self._names.index(url_field))
        self.rows = self._rows(0)

    def skip(self, mark: Mark) -> bool:
        """Go on to *mark*, where an earlier reading of the same file ended, or to its end when that has fewer rows;
        returns whether it had as many. Of what is before it only its last row is looked at.

        :raises ChangedError: when that is another one, or in another file
        """
        self.rows = self._rows(mark.place.length - 1)
        if next(self.rows, None) is None:
            return False
        if self.place != mark.place:
            raise ChangedError(
                f"has another row {mark.place.lines:,} than when it was read before, or other rows around it"
            )
        self.mark = mark
        return True

    def _rows(self, first: int) -> Iterator[Target]:
        """Those behind the first so many."""
        with self._broken():
            for begin, batch in self._batches.batches(first):
                number = max(begin, first)
                for row in self._python(batch.slice(number - begin)):
                    number += 1
                    url = row if isinstance(row, str) else row[self._url_field]
                    self.place = Place(number, number, crc32(str(url).encode(errors="replace"), self._batches.crc))
                    yield self._target(number, row)
        self.place = Place(self._batches.rows, self._batches.rows, self._batches.crc)

    def _target(self, number: int, row: dict[str, Any] | str) -> Target:
        if isinstance(row, str):
            return self._given.invalid(number, None, row)
        text = json.dumps(row)
        url = row.pop(self._url_field)
        if len(text) > ROW_LIMIT:
            error: str | None = f"longer than {ROW_LIMIT // 1024} KiB"
        elif url is not None and not isinstance(url, str):
            error = f"its URL is not text but {type(url).__name__}"
        else:
            error = why_not_columns(row, text)
        if error:
            return self._given.invalid(number, str(url), error)
        return self._given.target(number, (url or "").strip(), row)

    def _python(self, batch: Any) -> Iterator[dict[str, Any] | str]:
        """The rows of *batch*, with values that JSON has; for one with a value that cannot be had, why."""
        columns = [self._as_text(column) for column in batch.columns]
        batch = self._arrow.RecordBatch.from_arrays(columns, names=self._names)
        # A value that Python does not have, a text that is not UTF-8: then one by one.
        errors = (ValueError, TypeError, OverflowError, self._arrow.ArrowException)
        try:
            rows: list[Any] = batch.to_pylist()
        except errors:
            rows = []
            for number in range(batch.num_rows):
                try:
                    rows += batch.slice(number, 1).to_pylist()
                except errors as e:
                    rows.append(one_line(f"it cannot be read: {e}", _ERROR_LENGTH))
        for row in rows:
            yield row if isinstance(row, str) else {name: _plain(value) for name, value in row.items()}

    def _as_text(self, column: Any) -> Any:
        """*column*; times as text, of which Arrow has more than Python: nanoseconds, and all years."""
        if not self._arrow.types.is_timestamp(column.type):
            return column
        compute = _pyarrow("pyarrow.compute")
        naive = column.cast(self._arrow.timestamp(column.type.unit)).cast(self._arrow.string())
        text = compute.replace_substring(naive, " ", "T")
        return compute.binary_join_element_wise(text, "Z", "") if column.type.tz else text

    @contextmanager
    def _broken(self) -> Iterator[None]:
        try:
            yield
        except self._arrow.ArrowException as e:
            raise BrokenError(str(e)) from e


class _Batches(Protocol):
    """A file, a batch of rows at a time.

    :ivar names: of its columns
    :ivar rows: how many it has, as far as it was read
    :ivar crc: what tells it from other files, as far as it was read
    """

    names: list[str]
    rows: int
    crc: int

    def __init__(self, stream: IO[bytes], crc: int) -> None:
        """
        :param crc: that of what is before it in the list
        """

    def identify(self, column: int) -> None:
        """Begin to tell the file from others, by its *column* if need be."""

    def batches(self, first: int) -> Iterator[tuple[int, Any]]:
        """All batches that have a row behind the first so many, with how many rows are before them."""


class _Parquet:
    """What tells a Parquet file from others is what stands at its end: how many rows and bytes each part of each column
    has, and mostly the least and the greatest value."""

    def __init__(self, stream: IO[bytes], crc: int) -> None:
        self._stream = stream
        # Read through a buffer: without one each column of a row group is read whole.
        parquet = _pyarrow("pyarrow.parquet")
        self._file = parquet.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
        self.names = list(self._file.schema_arrow.names)
        self.rows = self._file.metadata.num_rows
        self.crc = crc

    def identify(self, column: int) -> None:
        self._stream.seek(-8, SEEK_END)
        length = int.from_bytes(self._stream.read(4), "little")
        self._stream.seek(-8 - length, SEEK_END)
        self.crc = crc32(self._stream.read(length), self.crc)

    def batches(self, first: int) -> Iterator[tuple[int, Any]]:
        begin = 0
        for group in range(self._file.num_row_groups):
            length = self._file.metadata.row_group(group).num_rows
            if begin + length <= first:
                begin += length  # and nothing of it is read
                continue
            for batch in self._file.iter_batches(_BATCH, row_groups=[group], use_threads=False):
                if begin + batch.num_rows > first:
                    yield begin, batch
                begin += batch.num_rows


class _Arrow:
    """What tells an Arrow file or stream from others is its column of URLs, up to where it was read."""

    def __init__(self, stream: IO[bytes], crc: int) -> None:
        ipc = _pyarrow("pyarrow.ipc")
        is_file = stream.peek(6)[:6] == b"ARROW1"  # type: ignore[attr-defined]  # IO[bytes] lacks it; all of ours have it
        reader = ipc.open_file(stream) if is_file else ipc.open_stream(stream)
        self._batches: Iterator[Any] = (
            (reader.get_batch(number) for number in range(reader.num_record_batches)) if is_file else iter(reader)
        )
        self.names = list(reader.schema.names)
        self.crc = crc
        self.rows = 0
        self._column = 0

    def identify(self, column: int) -> None:
        self._column = column

    def batches(self, first: int) -> Iterator[tuple[int, Any]]:
        for batch in self._batches:
            for buffer in batch.column(self._column).buffers():
                self.crc = crc32(buffer, self.crc) if buffer else self.crc
            for start in range(0, batch.num_rows, _BATCH):
                part = batch.slice(start, _BATCH)
                if self.rows + start + part.num_rows > first:
                    yield self.rows + start, part
            self.rows += batch.num_rows


def _pyarrow(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as e:
        raise OSError(f"Parquet and Arrow need pyarrow ({e}): pip install 'scrapy-batcher[parquet]'") from e


def _plain(value: Any) -> Any:
    """*value* as JSON has it."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):  # a map is a list of pairs
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    return str(value)  # a decimal number, a UUID
