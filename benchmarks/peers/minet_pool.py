"""Minet's pool of threads, through its Python interface: a list, and JSON lines.

python minet_pool.py LIST OUTPUT WIDTH
"""

from __future__ import annotations

import json
import sys

from minet.executors import HTTPThreadPoolExecutor


def main(urls: str, output: str, width: int) -> None:
    with (
        open(urls) as lines,
        open(output, "w") as items,
        HTTPThreadPoolExecutor(max_workers=width, insecure=True) as pool,
    ):
        for result in pool.request(
            (line.strip() for line in lines), throttle=0, domain_parallelism=width, compressed=True
        ):
            if result.error:
                raise result.error
            response = result.response
            item = {"url": response.url, "length": len(response), "content": response.text()}
            items.write(json.dumps(item) + "\n")


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
