"""Locations that fsspec knows (extra ``remote``): found, and opened as streams whose errors are `OSError`s."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from scrapy_batcher.redact import redact

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:::|://)")

_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")

_GONE = (404, 410)  # HTTP statuses of what is not there
_CHANGED = 412  # that of what is another one than was asked for

_BUFFER = 256 * 1024  # bytes

_SILENCE = 60  # seconds that a server may take to connect, or between two pieces of what it sends


def is_remote(location: str) -> bool:
    """Whether *location* is none of the file system."""
    return _SCHEME.match(location) is not None


def is_web(location: str) -> bool:
    """Whether *location* is of a web server."""
    return location.lower().startswith(("http://", "https://"))


def without_credentials(text: str) -> str:
    """*text* with neither the password of a URL in it nor what stands behind its ``?``, which often signs it."""
    return _QUERY.sub(r"\1?…", redact(text))


def matching(pattern: str) -> list[str]:
    """The locations that *pattern* matches, sorted.

    :raises OSError: when that cannot be found out
    """
    with _as_os_error():
        files, path = _open_files(pattern)
        # What is given is what comes back, with its user and host, of which a path has nothing.
        root = pattern.removesuffix(path)
        return sorted(root + found for found, entry in files.glob(path, detail=True).items() if entry["type"] == "file")


def open_remote(location: str) -> IO[bytes]:
    """The file at *location*, to be read from its beginning, a block at a time.

    :raises OSError: now and later, when it cannot be read
    """
    with _as_os_error():
        files, path = _open_files(location)
        if not is_web(location):
            return io.BufferedReader(_Raw(files, files.open(path, "rb"), None), _BUFFER)
        info = files.info(path)
        headers = {**files.kwargs.get("headers", {}), **_unless_changed(info)}
        opened = partial(files.open, path, "rb", size=info.get("size"), headers=headers)
        in_one_go = partial(opened, block_size=0)
        file = opened() if info.get("partial", True) else in_one_go()
        return io.BufferedReader(_Raw(files, file, in_one_go), _BUFFER)


def _unless_changed(info: dict[str, Any]) -> dict[str, str]:
    """The headers with which a web server sends no part of another file than the one of which fsspec has *info*."""
    tag = info.get("ETag", "W/")
    return {} if tag.startswith("W/") else {"If-Match": tag}  # which no weak one matches


class _Raw(io.RawIOBase):
    """A *file* of fsspec, in the file system *files*, whose libraries each have errors of their own.

    :param in_one_go: opens it once more, to be read from its beginning on without a stop: for a web server that turns
        out to send no parts, as fsspec finds when it asks for the second of them
    """

    def __init__(self, files: Any, file: Any, in_one_go: Callable[[], Any] | None) -> None:
        self._files = files  # which closes its archive, if it is one, when nobody has it any more
        self._file = file
        self._in_one_go = in_one_go

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True  # as far as it is: one that comes in one go says so itself when it is asked

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        with _as_os_error():
            try:
                data = self._file.read(len(view))
            except ValueError:
                if not self._in_one_go:
                    raise
                data = self._again(self._file.tell()).read(len(view))
            if not data and view:
                self._check_end()
        view[: len(data)] = data
        return len(data)

    def _check_end(self) -> None:
        """
        :raises OSError: when the file is not at its end: it has become shorter since it was opened
        """
        place, size = self._file.tell(), getattr(self._file, "size", None)
        if size and place < size:
            raise OSError(f"it ends after {place:,} bytes, where it was said to have {size:,}")

    def _again(self, place: int) -> Any:
        """The file, opened once more and read up to *place*."""
        assert self._in_one_go
        self._file.close()
        self._file, self._in_one_go = self._in_one_go(), None
        while place:
            place -= len(self._file.read(min(place, _BUFFER))) or place
        return self._file

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._in_one_go = None  # who goes back and forth cannot be served so
        with _as_os_error():
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        with _as_os_error():
            return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            with _as_os_error():
                self._file.close()
        super().close()


def _open_files(location: str) -> tuple[Any, str]:
    """The file system of fsspec that *location* is in, and its path there."""
    try:
        fsspec = import_module("fsspec")
    except ImportError as e:
        raise OSError("such a location needs fsspec: pip install 'scrapy-batcher[remote]'") from e
    options = {}
    if is_web(location):
        # aiohttp gives up after five minutes in all. A list is read as slowly as its pages are fetched.
        timeout = import_module("aiohttp").ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
        chosen = fsspec.config.conf.get(location.partition(":")[0].lower(), {}).get("client_kwargs", {})
        options["client_kwargs"] = {"timeout": timeout, **chosen}
    files, path = fsspec.url_to_fs(location, **options)
    return files, path


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as e:
        # With which fsspec answers whatever goes wrong on the web, too.
        if e.__cause__ is None or getattr(e.__cause__, "status", None) in _GONE:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from e
        raise _told(e.__cause__) from e
    except Exception as e:  # a hundred libraries, each with its own
        raise _told(e) from e


def _told(error: BaseException) -> OSError:
    """*error* as one that names no secret."""
    if getattr(error, "status", None) == _CHANGED:
        return OSError("it was changed while it was read")
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    name = "" if isinstance(error, OSError) and text else type(error).__name__
    return OSError(without_credentials(": ".join(filter(None, (name, text)))))
