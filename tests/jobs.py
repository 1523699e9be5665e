"""Batches with a job directory, run in the test's process."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scrapy.exceptions import CloseSpider

from scrapy_batcher import BatchSpider, StartError
from scrapy_batcher.lists.sources import Source, SourceError
from tests.crawling import finish, run, watched


class Stops(BatchSpider):
    """Stops after a number of pages, as somebody would who has seen enough."""

    def __init__(self, *args: Any, pages: int = 5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left = pages

    def parse(self, response):
        self.left -= 1
        yield from super().parse(response)
        if self.left == 0:
            raise CloseSpider("enough")


class Work:
    """A folder with a list, a feed and a job directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.list = folder / "urls.txt"

    def write(self, *urls: str, name: str = "urls.txt", append: bool = False) -> None:
        self.list = self.folder / name
        with self.list.open("a" if append else "w") as file:
            file.writelines(f"{url}\n" for url in urls)

    def settings(self, feeds: dict[str, dict[str, Any]] | None = None, **settings: Any) -> dict[str, Any]:
        feeds = {"items.jsonl": {"format": "jsonl"}} if feeds is None else feeds
        return {
            "JOBDIR": str(self.folder / "job"),
            "FEEDS": {str(self.folder / name): options for name, options in feeds.items()},
            "CONCURRENT_REQUESTS": 2,
            **settings,
        }

    async def run(self, spider: type[BatchSpider] = BatchSpider, settings: dict[str, Any] | None = None, **args: Any):
        args.setdefault("failures", str(self.folder / "failures.jsonl"))
        return await run(spider, str(args.pop("urls", self.list)), settings or self.settings(), **args)

    async def refused(self, settings: dict[str, Any] | None = None, urls: str | None = None, **args: Any) -> str:
        """The sentence with which a batch is refused, that changes nothing."""
        before = self.everything()
        with pytest.raises(StartError) as error:
            await finish(watched(BatchSpider, settings or self.settings()), str(urls or self.list), **args)
        assert "\n" not in str(error.value)
        assert self.everything() == before
        return str(error.value)

    def everything(self) -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.startswith("ledger.lock") and "-shm" not in path.name
        }

    def items(self, name: str = "items.jsonl") -> list[str]:
        return [json.loads(line)["url"] for line in (self.folder / name).read_text().splitlines()]

    def failures(self) -> Counter[tuple[str, str]]:
        lines = (self.folder / "failures.jsonl").read_text().splitlines()
        return Counter((line["url"], line["outcome"]) for line in map(json.loads, lines))

    def reopen_feeds(self) -> None:
        """Have the ledger say what it does after a kill."""
        ledger = sqlite3.connect(self.folder / "job" / "ledger.sqlite")
        ledger.execute("UPDATE feed SET closed = 0")
        ledger.commit()
        ledger.close()

    def states(self) -> Counter[str]:
        """What the ledger says, asked as anybody can."""
        ledger = sqlite3.connect(self.folder / "job" / "ledger.sqlite")
        states = Counter(dict(ledger.execute("SELECT state, count(*) FROM target GROUP BY state")))
        ledger.close()
        return states


def complaint(*args: Any) -> str:
    """What is wrong with a list, in one sentence; *args* are those of `Source`."""
    with pytest.raises(SourceError) as raised:
        list(Source(*args))
    assert "\n" not in str(raised.value)
    return str(raised.value)
