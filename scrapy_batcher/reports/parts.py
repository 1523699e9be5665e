"""The parts of a report's page, in HTML: its sections, legends and tables. Whatever a text in them says is text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from scrapy_batcher.redact import one_line, redact_url

LENGTH = 300  # characters of a text from outside that are shown


def section(title: str, style: str = "") -> Iterator[str]:
    """The beginning of a section."""
    id = f"section-{title.lower()}"
    yield f'<section class="{style}" aria-labelledby="{id}"><h2 id="{id}">{title}</h2>'


def legend(kinds: dict[str, str]) -> str:
    """What the colours of *kinds* stand for, with a text behind each."""
    entries = (f'<li class="{kind}">{kind} {text}</li>' for kind, text in kinds.items())
    return f'<ul class="legend">{"".join(entries)}</ul>'


def details(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, above: bool = False
) -> Iterator[str]:
    """A table that is to be unfolded, beside a plot.

    :param above: whether it is one of `groups`, as the headings of its rows may be long
    """
    # A screen reader that goes through all of these has to tell them apart.
    yield f'<details><summary aria-label="As a table: {shown(caption)}">As a table</summary>'
    yield from (groups if above else _simple)(caption, header, rows)
    yield "</details>"


def groups(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table with a heading above the cells of each of *rows*, its first: a telephone has room for that, too."""
    yield from _table(caption, map(_column, header))
    for heading, *cells in rows:
        yield f'<tbody><tr><th scope="rowgroup" colspan="{len(header)}">{shown(heading)}</th></tr>'
        yield f"<tr>{_cells(cells)}</tr></tbody>"
    yield "</table></div>"


def _simple(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from _table(caption, [f'<th scope="col">{shown(header[0])}</th>', *map(_column, header[1:])])
    yield "<tbody>"
    for heading, *cells in rows:
        yield f'<tr><th scope="row">{shown(heading)}</th>{_cells(cells)}</tr>'
    yield "</tbody></table></div>"


def _table(caption: str, columns: Iterable[str]) -> Iterator[str]:
    # It may be wider than a telephone: then the keyboard scrolls it.
    yield f'<div class="table" tabindex="0" role="group" aria-label="{shown(caption)}">'
    yield f"<table><caption>{shown(caption)}</caption><thead><tr>{''.join(columns)}</tr></thead>"


def _column(name: str) -> str:
    return f'<th scope="col" class="number">{shown(name)}</th>'


def _cells(cells: Sequence[str]) -> str:
    return "".join(f'<td class="number">{unbroken(shown(cell))}</td>' for cell in cells)


def link(url: str) -> str:
    """*url* as a link, if it is a web page's and all of it can be shown."""
    text = one_line(redact_url(url), LENGTH)
    if text != url or not url.startswith(("http://", "https://")):
        return escape(text)
    return f'<a href="{escape(url)}" rel="noreferrer noopener nofollow">{escape(url)}</a>'


def shown(text: str) -> str:
    """*text*, wherever it is from, as text in HTML."""
    return escape(one_line(text, LENGTH))


def sentence(text: str) -> str:
    """*text*, as a sentence."""
    return f"{shown(text[0].upper() + text[1:])}."


def unbroken(text: str) -> str:
    """*text*, a number with its unit, which is not to be on two lines."""
    return text.replace(" ", "\u00a0")
