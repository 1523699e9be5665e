"""The least that fetches a list with pycurl and asyncio: workers on one iterator, each with a handle, and JSON lines.

python pycurl_loop.py LIST OUTPUT WIDTH
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import IO

import pycurl

from scrapy_batcher.fast.multi import Multi


async def main(urls: str, output: str, width: int) -> None:
    multi = Multi(width)

    async def work(lines: IO[str], items: IO[str]) -> None:
        curl = pycurl.Curl()
        for line in lines:
            url, body, head = line.strip(), [], []
            curl.setopt(pycurl.URL, url)
            curl.setopt(pycurl.SSL_VERIFYPEER, 0)
            curl.setopt(pycurl.SSL_VERIFYHOST, 0)
            curl.setopt(pycurl.ACCEPT_ENCODING, "gzip")
            curl.setopt(pycurl.FAILONERROR, 1)
            curl.setopt(pycurl.WRITEFUNCTION, body.append)
            curl.setopt(pycurl.HEADERFUNCTION, head.append)
            code, message = await multi.run(curl)
            if code:
                raise pycurl.error(code, message)
            content = b"".join(body)
            items.write(json.dumps({"url": url, "length": len(content), "content": content.decode()}) + "\n")

    with open(urls) as lines, open(output, "w") as items:
        await asyncio.gather(*(work(lines, items) for _ in range(width)))
    multi.close()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
