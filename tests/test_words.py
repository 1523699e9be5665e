"""Numbers as people read them, and axes with round ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_batcher.reports.axes import latency_axis, number_axis, time_axis
from scrapy_batcher.reports.words import duration, latency, moment, rate, share, short, size


@pytest.mark.parametrize(
    ("function", "number", "text"),
    [
        (duration, 0, "0 s"),
        (duration, 0.0004, "0.40 ms"),
        (duration, 2.34, "2.3 s"),
        (duration, 59.6, "1 min"),
        (duration, 250, "4 min 10 s"),
        (duration, 3600, "1 h"),
        (duration, 90061, "1 d 1 h"),
        (latency, 0.9996, "1.0 s"),
        (latency, 0.0123, "12 ms"),
        (latency, 12.3, "12 s"),
        (size, 999, "999 bytes"),
        (size, 1234, "1.2 kB"),
        (size, 999_600, "1.0 MB"),
        (size, 5e15, "5,000 TB"),
        (rate, 0, "0.0"),
        (rate, 0.0333, "0.033"),
        (rate, 0.096, "0.1"),
        (rate, 99.94, "99.9"),
        (rate, 12345.6, "12,346"),
        (short, 0, "0"),
        (short, 2500, "2,500"),
        (short, 25_000, "25 k"),
        (short, 2_500_000, "2.5 M"),
        (share, 0, "0 %"),
        (moment, 0, "1 January 1970, 00:00 UTC"),
    ],
)
def test_figures(function, number, text):
    """A number is written so."""
    assert (function(number, 100) if function is share else function(number)) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(1, "0.1 %"), (0.5, "under 0.1 %"), (333, "33.3 %"), (500, "50 %"), (999.5, "over 99.9 %"), (1000, "100 %")],
)
def test_a_share_is_nothing_or_all_only_when_it_is(part, text):
    """Neither nothing nor all is written of what is a little more, or less."""
    assert share(part, 1000) == text


@given(st.floats(0, 1e12), st.booleans())
def test_an_axis_of_numbers(most, whole):
    """It begins at 0, has room for all of it, not much more, and a few round ticks, all of them different."""
    axis = number_axis(most, whole=whole)
    values = [value for value, _ in axis.ticks]
    assert values[0] == axis.low == 0
    assert values[-1] == axis.high
    assert axis.high >= most * 0.998
    assert axis.high <= max(most * 2.1, 4)
    assert 2 <= len(values) <= 6
    if most > 1e-6:
        assert len({label for _, label in axis.ticks}) == len(values)
    if whole:
        assert all(value == int(value) for value in values)


@given(st.floats(0, 4e9), st.floats(1, 3e8))
def test_an_axis_of_times(begin, seconds):
    """It has a few ticks, all of them different, within it."""
    axis = time_axis(begin, begin + seconds)
    assert 1 <= len(axis.ticks) <= 6
    assert all(begin <= value <= begin + seconds for value, _ in axis.ticks)
    assert len({label for _, label in axis.ticks}) == len(axis.ticks)


@given(st.floats(1e-4, 1e4), st.floats(1.2, 1e6))
def test_an_axis_of_latencies(low, times):
    """It has a few ticks, within it, and each is farther to the right."""
    axis = latency_axis(low, low * times)
    assert 1 <= len(axis.ticks) <= 5
    assert axis.at(low) >= -1e-9
    assert axis.at(low * times) <= 1 + 1e-9
    places = [axis.at(value) for value, _ in axis.ticks]
    assert places == sorted(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)


def test_what_times_are_called():
    """A time of day, with seconds when these matter; a day at midnight."""
    day = 1_700_006_400  # 15 November 2023
    assert [label for _, label in time_axis(day - 20, day + 20).ticks] == [
        "23:59:40", "23:59:50", "15 Nov", "00:00:10", "00:00:20"
    ]  # fmt: skip
    assert [label for _, label in time_axis(day - 7200, day + 7200).ticks][:2] == ["22:00", "23:00"]
    assert [label for _, label in time_axis(day, day + 3 * 86400).ticks][:2] == ["15 Nov", "16 Nov"]
