"""As pycurl_loop.py, with curl_cffi.

python curl_cffi_loop.py LIST OUTPUT WIDTH
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import IO

from curl_cffi import AsyncCurl, Curl, CurlOpt


async def main(urls: str, output: str, width: int) -> None:
    multi = AsyncCurl()

    async def work(lines: IO[str], items: IO[str]) -> None:
        curl = Curl()
        for line in lines:
            url, body, head = line.strip(), [], []
            curl.setopt(CurlOpt.URL, url.encode())
            curl.setopt(CurlOpt.SSL_VERIFYPEER, 0)
            curl.setopt(CurlOpt.SSL_VERIFYHOST, 0)
            curl.setopt(CurlOpt.ACCEPT_ENCODING, b"gzip")
            curl.setopt(CurlOpt.FAILONERROR, 1)
            curl.setopt(CurlOpt.WRITEFUNCTION, body.append)
            curl.setopt(CurlOpt.HEADERFUNCTION, head.append)
            await multi.add_handle(curl)
            content = b"".join(body)
            items.write(json.dumps({"url": url, "length": len(content), "content": content.decode()}) + "\n")

    with open(urls) as lines, open(output, "w") as items:
        await asyncio.gather(*(work(lines, items) for _ in range(width)))
    await multi.close()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
