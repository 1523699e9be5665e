"""A compressed stream becomes a plain one that says so when it was cut short."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # which Scrapy requires too

_READERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gz": lambda stream: gzip.GzipFile(fileobj=stream),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zst": zstd.ZstdFile,
}

COMPRESSIONS = tuple(_READERS)

_BEGINNINGS = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}

READ_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError)
"""What reading a stream, compressed or not, can raise."""


def compression_of(beginning: bytes) -> str:
    """The compression of what has this *beginning*: one of `COMPRESSIONS`, or ``""`` for none."""
    return next((name for magic, name in _BEGINNINGS.items() if beginning.startswith(magic)), "")


def decompressed(stream: IO[bytes], compression: str) -> IO[bytes]:
    """*stream* read through *compression*: one of `COMPRESSIONS`, or ``""`` for none."""
    return cast("IO[bytes]", _READERS[compression](stream)) if compression else stream


def reason(error: Exception) -> str:
    """What *error*, one of `READ_ERRORS`, says, without the name of a file."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
