"""What was sent to a server and came back becomes records in a WARC file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO
from weakref import WeakKeyDictionary

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.utils.asyncio import run_in_thread

from scrapy_batcher.outputs.output import Feed, Output, OutputError

_MARK = b"WARC/"  # with which a record begins

_LONG = 2**15  # bytes that take longer to compress than the way to a thread and back


@dataclass(frozen=True)
class Archive:
    """The WARC file of a batch.

    :param feed: its file
    :param records: makes the records of a request and its response; may be called by another thread
    """

    feed: Feed
    records: Callable[[Request, Response], bytes]

    @classmethod
    def open(cls, path: str, output: Output, crawler: Crawler) -> Archive:
        """The one at *path*, to go on behind what is there; a new one begins with a record that says what it is.

        :raises ImportError: without warcio
        :raises OSError: when it cannot be written
        :raises OutputError: when it ends with anything else than a whole record
        """
        warc = import_module("scrapy_batcher.outputs.warc")  # which needs warcio
        is_zipped = path.endswith(".gz")
        if not _can_be_added_to(Path(path), is_zipped=is_zipped):
            raise OutputError(f"{path} does not end with a whole WARC record, so none can be added to it: name another")
        feed = output.open(Path(path).resolve(), overwrite=False)
        feed.ready = True  # it has no exporter
        output.own.append(feed)
        records = warc.Records(is_zipped=is_zipped)
        if not feed.tell():
            feed.write_ahead(records.info(feed.path.name, crawler))
        return cls(feed, records.of)

    async def lines(self, request: Request, response: Response) -> tuple[Feed, bytes]:
        """What is to be written of *request* and its *response*."""
        size = len(request.body) + len(response.body)
        in_thread = size > _LONG
        data = await run_in_thread(self.records, request, response) if in_thread else self.records(request, response)
        return self.feed, data


def _can_be_added_to(path: Path, *, is_zipped: bool) -> bool:
    """Whether *path* has nothing in it, or ends with a whole record: behind half a one, which a run that was killed may
    have left, no reader finds anything."""
    if not path.is_file() or not path.stat().st_size:
        return True
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return _ends_with_a_member(file, data) if is_zipped else data[:5] == _MARK and data[-4:] == b"\r\n\r\n"


def _ends_with_a_member(file: BinaryIO, data: mmap) -> bool:
    """Whether *file*, which has *data*, ends with a whole gzip member that is a record; looked for from its end, as it
    may be large."""
    start = len(data)
    while (start := data.rfind(b"\x1f\x8b\x08", 0, start)) >= 0:
        file.seek(start)
        try:
            with gzip.GzipFile(fileobj=file) as members:
                if members.read(len(_MARK)) == _MARK:
                    while members.read(_LONG):
                        pass
                    return True
        except EOFError:
            return False
        except (gzip.BadGzipFile, zlib.error):  # no member begins there
            continue
    return False


archives: WeakKeyDictionary[Crawler, Archive] = WeakKeyDictionary()
"""That of each crawler that writes one."""
