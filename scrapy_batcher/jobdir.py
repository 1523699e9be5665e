"""The directory of a job: what is in it, and that one process at a time works on it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack
from pathlib import Path


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
            raise JobDirError(f"JOBDIR {path} has a job of another spider: name another")
        self._lock = self._locked(self.path / "ledger.lock")

    def _locked(self, file: Path) -> sqlite3.Connection:
        """An empty database that is only there for its lock: the system gives that back with the process, however it
        ends, and no child process inherits it."""
        with ExitStack() as failed:
            try:
                lock = sqlite3.connect(file, timeout=0, isolation_level=None)
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
        return self.path / "ledger.sqlite"

    @property
    def _queue(self) -> Path:
        """Scrapy's, of the further requests that callbacks have yielded; documented with its class ``Scheduler``."""
        return self.path / "requests.queue"

    def set_aside_broken_queue(self) -> Path | None:
        """Put away what a full disk has left of the state of Scrapy's queue, which Scrapy cannot start from.

        :returns: where it is then, if it was broken
        """
        state = self._queue / "active.json"
        try:
            json.loads(state.read_bytes())
        except FileNotFoundError:
            pass
        except ValueError:
            return state.replace(state.with_suffix(".broken"))
        return None

    @property
    def spool(self) -> Path:
        """What came from stdin."""
        return self.path / "stdin"

    def close(self) -> None:
        self._lock.close()
