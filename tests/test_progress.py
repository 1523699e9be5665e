"""A tally becomes totals and a summary."""

from __future__ import annotations

import pytest

from scrapy_batcher.batch.progress import Totals, summary

TALLY = {"pending": 3, "fetched": 1500, "failed/dns": 3, "failed/http-404": 4, "skipped/invalid": 5}


def totals(tally=TALLY, read=1515, seconds=30.0, error=None) -> Totals:
    return Totals.from_tally(tally, read=read, bytes=1234567, seconds=seconds, error=error)


def test_totals_add_up():
    """What was read is the sum of what was fetched, failed, was skipped and is pending."""
    counted = totals()
    assert (counted.fetched, counted.failed, counted.skipped, counted.pending) == (1500, 7, 5, 3)
    assert counted.adds_up
    assert "pending" not in counted.outcomes


@pytest.mark.parametrize("read", [1514, 1516])
def test_a_row_too_many_or_too_few_is_noticed(read):
    """One row more or less than there are outcomes does not add up."""
    assert not totals(read=read).adds_up


def test_an_outcome_of_an_unknown_kind_does_not_add_up():
    """An outcome that is none of the three kinds is in no sum."""
    assert not totals({"lost": 1}, read=1).adds_up


def test_an_empty_batch():
    """A list without rows adds up, and takes no time."""
    empty = totals({}, read=0, seconds=0.0)
    assert empty.adds_up
    assert summary(empty).splitlines()[0] == "Batch finished"
    assert "0.0 pages per second" in summary(empty)


def test_a_list_that_was_not_read_to_its_end():
    """A batch that was closed before its list was read is not finished, though everything that was read is done."""
    closed = Totals.from_tally({"fetched": 1}, read=1, bytes=6, seconds=3.0, error=None, complete=False)
    assert summary(closed).splitlines()[0] == "Batch closed early"


def test_the_rate_is_that_of_this_run():
    """What earlier runs have fetched is in the totals, and not in the rate."""
    resumed = Totals.from_tally({"fetched": 100}, read=100, fetched_before=40, bytes=6, seconds=3.0, error=None)
    assert summary(resumed).splitlines()[-1].strip() == (
        "3.00 seconds, 20.0 pages per second, 6 bytes (this run, which fetched 60)"
    )


def test_summary():
    """The summary has the totals, each outcome, the time, the rate and the bytes."""
    lines = [line.strip() for line in summary(totals()).splitlines()]
    assert lines == [
        "Batch closed early",
        "1,515 read = 1,500 fetched + 7 failed + 5 skipped + 3 pending",
        "1,500 fetched",
        "3 failed/dns",
        "4 failed/http-404",
        "5 skipped/invalid",
        "30.00 seconds, 50.0 pages per second, 1,234,567 bytes",
    ]


@pytest.mark.parametrize(
    ("tally", "error", "heading"),
    [
        ({"fetched": 1}, None, "Batch finished"),
        ({"pending": 1}, None, "Batch closed early"),
        ({"fetched": 1}, "list.gz broke off", "Batch incomplete: list.gz broke off"),
        ({"pending": 1}, "list.gz broke off", "Batch incomplete: list.gz broke off"),
    ],
)
def test_the_summary_says_how_it_ended(tally, error, heading):
    """The first line says whether the batch finished, was closed, or is incomplete, and why."""
    assert summary(totals(tally, read=1, error=error)).splitlines()[0] == heading
