"""A compressed stream becomes a plain one that says so when it was cut short."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from typing import IO, Any, cast

try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:  # the extra "zstd" is not installed
    zstd = None  # type: ignore[assignment]

COMPRESSIONS = ("gz", "bz2", "xz", "zst")


class NoZstandardError(Exception):
    """The list is compressed with Zstandard, and nothing that reads it is installed."""


READ_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError, NoZstandardError)
"""What reading a stream, compressed or not, can raise."""

if zstd is not None:
    READ_ERRORS += (zstd.ZstdError,)


def decompressed(stream: IO[bytes], compression: str) -> IO[bytes]:
    """*stream* read through *compression*: one of `COMPRESSIONS`, or ``""`` for none.

    :raises NoZstandardError: for ``zst`` without the extra
    """
    reader: Any = stream
    if compression == "gz":
        reader = gzip.GzipFile(fileobj=stream)
    elif compression == "bz2":
        reader = bz2.BZ2File(stream)
    elif compression == "xz":
        reader = lzma.LZMAFile(stream)  # noqa: SIM115 - closed by whoever reads it
    elif compression == "zst":
        if zstd is None:
            raise NoZstandardError("Zstandard needs an extra: pip install 'scrapy-batcher[zstd]'")
        reader = zstd.ZstdFile(stream)
    return cast("IO[bytes]", reader)
