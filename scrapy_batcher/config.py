"""Every setting that scrapy-batcher reads: its default, its meaning, its complaint. Nothing else reads the settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from scrapy.settings import BaseSettings

NO_LIMIT = 0

OPTIONAL_FIELDS = ("status", "headers", "final_url", "content_type", "encoding", "fetched_at", "elapsed")

_NAMES = (
    "BATCHER_ENABLED",
    "BATCHER_FIELDS",
    "BATCHER_COLUMNS",
    "BATCHER_SCHEMES",
    "BATCHER_SKIP_DUPLICATES",
    "BATCHER_FAILURES",
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
            schemes=frozenset(s.lower() for s in settings.getlist("BATCHER_SCHEMES", sorted(cls.schemes))),
            skip_duplicates=_boolean(settings, "BATCHER_SKIP_DUPLICATES", cls.skip_duplicates),
            failures=settings.get("BATCHER_FAILURES") or None,
            concurrency=_whole("CONCURRENT_REQUESTS", settings.get("CONCURRENT_REQUESTS"), NO_LIMIT),
            host_concurrency=_whole(
                "CONCURRENT_REQUESTS_PER_DOMAIN", settings.get("CONCURRENT_REQUESTS_PER_DOMAIN"), 1
            ),
            slot_concurrency={
                slot: _whole(f"DOWNLOAD_SLOTS[{slot!r}]['concurrency']", entry["concurrency"], 1)
                for slot, entry in settings.getdict("DOWNLOAD_SLOTS").items()
                if "concurrency" in entry
            },
            url_length=_whole("URLLENGTH_LIMIT", settings.get("URLLENGTH_LIMIT"), NO_LIMIT),
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
    except ValueError as e:
        raise ConfigError(f"{name} must be True or False, not {settings.get(name)!r}") from e


def _whole(name: str, value: object, least: int) -> int:
    try:
        number = int(value)  # type: ignore[call-overload]  # anything int() takes, as settings.getint() does
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{name} must be a whole number, not {value!r}") from e
    if number < least:
        raise ConfigError(f"{name} must be at least {least}, not {value!r}")
    return int(number)


def _fields(settings: BaseSettings) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(name.strip() for name in settings.getlist("BATCHER_FIELDS")))
    for name in chosen:
        if name not in OPTIONAL_FIELDS:
            raise ConfigError(f"BATCHER_FIELDS has {name!r}; the fields to choose from are {', '.join(OPTIONAL_FIELDS)}")
    return chosen
