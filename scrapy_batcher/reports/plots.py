"""Plots as SVG, in a page that has the styles for their classes.

They are as wide as there is room, without their texts becoming smaller: across all is in per cent, along the height in
pixels. What they show is told by a title and a description, which a screen reader reads out; beside each there should
be a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from scrapy_batcher.reports.axes import Axis

_HEIGHT = 200  # pixels of a plot without its labels
_TOP = 10  # above it
_ROW = 38  # of a line in a ranking
_BAR = 10  # of the bar in it

_DIGIT = 8  # how wide one is, in the text on its right
_GAP = 8  # before that text

_STRIP = 22  # of a bar by itself

_WIDE = 1000  # units across, where there can be no per cent


@dataclass(frozen=True)
class Caption:
    """What a plot is called in the page (an id), and what it shows, in a few words and in a sentence."""

    id: str
    title: str
    description: str


@dataclass(frozen=True)
class Column:
    """What stands above a part of an axis: one *part* upon the other.

    :param parts: a class of the page's styles for each, and how high it is
    :param hint: what is shown when it is pointed at
    """

    start: float
    end: float
    parts: Sequence[tuple[str, float]]
    hint: str


def columns(caption: Caption, across: Axis, up: Axis, columns: Sequence[Column]) -> str:
    """A plot of *columns*, each as wide as what it stands for."""
    return _plot(caption, across, up, "".join(_column(across, up, column) for column in columns))


def _column(across: Axis, up: Axis, column: Column) -> str:
    start, end = across.at(column.start), across.at(column.end)
    below, rects = 0.0, []
    for style, value in column.parts:
        if value > 0:
            y, foot = _y(up, below + value), _y(up, below)
            rects.append(
                f'<rect class="{style}" x="{start:.3%}" width="{end - start:.3%}" y="{y:.1f}" height="{foot - y:.1f}"/>'
            )
            below += value
    return f"<g><title>{escape(column.hint)}</title>{''.join(rects)}</g>" if rects else ""


def areas(
    caption: Caption,
    across: Axis,
    up: Axis,
    places: Sequence[float],
    layers: Sequence[tuple[str, Sequence[float]]],
    line: float,
) -> str:
    """A plot of *layers*, one upon the other.

    :param places: where across there is a value
    :param layers: a class of the page's styles for each, and its values there
    :param line: where up there is a line from one side to the other
    """
    below = [0.0] * len(places)
    drawn = []
    for style, values in layers:
        above = [low + value for low, value in zip(below, values, strict=True)]
        edge = [*_points(across, up, places, above), *reversed(list(_points(across, up, places, below)))]
        drawn.append(f'<polygon class="{style}" points="{" ".join(edge)}"/>')
        below = above
    height = _TOP + _HEIGHT
    inner = (
        f'<svg width="100%" height="{height}" viewBox="0 0 {_WIDE} {height}" preserveAspectRatio="none">'
        f"{''.join(drawn)}</svg>"
        f'<line class="all" x1="0" x2="100%" y1="{_y(up, line):.1f}" y2="{_y(up, line):.1f}"/>'
    )
    return _plot(caption, across, up, inner)


def _points(across: Axis, up: Axis, places: Sequence[float], values: Sequence[float]) -> Iterator[str]:
    return (f"{across.at(x) * _WIDE:.1f},{_y(up, y):.1f}" for x, y in zip(places, values, strict=True))


def _plot(caption: Caption, across: Axis, up: Axis, content: str) -> str:
    bottom = _TOP + _HEIGHT
    lines = [
        f'<line class="grid" x1="0" x2="100%" y1="{_y(up, value):.1f}" y2="{_y(up, value):.1f}"/>'
        f'<text class="up" x="-8" y="{_y(up, value) + 4:.1f}">{escape(label)}</text>'
        for value, label in up.ticks
    ]
    marks = [
        f'<line class="mark" x1="{across.at(value):.3%}" x2="{across.at(value):.3%}" y1="{bottom}" y2="{bottom + 5}"/>'
        f'<text class="across" x="{across.at(value):.3%}" y="{bottom + 20}">{escape(label)}</text>'
        for value, label in across.ticks
    ]
    base = f'<line class="base" x1="0" x2="100%" y1="{bottom}" y2="{bottom}"/>'
    return _svg(caption, "plot", bottom + 26, "".join([*lines, content, base, *marks]))


def _y(up: Axis, value: float) -> float:
    return _TOP + _HEIGHT * (1 - up.at(value))


def ranking(caption: Caption, rows: Sequence[tuple[str, str, float, str]]) -> str:
    """A bar below each text.

    :param rows: a class of the page's styles, the text on the left, how long its bar is, and the text on the right
    """
    most = max((value for _, _, value, _ in rows), default=0.0) or 1.0
    drawn = [_ranked(_ROW * n, style, name, value / most, shown) for n, (style, name, value, shown) in enumerate(rows)]
    return _svg(caption, "ranking", _ROW * len(rows), "".join(drawn))


def _ranked(y: int, style: str, name: str, part: float, shown: str) -> str:
    # A name that is too long is cut, not written over: it is in an image as wide as all, which begins that much before.
    room = _DIGIT * len(shown) + _GAP
    return (
        f'<svg x="-{room}" width="100%"><text class="name" x="{room}" y="{y + 14}">{escape(name)}</text></svg>'
        f'<text class="value" x="100%" y="{y + 14}">{escape(shown)}</text>'
        f'<rect class="track" x="0" width="100%" y="{y + 20}" height="{_BAR}" rx="2"/>'
        f'<rect class="{style}" x="0" width="{part:.2%}" y="{y + 20}" height="{_BAR}" rx="2"/>'
    )


def strip(caption: Caption, parts: Sequence[tuple[str, float]]) -> str:
    """One bar, of *parts* side by side: a class of the page's styles for each, and how long it is."""
    whole, before, drawn = sum(value for _, value in parts) or 1.0, 0.0, []
    for style, value in parts:
        if value:
            place = f'x="{before / whole:.3%}" width="{value / whole:.3%}"'
            drawn.append(f'<rect class="{style}" {place} y="0" height="{_STRIP}"/>')
            before += value
    return _svg(caption, "strip", _STRIP, "".join(drawn))


def _svg(caption: Caption, style: str, height: int, content: str) -> str:
    title, description = f"{caption.id}-title", f"{caption.id}-description"
    return (
        f'<svg id="{caption.id}" class="{style}" height="{height}" role="img" aria-labelledby="{title} {description}">'
        f'<title id="{title}">{escape(caption.title)}</title>'
        f'<desc id="{description}">{escape(caption.description)}</desc>'
        # Or a screen reader would go through each bar and tick: those are in the table.
        f'<g aria-hidden="true">{content}</g></svg>'
    )
