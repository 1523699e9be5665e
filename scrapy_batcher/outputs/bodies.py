"""The bodies of pages become files in a folder, each whole and safe before its target is settled."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from weakref import WeakKeyDictionary

from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.utils.asyncio import run_in_thread

from scrapy_batcher.item import Body
from scrapy_batcher.jobs.seen import Seen
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outputs.names import Template, free_names, key_of, values_for

_LONG = 2**18  # bytes whose sum takes longer than the way to a thread and back


class Bodies:
    """The files in *folder*, which is made if it is not there.

    A body is written to a file in a hidden folder beside them, and then has its name at once and whole. Whose a name is
    stands in the ledger before the body has it: so a target that is fetched again, after a crash, gets its own file,
    and no other's.

    :param template: how they are named
    :param job: of what a crash may have left unfinished files, which are removed now: the job directory; ``None`` for
        a batch that has none
    :param seen: where it is entered whose a name is
    :param fail: what is told when something cannot be written
    :raises OSError: when the folder cannot be used
    """

    def __init__(
        self, folder: Path, template: Template, job: Path | None, seen: Seen, fail: Callable[[Exception], object]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.resolve()
        self._template = template
        self._seen = seen
        self._fail = fail
        self._is_durable = job is not None
        # As seen from the folder, so that both can be moved together.
        name = os.path.relpath(job, self._folder) if job else f"{os.getpid()}-{os.urandom(8).hex()}"
        self._unfinished = self._folder / f".unfinished-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        if self._unfinished.exists():
            shutil.rmtree(self._unfinished)
        self._unfinished.mkdir()
        self._numbers = count(1)
        self._changed: set[Path] = set()  # folders that have something new since the last `sync`
        self._changing = threading.Lock()  # threads name files, another one syncs

    async def save(self, target: Target, response: Response) -> Body:
        """Write the body of *response*, as the spider has it, to a file of *target*.

        :raises ValueError: when it has no name: the template has a field that the row lacks
        :raises Exception: when it cannot be written; then nothing more is settled
        """
        body = response.body
        digest = await run_in_thread(_sha256, body) if len(body) > _LONG else _sha256(body)
        content_type = (response.headers.get("Content-Type") or b"").decode("latin-1")
        wanted = self._template.fill(values_for(target, content_type, digest))
        try:
            if self._template.is_by_content:
                path = wanted
                await run_in_thread(lambda: self._place(path, self._write(body)))
            else:
                unfinished = await run_in_thread(self._write, body)
                path = await self._place_as_own(wanted, target.id, unfinished)
        except Exception as e:
            self._fail(e)
            raise
        return Body(path, digest)

    def _write(self, body: bytes) -> Path:
        unfinished = self._unfinished / str(next(self._numbers))
        try:
            with unfinished.open("xb") as file:
                file.write(body)
                if self._is_durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as e:
            with suppress(OSError):  # what is left goes at the next start
                unfinished.unlink(missing_ok=True)
            raise OSError(e.errno, e.strerror, str(unfinished)) from e
        return unfinished

    async def _place_as_own(self, wanted: str, id: int, unfinished: Path) -> str:
        """Give *unfinished* the first name, from *wanted* on, that is the target's already, or nobody's, which makes it
        the target's."""
        for path in free_names(wanted, id):
            key = key_of(path)
            owner = self._seen.by(key)
            if owner == id:
                await run_in_thread(self._place, path, unfinished)
                return path
            if owner is None and not os.path.lexists(self._folder / path):
                self._seen.see(key, id)
                if await run_in_thread(self._place, path, unfinished, is_new=True):
                    return path
                self._seen.forget(key)  # another process has it since: a shard, say, which has another ledger
        raise AssertionError("there is always one more")

    def _place(self, path: str, unfinished: Path, *, is_new: bool = False) -> bool:
        """Give *unfinished* the name *path*; whether it has it: not when it *is_new*, and there is such a file."""
        folder, name = self._folder_of(path)
        if not is_new:
            unfinished.replace(folder / name)
        elif not _move(unfinished, folder / name):
            return False
        self._change(folder)
        return True

    def _folder_of(self, path: str) -> tuple[Path, str]:
        """The folder that *path* is in, and its name there. The folders on the way are made, and looked at: none leads
        out."""
        *folders, name = path.split("/")
        place = self._folder
        for folder in folders:
            if not (place / folder).exists():
                (place / folder).mkdir(exist_ok=True)  # another thread may be there first, or process
                self._change(place)
            place /= folder
            if not place.resolve().is_relative_to(self._folder):
                raise OSError(errno.EPERM, f"{place} leads out of the folder {self._folder}")
        return place, name

    def _change(self, folder: Path) -> None:
        if self._is_durable:
            with self._changing:
                self._changed.add(folder)

    def sync(self) -> None:
        """Wait until the disk has the names of the files. Other threads may call this."""
        with self._changing:
            changed, self._changed = self._changed, set()
        for folder in changed:
            _sync_folder(folder)

    def close(self) -> None:
        """Remove what is unfinished: it is of no settled target."""
        shutil.rmtree(self._unfinished, ignore_errors=True)  # what is left goes at the next start


def _move(file: Path, place: Path) -> bool:
    """Move *file* to *place*, in the same file system; whether it is there: not when something else is."""
    try:
        os.link(file, place)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, or what is wrong is so for this, too
        file.replace(place)
    else:
        file.unlink()
    return True


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows, which has no such wait
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(folder)) from e
    finally:
        os.close(file)


bodies_of: WeakKeyDictionary[Crawler, Bodies] = WeakKeyDictionary()
"""Those of each crawler that writes some."""
