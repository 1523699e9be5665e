"""The value of a setting, or a complaint that names both."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scrapy import Request
from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object

_LOOPBACK = "127.0.0.1"

_ADDRESS = re.compile(r"(?:([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):)?([0-9]{1,5})")

_LAST_PORT = 65535


class ConfigError(ValueError):
    """A setting has a value that cannot be used; the message names both."""


class Address(NamedTuple):
    """Where something is served.

    :param host: a name or an address, one of IPv6 without its brackets
    :param port: 0 for any that is free
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def boolean(settings: BaseSettings, name: str, default: bool) -> bool:
    try:
        return settings.getbool(name, default)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{name} must be True or False, not {settings.get(name)!r}") from e


def whole(settings: BaseSettings, name: str, default: int, least: int) -> int:
    return whole_number(name, settings.get(name, default), least)


def whole_number(name: str, value: Any, least: int) -> int:
    try:
        result = int(value)
    except (TypeError, ValueError, OverflowError):
        result = None
    if result is None or (isinstance(value, float) and value != result):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    if result < least:
        raise ConfigError(f"{name} must be at least {least}, not {value!r}")
    return result


def seconds(settings: BaseSettings, name: str, default: float, *, or_none: bool = False) -> float:
    value = settings.get(name, default)
    result = number(value)
    if not 0 < result < math.inf and not (or_none and result == 0):
        raise ConfigError(f"{name} must be a number of seconds{'' if or_none else ' above 0'}, not {value!r}")
    return result


def number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def name_or_none(settings: BaseSettings, name: str) -> str | None:
    value = settings.get(name) or None
    if value is None or isinstance(value, str):
        return value
    raise ConfigError(f"{name} must be a name, not {value!r}")


def one_of(settings: BaseSettings, name: str, choices: Sequence[str], default: str) -> str:
    value = settings.get(name, default)
    if value in choices:
        return str(value)
    raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def function_or_none(settings: BaseSettings, name: str) -> Callable[[Request], Iterable[str]] | None:
    value = settings.get(name) or None
    try:
        function = load_object(value) if isinstance(value, str) else value
    except (ImportError, NameError, ValueError) as e:
        raise ConfigError(f"{name} {value!r} cannot be imported: {e}") from e
    if function is None or callable(function):
        return function
    raise ConfigError(f"{name} must be a function or the path to import one from, not {value!r}")


def path_or_none(settings: BaseSettings, name: str) -> str | None:
    value = settings.get(name) or None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise ConfigError(f"{name} must be a path, not {value!r}")


def address_or_textfile(settings: BaseSettings, name: str) -> Address | Path | None:
    """A port, on the loopback unless there is a host before it; or the path of a file that ends in ``.prom``."""
    value = settings.get(name)
    if value is None or value is False or value == "":
        return None
    text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
    if Path(text).suffix == ".prom":
        return Path(text)
    if (match := _ADDRESS.fullmatch(text)) and int(match[2]) <= _LAST_PORT:
        return Address((match[1] or _LOOPBACK).strip("[]"), int(match[2]))
    raise ConfigError(
        f"{name} must be a port, a host and a port as in {_LOOPBACK}:9410, or the path of a file that ends in .prom, "
        f"not {value!r}"
    )


def names(settings: BaseSettings, name: str, default: Iterable[str]) -> list[str]:
    value = settings.get(name)
    if value is None:
        return list(default)
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{name} must be a list of names, not {value!r}")
    return [part.strip() for part in value]


def statuses(settings: BaseSettings, name: str, default: frozenset[int]) -> frozenset[int]:
    value = settings.get(name)
    if value is None:
        return default
    given = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise ConfigError(f"{name} must be a list of HTTP statuses, not {value!r}")
    return frozenset(whole_number(name, status, 100) for status in given)
