"""The least that fetches a list with aiohttp: a task for each URL, a semaphore, and JSON lines.

python aiohttp_loop.py LIST OUTPUT WIDTH
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp


async def main(urls: str, output: str, width: int) -> None:
    semaphore = asyncio.Semaphore(width)
    with open(output, "w") as items:

        async def fetch(session: aiohttp.ClientSession, url: str) -> None:
            async with semaphore, session.get(url, ssl=False) as response:
                body = await response.read()
                item = {"url": url, "length": len(body), "content": body.decode(response.get_encoding())}
                items.write(json.dumps(item) + "\n")

        connector = aiohttp.TCPConnector(limit=width)
        async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
            with open(urls) as lines:
                await asyncio.gather(*(fetch(session, line.strip()) for line in lines))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
