"""Numbers as people read them."""

from __future__ import annotations

import math
from datetime import datetime, timezone

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """*seconds* in the two largest units that it has: ``1 h 5 min``."""
    if seconds < 10:
        return latency(seconds)
    left = round(seconds)
    place = next(place for place, (length, _) in enumerate(_UNITS) if left >= length)
    length, unit = _UNITS[place]
    parts = [f"{left // length} {unit}"]
    if place + 1 < len(_UNITS):
        finer, finer_unit = _UNITS[place + 1]
        if rest := left % length // finer:
            parts.append(f"{rest} {finer_unit}")
    return " ".join(parts)


def latency(seconds: float) -> str:
    """*seconds* with two digits that count: ``850 ms``, ``1.2 s``."""
    if not seconds:
        return "0 s"
    if round(seconds * 1000) < 1000:
        return f"{_two_digits(seconds * 1000)} ms"
    return f"{_two_digits(seconds)} s"


def size(bytes: float) -> str:
    """*bytes* in decimal units: ``888 bytes``, ``1.2 MB``."""
    if bytes < 1000:
        return f"{bytes:,.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        bytes /= 1000
        if round(bytes) < 1000:
            return f"{_two_digits(bytes)} {unit}"
    return f"{_two_digits(bytes / 1000)} TB"


def rate(number: float) -> str:
    """*number* with a fraction when it is small: it is nothing only when there is none."""
    if 0 < number < 0.095:
        return _two_digits(number)
    return f"{number:,.1f}" if number < 100 else f"{number:,.0f}"


def short(number: float) -> str:
    """*number* in little room: ``250 k``, ``1.5 M``."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= unit:
            return f"{number / (1000 if name == 'k' else unit):g} {name}"
    return f"{number:,g}"


def share(part: float, whole: float) -> str:
    """*part* in a hundred of *whole*; neither nothing nor all when it is not."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "under 0.1 %"
    if 99.9 < percent < 100:
        return "over 99.9 %"
    return f"{percent:.1f} %" if percent % 1 else f"{percent:.0f} %"


def moment(unix_time: float, pattern: str = "%d %B %Y, %H:%M UTC") -> str:
    """The Unix time as a date and a time of day, in UTC."""
    return datetime.fromtimestamp(unix_time, timezone.utc).strftime(pattern).lstrip("0")


def _two_digits(number: float) -> str:
    if number >= 10:
        return f"{number:,.0f}"
    rounded = float(f"{number:.2g}")
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(rounded)))}f}" if rounded else "0"
