"""`scrapy …`, of which samples are taken, a thousand for each second of processor time, and counted by room.

python sampled.py COUNTS ARGUMENT …

A room is a part of the code: a sample counts for the innermost function that is in one. COUNTS is where the counts go,
as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

from scrapy.cmdline import execute

INTERVAL = 0.001  # seconds of processor time

# The first that has a part of a file's path decides; a name without a slash is a module of scrapy-batcher.
ROOMS = {
    "download handler": (
        "scrapy/core/downloader/handlers/ twisted/web/ twisted/internet/tcp twisted/internet/abstract "
        "curl curl_options transfer multi addresses"
    ),
    "limits": "semaphore limits limiter limiters limit_settings rules hosts rest adaptive url queue",
    "turns": "turns ring bell",
    "ledger": "ledger lanes database books checkpoints",
    "list": "reader rows sources lines separated shard",
    "feed": "scrapy/extensions/feedexport scrapy/exporters feeds output",
    "downloader middlewares": (
        "scrapy/downloadermiddlewares/ scrapy/core/downloader/middleware postpone middlewares shortcuts"
    ),
    "downloader": "scrapy/core/downloader/ downloader",
    "scraper": "scrapy/core/scraper scrapy/core/spidermw scrapy/spidermiddlewares/ scrapy/pipelines/ scraper",
    "engine, scheduler": "scrapy/core/ scrapy/pqueues engine scheduler",
    "workers": "twisted/internet/task cooperator visits visit outcome",
    "stats, log": "scrapy/statscollectors scrapy/logformatter scrapy/utils/log stats logformatter",
    "signals": "scrapy/signalmanager scrapy/utils/signal pydispatch/ signalmanager",
    "requests, responses, items": "scrapy/http/ scrapy/responsetypes item spider",
    "tasks, Deferreds, event loop": "asyncio/ twisted/internet/ scrapy/utils/defer scrapy/utils/asyncio",
}

counts: Counter[str] = Counter()


@cache
def room_of(path: str) -> str | None:
    return next((room for room, parts in ROOMS.items() if any(is_in(path, part) for part in parts.split())), None)


def is_in(path: str, part: str) -> bool:
    return part in path if "/" in part else "/scrapy_batcher/" in path and path.endswith(f"/{part}.py")


def sample(_: int, frame: FrameType | None) -> None:
    while frame:
        if room := room_of(frame.f_code.co_filename):
            counts[room] += 1
            return
        frame = frame.f_back
    counts["everything else"] += 1


signal.signal(signal.SIGPROF, sample)
signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
try:
    execute(["scrapy", *sys.argv[2:]])
finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    Path(sys.argv[1]).write_text(json.dumps(counts))
