"""What a fetched page becomes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from scrapy.http import Response, TextResponse

from scrapy_batcher.redact import redact
from scrapy_batcher.rows import Target


@dataclass(repr=False, eq=False)
class BatchItem:
    """A page, with further fields where ``BATCHER_FIELDS`` or the columns of its row ask for them.

    :param url: as given in the list
    :param length: bytes in the body, after decompression
    :param content: the text as Scrapy decodes it; the base64 of the body when that is not text
    :param base64: whether it is base64
    """

    url: str
    length: int
    content: str
    base64: bool = False

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]  # how Python says unhashable: it can change

    def __repr__(self) -> str:
        # Scrapy logs every item at level DEBUG: without its content, and without a password.
        return f"<{type(self).__name__} {redact(self.url)} {self.length} bytes>"


def make_item(target: Target, response: Response, fields: Sequence[str], columns: bool) -> BatchItem:
    """The item for *response*.

    :param target: the row it was fetched for
    :param fields: further fields, of `config.OPTIONAL_FIELDS`
    :param columns: whether the row's other columns become fields, under their names; one that collides with a field,
        or starts with two underscores, is prefixed with ``row_``
    """
    chosen = {name: _FIELDS[name](response) for name in fields}
    if columns:
        taken = _BASE | chosen.keys()
        for name, value in target.columns.items():
            chosen[_free_name(name, taken, target.columns)] = value
    # A body with a NUL in it is no text, whatever the server calls it: a .gz that it serves as text/plain, say.
    text = isinstance(response, TextResponse) and "\0" not in response.text
    content = response.text if text else base64.b64encode(response.body).decode("ascii")
    item = _item_class(tuple(chosen))(target.url, len(response.body), content, not text)
    vars(item).update(chosen)
    return item


def _free_name(name: str, taken: Set[str], columns: Mapping[str, Any]) -> str:
    """*name*, prefixed when it is *taken*, or is one that Python gives a meaning."""
    free = name
    while free in taken or free.startswith("__") or (free != name and free in columns):
        free = f"row_{free}"
    return free


_BASE = frozenset(BatchItem.__dataclass_fields__)

_FIELDS: dict[str, Callable[[Response], Any]] = {
    "status": lambda response: response.status,
    "headers": lambda response: {
        name.decode("latin-1"): [value.decode("latin-1") for value in values]
        for name, values in response.headers.items()
    },
    "final_url": lambda response: redact(response.url),
    "content_type": lambda response: (response.headers.get("Content-Type") or b"").decode("latin-1") or None,
    "encoding": lambda response: response.encoding if isinstance(response, TextResponse) else None,
    "fetched_at": lambda response: datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    "elapsed": lambda response: response.meta.get("download_latency"),
}


@lru_cache(maxsize=64)
def plain_fields(cls: type[BatchItem]) -> Set[str]:
    """The names of the fields of *cls*, if it is one of those made here: they are exported as they are, and their
    values are in the instances' ``__dict__``. Of a project's subclass, which can have others, there are none."""
    return cls.__dataclass_fields__.keys() if cls.__module__ == __name__ else frozenset()


@lru_cache(maxsize=64)  # a JSON-lines list may have other columns in every row
def _item_class(names: tuple[str, ...]) -> type[BatchItem]:
    """`BatchItem` with further fields, in its instances' ``__dict__``: their names are those of columns, which need not
    be identifiers, so no ``__init__`` can be made for them."""
    if not names:
        return BatchItem
    cls = type("BatchItem", (BatchItem,), {"__annotations__": dict.fromkeys(names, Any), "__module__": __name__})
    return dataclass(init=False, repr=False, eq=False)(cls)
