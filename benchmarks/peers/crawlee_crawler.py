"""Crawlee's HttpCrawler, with its defaults but for the width: a list, and JSON lines.

Its request queue and its state are kept in memory. With its default storage it writes a file for each request and each
item besides, which costs it several times as much; so do items that go by way of its dataset.

python crawlee_crawler.py LIST OUTPUT WIDTH
"""

from __future__ import annotations

import asyncio
import json
import sys

from crawlee import ConcurrencySettings
from crawlee.crawlers import HttpCrawler, HttpCrawlingContext
from crawlee.http_clients import ImpitHttpClient
from crawlee.storage_clients import MemoryStorageClient


async def main(urls: str, output: str, width: int) -> None:
    crawler = HttpCrawler(
        concurrency_settings=ConcurrencySettings(
            min_concurrency=width, desired_concurrency=width, max_concurrency=width
        ),
        http_client=ImpitHttpClient(verify=False),
        storage_client=MemoryStorageClient(),
        configure_logging=False,
    )
    with open(output, "w") as items:

        @crawler.router.default_handler
        async def handle(context: HttpCrawlingContext) -> None:
            body = await context.http_response.read()
            item = {"url": context.request.url, "length": len(body), "content": body.decode()}
            items.write(json.dumps(item) + "\n")

        with open(urls) as lines:
            await crawler.run([line.strip() for line in lines])


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
