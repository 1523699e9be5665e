"""A text names where a list is: one file or several, patterns, stdin, or what fsspec knows; each becomes a stream."""

from __future__ import annotations

import os
import re
import sys
from glob import glob
from typing import IO

from scrapy_batcher.lists.remote import is_remote, matching, open_remote, without_credentials
from scrapy_batcher.redact import one_line

STDIN = "-"

_NAME_LENGTH = 300  # characters of a location that are shown

_COMMA = re.compile(r"(?<!\\),")  # one without a backslash before it

_IS_PATTERN = re.compile(r"[*?[]")


class LocationError(Exception):
    """A text names no locations; the message is a sentence."""


def locations_in(text: str) -> list[str]:
    r"""The locations that *text* names, each once: in its order, and what a pattern matches sorted by name.

    :param text: a path, a location that fsspec knows, or ``-``; or several of the first two with commas between. A
        comma that belongs to a name has a backslash before it. ``*``, ``?``, ``[…]`` and ``**`` make a pattern of a
        path, ``*`` one of a location that fsspec knows. The name of a file that is there is that, whatever is in it
    :raises LocationError: when a pattern matches nothing, or stdin is one of several
    :raises OSError: when what a pattern matches cannot be found out
    """
    if os.path.lexists(text):
        return [text]
    parts = [part.strip().replace("\\,", ",") for part in _COMMA.split(text) if part.strip()]
    if not parts:
        raise LocationError(f"the list {text!r} names no file")
    if STDIN in parts and len(parts) > 1:
        raise LocationError(f"{name_of(text)}: stdin (-) is a list by itself, and cannot be one of several")
    return list(dict.fromkeys(location for part in parts for location in _found(part)))


def open_location(location: str) -> IO[bytes]:
    """What is at *location*, to be read.

    :raises OSError: now and later, when it cannot be read
    """
    if is_remote(location):
        return open_remote(location)
    if location != STDIN:
        return open(location, "rb")
    if sys.stdin is None:
        raise OSError("it is closed")
    # A descriptor of our own: when the process ends while a thread waits for a line, sys.stdin is not in its hands.
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb")


def name_of(location: str) -> str:
    """What *location* is called in a message: one line, without credentials."""
    if location == STDIN:
        return "stdin"
    return one_line(without_credentials(location) if is_remote(location) else location, _NAME_LENGTH)


def is_local(location: str) -> bool:
    """Whether *location* is a file that can be opened more than once: no pipe."""
    return not is_remote(location) and os.path.isfile(location)


def _found(part: str) -> list[str]:
    """The locations that *part* of a text names."""
    part = part.removeprefix("file://")
    if is_remote(part):
        if "*" not in part or "::" in part:
            return [part]
        found = matching(part)
    elif os.path.lexists(part) or not _IS_PATTERN.search(part):
        return [part]
    else:
        found = sorted(path for path in glob(part, recursive=True) if not os.path.isdir(path))
    if not found:
        raise LocationError(f"no file matches {name_of(part)}: give a path, or a pattern of which there is one")
    return found
