"""How long a host is left alone: what its response asks for, or what is due after a failure. Pure: it has no clock."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import timezone
from email.utils import parsedate_to_datetime

from scrapy.http import Headers

_ASKING = frozenset({b"Retry-After", b"Ratelimit", b"Ratelimit-Remaining"})  # as Scrapy spells them

_MOST_DOUBLINGS = 1023  # a float holds no higher power of 2

# Servers send fractions too, although delay-seconds has none.
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?')

# As seconds it would be a rest of 30 years: so it is a Unix time, which GitLab, for one, sends as RateLimit-Reset.
_LEAST_UNIX_TIME = 1e9


def asked_rest(headers: Headers, now: float) -> float | None:
    """How long a response asks to be left alone: the longest rest in its headers, ``None`` when none of them asks.

    They are ``Retry-After`` (RFC 9110, 10.2.3), and ``RateLimit`` or the older ``RateLimit-Remaining`` with
    ``RateLimit-Reset`` (draft-ietf-httpapi-ratelimit-headers), when these say that nothing remains. One that is
    malformed is ignored. ``X-RateLimit-…`` is not looked at: what it means differs from server to server.

    :param headers: those of the response
    :param now: Unix time; what is said as a time counts from the response's own ``Date``, when it has one, because
        clocks differ
    :return: seconds, 0 for a time that has passed; there is no upper limit
    """
    if _ASKING.isdisjoint(headers):
        return None  # most responses
    date = _unix_time(_text(headers, "Date"))
    said_at = now if date is None else date
    asked = (*_retry_after(headers, said_at), *_rate_limit(headers), *_older_rate_limit(headers, said_at))
    return max(asked, default=None)


def backoff(times: int, first: float, most: float, random: Callable[[], float]) -> float:
    """How long to wait after something has failed again: twice as long each time, up to a limit, and never in step.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), there called equal jitter.

    :param times: failures in a row, 1 for the first
    :param first: the longest wait after the first failure, in seconds
    :param most: the longest wait after any, in seconds
    :param random: gives numbers from 0 up to 1, as :func:`random.random` does
    :return: seconds, between half of the longest wait and all of it
    """
    longest = min(most, first * 2.0 ** min(times - 1, _MOST_DOUBLINGS))
    return longest / 2 + longest / 2 * random()


def _retry_after(headers: Headers, said_at: float) -> Iterator[float]:
    for value in headers.getlist("Retry-After"):
        text = value.decode("latin-1")
        if (seconds := _number(text)) is not None:
            yield seconds
        elif (time := _unix_time(text)) is not None:
            yield max(0.0, time - said_at)


def _rate_limit(headers: Headers) -> Iterator[float]:
    """A list, as in ``"default";r=0;t=30``, and what it was before: ``limit=100, remaining=0, reset=30``."""
    members: dict[str, float] = {}
    for item in _STRING.sub('""', _text(headers, "RateLimit")).split(","):
        member, *parameters = item.split(";")
        members |= _numbers(member)
        yield from _rest_of(_numbers(*parameters), "r", "t")
    yield from _rest_of(members, "remaining", "reset")


def _older_rate_limit(headers: Headers, said_at: float) -> Iterator[float]:
    remaining = _number(_text(headers, "RateLimit-Remaining"))
    reset = _number(_text(headers, "RateLimit-Reset"))
    if remaining == 0 and reset is not None:
        yield reset if reset < _LEAST_UNIX_TIME else max(0.0, reset - said_at)


def _rest_of(numbers: dict[str, float], remaining: str, reset: str) -> Iterator[float]:
    if numbers.get(remaining) == 0 and reset in numbers:
        yield numbers[reset]


def _numbers(*parts: str) -> dict[str, float]:
    """Those of *parts* that are ``name=number``."""
    pairs = (part.strip().partition("=") for part in parts)
    return {name: number for name, _, text in pairs if (number := _number(text)) is not None}


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text.strip()):
        return None
    number = float(text)
    return number if number < math.inf else None


def _unix_time(text: str) -> float | None:
    """*text*, an HTTP date in any of its three forms (RFC 9110, 5.6.7), as Unix time."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a time zone that is too far away
        return None
    return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()


def _text(headers: Headers, name: str) -> str:
    """The field of that *name*: its lines with commas between, as RFC 9110, 5.3 has them mean."""
    return b", ".join(headers.getlist(name)).decode("latin-1")
