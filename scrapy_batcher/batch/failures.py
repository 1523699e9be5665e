"""The failures file: a JSON line for each target that was not fetched, which is itself a list of targets."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scrapy_batcher.lists.lines import LINE_LIMIT
from scrapy_batcher.lists.rows import FILE_KEY, Target, is_failure_line
from scrapy_batcher.outcome import Outcome
from scrapy_batcher.redact import redact, redact_url


class FailuresFile:
    """Writes the failures file at *path*.

    :raises OSError: at once and later, when it cannot be written; it names the file
    """

    def __init__(self, path: str) -> None:
        if Path(path).exists() and not Path(path).is_file():
            raise OSError(errno.EINVAL, "it is not a file", path)
        self._path = path
        # For appending: what an earlier batch wrote is there until this one starts.
        self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def is_one(self) -> bool:
        """Whether the file is empty, or begins as this class has written it: then it may be written anew."""
        with Path(self._path).open("rb") as file:
            first = file.readline(LINE_LIMIT)
        if not first.endswith(b"\n"):  # nothing, or as far as a full disk let it
            return b'{"url": '.startswith(first[:8])
        try:
            return is_failure_line(json.loads(first))
        except ValueError:
            return False

    def clear(self) -> None:
        """Drop what is there."""
        with self._naming():
            self._file.truncate(0)

    def write(self, target: Target, outcome: Outcome, attempts: int) -> None:
        """Add the line of *target*."""
        line = failure_line(target, outcome, attempts)
        with self._naming():
            self._file.write(line + "\n")

    def flush(self) -> None:
        with self._naming():
            self._file.flush()

    def sync(self) -> None:
        """Wait until the disk has what was flushed. Other threads may call this."""
        with self._naming():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._naming():
            self._file.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise OSError(e.errno, e.strerror, self._path) from e


def failure_line(target: Target, outcome: Outcome, attempts: int) -> str:
    """The line of *target*. Its keys are `rows.FAILURE_KEYS`, and `rows.FILE_KEY` where the list has several files; a
    password in a URL of its row is left out."""
    line = {
        "url": redact_url(target.url),
        "row": redacted(target.columns),
        "line": target.line,
        "outcome": outcome.name,
        "status": outcome.status,
        "error": outcome.error,
        "attempts": attempts,
    }
    if target.file:
        line[FILE_KEY] = target.file
    return json.dumps(line, ensure_ascii=False)


def redacted(value: Any) -> Any:
    """*value*, of a JSON type, with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redacted(part) for part in value]
    if isinstance(value, dict):
        return {name: redacted(part) for name, part in value.items()}
    return value
