"""What is known of a terminal."""

from __future__ import annotations

import os
from typing import TextIO

_USUAL = 80  # columns of one that does not say how many it has


def is_terminal(stream: object) -> bool:
    """Whether *stream*, of which there may be none, or which may be an object in the place of one, is a terminal."""
    return bool(getattr(stream, "isatty", bool)())


def columns_of(terminal: TextIO) -> int:
    """How many columns *terminal* has now."""
    try:
        columns = os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):  # it has gone; it is closed
        columns = 0
    return columns or _USUAL
