"""Pure: which file a page's body goes into, named so that it is in its folder and every system can have it."""

from __future__ import annotations

import hashlib
import mimetypes
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import count
from string import Formatter
from typing import Any
from urllib.parse import unquote, urlsplit

from scrapy_batcher.lists.rows import Target
from scrapy_batcher.redact import redact
from scrapy_batcher.url import host_in

NAMES = {
    "hash": "{sha256:.2}/{sha256}{ext}",
    "host": "{host}/{id}-{name}{ext}",
}
"""Templates that have a name."""

_LONGEST = 200  # bytes of a name: file systems have 255, and a number may be added

# The fields that are not of the row, each with a value such as it has.
_OWN = {"url": "", "host": "", "name": "", "ext": "", "sha256": "", "line": 1, "id": 1}

_FORBIDDEN = frozenset('<>:"/\\|?*')  # what separates folders, and what Windows has in no name

# What Windows takes for a device, whatever comes behind the dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\.|$)", re.IGNORECASE)

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}$")

_TYPES = mimetypes.MimeTypes()  # those that Python knows: the same on every machine


class Template:
    """How files are named: fields in braces, as in ``{host}/{id}{ext}``, and folders with slashes between.

    :param text: such a template, or one of `NAMES`
    :raises ValueError: when it is none; the message goes on from its text
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"it must be a template such as {NAMES['host']}, or one of {', '.join(NAMES)}")
        parts = NAMES.get(text, text).split("/")
        if not all(parts):
            raise ValueError(
                "it begins or ends with a slash, or has two of them together: it names files in the folder"
            )
        self._parts = [list(Formatter().parse(part)) for part in parts]
        fields = [
            (field, spec or "", conversion)
            for part in self._parts
            for _, field, spec, conversion in part
            if field is not None
        ]
        for field, spec, conversion in fields:
            if not field or conversion or "{" in spec:
                raise ValueError("a field in braces is a name, and how it is shown: {id} or {id:08}")
            if field in _OWN:
                _shown(field, _OWN[field], spec)
        if not fields:
            raise ValueError(
                f"it has no field, so all files would have one name; choose {', '.join(NAMES)}, or as in {{id}}"
            )
        self.is_by_content = ("sha256", "", None) in fields
        """Whether files of the same name have the same content."""

    def fill(self, values: Mapping[str, Any]) -> str:
        """The path, with slashes, that *values* make.

        :raises ValueError: when a field has no value, or none that can be shown so
        """
        return "/".join(safe_name("".join(self._filled(part, values))) for part in self._parts)

    def _filled(self, part: list[tuple[Any, ...]], values: Mapping[str, Any]) -> Iterator[str]:
        for literal, field, spec, _ in part:
            yield literal
            if field is not None:
                if field not in values:
                    raise ValueError(f"BATCHER_BODIES_NAMES has {{{field}}}, and the row has no such column")
                try:
                    yield _shown(field, values[field], spec)
                except ValueError as e:
                    raise ValueError(f"BATCHER_BODIES_NAMES: {e}") from e


def _shown(field: str, value: Any, spec: str) -> str:
    try:
        return format("" if value is None else value, spec)
    except (TypeError, ValueError) as e:
        raise ValueError(f"{field} {value!r} cannot be shown as {spec}: {e}") from e


def values_for(target: Target, content_type: str, sha256: str) -> dict[str, Any]:
    """What the fields of a template stand for: the row's columns under their names, with ``row_`` before one that is
    taken.

    :param content_type: as the response's header has it
    """
    try:
        last = unquote(urlsplit(target.url).path.rpartition("/")[2])
    except ValueError:
        last = ""
    suffix = _EXTENSION.search(last)
    own = {
        "url": redact(target.url),
        "host": host_in(target.url),
        "name": (last[: suffix.start()] if suffix else last) or last or "index",
        "ext": _extension_of(content_type) or (suffix[0].lower() if suffix else ""),
        "sha256": sha256,
        "line": target.line,
        "id": target.id,
    }
    taken = {f"row_{name}": target.columns[name] for name in own.keys() & target.columns.keys()}
    return {**taken, **target.columns, **own}


def safe_name(text: str) -> str:
    """*text* as the name of one file or folder, on any system: without what separates folders, ``..``, names of
    devices, dots or spaces at an end, and what cannot be printed; never empty, never hidden, never too long."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    safe = "".join(c if c.isprintable() and c not in _FORBIDDEN else "_" for c in text).rstrip(". ").lstrip()
    if safe.startswith(".") or _DEVICE.match(safe):
        safe = f"_{safe}"
    return (safe if len(safe.encode()) <= _LONGEST else _shortened(safe)) or "_"


def _shortened(name: str) -> str:
    """The beginning of *name*, with a mark of the whole, and what is behind its last dot if that is short."""
    suffix = _EXTENSION.search(name)
    end = f"~{hashlib.sha256(name.encode()).hexdigest()[:16]}{suffix[0] if suffix else ''}"
    return name.encode()[: _LONGEST - len(end)].decode(errors="ignore") + end


def free_names(path: str, id: int) -> Iterator[str]:
    """*path*, and what target *id* has instead when it is taken."""
    yield path
    suffix = _EXTENSION.search(path)
    stem, extension = (path[: suffix.start()], suffix[0]) if suffix else (path, "")
    yield f"{stem}-{id}{extension}"
    for number in count(2):
        yield f"{stem}-{id}-{number}{extension}"


def key_of(path: str) -> bytes:
    """What is the same for paths that are one file on a system that tells neither capital letters nor accents apart."""
    # Once more after the folding, which can make letters that are to be put together.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold()).casefold()
    return b"file:" + hashlib.blake2b(folded.encode(), digest_size=16).digest()


@lru_cache(maxsize=1000)
def _extension_of(content_type: str) -> str:
    kind = content_type.partition(";")[0].strip().lower()
    return "" if kind == "application/octet-stream" else _TYPES.guess_extension(kind) or ""
