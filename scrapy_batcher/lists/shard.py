"""Divides a list among several processes. Each row is in exactly one shard, in every process and on every machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from scrapy_batcher.lists.rows import Target
from scrapy_batcher.url import host_in

BY = ("host", "url")

_WRITTEN = re.compile(r"([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of a list.

    :param number: which part, from 1
    :param count: how many parts there are; one is the whole list
    :param by: which rows stay together: ``host`` keeps a host's rows in one shard, so what one process keeps exactly
        for each host (its limits, say), all together do, too; ``url`` may divide a host
    """

    number: int = 1
    count: int = 1
    by: str = BY[0]

    @classmethod
    def parse(cls, text: str, by: str = BY[0]) -> Shard:
        """The shard that *text* names, ``2/8`` for the second of eight.

        :raises ValueError: if it does not name a shard, with a sentence
        """
        match = _WRITTEN.fullmatch(text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"shard: {text!r} is none: pass -a shard=2/8 for the second of eight, from 1/8 to 8/8")
        return cls(int(match[1]), int(match[2]), by)

    def has(self, target: Target) -> bool:
        """Whether *target* is in this shard. A row without a host goes by its text, one without text by its line."""
        if self.count == 1:
            return True
        host = host_in(target.url) if self.by == "host" else ""
        return _hash(host or target.url or str(target.line)) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def _hash(text: str) -> int:
    """A number for *text*, the same in each process and version of Python, as that of `hash` is not. A checksum would
    be quicker, but those of similar names are similar: one shard would get twice as many as another."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), byteorder="big")


WHOLE = Shard()
