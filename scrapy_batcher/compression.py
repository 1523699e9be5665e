"""A compressed stream becomes a plain one that says so when it was cut short."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from typing import IO, Any, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # which Scrapy requires too

COMPRESSIONS = ("gz", "bz2", "xz", "zst")

READ_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError)
"""What reading a stream, compressed or not, can raise."""


def decompressed(stream: IO[bytes], compression: str) -> IO[bytes]:
    """*stream* read through *compression*: one of `COMPRESSIONS`, or ``""`` for none."""
    reader: Any = stream
    if compression == "gz":
        reader = gzip.GzipFile(fileobj=stream)
    elif compression == "bz2":
        reader = bz2.BZ2File(stream)
    elif compression == "xz":
        reader = lzma.LZMAFile(stream)
    elif compression == "zst":
        reader = zstd.ZstdFile(stream)  # noqa: SIM115 - closed by whoever opened the stream
    return cast("IO[bytes]", reader)
