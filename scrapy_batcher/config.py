"""Every setting that scrapy-batcher reads: its default, its meaning, its complaint. Nothing else reads the settings."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scrapy.settings import BaseSettings

NO_LIMIT = 0

OPTIONAL_FIELDS = ("status", "headers", "final_url", "content_type", "encoding", "fetched_at", "elapsed")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

_NAMES = (
    "BATCHER_ENABLED",
    "BATCHER_FIELDS",
    "BATCHER_COLUMNS",
    "BATCHER_SCHEMES",
    "BATCHER_SKIP_DUPLICATES",
    "BATCHER_FAILURES",
    "BATCHER_CHECKPOINT_TARGETS",
    "BATCHER_CHECKPOINT_SECONDS",
)


class ConfigError(ValueError):
    """A setting has a value that cannot be used; the message names both."""


@dataclass(frozen=True)
class Config:
    """The settings, read once.

    :param enabled: ``BATCHER_ENABLED``: whether any part of scrapy-batcher is on
    :param fields: ``BATCHER_FIELDS``: item fields beside ``url``, ``length``, ``content`` and ``base64``
    :param columns: ``BATCHER_COLUMNS``: whether the row's own columns go into the item
    :param schemes: ``BATCHER_SCHEMES``: URL schemes that are fetched, in lower case
    :param skip_duplicates: ``BATCHER_SKIP_DUPLICATES``: whether a request seen before is ``skipped/duplicate``
    :param failures: ``BATCHER_FAILURES``: path of the failures file, ``None`` for none
    :param checkpoint_targets: ``BATCHER_CHECKPOINT_TARGETS``: outcomes that a crash can undo, beside what is in flight
    :param checkpoint_seconds: ``BATCHER_CHECKPOINT_SECONDS``: seconds after which outcomes are entered into the ledger
    :param jobdir: ``JOBDIR``: the directory of a job that can be resumed, ``None`` for none
    :param concurrency: ``CONCURRENT_REQUESTS``: downloads in flight in all, 0 for no limit
    :param host_concurrency: ``CONCURRENT_REQUESTS_PER_DOMAIN``: downloads in flight per host
    :param slot_concurrency: the ``concurrency`` entries of ``DOWNLOAD_SLOTS``, by slot name
    :param url_length: ``URLLENGTH_LIMIT``: characters in the longest URL that is fetched, 0 for no limit
    """

    enabled: bool = True
    fields: tuple[str, ...] = ()
    columns: bool = True
    schemes: frozenset[str] = frozenset({"http", "https"})
    skip_duplicates: bool = False
    failures: str | None = None
    checkpoint_targets: int = 1000
    checkpoint_seconds: float = 1.0
    jobdir: str | None = None
    concurrency: int = 16
    host_concurrency: int = 8
    slot_concurrency: Mapping[str, int] = field(default_factory=dict)
    url_length: int = 2083

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Config:
        """Read *settings*.

        :raises ConfigError: with the name and the value of the first setting that cannot be used
        """
        _refuse_unknown_names(settings)
        return cls(
            enabled=_boolean(settings, "BATCHER_ENABLED", cls.enabled),
            fields=_fields(settings),
            columns=_boolean(settings, "BATCHER_COLUMNS", cls.columns),
            schemes=_schemes(settings, cls.schemes),
            skip_duplicates=_boolean(settings, "BATCHER_SKIP_DUPLICATES", cls.skip_duplicates),
            failures=_path(settings, "BATCHER_FAILURES"),
            checkpoint_targets=_whole(settings, "BATCHER_CHECKPOINT_TARGETS", cls.checkpoint_targets, 1),
            checkpoint_seconds=_seconds(settings, "BATCHER_CHECKPOINT_SECONDS", cls.checkpoint_seconds),
            jobdir=_path(settings, "JOBDIR"),
            concurrency=_whole(settings, "CONCURRENT_REQUESTS", cls.concurrency, NO_LIMIT),
            host_concurrency=_whole(settings, "CONCURRENT_REQUESTS_PER_DOMAIN", cls.host_concurrency, 1),
            slot_concurrency=_slot_concurrency(settings),
            url_length=_whole(settings, "URLLENGTH_LIMIT", cls.url_length, NO_LIMIT),
        )


def _refuse_unknown_names(settings: BaseSettings) -> None:
    for name in settings:
        if str(name).startswith("BATCHER_") and name not in _NAMES:
            near = difflib.get_close_matches(str(name), _NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(_NAMES)}"
            raise ConfigError(f"there is no setting {name}; {hint}")


def _boolean(settings: BaseSettings, name: str, default: bool) -> bool:
    try:
        return settings.getbool(name, default)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{name} must be True or False, not {settings.get(name)!r}") from e


def _whole(settings: BaseSettings, name: str, default: int, least: int) -> int:
    return _whole_number(name, settings.get(name, default), least)


def _whole_number(name: str, value: Any, least: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (isinstance(value, float) and value != number):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    if number < least:
        raise ConfigError(f"{name} must be at least {least}, not {value!r}")
    return number


def _seconds(settings: BaseSettings, name: str, default: float) -> float:
    value = settings.get(name, default)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{name} must be a number of seconds above 0, not {value!r}")
    return seconds


def _path(settings: BaseSettings, name: str) -> str | None:
    value = settings.get(name) or None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise ConfigError(f"{name} must be a path, not {value!r}")


def _list(settings: BaseSettings, name: str, default: Iterable[str]) -> list[str]:
    value = settings.get(name)
    if value is None:
        return list(default)
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{name} must be a list of names, not {value!r}")
    return [part.strip() for part in value]


def _schemes(settings: BaseSettings, default: frozenset[str]) -> frozenset[str]:
    schemes = frozenset(scheme.lower() for scheme in _list(settings, "BATCHER_SCHEMES", default))
    if not schemes:
        raise ConfigError(f"BATCHER_SCHEMES must name a scheme, not {settings.get('BATCHER_SCHEMES')!r}")
    for scheme in schemes:
        if not _SCHEME.fullmatch(scheme):
            raise ConfigError(f"BATCHER_SCHEMES has {scheme!r}, which is not a URL scheme such as https")
    return schemes


def _fields(settings: BaseSettings) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(_list(settings, "BATCHER_FIELDS", ())))
    for name in chosen:
        if name not in OPTIONAL_FIELDS:
            raise ConfigError(f"BATCHER_FIELDS has {name!r}; choose from {', '.join(OPTIONAL_FIELDS)}")
    return chosen


def _slot_concurrency(settings: BaseSettings) -> dict[str, int]:
    slots = settings.getdict("DOWNLOAD_SLOTS")
    if not all(isinstance(entry, Mapping) for entry in slots.values()):
        raise ConfigError(f"DOWNLOAD_SLOTS must be a dictionary of dictionaries, not {slots!r}")
    return {
        slot: _whole_number(f"DOWNLOAD_SLOTS[{slot!r}]['concurrency']", entry["concurrency"], 1)
        for slot, entry in slots.items()
        if "concurrency" in entry
    }
