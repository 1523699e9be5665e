"""Those limits that are in use, by key."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

from scrapy_batcher.throttling.adaptive import Width
from scrapy_batcher.throttling.limiter import Limit, Limiter

TOTAL = "*"
"""The key that everything counts for."""

HOST = "host:"
"""What the key of a host, or of a download slot, begins with."""

ROBOTS = "robots:"
"""What the key of a site begins with, of which robots.txt is asked for before anything else."""

Keys = tuple[str, ...]


_FEW = 1000  # limiters: so many are kept anyway

_LEARNED = 10_000  # hosts of which it is remembered that they rest, or how much they bear, while nothing is under way


class UnknownLimitError(ValueError):
    """A request names a limit that there is none of; the message names it and those there are."""


@dataclass(frozen=True)
class LimiterStatistics:
    """A look at one limit.

    :param limit: how many at once, now
    :param holders: who holds a permit
    :param waiting: how many wait for one, or for the others they need with it
    :param rest: seconds until one may begin; 0 when that is now, or when it depends on another's end
    """

    limit: float
    holders: frozenset[Hashable]
    waiting: int
    rest: float = 0.0


class Limiters:
    """Makes a limiter when it is first asked for, and forgets it when a new one would do the same: a million hosts must
    cost nothing.

    :param limits: by key; one under ``name:*`` is for each key that begins with ``name:`` and has none of its own
    :param adapt: begin with hosts that have a `Width`
    """

    def __init__(self, limits: Mapping[str, Limit], *, adapt: bool) -> None:
        self._given = dict(limits)
        self._limits = dict(limits)
        self._adapt = adapt
        self.total = Limiter(self._limits.get(TOTAL, Limit()))
        self._limiters: dict[str, Limiter] = {}
        self._many = _FEW  # from where on it is looked which can be forgotten

    def limit(self, key: str) -> Limit:
        """The limit under *key*.

        :raises UnknownLimitError: when there is none
        """
        limit = self._limits.get(key)
        if limit is None:
            prefix, colon, _ = key.partition(":")
            limit = self._limits.get(f"{prefix}:*") if colon else None
        if limit is None:
            names = ", ".join(sorted(self._limits))
            raise UnknownLimitError(f"there is no limit {key!r}; give it one in BATCHER_LIMITS, which has {names}")
        return limit

    def known(self, key: str) -> Limiter | None:
        """The limiter under *key*, if there is one."""
        return self._limiters.get(key)

    def get(self, key: str) -> Limiter:
        """The limiter under *key*."""
        if key == TOTAL:
            return self.total
        limiter = self._limiters.get(key)
        if limiter is None:
            width = Width() if self._adapt and key.startswith(HOST) else None
            limiter = Limiter(self.limit(key), is_new=key.startswith(ROBOTS), width=width)
            self._limiters[key] = limiter
        return limiter

    def of(self, keys: Keys) -> list[Limiter]:
        """The limiters that who has *keys* counts for: `total` first."""
        return [self.total, *map(self.get, keys)]

    def items(self) -> Iterator[tuple[str, Limiter]]:
        yield TOTAL, self.total
        yield from self._limiters.items()

    def hosts(self, now: float) -> tuple[int, int]:
        """How many hosts something is under way to, and how many of the others are left alone for a while."""
        active = resting = 0
        for key, limiter in self._limiters.items():
            if key.startswith(HOST):
                active += limiter.held > 0
                resting += not limiter.held and limiter.is_resting(now)
        return active, resting

    def add(self, key: str, limit: Limit) -> Limit:
        """The limit that was given under *key*, whatever it was changed to; that is *limit* when there was none."""
        self._limits.setdefault(key, limit)
        return self._given.setdefault(key, limit)

    def change(self, key: str, changes: Mapping[str, float], now: float) -> None:
        """Change fields of the limit under *key*."""
        self._limits[key] = replace(self.limit(key), **changes)  # type: ignore[arg-type]  # mypy takes all for one type
        family = key[:-1] if key.endswith(":*") else None
        for name in [name for name in self._limiters if name.startswith(family)] if family else [key]:
            self.get(name).change(self.limit(name), now)

    def forget(self, keys: Keys, now: float) -> None:
        """Forget the limiters under *keys* that need not be kept; and when there are many, all such."""
        for key in keys:
            if (limiter := self._limiters.get(key)) and limiter.is_idle(now):
                del self._limiters[key]
        if len(self._limiters) > self._many:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        learned = []
        for key, limiter in list(self._limiters.items()):
            if limiter.is_idle(now):
                del self._limiters[key]
            elif not limiter.is_in_use:
                learned.append(key)
        for key in learned[:-_LEARNED]:
            del self._limiters[key]
        self._many = max(_FEW, 2 * len(self._limiters))
