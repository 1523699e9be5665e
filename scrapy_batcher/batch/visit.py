"""One target's life in a worker, and what is known of its outcome meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from scrapy import Request
from scrapy.http import Response
from twisted.python.failure import Failure

from scrapy_batcher.jobs.lanes import Claim
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import (
    FETCHED,
    NO_ANSWER,
    Answer,
    Outcome,
    attempts_of,
    error_text,
    exception_of,
    outcome_of,
)
from scrapy_batcher.outputs.output import Lines
from scrapy_batcher.throttling.limiters import Keys


@dataclass(slots=True, eq=False)
class Visit:
    """A claimed target on its way through Scrapy.

    :param request: the last request made for it: its first, or the copy that a redirect, or a retry at once, made
    :param keys: those of the limits that this request counts for
    :param is_begun: whether a request of it has reached the downloader
    :param first: the Unix time at which its first attempt began
    :param lines: what its items became in the feeds, and its responses in the WARC file; written when it is over
    :param told: whether the spider's errback was given the failure, so that it is in the log
    """

    claim: Claim
    request: Request
    keys: Keys
    first: float | None = None
    status: int | None = None
    answer: Answer = NO_ANSWER
    lines: Lines = field(default_factory=list)
    told: bool = False
    is_begun: bool = False
    is_downloaded: bool = False
    _failure: Outcome | None = None  # the first thing that went wrong
    _dropped: Outcome | None = None
    _scraped: bool = False

    @property
    def target(self) -> Target:
        return self.claim.target

    @property
    def attempts(self) -> int:
        """How often it was tried, in earlier visits too."""
        return attempts_of(self.request)

    @property
    def outcome(self) -> Outcome:
        """What became of the target, as far as it is known: what went wrong first; else, that every item was dropped;
        else, that it was fetched."""
        if self._failure:
            return self._failure
        if self._dropped and not self._scraped:
            return self._dropped
        return Outcome(FETCHED, self.status)

    def downloaded(self, result: Response | Failure) -> None:
        self.is_downloaded = True
        if isinstance(result, Response):
            self.status = result.status
            self.answer = Answer(len(result.body), self.request.meta.get("download_latency"))
        else:
            self.failed(result)

    def failed(self, failure: Failure) -> None:
        """The download failed, or a spider middleware refused the response."""
        self._failure = self._failure or outcome_of(exception_of(failure))

    def broke(self, name: str, failure: Failure) -> None:
        """The project's own code raised: ``failed/callback``, ``failed/pipeline``."""
        self._failure = self._failure or Outcome(name, self.status, error_text(exception_of(failure)))

    def dropped(self, exception: BaseException) -> None:
        self._dropped = self._dropped or Outcome("skipped/dropped", self.status, error_text(exception))

    def scraped(self, lines: Lines, is_whole: bool) -> None:
        """An item is through the pipelines.

        :param lines: what it became in the feeds
        :param is_whole: whether it is in all of them; an exporter may have refused it
        """
        self._scraped = True
        if is_whole:
            self.lines += lines
        else:
            self._failure = self._failure or Outcome("failed/feed", self.status, "an exporter could not write its item")
