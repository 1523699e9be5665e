"""A terminal for a test: what is written to it, and what one sees on it then."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import threading
import time
from dataclasses import dataclass
from typing import TextIO

_BELL = "\a"
_UP = "\x1b[A"


@dataclass(frozen=True)
class Screen:
    """What is on a terminal, from the first line on: nothing is lost at its top.

    :param rows: as they are seen, without the spaces at their ends
    :param lines: the same, but a line that went on in the next row is one
    """

    rows: list[str]
    lines: list[str]

    @classmethod
    def after(cls, text: str, columns: int) -> Screen:
        """The screen of so many columns after *text*; of what is not seen itself, that may only have line ends, returns
        to the beginning of a line, steps up, and bells."""
        rows: list[list[str]] = [[]]
        goes_on: set[int] = set()
        row = at = 0
        for character in text.replace(_BELL, "").replace(_UP, "\v"):
            if character == "\r":
                at = 0
            elif character == "\v":
                row -= 1
            elif character == "\n" or at == columns:
                row += 1
                if row == len(rows):
                    rows.append([])
                if character != "\n":
                    goes_on.add(row)
                    at = 0
            if character not in "\r\v\n":
                assert character.isprintable(), f"{character!r} in {text!r}"
                rows[row] += " " * (at - len(rows[row]))
                rows[row][at : at + 1] = [character]
                at += 1
        lines: list[str] = []
        for number, characters in enumerate(rows):
            if number in goes_on:
                lines[-1] += "".join(characters)
            else:
                lines.append("".join(characters))
        return cls(["".join(characters).rstrip() for characters in rows], [line.rstrip() for line in lines])


class Terminal:
    """A pseudo-terminal of so many *columns*. ``stream`` writes to it; ``end`` is for a process that is to do that."""

    def __init__(self, columns: int) -> None:
        self._master, self.end = pty.openpty()
        self.resize(columns)
        self.stream: TextIO = open(self.end, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - closed by close()
        self._read = b""
        self._bells = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def resize(self, columns: int) -> None:
        self.columns = columns
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    @property
    def text(self) -> str:
        """All that was written so far."""
        return self._read.decode(errors="ignore")  # the last character may not be there entirely

    @property
    def screen(self) -> Screen:
        return Screen.after(self.text, self.columns or 80)

    def settled(self) -> Screen:
        """The screen when all is on it that was written."""
        self._bells += 1
        self.stream.write(_BELL)
        self.stream.flush()
        while self.text.count(_BELL) < self._bells:
            time.sleep(0.001)
        return self.screen

    def close(self) -> None:
        """Nobody writes any more."""
        self.stream.close()
        os.close(self.end)
        self._thread.join()
        os.close(self._master)

    def _run(self) -> None:
        while True:
            try:
                self._read += os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return
