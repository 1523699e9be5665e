"""The SQLite file of a ledger: made, opened, told from other files, and its errors said with its name."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_VERSION = 3
_APPLICATION = 0x73626C67  # "sblg", by which SQLite's own header tells a ledger from other databases

_SQLITE = (3, 35)  # which has RETURNING

_SYNCS = 5  # tries to move all of SQLite's log into the database while more is written; each leaves less for the next

# One column says where a target is: 'pending', 'waiting' until it is due, or the name of its outcome. So the sum that
# must always hold is one GROUP BY, which an index answers.
_CREATE = (
    """
    CREATE TABLE target (
        id INTEGER PRIMARY KEY,
        line INTEGER NOT NULL,
        url TEXT NOT NULL,
        columns TEXT,
        lane INTEGER NOT NULL,
        state TEXT NOT NULL,
        status INTEGER,
        error TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        retries INTEGER NOT NULL DEFAULT 0,
        first REAL,
        due REAL
    )
    """,
    "CREATE INDEX target_state ON target (state)",
    "CREATE INDEX target_lane ON target (lane) WHERE state = 'pending'",
    "CREATE INDEX target_due ON target (due) WHERE state = 'waiting'",
    # Targets that count for the same limits, mostly those of one host: how many are pending, or wait, and until when
    # they rest; what became of the others; how many answers there were, and the seconds that those took together.
    """
    CREATE TABLE lane (
        id INTEGER PRIMARY KEY,
        hash INTEGER NOT NULL UNIQUE,
        keys TEXT NOT NULL,
        pending INTEGER NOT NULL,
        waiting INTEGER NOT NULL DEFAULT 0,
        fetched INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        answers INTEGER NOT NULL DEFAULT 0,
        seconds REAL NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX lane_ready ON lane (id) WHERE pending > 0 AND due = 0",
    "CREATE INDEX lane_long ON lane (pending) WHERE pending > 9 AND due = 0",
    "CREATE INDEX lane_due ON lane (due) WHERE due > 0",
    # Which target made a request first.
    "CREATE TABLE seen (fingerprint BLOB PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID",
    # How far which list was read; whether a run is on its way, and how long the runs took; the seconds of a period. It
    # has one row.
    """
    CREATE TABLE list (
        spider TEXT NOT NULL,
        format TEXT NOT NULL,
        url_field TEXT NOT NULL,
        shard TEXT NOT NULL,
        shard_by TEXT NOT NULL,
        targets INTEGER NOT NULL DEFAULT 0,
        lines INTEGER NOT NULL DEFAULT 0,
        length INTEGER NOT NULL DEFAULT 0,
        crc INTEGER NOT NULL DEFAULT 0,
        complete INTEGER NOT NULL DEFAULT 0,
        running INTEGER NOT NULL DEFAULT 0,
        runs INTEGER NOT NULL DEFAULT 0,
        begun REAL NOT NULL DEFAULT 0,
        seconds REAL NOT NULL DEFAULT 0,
        started REAL NOT NULL DEFAULT 0,
        heard REAL NOT NULL DEFAULT 0,
        period INTEGER NOT NULL DEFAULT 1
    )
    """,
    # How many targets ended in an outcome in each period, and were taken up again; and how long the answers took.
    """
    CREATE TABLE period (
        start INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        settled INTEGER NOT NULL,
        again INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (start, outcome)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE latency (bucket INTEGER PRIMARY KEY, answers INTEGER NOT NULL)",
    # Of a list that has several files: which target is the first of each.
    "CREATE TABLE origin (first INTEGER PRIMARY KEY, file TEXT NOT NULL)",
    # The feeds this job has written, and how much of each stands for targets that are settled.
    """
    CREATE TABLE feed (
        path TEXT PRIMARY KEY,
        length INTEGER NOT NULL,
        columns TEXT,
        closed INTEGER NOT NULL
    )
    """,
)


class LedgerError(Exception):
    """The ledger cannot be read or written; the message names its file and says what to do."""


class Database:
    """A connection to the ledger at *path*, made if there is none.

    What was entered when a method returns survives the process; what `sync` follows survives the machine. Where either
    was cut short there is an earlier state of the whole.

    :param path: ``None`` for SQLite's own temporary database: a file without a name, deleted when it is closed
    :param read_only: whether it is only looked at: nothing is made, or changed, and no right to do so is needed
    :raises LedgerError: from every method: the disk is full, the file is corrupt, of a newer version or no ledger. What
        is there is left as it is
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self._path = path
        self._is_read_only = read_only
        self._untouched: tuple[int, ...] | None = None  # how the file is that nobody writes, while it is read
        if sqlite3.sqlite_version_info < _SQLITE:
            raise LedgerError(f"the ledger needs SQLite 3.35 or newer: this Python has {sqlite3.sqlite_version}")
        with self._naming():
            if path and not read_only and not path.exists():
                self._make(path)
            self._connection = self._connect(path)
            try:
                if path:
                    self._open(path)
                else:
                    # It is never read after a crash: no waiting for the disk, and a journal only to take back a load.
                    self._connection.execute("PRAGMA journal_mode = MEMORY")
                    self._connection.execute("PRAGMA synchronous = OFF")
                    _create(self._connection)
            except BaseException:
                self._connection.close()
                raise

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows that *statement* gives, all of them: one that is left open would hold its changes back."""
        with self._naming():
            return self._connection.execute(statement, values).fetchall()

    def each(self, statement: str) -> Iterator[Any]:
        """The rows that *statement* gives, one by one: for many of them, and who changes nothing meanwhile."""
        with self._naming():
            yield from self._connection.execute(statement)

    def execute_each(self, statement: str, values: Iterable[Sequence[Any]]) -> list[list[Any]]:
        """The rows that *statement* gives, for each of *values*."""
        with self._naming():
            return [self._connection.execute(statement, each).fetchall() for each in values]

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """How many rows *statement* changed."""
        with self._naming():
            return self._connection.execute(statement, values).rowcount

    def change_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        with self._naming():
            self._connection.executemany(statement, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is changed inside is entered, or nothing."""
        with self._naming(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is of one moment. SQLite's log grows meanwhile, so it must not take long."""
        with self._naming():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            with self._naming():
                self._connection.execute("ROLLBACK")

    @contextmanager
    def durable(self) -> Iterator[None]:
        """What is entered inside is on the disk when it returns. That takes as long as the disk does."""
        self.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            self.execute("PRAGMA synchronous = NORMAL")

    def sync(self) -> None:
        """Wait until the disk has what was entered. Other threads may call this."""
        if not self._path:
            return
        with self._naming():
            connection = self._connect(self._path)
            try:
                for _ in range(_SYNCS):
                    ((_, written, moved),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    if written == moved:
                        break  # all of it, so the next change begins the log anew
            finally:
                connection.close()

    def check(self) -> None:
        """See whether what was read, over some time, was all of one ledger.

        :raises LedgerError: when somebody has begun to write it meanwhile
        """
        if self._path and self._untouched and (_log_of(self._path).exists() or self._untouched != _look_of(self._path)):
            raise LedgerError(f"a batch has begun to write the ledger {self._path} while it was read: do it once more")

    def close(self) -> None:
        self._connection.close()

    def _connect(self, path: Path | None) -> sqlite3.Connection:
        # The job's lock keeps other writers out; what a reader or `sync` lock, they lock for a moment.
        if path and self._is_read_only:
            # Where nobody writes there is no log, and SQLite would make one to read it.
            mode = "mode=ro"
            if not _log_of(path).exists():
                self._untouched, mode = _look_of(path), "immutable=1"
            return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", timeout=10, isolation_level=None, uri=True)
        return sqlite3.connect(path or "", timeout=10, isolation_level=None)

    def _make(self, path: Path) -> None:
        """Make an empty ledger at *path*: all of it or nothing, so that a file without anything in it is none."""
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        connection = self._connect(new)
        try:
            _create(connection)
        finally:
            connection.close()
        new.replace(path)

    def _open(self, path: Path) -> None:
        ((version,),) = self._connection.execute("PRAGMA user_version").fetchall()
        ((application,),) = self._connection.execute("PRAGMA application_id").fetchall()
        if application != _APPLICATION:
            what = "is empty" if not path.stat().st_size else "is a database, but no ledger"
            raise LedgerError(f"{path} {what}; it was left as it is: restore it, or name another JOBDIR")
        if version != _VERSION:
            other, remedy = (
                ("a newer", "Upgrade scrapy-batcher")
                if version > _VERSION
                else ("an older", "Finish the job with that one")
            )
            raise LedgerError(
                f"the ledger {path} was written by {other} scrapy-batcher: it has version {version}, where this one "
                f"knows {_VERSION}. {remedy}, or name another JOBDIR"
            )
        if self._is_read_only:
            return
        # Who reads it sees what was last entered, and waits for nobody. SQLite then waits for the disk only when it
        # moves its write-ahead log into the database: in `sync`, which a thread calls.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._connection.execute("PRAGMA journal_size_limit = 0")

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            name = self._path or "in SQLite's folder for temporary files"
            raise LedgerError(f"the ledger {name} cannot be used: {e}; {self._hint(e)}") from e

    def _hint(self, error: sqlite3.Error) -> str:
        # A plain DatabaseError is one of the file, an OperationalError one of the disk, the rights or the lock.
        if type(error) is sqlite3.DatabaseError:
            return "it was left as it is: restore it, or name another JOBDIR"
        return "may it be read?" if self._is_read_only else "is there room for it?"


def _log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def _look_of(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _create(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _CREATE:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
