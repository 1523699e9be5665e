"""Feed files of which every byte is known to stand for a settled target, or to be cut off again."""

from __future__ import annotations

import io
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

from scrapy.crawler import Crawler
from scrapy.utils.asyncio import run_in_thread

from scrapy_batcher.jobs.ledger import FeedState

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputError(Exception):
    """A feed is not as it has to be; the message names it and says what to do."""


class Feed(io.RawIOBase):
    """The file of a feed, as an exporter sees it.

    What the exporter writes is *held* until it is known which visit it belongs to, and then until that is over. So the
    lines of a visit are in the file together, and only when its target is settled.

    :param path: its file, which may have something in it already
    :param state: what an earlier run of the job wrote there, if one did
    :param output: what it is a part of
    """

    def __init__(self, path: Path, state: FeedState | None, output: Output) -> None:
        self.path = path
        self.output = output
        self.ready = False  # whether its exporter is made
        self._file = path.open("ab", buffering=0)
        self._closing = threading.Lock()  # one thread closes, another one syncs
        self._length = self._file.seek(0, os.SEEK_END)
        self._held = bytearray()
        self._spoiled = False
        self.columns = state.columns if state and self._length else None

    @property
    def state(self) -> FeedState:
        """How much of it stands for settled targets."""
        return FeedState(self._length, self.columns, self.closed)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True  # for `tell`, by which a text encoding knows whether to begin with a byte order mark

    def tell(self) -> int:
        return self._length + len(self._held)

    def write(self, data: ReadableBuffer, /) -> int:
        before = len(self._held)
        self._held += data
        return len(self._held) - before

    def write_ahead(self, data: bytes) -> None:
        """Put *data* into the file, which belongs to no item: a header."""
        self.output.append([(self, data)])

    def spoil(self) -> None:
        """Forget what is held: the exporter could not write all of its item."""
        self._held.clear()
        self._spoiled = True

    def take(self) -> tuple[bytes, bool]:
        """What was written since this was last asked, and whether that is all there should be."""
        taken = bytes(self._held), not self._spoiled
        self._held.clear()
        self._spoiled = False
        return taken

    def append(self, data: bytes) -> None:
        """Put *data* into the file.

        :raises OSError: when it cannot be written whole; then nothing of it was
        """
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as e:
            self.cut(self._length)
            raise OSError(e.errno, e.strerror, str(self.path)) from e
        self._length += len(data)

    def cut(self, length: int) -> None:
        """Take back what is behind *length*."""
        self._file.truncate(length)
        self._length = length

    def sync(self) -> None:
        """Wait until the disk has what is in the file."""
        with self._closing:
            if not self._file.closed:
                try:
                    os.fsync(self._file.fileno())
                except OSError as e:
                    raise OSError(e.errno, e.strerror, str(self.path)) from e

    def close(self) -> None:
        with self._closing:
            self._file.close()
        super().close()


Lines: TypeAlias = "list[tuple[Feed, bytes]]"
"""What an item became in each of the feeds it is in, or a response in the WARC file."""


class Output:
    """The feeds of one job.

    :param root: the job directory; paths are kept as seen from there, so that both can be moved together
    :param states: what earlier runs of the job have written, by such a path
    :param enter: enters such a state into the ledger
    :param stdout: whether stdout is a feed too
    :ivar waits: for the disk to have what is written beside the feeds
    :ivar own: those that are not Scrapy's, and so are closed by us
    """

    def __init__(
        self,
        root: Path,
        states: Mapping[str, FeedState],
        enter: Callable[[str, FeedState], object],
        *,
        stdout: bool,
    ) -> None:
        self.waits: list[Callable[[], object]] = []
        self.own: list[Feed] = []
        self.error: Exception | None = None  # why nothing can be written any more
        self._root = root
        self._earlier = states
        self._enter = enter
        self._stdout = stdout
        self._feeds: list[Feed] = []

    def fail(self, error: Exception) -> None:
        """Write nothing any more, and call no feed whole, because of *error*."""
        self.error = self.error or error

    def open(self, path: Path, *, overwrite: bool) -> Feed:
        """Open the feed at *path*, to go on behind what is there.

        :param overwrite: whether to drop what is there
        """
        try:
            if any(feed.path == path for feed in self._feeds):
                raise OutputError(f"{path} is named twice as a feed: leave one out")
            path.parent.mkdir(parents=True, exist_ok=True)
            if overwrite:
                path.write_bytes(b"")
            feed = Feed(path, self._earlier.get(self._seen(path)), self)
            # Known before it is written, or nobody would cut it back.
            self._enter(self._seen(path), feed.state)
        except Exception as e:
            self.fail(e)
            raise
        self._feeds.append(feed)
        return feed

    async def close(self, feed: object) -> None:
        """Close *feed* when Scrapy has nothing more for it.

        :raises Exception: what keeps it from being whole, or has kept it from being opened
        """
        if self.error:
            raise self.error
        assert isinstance(feed, Feed), "what could not be opened is an error"
        self.append([(feed, feed.take()[0])])
        await run_in_thread(feed.sync)
        if self.error:
            raise self.error
        feed.close()  # in the same turn of the loop as it is entered, so that no checkpoint finds it in between
        self._enter(self._seen(feed.path), feed.state)

    async def close_own(self) -> None:
        """Close those of our own; what keeps one from being whole is the `error`."""
        for feed in self.own:
            if not self.error:
                try:
                    await self.close(feed)
                except Exception as e:  # noqa: BLE001 - whoever asks for the error is told
                    self.fail(e)

    def take(self) -> tuple[Lines, bool]:
        """What was exported since this was last asked, and whether that is all there should be."""
        lines, is_whole = [], True
        for feed in self._feeds:
            if not feed.ready:
                self.fail(OutputError(f"the feed {feed.path} has no exporter that works: the log says why"))
            data, has_all = feed.take()
            is_whole &= has_all
            if data:
                lines.append((feed, data))
        return lines, is_whole and not self.error

    def append(self, lines: Lines) -> None:
        """Put *lines* into their files: all of them, or none.

        :raises Exception: when one cannot be written, then and ever after: what follows would have a gap before it
        """
        if self.error:
            raise self.error
        lengths = [(feed, feed.state.length) for feed, _ in lines]
        try:
            for feed, data in lines:
                feed.append(data)
        except OSError as e:
            self.fail(e)
            for feed, length in lengths:
                feed.cut(length)
            raise

    def states(self) -> dict[str, FeedState]:
        """How much of each feed stands for settled targets."""
        return {self._seen(feed.path): feed.state for feed in self._feeds}

    def closed(self) -> dict[str, FeedState]:
        """Those of `states` that will not change any more."""
        return {path: state for path, state in self.states().items() if state.closed}

    def sync(self) -> None:
        """Wait until the disk has what is in the feeds. Other threads may call this."""
        if self._stdout:
            sys.stdout.buffer.flush()
        for feed in self._feeds:
            feed.sync()
        for wait in self.waits:
            wait()

    def _seen(self, path: Path) -> str:
        return os.path.relpath(path, self._root)


outputs: WeakKeyDictionary[Crawler, Output] = WeakKeyDictionary()
"""The output of each crawler that runs a job: Scrapy makes the feed storages itself, and tells them the crawler."""


def cut_back(path: Path, state: FeedState, kept: Path) -> int:
    """Take back what a run that was killed has written to the feed at *path* behind its last checkpoint.

    :param state: how the job has left it
    :param kept: the file to which that is added: somebody else may have written there too
    :returns: how many bytes that is
    :raises OutputError: when it has not all that was settled
    :raises OSError: when it cannot be cut back
    """
    size = path.stat().st_size if path.exists() else 0
    if size < state.length:
        has = f"has {size:,} bytes" if path.exists() else "is gone"
        raise OutputError(
            f"{path} {has}, where this job has written {state.length:,} bytes: bring it back as it was, or begin again "
            "with another JOBDIR"
        )
    if size > state.length and not state.closed:
        with path.open("r+b") as file, kept.open("ab") as copy:
            file.seek(state.length)
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(copy.fileno())
            file.truncate(state.length)
            os.fsync(file.fileno())
        return size - state.length
    return 0
