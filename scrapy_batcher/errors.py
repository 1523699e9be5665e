"""The error that keeps a batch from starting, with one sentence that says why."""

from __future__ import annotations

import logging

from scrapy.exceptions import UsageError

logger = logging.getLogger(__name__)


class StartError(UsageError):
    """The batch cannot start. The message says what is wrong, quotes the value at fault, and says what to do.

    It is raised while the spider or the extension is created, so ``scrapy crawl`` exits with a non-zero status.
    """


def refuse(sentence: str) -> StartError:
    """Log *sentence* and return the error to raise.

    Nobody awaits the crawl that ``scrapy crawl`` starts. So asyncio and Twisted report its exception once more when it
    is garbage-collected. That report is dropped, because its traceback does not help someone who mistyped a path.
    """
    logger.error(sentence)
    for name in ("asyncio", "twisted"):
        logging.getLogger(name).addFilter(_is_news)
    return StartError(sentence)


def _is_news(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], StartError):
        return False
    # Twisted makes two records of it: a heading, and the traceback as text.
    message = record.getMessage()
    return message != "Unhandled error in Deferred:" and f"{StartError.__module__}.StartError: " not in message
