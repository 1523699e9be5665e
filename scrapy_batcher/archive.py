"""What was sent to a server and came back becomes records in a WARC file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from weakref import WeakKeyDictionary

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.utils.asyncio import run_in_thread

from scrapy_batcher.output import Feed, Output, OutputError

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
        :raises OutputError: when it has something else in it
        """
        warc = import_module("scrapy_batcher.warc")  # which needs warcio
        is_zipped = path.endswith(".gz")
        if not _begins_with(b"\x1f\x8b" if is_zipped else b"WARC/", Path(path)):
            raise OutputError(
                f"{path} has something else than WARC records in it, to which they would be added: name another"
            )
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


def _begins_with(mark: bytes, path: Path) -> bool:
    """Whether what is in *path*, if anything is, begins with *mark*."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return file.read(len(mark)) in (b"", mark)


archives: WeakKeyDictionary[Crawler, Archive] = WeakKeyDictionary()
"""That of each crawler that writes one."""
