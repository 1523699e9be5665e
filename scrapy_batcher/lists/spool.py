"""Stdin is kept in a file as it is read, so that another run can begin where this one was."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from scrapy_batcher.lists.lines import ChangedError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 64 * 1024  # bytes read from stdin at a time


class Spool(io.RawIOBase):
    """What comes from *stream*, through the file at *path*.

    What an earlier run kept there comes first. A *stream* that has the same once more, from its start, goes on behind
    it; one that has nothing at all adds nothing.

    :ivar is_all: whether the file holds what an earlier run kept and the stream had nothing at all
    :raises OSError: when the file cannot be written
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.is_all = False
        self._path = path
        self._stream = stream
        self._file = path.open("a+b", buffering=0)
        self._kept = self._file.seek(0, os.SEEK_END)  # bytes of an earlier run
        self._file.seek(0)
        self._compared = False
        self._closing = threading.Lock()  # one thread reads and closes, another one syncs

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if got := self._file.readinto(view):
            return got
        if not self._compared:
            self._compare()
            self._compared = True
        # read1 returns what there is, without waiting until the buffer is full.
        data: bytes = self._stream.read1(min(len(view), _CHUNK))  # type: ignore[attr-defined]  # IO[bytes] lacks it
        self._keep(data)
        view[: len(data)] = data
        return len(data)

    def sync(self) -> None:
        """Wait until the disk has what was kept."""
        with self._closing:
            if not self.closed:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._closing:
            if not self.closed:
                os.fsync(self._file.fileno())
                self._file.close()
                self._stream.close()
            super().close()

    def _keep(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as e:
            raise OSError(e.errno, f"{e.strerror} for {self._path}, where it is kept") from e

    def _compare(self) -> None:
        """Read what an earlier run kept once more from the stream.

        :raises ChangedError: when it is something else there
        """
        with self._path.open("rb") as kept:
            compared = 0
            while compared < self._kept:
                data: bytes = self._stream.read(min(_CHUNK, self._kept - compared))
                if not data and not compared:
                    self.is_all = True
                    return
                if not data:
                    raise ChangedError(f"ends after {compared:,} bytes, where an earlier run read {self._kept:,}")
                if data != kept.read(len(data)):
                    raise ChangedError(f"has other text in its first {self._kept:,} bytes than in an earlier run")
                compared += len(data)
