"""Which limits there are: ``BATCHER_LIMITS``, on top of Scrapy's own settings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from scrapy.settings import BaseSettings

from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.values import ConfigError, boolean, number, seconds, whole, whole_number

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|sec|second|m|min|minute|h|hour)")

_SECONDS = {"s": 1, "m": 60, "h": 3600}


def limits_from(settings: BaseSettings, total: int) -> dict[str, Limit]:
    """All of them, by key: what Scrapy's own settings say, and what ``BATCHER_LIMITS`` does.

    :param total: downloads in flight in all, 0 for no limit
    :raises ConfigError: with the name and the value of the first setting that cannot be used
    """
    each: dict[str, Any] = {"concurrency": whole(settings, "CONCURRENT_REQUESTS_PER_DOMAIN", 8, 1)}
    slots = _dictionary(settings, "DOWNLOAD_SLOTS")
    if not all(isinstance(entry, Mapping) for entry in slots.values()):
        raise ConfigError(f"DOWNLOAD_SLOTS must be a dictionary of dictionaries, not {slots!r}")
    scrapys = {f"host:{slot}": (f"DOWNLOAD_SLOTS[{slot!r}]", entry) for slot, entry in slots.items()}
    if not boolean(settings, "AUTOTHROTTLE_ENABLED", False):
        each |= {"delay": seconds(settings, "DOWNLOAD_DELAY", 0, or_none=True), "jitter": _jitter(settings)}
    given = _dictionary(settings, "BATCHER_LIMITS")
    for key in given:
        if not isinstance(key, str) or re.fullmatch(r"\*.+|(?!host:)(?i:host):.*|host:.*(/|:\d+$).*", key):
            raise ConfigError(
                f"BATCHER_LIMITS has the key {key!r}; a host's is like 'host:example.com', without a port"
            )
    ours = {key: (f"BATCHER_LIMITS[{key!r}]", entry) for key, entry in given.items()}
    fields: dict[str, dict[str, Any]] = {
        "*": {"concurrency": total or math.inf} | _fields_of(*ours.pop("*", ("", {}))),
        "host:*": each | _fields_of(*ours.pop("host:*", ("", {}))),
    }
    for key in (*scrapys, *ours):
        inherited = fields["host:*"] if key.startswith("host:") else {}
        fields[key] = inherited | _slot(*scrapys.get(key, ("", {}))) | _fields_of(*ours.get(key, ("", {})))
    limits = {}
    for key, values in fields.items():
        try:
            limits[key] = Limit(**values)
        except ValueError as e:
            raise ConfigError(f"the limit {key!r} cannot be: {e}") from e
    return limits


def _dictionary(settings: BaseSettings, name: str) -> dict[str, Any]:
    try:
        return settings.getdict(name)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{name} must be a dictionary, not {settings.get(name)!r}") from e


def _jitter(settings: BaseSettings) -> float:
    """Scrapy 2.18 knows only the older name, which goes on counting where it was set more specifically."""
    old, new = "RANDOMIZE_DOWNLOAD_DELAY", "DOWNLOAD_DELAY_JITTER"
    if (settings.getpriority(old) or 0) > (settings.getpriority(new) or 0):
        return 0.5 if boolean(settings, old, True) else 0.0
    return seconds(settings, new, 0.5, or_none=True)


def _slot(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Limit` that an entry of ``DOWNLOAD_SLOTS`` sets."""
    fields: dict[str, Any] = {}
    if "concurrency" in entry:
        fields["concurrency"] = whole_number(f"{where}['concurrency']", entry["concurrency"], 1)
    if "randomize_delay" in entry:
        fields["jitter"] = 0.5 if entry["randomize_delay"] else 0.0
    for name in {"delay", "jitter"} & entry.keys():
        fields[name] = _from_zero(f"{where}[{name!r}]", entry[name])
    return fields


def _from_zero(where: str, value: Any) -> float:
    if not 0 <= number(value) < math.inf:
        raise ConfigError(f"{where} must be a number from 0, not {value!r}")
    return number(value)


def _fields_of(where: str, entry: Any) -> dict[str, Any]:
    """The fields of a `Limit` that an entry of ``BATCHER_LIMITS`` sets: a dictionary, or a number of downloads."""
    if not isinstance(entry, Mapping):
        entry = {"concurrency": entry}
    if any(value is True for value in entry.values()):
        raise ConfigError(f"{where} is True, where a number has to be")
    fields: dict[str, Any] = {}
    for name, value in entry.items():
        if name in ("concurrency", "burst"):
            fields[name] = whole_number(f"{where}[{name!r}]", value, 1)
        elif name == "rate":
            fields[name] = _rate(where, value)
        elif name in ("delay", "jitter"):
            fields[name] = _from_zero(f"{where}[{name!r}]", value)
        else:
            raise ConfigError(f"{where} has {name!r}; choose from concurrency, rate, burst, delay, jitter")
    return fields


def _rate(where: str, value: Any) -> float:
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    rate = float(match[1]) / _SECONDS[match[2][0]] if match else number(value)
    if not 0 < rate < math.inf:
        raise ConfigError(f"{where}['rate'] must be a number a second, or as in '30/minute', not {value!r}")
    return rate
