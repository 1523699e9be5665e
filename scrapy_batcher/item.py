"""The item for a fetched page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, NamedTuple

from scrapy.http import Response, TextResponse

from scrapy_batcher.lists.rows import Target
from scrapy_batcher.redact import redact


@dataclass(init=False, repr=False, eq=False)
class BatchItem:
    """A page, with the fields that ``BATCHER_FIELDS`` chooses and the columns of its row."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]  # how Python says unhashable: it can change

    def __repr__(self) -> str:
        # Scrapy logs every item at level DEBUG: without its content, and without a password.
        fields = vars(self)
        url = redact(str(fields.get("url", "")))
        length = f"{fields['length']} bytes" if "length" in fields else ""
        return f"<{' '.join(filter(None, (type(self).__name__, url, length)))}>"


class Body(NamedTuple):
    """The file that contains the body of a page.

    :param path: relative to the folder ``BATCHER_BODIES``, with slashes
    :param sha256: the hash of its content, in hexadecimal digits
    """

    path: str
    sha256: str


def make_item(
    target: Target,
    response: Response,
    fields: Sequence[str],
    columns: bool,
    body: Body | None = None,
    without: Sequence[str] = (),
) -> BatchItem:
    """The item for *response*.

    :param target: the row it was fetched for
    :param fields: some of `config.FIELDS`
    :param columns: whether the row's other columns become fields, under their names; one that collides with a field,
        or starts with two underscores, gets the prefix ``row_``
    :param body: the file that the body is in, if there is one; the field ``path`` needs it
    :param without: columns that do not become fields
    """
    text = None if _TEXT.isdisjoint(fields) else _text_of(response)
    values = {name: _FIELDS[name](target, response, body, text) for name in fields}
    if columns and target.columns:
        taken = frozenset(fields)
        for name, value in target.columns.items():
            if name in without:
                continue
            values[_free_name(name, taken, target.columns)] = value
    item = _item_class(tuple(values))()
    item.__dict__ = values
    return item


def _free_name(name: str, taken: Set[str], columns: Mapping[str, Any]) -> str:
    """*name*, prefixed when it is *taken*, or is one that Python gives a meaning."""
    free = name
    while free in taken or free.startswith("__") or (free != name and free in columns):
        free = f"row_{free}"
    return free


def _text_of(response: Response) -> str | None:
    """The body of *response* as text, ``None`` when it is none."""
    text = response.text if isinstance(response, TextResponse) else None
    # A body with a NUL in it is no text, whatever the server calls it: a .gz that it serves as text/plain, say.
    return None if text is None or "\0" in text else text


def _headers(response: Response) -> dict[str, list[str]]:
    return {
        name.decode("latin-1"): [value.decode("latin-1") for value in values]
        for name, values in response.headers.items()
    }


def _path(body: Body | None) -> str:
    if body is None:
        raise ValueError("the field path is that of a file: await save_body(response) first")
    return body.path


_TEXT = frozenset({"content", "base64"})  # the fields that are made of the text

_FIELDS: dict[str, Callable[[Target, Response, Body | None, str | None], Any]] = {
    # as given in the list
    "url": lambda target, response, body, text: target.url,
    # bytes in the body, after decompression
    "length": lambda target, response, body, text: len(response.body),
    # the text as Scrapy decodes it; the base64 of the body when that is not text
    "content": lambda target, response, body, text: (
        base64.b64encode(response.body).decode("ascii") if text is None else text
    ),
    # whether it is base64
    "base64": lambda target, response, body, text: text is None,
    "status": lambda target, response, body, text: response.status,
    "headers": lambda target, response, body, text: _headers(response),
    "final_url": lambda target, response, body, text: redact(response.url),
    "content_type": lambda target, response, body, text: (
        (response.headers.get("Content-Type") or b"").decode("latin-1") or None
    ),
    "encoding": lambda target, response, body, text: response.encoding if isinstance(response, TextResponse) else None,
    "fetched_at": lambda target, response, body, text: datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    "elapsed": lambda target, response, body, text: response.meta.get("download_latency"),
    # of the body, after decompression
    "sha256": lambda target, response, body, text: body.sha256 if body else hashlib.sha256(response.body).hexdigest(),
    # of the file that has the body, from BATCHER_BODIES
    "path": lambda target, response, body, text: _path(body),
}


@lru_cache(maxsize=64)
def plain_fields(cls: type[BatchItem]) -> Set[str]:
    """The names of the fields of *cls*, if it is one of those made here: they are exported as they are, and their
    values are in the instances' ``__dict__``. Of a project's subclass, which can have others, there are none."""
    return cls.__dataclass_fields__.keys() if cls.__module__ == __name__ else frozenset()


@lru_cache(maxsize=64)  # a JSON-lines list may have other columns in every row
def _item_class(names: tuple[str, ...]) -> type[BatchItem]:
    """`BatchItem` with the fields *names*, in its instances' ``__dict__``: some are those of columns, which need not be
    identifiers, so no ``__init__`` can be made for them."""
    cls = type("BatchItem", (BatchItem,), {"__annotations__": dict.fromkeys(names, Any), "__module__": __name__})
    return dataclass(init=False, repr=False, eq=False)(cls)
