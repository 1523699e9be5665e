"""The failures file: a JSON line for each target that was not fetched, which is itself a list of targets."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from scrapy_batcher.outcome import Outcome
from scrapy_batcher.redact import redact, redact_url
from scrapy_batcher.rows import Target


class FailuresFile:
    """Writes the failures file at *path*.

    :raises OSError: at once and later, when it cannot be written
    """

    def __init__(self, path: str) -> None:
        if Path(path).exists() and not Path(path).is_file():
            raise OSError(errno.EINVAL, "it is not a file")
        # For appending: what an earlier batch wrote is there until this one starts.
        self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def start(self) -> None:
        """Drop what an earlier batch wrote."""
        self._file.truncate(0)

    def write(self, target: Target, outcome: Outcome, attempts: int) -> None:
        """Add the line of *target*. Its keys are `rows.FAILURE_KEYS`; a password in a URL of its row is left out."""
        line = {
            "url": redact_url(target.url),
            "row": _redacted(target.columns),
            "line": target.line,
            "outcome": outcome.name,
            "status": outcome.status,
            "error": outcome.error,
            "attempts": attempts,
        }
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


def _redacted(value: Any) -> Any:
    """*value*, of a JSON type, with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(part) for part in value]
    if isinstance(value, dict):
        return {name: _redacted(part) for name, part in value.items()}
    return value
