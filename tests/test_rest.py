"""What a response asks for, and what is due after a failure, becomes seconds in which a host is left alone."""

from __future__ import annotations

import math
import random
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.http import Headers

from scrapy_batcher.throttling.rest import asked_rest, backoff

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT, as in RFC 9110
ZONES = ("GMT", "", "UTC", "+0000", "-0000")


def http_date(after: float) -> str:
    """The time *after* seconds from NOW."""
    return formatdate(NOW + after, usegmt=True)


def rest(**fields: str | bytes | list[str]) -> float | None:
    """What a response with these *fields* asks for, their names with _ for -."""
    return asked_rest(Headers({name.replace("_", "-"): value for name, value in fields.items()}), NOW)


def test_a_response_without_a_word_asks_for_nothing():
    assert asked_rest(Headers(), NOW) is None
    assert rest(Date=http_date(0), Server="x") is None


# -- Retry-After -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"), [("120", 120), ("0", 0), (" 7 ", 7), ("007", 7), ("1.5", 1.5), ("2.", 2), ("9" * 300, 1e300)]
)
def test_seconds_are_what_they_say(value, seconds):
    """Retry-After as seconds is that many, with a fraction too, which some servers send, and without an upper limit."""
    assert rest(Retry_After=value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            " ",
            "-1",
            "-0",
            "+5",
            "soon",
            "nan",
            "NaN",
            "inf",
            "Infinity",
            "1e3",
            "0x10",
            "1_000",
            "1,5",
            ".5",
            "5s",
        ),
        *("9" * 400, "1, 2", "5 6", "١٢", "²", b"\xff\xfe", b"5\x00"),
        *("Sun", "Sun, 06 Nov", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:49:37 GMT"),
        *("Sun, 06 Nov 99999 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 +99999999999999999999", "-Nov-94 08:49:37 GMT"),
    ],
)
def test_nonsense_asks_for_nothing(value):
    """A Retry-After that is neither seconds nor a date is ignored."""
    assert rest(Retry_After=value) is None


@pytest.mark.parametrize(
    "value", ["Sun, 06 Nov 1994 08:50:37 GMT", "Sunday, 06-Nov-94 08:50:37 GMT", "Sun Nov  6 08:50:37 1994"]
)
def test_a_date_has_three_forms(value):
    """Each of the three forms of an HTTP date is understood, and is GMT."""
    assert rest(Retry_After=value) == 60


@pytest.mark.parametrize("zone", ZONES)
def test_a_date_is_greenwich_time(zone):
    """A date is GMT, however that is said, and also when it is not said."""
    assert rest(Retry_After=f"Sun, 06 Nov 1994 08:50:37 {zone}".strip()) == 60


def test_a_date_in_the_past_asks_for_no_time():
    assert rest(Retry_After=http_date(-1)) == 0
    assert rest(Retry_After="Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert rest(Retry_After=http_date(0)) == 0


def test_a_date_counts_from_the_response_s_own():
    """A server whose clock is an hour fast asks for the minute that it means, and so does one that is slow."""
    for offset in (3600, -3600):
        assert rest(Retry_After=http_date(offset + 60), Date=http_date(offset)) == 60
        assert rest(Retry_After=http_date(offset - 60), Date=http_date(offset)) == 0


@pytest.mark.parametrize("date", ["", "soon", "60", "Sun, 31 Feb 1994 08:49:37 GMT"])
def test_a_date_counts_from_now_when_the_response_s_own_is_no_date(date):
    assert rest(Retry_After=http_date(60), Date=date) == 60


def test_seconds_count_from_the_response():
    """The response's date does not change seconds."""
    assert rest(Retry_After="60", Date=http_date(-3600)) == 60


def test_of_several_retry_afters_the_longest_counts():
    assert rest(Retry_After=["5", http_date(60), "soon", "7"]) == 60


# -- RateLimit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ('"default";r=0;t=30', 30),
        ('"default";t=30;r=0', 30),
        ('"default"; r=0; t=30', 30),
        ("default;r=0;t=30", 30),
        ('"default";r=0;t=0', 0),
        ('"default";r=0;t=30;pk=:cj0xO3Q9MQ==:', 30),
        ('"default";acme="x;r=1,y";r=0;acme-burst;t=30;acme-t=99', 30),
        ('"default";r=1;t=30', None),
        ('"default";r=50;t=30', None),
        ('"default";r=0', None),
        ('"default";t=30', None),
        ('"default"', None),
        ("r=0;t=30", None),
        ("", None),
    ],
)
def test_a_policy_of_which_nothing_remains_asks_for_its_window(value, seconds):
    """A RateLimit item with r=0 asks for its t, in any order and whatever else it has."""
    assert rest(RateLimit=value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ('"hour";r=0;t=30,"day";r=100;t=3600', 30),
        ('"hour";r=100;t=30 , "day";r=0;t=3600', 3600),
        ('"hour";r=0;t=30, "day";r=0;t=3600', 3600),
        ('"hour";r=0, "day";t=3600', None),
        ('"hour";r=1;t=30, "day";r=1;t=3600', None),
        (['"hour";r=0;t=30', '"day";r=0;t=3600'], 3600),
    ],
)
def test_of_several_policies_the_longest_window_counts(value, seconds):
    """Of those policies of which nothing remains, on one line or on several, the longest t counts."""
    assert rest(RateLimit=value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (r'"a\";r=0;t=9,\"b";r=1;t=30', None),
        (r'"a,b;r=1;t=1\\";r=0;t=30', 30),
        ('"x;r=0;t=30";r=1;t=5', None),
        ('";r=0;t=30', None),
        ('"\\', None),
        ('"a""b";r=0;t=30', 30),
    ],
)
def test_a_policy_s_name_says_nothing(value, seconds):
    """What stands in quotation marks is a name, also commas and semicolons and quotation marks."""
    assert rest(RateLimit=value) == seconds


@pytest.mark.parametrize("r", ["-1", "+0", "", "nan", "none", '"0"', "?0", "0 0", ":MA==:"])
def test_a_number_of_units_that_is_none_is_ignored(r):
    assert rest(RateLimit=f'"default";r={r};t=30') is None
    assert rest(RateLimit=f"limit=100, remaining={r}, reset=30") is None
    assert rest(RateLimit_Remaining=r, RateLimit_Reset="30") is None


@pytest.mark.parametrize("t", ["-1", "+1", "", "nan", "inf", "soon", '"30"', "9" * 400, http_date(30)])
def test_a_window_that_is_no_number_is_ignored(t):
    assert rest(RateLimit=f'"default";r=0;t={t}') is None
    assert rest(RateLimit=f"limit=100, remaining=0, reset={t}") is None
    assert rest(RateLimit_Remaining="0", RateLimit_Reset=t) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("limit=100, remaining=0, reset=30", 30),
        ("limit=100,remaining=0,reset=30", 30),
        ("reset=30, remaining=0", 30),
        ("limit=100;w=60, remaining=0;x=1, reset=30;y=2", 30),
        (["limit=100, remaining=0", "reset=30"], 30),
        ("limit=100, remaining=1, reset=30", None),
        ("limit=100, reset=30", None),
        ("limit=100, remaining=0", None),
    ],
)
def test_the_older_ratelimit_is_understood(value, seconds):
    """RateLimit as a dictionary, as it was until draft 7, asks for its reset when remaining is 0."""
    assert rest(RateLimit=value) == seconds


@pytest.mark.parametrize(("remaining", "seconds"), [("0", 30), (" 0 ", 30), ("1", None), ("99", None)])
def test_the_oldest_fields_are_understood(remaining, seconds):
    """RateLimit-Reset is asked for when RateLimit-Remaining is 0."""
    assert rest(RateLimit_Limit="100", RateLimit_Remaining=remaining, RateLimit_Reset="30") == seconds


def test_one_of_the_oldest_fields_alone_asks_for_nothing():
    assert rest(RateLimit_Remaining="0") is None
    assert rest(RateLimit_Reset="30") is None


def test_a_reset_may_be_a_unix_time():
    """A RateLimit-Reset of decades is a time, as GitLab sends it: it counts from the response's own date, too."""
    now = 1563325077.0
    headers = Headers({"RateLimit-Remaining": "0", "RateLimit-Reset": "1563325137"})
    assert asked_rest(headers, now) == 60
    assert asked_rest(headers, now + 120) == 0
    headers["Date"] = formatdate(now + 30, usegmt=True)
    assert asked_rest(headers, now) == 30


def test_x_ratelimit_is_not_looked_at():
    assert rest(X_RateLimit_Remaining="0", X_RateLimit_Reset="30", X_RateLimit='"default";r=0;t=30') is None


def test_what_a_policy_could_be_is_not_looked_at():
    assert rest(RateLimit_Policy='"default";q=0;w=60;r=0;t=30') is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"Retry_After": "20", "RateLimit": '"default";r=0;t=30'}, 30),
        ({"Retry_After": "30", "RateLimit": '"default";r=0;t=20'}, 30),
        ({"Retry_After": "20", "RateLimit": '"default";r=15;t=40'}, 20),
        ({"Retry_After": "soon", "RateLimit": '"default";r=0;t=30'}, 30),
        ({"Retry_After": "20", "RateLimit": "nonsense"}, 20),
        ({"RateLimit": '"default";r=0;t=30', "RateLimit_Remaining": "0", "RateLimit_Reset": "40"}, 40),
        ({"RateLimit": "limit=1, remaining=0, reset=50", "RateLimit_Remaining": "0", "RateLimit_Reset": "40"}, 50),
    ],
)
def test_of_several_fields_the_longest_rest_counts(fields, seconds):
    assert rest(**fields) == seconds


# -- whatever a server sends -------------------------------------------------------------------------------------------

FIELDS = ("Retry-After", "Date", "RateLimit", "RateLimit-Remaining", "RateLimit-Reset")
PIECES = (
    *(
        '"',
        "\\",
        ";",
        ",",
        "=",
        " ",
        ":",
        "-",
        "+",
        ".",
        "0",
        "7",
        "99999999999999999999",
        "r=0",
        "t=30",
        "remaining=0",
    ),
    *("reset=30", "default", "Sun,", "Sunday,", "Sun", "06", "Nov", "1994", "94", "06-Nov-94", "08:49:37", *ZONES),
    *("+9999", "-9999", "+99999999999999", "0001", "9999", "é", "²", "(", ")"),
)
VALUES = st.binary(max_size=50) | st.lists(st.sampled_from(PIECES), max_size=12).map(lambda p: "".join(p).encode())
DATES = st.lists(st.sampled_from(PIECES), max_size=8).map(lambda p: " ".join(p).encode())


@given(st.dictionaries(st.sampled_from(FIELDS), st.lists(VALUES | DATES, max_size=3)))
def test_no_header_is_an_exception(fields):
    """Whatever bytes the fields have, the answer is None or a finite number of seconds."""
    seconds = asked_rest(Headers(fields), NOW)
    assert seconds is None or 0 <= seconds < math.inf


@given(st.integers(0, 10**9), st.integers(-(10**6), 10**6))
def test_every_date_counts_to_the_second(after, offset):
    """The rest is the difference of the response's two dates, whatever the clock here says."""
    assert rest(Retry_After=http_date(offset + after), Date=http_date(offset)) == after


@given(st.integers(0, 5), st.integers(0, 10**6), st.integers(0, 5), st.integers(0, 10**6))
def test_the_forms_of_ratelimit_agree(r, t, other_r, other_t):
    """A policy means the same in each form that it can have, and two policies the longer of what each asks for."""
    one, other = (f'"one";r={r};t={t}', f'"other";r={other_r};t={other_t}')
    expected = t if r == 0 else None
    assert rest(RateLimit=one) == expected
    assert rest(RateLimit=f"limit=100, remaining={r}, reset={t}") == expected
    assert rest(RateLimit_Remaining=str(r), RateLimit_Reset=str(t)) == expected
    asked = [seconds for seconds in (expected, rest(RateLimit=other)) if seconds is not None]
    assert rest(RateLimit=f"{one}, {other}") == max(asked, default=None)


@pytest.mark.parametrize(
    "piece", ['"', '\\"', '"\\', '"\\"', ";", ",", "r=0", '";', '",', "1", "1.", " ", "r=0;t=1,", "=", "("]
)
@pytest.mark.parametrize("field", ["RateLimit", "Retry-After", "RateLimit-Reset"])
def test_a_long_header_takes_linear_time(field, piece):
    """No header, whatever it repeats, takes long: quadratic time would take minutes."""
    asked_rest(Headers({field: piece * (300_000 // len(piece)), "RateLimit-Remaining": "0"}), NOW)


# -- backoff -----------------------------------------------------------------------------------------------------------


def test_backoff_doubles_up_to_its_limit():
    """With the highest jitter each wait is twice the one before; with the lowest it is half of that."""
    assert [backoff(times, 2, 60, lambda: 1.0) for times in range(1, 9)] == [2, 4, 8, 16, 32, 60, 60, 60]
    assert [backoff(times, 2, 60, lambda: 0.0) for times in range(1, 9)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff(3, 2, 60, lambda: 0.5) == 6


def test_backoff_is_never_above_its_limit():
    """Not even the first wait is, when it would be longer."""
    assert backoff(1, 100, 60, lambda: 0.0) == 30
    assert backoff(1, 100, 60, lambda: 1.0) == 60


@pytest.mark.parametrize("first", [1e-3, 1, 1e300])
def test_backoff_after_ten_thousand_failures_is_its_limit(first):
    assert backoff(10_000, first, 3600, lambda: 1.0) == 3600


def test_backoff_is_uniform():
    """Each quarter of the range has a quarter of the waits."""
    draw = random.Random(1).random
    waits = [backoff(1, 8, 60, draw) for _ in range(4000)]
    for quarter in range(4):
        assert 900 < sum(4 + quarter <= wait < 5 + quarter for wait in waits) < 1100


SECONDS = st.floats(1e-3, 1e6)


@given(st.integers(1, 20_000), SECONDS, SECONDS, st.floats(0, 1, exclude_max=True))
def test_backoff_stays_in_its_bounds(times, first, most, jitter):
    """A wait is between half of what it is without jitter and all of it, and that is first, doubled, or most."""
    doubled = first * 2 ** min(times - 1, 100)
    assert min(doubled, most) / 2 <= backoff(times, first, most, lambda: jitter) <= min(doubled, most)
