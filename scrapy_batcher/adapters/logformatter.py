"""Scrapy's log lines for each page, made only when somebody reads them."""

from __future__ import annotations

import logging
from typing import Any

import scrapy.logformatter
from scrapy import Request, Spider
from scrapy.http import Response
from scrapy.logformatter import LogFormatterResult
from twisted.python.failure import Failure

# Those that Scrapy says the lines with.
_CRAWLED = logging.getLogger("scrapy.core.engine")
_SCRAPED = logging.getLogger("scrapy.core.scraper")


class LogFormatter(scrapy.logformatter.LogFormatter):
    """A class for ``LOG_FORMATTER``: Scrapy's, without the two lines at level DEBUG where no handler takes that level.

    Scrapy leaves the level to its handler, so that each line becomes a record before it is thrown away.

    A subclass has to expect that ``super().crawled(…)`` and ``super().scraped(…)`` return ``None``, which is no line:
    they do when nobody hears level DEBUG, though the subclass may mean to say it at another level.
    """

    def crawled(  # type: ignore[override]  # None is documented, and not in Scrapy's annotation
        self, request: Request, response: Response, spider: Spider
    ) -> LogFormatterResult | None:
        return super().crawled(request, response, spider) if _is_heard(_CRAWLED) else None

    def scraped(  # type: ignore[override]  # as above
        self, item: Any, response: Response | Failure | None, spider: Spider
    ) -> LogFormatterResult | None:
        return super().scraped(item, response, spider) if _is_heard(_SCRAPED) else None


def _is_heard(logger: logging.Logger) -> bool:
    """Whether what *logger* says at level DEBUG gets to a handler that takes it, as `logging` would look for one."""
    if not logger.isEnabledFor(logging.DEBUG):
        return False
    at: logging.Logger | None = logger
    while at:
        for handler in at.handlers:
            if handler.level <= logging.DEBUG:
                return True
        at = at.parent if at.propagate else None
    return False
