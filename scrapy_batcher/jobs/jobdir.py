"""The directory of a job: what is in it, and that one process at a time works on it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

_LOCK = "ledger.lock"

_LOOK = 0.2  # seconds that are waited for the lock: somebody may only look whether it is taken


class JobDirError(Exception):
    """The directory cannot be used; the message names it and says what to do."""


class JobDir:
    """The directory at *path*, made if it is not there, and locked until `close` or the end of the process.

    :raises JobDirError: when it cannot be written, or another process works on it
    """

    def __init__(self, path: str) -> None:
        self._given = path
        self.path = Path(path).resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise JobDirError(f"JOBDIR {path} cannot be used: {e.strerror}") from e
        if self._queue.exists() and not self.ledger.exists():
            raise JobDirError(f"JOBDIR {path} has a job without a ledger, another spider's perhaps: name another")
        self._lock = self._locked(self.path / _LOCK)

    def _locked(self, file: Path) -> sqlite3.Connection:
        """An empty database that is only there for its lock: the system gives that back with the process, however it
        ends, and no child process inherits it."""
        with ExitStack() as failed:
            try:
                lock = sqlite3.connect(file, timeout=_LOOK, isolation_level=None)
                failed.callback(lock.close)
                lock.execute("PRAGMA journal_mode = MEMORY")
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as e:
                if "locked" in str(e):
                    raise JobDirError(
                        f"JOBDIR {self._given} is in use: another process works on this job; wait for it, or stop it"
                    ) from e
                raise JobDirError(f"JOBDIR {self._given} cannot be used: {e} ({file.name})") from e
            failed.pop_all()
            return lock

    @property
    def ledger(self) -> Path:
        return ledger_in(self.path)

    @property
    def _queue(self) -> Path:
        """Scrapy's, of the further requests that callbacks have yielded; documented with its class ``Scheduler``."""
        return self.path / "requests.queue"

    def set_aside(self, *, killed: bool) -> list[Path]:
        """Put away what Scrapy has kept here and cannot go on with.

        Its queue is buffered: after a kill its files are torn, and adding to them fails. With them goes what it
        has seen, or what they had could not be asked for again. A full disk leaves its other files empty.

        :param killed: whether the last run was not closed in order
        :returns: where it is then
        """
        put_away = []
        state, seen, spider_state = self._queue / "active.json", self.path / "requests.seen", self.path / "spider.state"
        was_used = any(self._queue.glob("*/*")) or (seen.exists() and seen.stat().st_size)
        if (killed and was_used) or (state.exists() and not _is_json(state)):
            put_away += [self._queue, seen]
        if spider_state.exists() and not spider_state.stat().st_size:
            put_away.append(spider_state)
        return [_renamed(path) for path in put_away if path.exists()]

    @property
    def spool(self) -> Path:
        """What came from stdin."""
        return self.path / "stdin"

    def close(self) -> None:
        self._lock.close()


def ledger_in(jobdir: Path) -> Path:
    """The path of the ledger in *jobdir*; whoever only reads it needs no lock."""
    return jobdir / "ledger.sqlite"


def is_part_of(file: Path, jobdir: Path) -> bool:
    """Whether *file* is one that a job keeps in *jobdir*."""
    file = file.resolve()
    names = ("ledger.", "stdin", "requests.", "spider.state")
    return file.parent == jobdir.resolve() and file.name.startswith(names)


def is_worked_on(jobdir: Path) -> bool:
    """Whether a process works on the job in *jobdir* now. Nothing is made there, and it is locked for a moment only."""
    file = jobdir / _LOCK
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", timeout=0, uri=True)) as lock:
            lock.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as e:
        if "locked" not in str(e):
            raise JobDirError(f"it cannot be told whether a batch works in {jobdir}: {e} ({_LOCK})") from e
        return True
    return False


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _renamed(path: Path) -> Path:
    """*path*, under a name that is free."""
    return path.rename(next(new for n in count(1) if not (new := path.with_name(f"{path.name}.old-{n}")).exists()))
