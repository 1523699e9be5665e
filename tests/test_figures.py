"""How far a batch is, how fast it goes and how long it will take: a moved clock, and counts that are moved with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twisted.internet.task import Clock

from scrapy_batcher.batch.progress import Counts
from scrapy_batcher.monitoring.figures import Figures, Pace
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limits import Limits

FIGURES = Figures(done=3412, read=10_000, complete=True, failed=12, rate=51.25, active=14, resting=3)

DAY = 86400


class Batch:
    """A batch that gets done what it is told to, and is looked at."""

    def __init__(self, read: int = 1000, done: int = 0) -> None:
        self.clock = Clock()
        self.counts = Counts({"pending": read - done, "fetched": done}, complete=True)
        limits = Limits({"*": Limit(), "host:*": Limit()}, now=self.clock.seconds, later=self.clock.callLater)
        self.pace = Pace(self.counts, limits, now=self.clock.seconds)

    def work(self, seconds: float, each: float, step: float = 0.5) -> Figures:
        """Get *each* targets done a second, for so many seconds, and look every *step* of them."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            self.counts.outcomes["fetched"] += int(each * step)
            look = self.pace.look()
        return look


def test_an_even_rate_is_the_rate_from_the_first_look_on() -> None:
    """Ten targets a second are ten a second, after half a second as after an hour, and however seldom one looks."""
    batch = Batch(read=100_000)
    assert batch.work(0.5, 10).rate == pytest.approx(10)
    assert batch.work(3600, 10).rate == pytest.approx(10)
    assert batch.work(3600, 10, step=60).rate == pytest.approx(10)


def test_the_time_left_is_that_of_what_is_pending() -> None:
    """What is pending takes as long as it does at this rate."""
    batch = Batch(read=1000)
    look = batch.work(10, 10)
    assert (look.done, look.read, look.percent) == (100, 1000, 10)
    assert look.left == pytest.approx(90)


def test_the_rate_is_that_of_late() -> None:
    """When it becomes slower, the rate has followed in a few minutes; when nothing goes on, it goes down to nothing."""
    batch = Batch(read=1_000_000)
    batch.work(3600, 100)
    assert 10 < batch.work(30, 10).rate < 100
    assert batch.work(270, 10).rate == pytest.approx(10, rel=0.1)
    assert batch.work(600, 0).rate < 0.01


def test_what_earlier_runs_have_done_is_done_and_not_in_the_rate() -> None:
    """A job that is gone on with begins where it was, at a rate of its own."""
    batch = Batch(read=1000, done=500)
    look = batch.pace.look()
    assert (look.done, look.percent, look.rate, look.left) == (500, 50, 0, None)
    look = batch.work(10, 10)
    assert (look.done, look.rate) == (600, pytest.approx(10))
    assert look.left == pytest.approx(40)


def test_rows_that_are_not_even_tried_are_not_in_the_rate() -> None:
    """A thousand rows that are no URLs do not make those that are come sooner."""
    batch = Batch(read=2000)
    batch.counts.outcomes["skipped/invalid"] += 1000
    batch.counts.unworked += 1000
    look = batch.work(10, 10)
    assert (look.done, look.rate, look.left) == (1100, pytest.approx(10), pytest.approx(90))


def test_what_is_tried_again_is_no_step_back_of_the_rate() -> None:
    """When what failed is made pending once more, less is done than before, and the rate stays."""
    batch = Batch(read=1000)
    batch.counts.outcomes["failed/dns"] += 100
    batch.counts.unworked += 100
    batch.work(10, 10)
    batch.counts.outcomes["failed/dns"] -= 100
    batch.counts.unworked -= 100
    look = batch.work(1, 10)
    assert (look.done, look.failed, look.rate) == (110, 0, pytest.approx(10))


def test_what_nobody_knows_yet_is_not_said() -> None:
    """While the list is read, there is neither a share nor an end; at a standstill, there is no end."""
    reading = replace(FIGURES, complete=False)
    assert (reading.percent, reading.left) == (None, None)
    assert reading.long == "3,412 of 10,000 read so far, 51.2 a second, 12 failed, 14 hosts active, 3 resting"
    assert reading.short == "3,412/10.0k so far 51.2/s 12 failed 14 active 3 resting"
    still = replace(FIGURES, rate=0.0)
    assert (still.percent, still.left) == (34, None)
    assert still.long == "3,412 of 10,000, 0.00 a second, 12 failed, 14 hosts active, 3 resting"


def test_all_of_them_in_words_and_in_short() -> None:
    """Both have all figures."""
    assert FIGURES.long == "3,412 of 10,000, 51.2 a second, 2:09 left, 12 failed, 14 hosts active, 3 resting"
    assert FIGURES.short == "3,412/10.0k 51.2/s 2:09 left 12 failed 14 active 3 resting"
    assert ", 1 host active, " in replace(FIGURES, active=1).long


@pytest.mark.parametrize(("done", "read", "percent"), [(0, 10, 0), (9_999, 10_000, 99), (10, 10, 100), (0, 0, 100)])
def test_the_share_is_cut_off(done: int, read: int, percent: int) -> None:
    """It is 100 only when all is done; of an empty list all is."""
    assert replace(FIGURES, done=done, read=read).percent == percent


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (99_999, "99.9k"),
        (999_999, "999k"),
        (1_000_000, "1.00M"),
        (9_999_999, "9.99M"),
        (12_345_678, "12.3M"),
        (999_999_999_999, "999G"),
        (999_999_999_999_999, "999T"),
    ],
)
def test_numbers_in_short(number: int, text: str) -> None:
    """Three digits and a letter, cut off: what is not done yet does not look as if it were."""
    assert f" {text} failed" in replace(FIGURES, failed=number).short


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.0, "0.00"), (0.004, "0.00"), (0.25, "0.25"), (9.96, "10.0"), (99.94, "99.9"), (1234.6, "1,235")],
)
def test_rates(rate: float, text: str) -> None:
    """Slow ones to the hundredth, fast ones without decimals."""
    assert f", {text} a second" in replace(FIGURES, rate=rate).long


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00 left"),
        (0.2, "0:01 left"),
        (59.5, "1:00 left"),
        (3600, "1:00:00 left"),
        (DAY - 1, "23:59:59 left"),
        (DAY, "1d 0h left"),
        (999 * DAY + 23 * 3600, "999d 23h left"),
        (1000 * DAY, None),
    ],
)
def test_times(seconds: float, text: str | None) -> None:
    """Minutes and seconds, hours, or days; nothing where it would be years."""
    figures = replace(FIGURES, done=0, read=int(seconds * 10), rate=10.0)
    assert (f" {text} " in figures.short) if text else ("left" not in figures.short)


def test_in_short_is_short_enough() -> None:
    """The longest that there can be has 73 characters."""
    longest = Figures(99_900, 99_950, True, 99_999, 9999.4, 9_999, 99_999)
    longest = replace(longest, read=int(9999.4 * (DAY - 1)) + 99_900, done=99_900)
    assert longest.short == "99.9k/864M 9,999/s 23:59:59 left 99.9k failed 9,999 active 99.9k resting"
    assert len(longest.short) <= 73
