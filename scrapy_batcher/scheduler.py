"""Scrapy's scheduler, but a further request that it cannot keep ends the batch."""

from __future__ import annotations

from scrapy import Request
from scrapy.core import scheduler

from scrapy_batcher.cooperator import CooperatorExtension


class Scheduler(scheduler.Scheduler):
    """Scrapy's own raises when its disk queue cannot be written (a full disk), in the middle of what a callback has
    yielded: the rest of that is dropped without a word, or waited for without end.

    With this one the batch ends as incomplete then, and the target whose callback it was stays pending.
    """

    def enqueue_request(self, request: Request) -> bool:
        try:
            return super().enqueue_request(request)
        except Exception as e:
            cooperator = self.crawler.get_extension(CooperatorExtension) if self.crawler else None
            if cooperator is None or not cooperator.cannot_keep(e):
                raise
            return False
