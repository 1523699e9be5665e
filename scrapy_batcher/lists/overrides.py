"""What the columns of a row say of its request, when ``BATCHER_OVERRIDES`` lets them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from scrapy.settings import BaseSettings

from scrapy_batcher.lists.rows import Target
from scrapy_batcher.values import ConfigError, names

OVERRIDES = ("method", "headers", "body", "priority")

# Names of methods and of headers, as HTTP has them.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

_NO_VALUE = re.compile(r"[\x00\r\n]")

# They say where a request ends: a row that may say so can hide another request in its body.
_FRAMING = ("Content-Length", "Transfer-Encoding")

_JSON = {"Content-Type": ["application/json"]}


def overrides_from(settings: BaseSettings) -> tuple[str, ...]:
    """The columns that ``BATCHER_OVERRIDES`` names: some of `OVERRIDES`, all of them for ``True``.

    :raises ConfigError: when it names another one
    """
    value = settings.get("BATCHER_OVERRIDES")
    if value is False or str(value).lower() in ("false", "0"):
        return ()
    if value is True or str(value).lower() in ("true", "1"):
        return OVERRIDES
    chosen = tuple(dict.fromkeys(names(settings, "BATCHER_OVERRIDES", ())))
    for name in chosen:
        if name not in OVERRIDES:
            raise ConfigError(f"BATCHER_OVERRIDES has {name!r}; choose from {', '.join(OVERRIDES)}, or True for all")
    return chosen


def overrides_of(target: Target, columns: Collection[str]) -> dict[str, Any]:
    """The arguments for the `Request` of *target* that those of its *columns* give which have a value.

    :raises ValueError: when one cannot be used; the message does not quote it, as it may be a secret
    """
    given = {name: value for name in columns if (value := target.columns.get(name)) not in (None, "")}
    overrides: dict[str, Any] = {name: _READERS[name](value) for name, value in given.items()}
    if isinstance(given.get("body"), (dict, list)):
        overrides["headers"] = _JSON | overrides.get("headers", {})
    return overrides


def why_not(target: Target, columns: Collection[str]) -> str | None:
    """What keeps the *columns* of *target* from being used for its request, ``None`` when nothing does."""
    try:
        overrides_of(target, columns)
    except ValueError as e:
        return str(e)
    return None


def _method(value: Any) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value) or value.upper() == "CONNECT":
        raise ValueError("its column 'method' is no method such as POST")
    return value.upper()


def _headers(value: Any) -> dict[str, list[str]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError('its column \'headers\' is no JSON such as {"Accept": "text/html"}') from None
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        value = {str(name): part for name, part in value}  # a map of Parquet's
    if not isinstance(value, dict):
        raise ValueError('its column \'headers\' is no object such as {"Accept": "text/html"}')
    headers = {}
    for given, values in value.items():
        if not _TOKEN.fullmatch(given):
            raise ValueError("its column 'headers' has a name that is none of a header")
        name = given.title()  # as Scrapy writes them, so that one replaces another however it is spelt
        if name in _FRAMING:
            raise ValueError(f"its column 'headers' has {name}, which is for the download handler to say")
        if values is not None:  # as a column of Parquet's structs has it for what a row lacks
            headers[name] = [_header(name, each) for each in (values if isinstance(values, list) else [values])]
    return headers


def _header(name: str, value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or _NO_VALUE.search(value):
        raise ValueError(f"its column 'headers' has a value for {name} that is no text of one line")
    return value


def _body(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    raise ValueError(f"its column 'body' is neither text nor an object or a list but {type(value).__name__}")


def _priority(value: Any) -> int:
    try:
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise ValueError("its column 'priority' is no whole number such as 10 or -10")


_READERS = {"method": _method, "headers": _headers, "body": _body, "priority": _priority}
