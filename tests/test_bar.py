"""A bar on a terminal of any width, and a log above it."""

from __future__ import annotations

import logging
import os
import pty
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from scrapy_batcher.monitoring.bar import Bar
from scrapy_batcher.monitoring.figures import Figures
from tests.terminal import Terminal

FIGURES = Figures(done=3412, read=10_000, complete=True, failed=12, rate=51.25, active=14, resting=3)
HUGE = Figures(123_456_789, 999_999_999, True, 99_999, 9999.4, 999, 99_999)


@pytest.fixture
def terminal() -> Iterator[Callable[[int], Terminal]]:
    terminals: list[Terminal] = []

    def make(columns: int) -> Terminal:
        terminals.append(Terminal(columns))
        return terminals[-1]

    yield make
    for each in terminals:
        each.close()


@pytest.mark.parametrize("columns", [10, 40, 79, 80, 81, 100, 120, 200, 400])
@pytest.mark.parametrize(
    "figures",
    [FIGURES, HUGE, replace(FIGURES, complete=False), replace(HUGE, complete=False), Figures(0, 0, True, 0, 0, 0, 0)],
    ids=["usual", "huge", "still read", "huge, still read", "none"],
)
def test_it_never_wraps(terminal: Callable[[int], Terminal], columns: int, figures: Figures) -> None:
    """However wide the terminal is, the bar is one row of it, and nothing is left when it is closed."""
    t = terminal(columns)
    bar = Bar(t.stream)
    bar.show(replace(figures, done=0))
    bar.show(figures)
    [row] = t.settled().rows
    assert len(row) < columns
    assert row or columns == 10
    bar.close()
    assert t.settled().rows == [""]
    bar.close()
    assert t.settled().rows == [""]


def test_all_figures_are_there_at_80_columns(terminal: Callable[[int], Terminal]) -> None:
    """In short, with a bar before them."""
    t = terminal(80)
    bar = Bar(t.stream)
    bar.show(FIGURES)
    assert t.settled().rows == [" 34%|████        | " + FIGURES.short]
    bar.close()


@pytest.mark.parametrize("complete", [True, False])
def test_no_number_is_cut_off(terminal: Callable[[int], Terminal], complete: bool) -> None:
    """What has no room is left out whole: a part of a number would be another one."""
    figures = replace(FIGURES, complete=complete)
    for columns in range(12, 80):
        t = terminal(columns)
        bar = Bar(t.stream)
        bar.show(figures)
        shown = t.settled().rows[0].rpartition("|")[2].strip()
        assert re.fullmatch(r"(3,412/10\.0k( so far)?( 51\.2/s)?( 2:09 left)?( \d+ [a-z]+)*)?", shown), (columns, shown)
        bar.close()


def test_a_terminal_that_shows_a_ctrl_c(terminal: Callable[[int], Terminal]) -> None:
    """It does so behind the bar, which is in its one row all the same, and leaves nothing when it is closed."""
    t = terminal(80)
    bar = Bar(t.stream)
    bar.show(FIGURES)
    t.stream.write("^C")
    bar.show(FIGURES)
    t.stream.write("^C")
    assert len(t.settled().rows) == 1
    bar.close()
    assert [row.replace("^C", "").strip() for row in t.settled().rows] == [""]


def test_they_are_in_words_at_200_columns(terminal: Callable[[int], Terminal]) -> None:
    """And the bar has the rest of the row."""
    t = terminal(200)
    bar = Bar(t.stream)
    bar.show(FIGURES)
    [row] = t.settled().rows
    assert len(row) == 197
    share, blocks, text = row.split("|")
    assert (share, text) == (" 34%", f" {FIGURES.long}")
    assert blocks.startswith("███")
    assert blocks.endswith("   ")
    bar.close()


def test_it_does_not_pretend_to_know_the_end(terminal: Callable[[int], Terminal]) -> None:
    """While the list is read there is no bar, only figures; then there is one."""
    t = terminal(80)
    bar = Bar(t.stream)
    bar.show(replace(FIGURES, complete=False))
    assert t.settled().rows == [replace(FIGURES, complete=False).short]
    bar.show(FIGURES)
    assert t.settled().rows[0].startswith(" 34%|")
    bar.close()


def test_a_terminal_that_changes_its_width(terminal: Callable[[int], Terminal]) -> None:
    """The next state of the bar has the new one."""
    t = terminal(200)
    bar = Bar(t.stream)
    bar.show(FIGURES)
    t.resize(80)
    bar.show(FIGURES)
    t.settled()
    _, _, row = t.text.rpartition("\r")
    assert row.strip(" \a").endswith(f"| {FIGURES.short}")
    bar.close()


def test_a_terminal_that_does_not_say_how_wide_it_is(terminal: Callable[[int], Terminal]) -> None:
    """It is taken for one of 80 columns."""
    t = terminal(0)
    bar = Bar(t.stream)
    bar.show(FIGURES)
    assert len(t.settled().rows[0]) == 77
    bar.close()


@pytest.fixture
def log(terminal: Callable[[int], Terminal]) -> Iterator[tuple[Terminal, logging.Handler]]:
    """A terminal of 80 columns, and a handler of the root logger that writes to it."""
    t = terminal(80)
    handler = logging.StreamHandler(t.stream)
    handler.setLevel(logging.INFO)
    handler.addFilter(lambda record: "hidden" not in record.msg)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.root.addHandler(handler)
    yield t, handler
    logging.root.removeHandler(handler)


def test_log_lines_do_not_tear_it(log: tuple[Terminal, logging.StreamHandler]) -> None:
    """They come above it, whole, by the handler's own level, filter and format; long ones are not broken, and nothing
    of the bar is between them. When it is closed, the handler is what it was."""
    t, handler = log
    logger = logging.getLogger("tests.bar")
    logger.setLevel(logging.DEBUG)
    bar = Bar(t.stream)
    logger.info("before")
    bar.show(FIGURES)
    logger.info("short")
    logger.debug("too low")
    logger.warning("hidden")
    bar.show(replace(FIGURES, done=3413))
    logger.warning("long " + "x" * 200)
    logger.error("two\nlines")
    assert t.settled().lines[:-1] == [
        "INFO: before", "INFO: short", "WARNING: long " + "x" * 200, "ERROR: two", "lines"
    ]  # fmt: skip
    assert "3,413/10.0k" in t.settled().rows[-1]
    bar.close()
    assert handler.stream is t.stream
    logger.info("after")
    assert t.settled().lines[-3:] == ["lines", "INFO: after", ""]


def test_two_bars_on_a_terminal(log: tuple[Terminal, logging.StreamHandler]) -> None:
    """The log tears neither; when both are closed, the handler is what it was."""
    t, handler = log
    first, second = Bar(t.stream), Bar(t.stream)
    first.show(FIGURES)
    second.show(FIGURES)
    second.close()
    logging.getLogger("tests.bar").warning("between")
    assert t.settled().lines[0] == "WARNING: between"
    assert FIGURES.short in t.settled().rows[1]
    first.close()
    assert handler.stream is t.stream


def test_a_terminal_that_has_gone() -> None:
    """When it is closed under the bar, nothing is raised."""
    t = Terminal(80)
    bar = Bar(t.stream)
    bar.show(FIGURES)
    t.close()
    bar.show(FIGURES)
    bar.close()


def test_a_terminal_that_was_hung_up() -> None:
    """When nothing can be written to it any more, nothing is raised."""
    master, end = pty.openpty()
    stream = open(end, "w")  # noqa: SIM115 - closing it is expected to fail
    bar = Bar(stream)
    bar.show(FIGURES)
    os.close(master)
    bar.show(FIGURES)
    bar.close()
    with pytest.raises(OSError, match="Input/output error"):
        stream.close()
