"""Every setting: its default, its meaning, its complaint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scrapy import Request
from scrapy.settings import BaseSettings, Settings

from scrapy_batcher.config import FIELDS, Config, ConfigError
from scrapy_batcher.throttling.limiter import Limit


def config(**settings) -> Config:
    return Config.from_settings(Settings(settings))


LIMITS = {"*": Limit(concurrency=16), "host:*": Limit(concurrency=8, jitter=0.5)}


def test_defaults():
    """Without a setting, the values are the defaults, which are Scrapy's where the setting is Scrapy's."""
    assert Config.from_settings(BaseSettings()) == Config(limits=LIMITS)
    assert config(USER_AGENT="x") == Config(
        enabled=True, fields=("url", "length", "content", "base64"), columns=True,
        schemes=frozenset({"http", "https"}), skip_duplicates=False,
        failures=None, bodies=None, bodies_names="hash", warc=None,
        checkpoint_targets=1000, checkpoint_seconds=1.0,
        limits=LIMITS, limits_column=None, limits_function=None, limits_shared=False, adaptive=False,
        rest=True, rest_statuses=frozenset({429, 503}), rest_seconds=1.0, rest_max=300.0, retry_after_max=3600.0,
        failing_rest_max=10.0, failing_give_up=0, retry_seconds=1.0, retry_max=60.0, deadline=0.0,
        jobdir=None, concurrency=16, timeout=180.0, obeys_robots=False, robots_user_agent="x", autothrottle=False,
        url_length=2083, progress="auto", log_seconds=60.0, logs_to_file=False,
    )  # fmt: skip


def by_path(request: Request) -> list[str]:
    """A function for BATCHER_LIMITS_FUNCTION."""
    return [request.url.rpartition("/")[2]]


@pytest.mark.parametrize(
    ("name", "value", "attribute", "meaning"),
    [
        ("BATCHER_ENABLED", "0", "enabled", False),
        ("BATCHER_ENABLED", "true", "enabled", True),
        ("BATCHER_FIELDS", ["status", "headers"], "fields", ("status", "headers")),
        ("BATCHER_FIELDS", "status, final_url,status,", "fields", ("status", "final_url")),
        ("BATCHER_FIELDS", FIELDS[:-1], "fields", FIELDS[:-1]),
        ("BATCHER_FIELDS", None, "fields", ("url", "length", "content", "base64")),
        ("BATCHER_BODIES", "pages", "bodies", "pages"),
        ("BATCHER_BODIES", "pages", "fields", ("url", "length", "path", "sha256")),
        ("BATCHER_BODIES", Path("a/b"), "bodies", str(Path("a/b"))),
        ("BATCHER_BODIES_NAMES", "host", "bodies_names", "host"),
        ("BATCHER_BODIES_NAMES", "{host}/{id:08}{ext}", "bodies_names", "{host}/{id:08}{ext}"),
        ("BATCHER_WARC", "out.warc.gz", "warc", "out.warc.gz"),
        ("BATCHER_COLUMNS", "False", "columns", False),
        ("BATCHER_SCHEMES", "HTTP, ftp", "schemes", {"http", "ftp"}),
        ("BATCHER_SCHEMES", {"file"}, "schemes", {"file"}),
        ("BATCHER_SKIP_DUPLICATES", 1, "skip_duplicates", True),
        ("BATCHER_FAILURES", "failures.jsonl", "failures", "failures.jsonl"),
        ("BATCHER_FAILURES", Path("a/b"), "failures", str(Path("a/b"))),
        ("BATCHER_FAILURES", "", "failures", None),
        ("BATCHER_FAILURES", False, "failures", None),
        ("BATCHER_CHECKPOINT_TARGETS", "1", "checkpoint_targets", 1),
        ("BATCHER_CHECKPOINT_SECONDS", "0.5", "checkpoint_seconds", 0.5),
        ("JOBDIR", Path("jobs/a"), "jobdir", "jobs/a"),
        ("CONCURRENT_REQUESTS", "50", "concurrency", 50),
        ("CONCURRENT_REQUESTS", 0, "concurrency", 0),
        ("CONCURRENT_REQUESTS", 32.0, "concurrency", 32),
        ("BATCHER_SHARD_BY", "url", "shard_by", "url"),
        ("BATCHER_PROGRESS", "none", "progress", "none"),
        ("LOGSTATS_INTERVAL", "0", "log_seconds", 0),
        ("LOGSTATS_INTERVAL", "30", "log_seconds", 30),
        ("LOG_FILE", "batch.log", "logs_to_file", True),
        ("LOG_FILE", None, "logs_to_file", False),
        ("BATCHER_LIMITS_COLUMN", "group", "limits_column", "group"),
        ("BATCHER_LIMITS_COLUMN", "", "limits_column", None),
        ("BATCHER_LIMITS_FUNCTION", by_path, "limits_function", by_path),
        ("BATCHER_LIMITS_FUNCTION", f"{__name__}.by_path", "limits_function", by_path),
        ("BATCHER_LIMITS_FUNCTION", "", "limits_function", None),
        ("BATCHER_LIMITS_SHARED", "True", "limits_shared", True),
        ("BATCHER_ADAPTIVE", "1", "adaptive", True),
        ("BATCHER_REST", "0", "rest", False),
        ("BATCHER_REST_STATUSES", "429, 503,999", "rest_statuses", {429, 503, 999}),
        ("BATCHER_REST_STATUSES", [403, "429"], "rest_statuses", {403, 429}),
        ("BATCHER_REST_STATUSES", (), "rest_statuses", set()),
        ("BATCHER_REST_STATUSES", None, "rest_statuses", {429, 503}),
        ("BATCHER_REST_SECONDS", "0.5", "rest_seconds", 0.5),
        ("BATCHER_REST_MAX", "60", "rest_max", 60),
        ("BATCHER_RETRY_AFTER_MAX", 86400, "retry_after_max", 86400),
        ("BATCHER_FAILING_REST_MAX", 2.5, "failing_rest_max", 2.5),
        ("BATCHER_FAILING_GIVE_UP", "5", "failing_give_up", 5),
        ("BATCHER_RETRY_SECONDS", "0", "retry_seconds", 0),
        ("BATCHER_RETRY_SECONDS", 5, "retry_seconds", 5),
        ("BATCHER_RETRY_MAX", "600", "retry_max", 600),
        ("BATCHER_DEADLINE", "30", "deadline", 30),
        ("BATCHER_DEADLINE", 0, "deadline", 0),
        ("BATCHER_METRICS", 9410, "metrics", ("127.0.0.1", 9410)),
        ("BATCHER_METRICS", "9410", "metrics", ("127.0.0.1", 9410)),
        ("BATCHER_METRICS", "0", "metrics", ("127.0.0.1", 0)),
        ("BATCHER_METRICS", 0, "metrics", ("127.0.0.1", 0)),
        ("BATCHER_METRICS", "0.0.0.0:65535", "metrics", ("0.0.0.0", 65535)),
        ("BATCHER_METRICS", "my-host.example:9410", "metrics", ("my-host.example", 9410)),
        ("BATCHER_METRICS", "[::1]:9410", "metrics", ("::1", 9410)),
        ("BATCHER_METRICS", "a/batch.prom", "metrics", Path("a/batch.prom")),
        ("BATCHER_METRICS", Path("batch.prom"), "metrics", Path("batch.prom")),
        ("BATCHER_METRICS", "", "metrics", None),
        ("BATCHER_METRICS", False, "metrics", None),
        ("BATCHER_METRICS_SECONDS", "60", "metrics_seconds", 60),
        ("DOWNLOAD_TIMEOUT", "2.5", "timeout", 2.5),
        ("DOWNLOAD_TIMEOUT", 0, "timeout", 0),
        ("ROBOTSTXT_OBEY", "True", "obeys_robots", True),
        ("ROBOTSTXT_USER_AGENT", "mybot", "robots_user_agent", "mybot"),
        ("USER_AGENT", "mybot/1.0", "robots_user_agent", "mybot/1.0"),
        ("USER_AGENT", None, "robots_user_agent", "*"),
        ("AUTOTHROTTLE_ENABLED", "1", "autothrottle", True),
        ("BATCHER_ENABLED", None, "enabled", True),
        ("BATCHER_SCHEMES", None, "schemes", {"http", "https"}),
        ("URLLENGTH_LIMIT", "0", "url_length", 0),
    ],
)
def test_meanings(name, value, attribute, meaning):
    """A setting means the same from Python and, as text, from the command line."""
    assert getattr(config(**{name: value}), attribute) == meaning


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("BATCHER_ENABLED", "yes", "BATCHER_ENABLED must be True or False, not 'yes'"),
        ("BATCHER_COLUMNS", [], "BATCHER_COLUMNS must be True or False, not []"),
        ("BATCHER_SKIP_DUPLICATES", "", "BATCHER_SKIP_DUPLICATES must be True or False, not ''"),
        ("BATCHER_FIELDS", "status,colour", "BATCHER_FIELDS has 'colour'; choose from url, length, content, "),
        ("BATCHER_FIELDS", "", "BATCHER_FIELDS must name a field, not ''"),
        ("BATCHER_FIELDS", "path", "BATCHER_FIELDS has 'path', which is that of a file in the folder BATCHER_BODIES: "),
        ("BATCHER_BODIES", True, "BATCHER_BODIES must be a path, not True"),
        ("BATCHER_BODIES_NAMES", 5, "BATCHER_BODIES_NAMES 5: it must be a template such as {host}/"),
        ("BATCHER_BODIES_NAMES", "/{id}", "BATCHER_BODIES_NAMES '/{id}': it begins or ends with a slash"),
        ("BATCHER_BODIES_NAMES", "page.html", "BATCHER_BODIES_NAMES 'page.html': it has no field"),
        ("BATCHER_BODIES_NAMES", "{id", "BATCHER_BODIES_NAMES '{id': "),
        ("BATCHER_BODIES_NAMES", "{}", "BATCHER_BODIES_NAMES '{}': a field in braces is a name"),
        ("BATCHER_BODIES_NAMES", "{url!r}", "BATCHER_BODIES_NAMES '{url!r}': a field in braces is a name"),
        ("BATCHER_BODIES_NAMES", "{id:8s}", "BATCHER_BODIES_NAMES '{id:8s}': id 1 cannot be shown as 8s: "),
        ("BATCHER_BODIES_NAMES", "{sha256:d}", "BATCHER_BODIES_NAMES '{sha256:d}': sha256 '' cannot be shown as d: "),
        ("BATCHER_BODIES_NAMES", "{id:{line}}", "BATCHER_BODIES_NAMES '{id:{line}}': a field in braces is a name"),
        ("BATCHER_WARC", 5, "BATCHER_WARC must be a path, not 5"),
        ("BATCHER_FIELDS", 5, "BATCHER_FIELDS must be a list of names, not 5"),
        ("BATCHER_FIELDS", [b"status"], "BATCHER_FIELDS must be a list of names, not [b'status']"),
        ("BATCHER_SCHEMES", "", "BATCHER_SCHEMES must name a scheme, not ''"),
        ("BATCHER_SCHEMES", [], "BATCHER_SCHEMES must name a scheme, not []"),
        ("BATCHER_SCHEMES", "https://", "BATCHER_SCHEMES has 'https://', which is not a URL scheme"),
        ("BATCHER_SCHEMES", True, "BATCHER_SCHEMES must be a list of names, not True"),
        ("BATCHER_FAILURES", True, "BATCHER_FAILURES must be a path, not True"),
        ("BATCHER_METRICS_SECONDS", 0, "BATCHER_METRICS_SECONDS must be a number of seconds above 0, not 0"),
        ("BATCHER_SHARD_BY", "domain", "BATCHER_SHARD_BY must be one of host, url, not 'domain'"),
        ("BATCHER_SHARD_BY", ["url"], "BATCHER_SHARD_BY must be one of host, url, not ['url']"),
        ("BATCHER_CHECKPOINT_TARGETS", 0, "BATCHER_CHECKPOINT_TARGETS must be at least 1, not 0"),
        ("BATCHER_CHECKPOINT_SECONDS", "0", "BATCHER_CHECKPOINT_SECONDS must be a number of seconds above 0, not '0'"),
        ("BATCHER_CHECKPOINT_SECONDS", "soon", "BATCHER_CHECKPOINT_SECONDS must be a number of seconds above 0, not"),
        ("BATCHER_CHECKPOINT_SECONDS", float("inf"), "BATCHER_CHECKPOINT_SECONDS must be a number of seconds above 0"),
        ("CONCURRENT_REQUESTS", "many", "CONCURRENT_REQUESTS must be a whole number, not 'many'"),
        ("CONCURRENT_REQUESTS", -1, "CONCURRENT_REQUESTS must be at least 0, not -1"),
        ("CONCURRENT_REQUESTS", 1.5, "CONCURRENT_REQUESTS must be a whole number, not 1.5"),
        ("CONCURRENT_REQUESTS", float("inf"), "CONCURRENT_REQUESTS must be a whole number, not inf"),
        ("CONCURRENT_REQUESTS", float("nan"), "CONCURRENT_REQUESTS must be a whole number, not nan"),
        ("CONCURRENT_REQUESTS", [], "CONCURRENT_REQUESTS must be a whole number, not []"),
        ("CONCURRENT_REQUESTS_PER_DOMAIN", "0", "CONCURRENT_REQUESTS_PER_DOMAIN must be at least 1, not '0'"),
        ("DOWNLOAD_SLOTS", {"h": {"concurrency": 0}}, "DOWNLOAD_SLOTS['h']['concurrency'] must be at least 1, not 0"),
        ("DOWNLOAD_SLOTS", {"h": 5}, "DOWNLOAD_SLOTS must be a dictionary of dictionaries, not {'h': 5}"),
        ("URLLENGTH_LIMIT", "x", "URLLENGTH_LIMIT must be a whole number, not 'x'"),
        ("DOWNLOAD_SLOTS", {"h": {"delay": "x"}}, "DOWNLOAD_SLOTS['h']['delay'] must be a number from 0, not 'x'"),
        ("DOWNLOAD_SLOTS", {"h": {"delay": -1}}, "DOWNLOAD_SLOTS['h']['delay'] must be a number from 0, not -1"),
        ("DOWNLOAD_SLOTS", {"h": {"jitter": None}}, "DOWNLOAD_SLOTS['h']['jitter'] must be a number from 0, not None"),
        ("DOWNLOAD_DELAY", -1, "DOWNLOAD_DELAY must be a number of seconds, not -1"),
        ("DOWNLOAD_DELAY", "soon", "DOWNLOAD_DELAY must be a number of seconds, not 'soon'"),
        ("DOWNLOAD_DELAY_JITTER", -0.5, "DOWNLOAD_DELAY_JITTER must be a number of seconds, not -0.5"),
        ("RANDOMIZE_DOWNLOAD_DELAY", "x", "RANDOMIZE_DOWNLOAD_DELAY must be True or False, not 'x'"),
        ("DOWNLOAD_TIMEOUT", "x", "DOWNLOAD_TIMEOUT must be a number of seconds, not 'x'"),
        ("ROBOTSTXT_OBEY", "x", "ROBOTSTXT_OBEY must be True or False, not 'x'"),
        ("AUTOTHROTTLE_ENABLED", "x", "AUTOTHROTTLE_ENABLED must be True or False, not 'x'"),
        ("BATCHER_LIMITS", "x=5", "BATCHER_LIMITS must be a dictionary, not 'x=5'"),
        ("BATCHER_LIMITS", [5], "BATCHER_LIMITS must be a dictionary, not [5]"),
        ("BATCHER_LIMITS", {"x": 0}, "BATCHER_LIMITS['x']['concurrency'] must be at least 1, not 0"),
        ("BATCHER_LIMITS", {"x": "30/m"}, "BATCHER_LIMITS['x']['concurrency'] must be a whole number, not '30/m'"),
        ("BATCHER_LIMITS", {"x": None}, "BATCHER_LIMITS['x']['concurrency'] must be a whole number, not None"),
        ("BATCHER_LIMITS", {"*": {"burst": 0.5}}, "BATCHER_LIMITS['*']['burst'] must be a whole number, not 0.5"),
        ("BATCHER_LIMITS", {"x": {"delay": -1}}, "BATCHER_LIMITS['x']['delay'] must be a number from 0, not -1"),
        ("BATCHER_LIMITS", {"x": {"jitter": "x"}}, "BATCHER_LIMITS['x']['jitter'] must be a number from 0, not 'x'"),
        (
            *("BATCHER_LIMITS", {"host:*": {"rates": 5}}),
            "BATCHER_LIMITS['host:*'] has 'rates'; choose from concurrency, rate, burst, delay, jitter",
        ),
        ("BATCHER_LIMITS_COLUMN", 5, "BATCHER_LIMITS_COLUMN must be a name, not 5"),
        (
            *("BATCHER_LIMITS_FUNCTION", 5),
            "BATCHER_LIMITS_FUNCTION must be a function or the path to import one from, not 5",
        ),
        ("BATCHER_LIMITS_FUNCTION", "os.sep", "BATCHER_LIMITS_FUNCTION must be a function or the path to import one"),
        ("BATCHER_LIMITS_FUNCTION", "by_path", "BATCHER_LIMITS_FUNCTION 'by_path' cannot be imported: "),
        ("BATCHER_LIMITS_FUNCTION", "os.xyzzy", "BATCHER_LIMITS_FUNCTION 'os.xyzzy' cannot be imported: "),
        ("BATCHER_LIMITS_FUNCTION", "xyzzy.x", "BATCHER_LIMITS_FUNCTION 'xyzzy.x' cannot be imported: "),
        ("BATCHER_LIMITS_SHARED", "x", "BATCHER_LIMITS_SHARED must be True or False, not 'x'"),
        ("BATCHER_ADAPTIVE", "x", "BATCHER_ADAPTIVE must be True or False, not 'x'"),
        ("BATCHER_REST", "x", "BATCHER_REST must be True or False, not 'x'"),
        ("BATCHER_REST_STATUSES", "429,busy", "BATCHER_REST_STATUSES must be a whole number, not 'busy'"),
        ("BATCHER_REST_STATUSES", [42], "BATCHER_REST_STATUSES must be at least 100, not 42"),
        ("BATCHER_REST_STATUSES", 429, "BATCHER_REST_STATUSES must be a list of HTTP statuses, not 429"),
        ("BATCHER_REST_SECONDS", 0, "BATCHER_REST_SECONDS must be a number of seconds above 0, not 0"),
        ("BATCHER_REST_MAX", "x", "BATCHER_REST_MAX must be a number of seconds above 0, not 'x'"),
        ("BATCHER_RETRY_AFTER_MAX", -1, "BATCHER_RETRY_AFTER_MAX must be a number of seconds above 0, not -1"),
        ("BATCHER_FAILING_REST_MAX", "0", "BATCHER_FAILING_REST_MAX must be a number of seconds above 0, not '0'"),
        ("BATCHER_FAILING_GIVE_UP", -1, "BATCHER_FAILING_GIVE_UP must be at least 0, not -1"),
        ("BATCHER_FAILING_GIVE_UP", 2.5, "BATCHER_FAILING_GIVE_UP must be a whole number, not 2.5"),
        ("BATCHER_RETRY_SECONDS", -1, "BATCHER_RETRY_SECONDS must be a number of seconds, not -1"),
        ("BATCHER_RETRY_MAX", 0, "BATCHER_RETRY_MAX must be a number of seconds above 0, not 0"),
        ("BATCHER_DEADLINE", "1h", "BATCHER_DEADLINE must be a number of seconds, not '1h'"),
        ("BATCHER_PROGRESS", "bars", "BATCHER_PROGRESS must be one of auto, bar, lines, none, not 'bars'"),
        ("BATCHER_PROGRESS", False, "BATCHER_PROGRESS must be one of auto, bar, lines, none, not False"),
        ("LOGSTATS_INTERVAL", "often", "LOGSTATS_INTERVAL must be a number of seconds, not 'often'"),
        ("BATCHER_FIELD", "status", "there is no setting BATCHER_FIELD; did you mean BATCHER_FIELDS?"),
        ("BATCHER_QQQQQQQQQQQQ", 1, "there is no setting BATCHER_QQQQQQQQQQQQ; the settings are BATCHER_ENABLED, "),
    ],
)
def test_complaints(name, value, complaint):
    """A value that cannot be used is refused with the setting's name and the value."""
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        config(**{name: value})


# -- the limits --------------------------------------------------------------------------------------------------------


def limits(**settings) -> dict[str, Limit]:
    return dict(config(**settings).limits)


def test_scrapys_own_settings_are_limits():
    """Of everything, of each host, and of single download slots, which have the rest from each host."""
    slots = {
        "a.example": {"concurrency": "2", "delay": 1},
        "b.example": {"jitter": 0.25},
        "c": {"randomize_delay": False},
        "d": {"randomize_delay": True, "jitter": 0.1},
        "e": {},
    }
    settings = {"CONCURRENT_REQUESTS": "50", "CONCURRENT_REQUESTS_PER_DOMAIN": 4, "DOWNLOAD_DELAY": "0.5"}
    for given in (slots, json.dumps(slots)):
        assert limits(DOWNLOAD_SLOTS=given, **settings) == {
            "*": Limit(50),
            "host:*": Limit(4, delay=0.5, jitter=0.5),
            "host:a.example": Limit(2, delay=1, jitter=0.5),
            "host:b.example": Limit(4, delay=0.5, jitter=0.25),
            "host:c": Limit(4, delay=0.5, jitter=0),
            "host:d": Limit(4, delay=0.5, jitter=0.1),
            "host:e": Limit(4, delay=0.5, jitter=0.5),
        }
    assert limits(DOWNLOAD_SLOTS=None) == limits(DOWNLOAD_SLOTS={}) == LIMITS
    assert limits(CONCURRENT_REQUESTS=0)["*"] == Limit()


@pytest.mark.parametrize(
    ("settings", "jitter"),
    [
        ({}, 0.5),
        ({"DOWNLOAD_DELAY_JITTER": 0.1}, 0.1),
        ({"DOWNLOAD_DELAY_JITTER": "0"}, 0),
        ({"DOWNLOAD_DELAY_JITTER": 2}, 2),
        ({"RANDOMIZE_DOWNLOAD_DELAY": False}, 0),
        ({"RANDOMIZE_DOWNLOAD_DELAY": "True"}, 0.5),
        ({"RANDOMIZE_DOWNLOAD_DELAY": False, "DOWNLOAD_DELAY_JITTER": 0.1}, 0.1),
    ],
)
def test_a_download_delay_has_the_jitter_that_scrapy_gives_it(settings, jitter):
    """By either of its two settings, the newer one if both are set."""
    assert limits(DOWNLOAD_DELAY=2, **settings)["host:*"] == Limit(8, delay=2, jitter=jitter)


def test_the_older_setting_of_the_jitter_counts_where_it_was_set_more_specifically():
    settings = Settings({"DOWNLOAD_DELAY_JITTER": 0.1})
    settings.set("RANDOMIZE_DOWNLOAD_DELAY", "False", priority="cmdline")
    assert Config.from_settings(settings).limits["host:*"].jitter == 0


def test_with_autothrottle_there_is_no_delay():
    """Scrapy sets it as it goes; what single slots or BATCHER_LIMITS say counts."""
    settings = {"AUTOTHROTTLE_ENABLED": True, "DOWNLOAD_DELAY": 2, "DOWNLOAD_SLOTS": {"a": {"delay": 1}}}
    assert limits(**settings) == {"*": Limit(16), "host:*": Limit(8), "host:a": Limit(8, delay=1)}
    assert limits(**settings, BATCHER_LIMITS={"host:*": {"delay": 3}})["host:*"] == Limit(8, delay=3)


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        (5, Limit(5)),
        ("5", Limit(5)),
        (5.0, Limit(5)),
        ({}, Limit()),
        ({"concurrency": "5"}, Limit(5)),
        ({"rate": 2}, Limit(rate=2)),
        ({"rate": "0.5"}, Limit(rate=0.5)),
        ({"rate": "30/m"}, Limit(rate=0.5)),
        ({"rate": "30/min"}, Limit(rate=0.5)),
        ({"rate": "30/minute"}, Limit(rate=0.5)),
        ({"rate": "10/s"}, Limit(rate=10)),
        ({"rate": "10/sec"}, Limit(rate=10)),
        ({"rate": "10/second"}, Limit(rate=10)),
        ({"rate": "1800/h"}, Limit(rate=0.5)),
        ({"rate": " 1800 / hour "}, Limit(rate=0.5)),
        ({"rate": "1.5/s", "burst": "3"}, Limit(rate=1.5, burst=3)),
        ({"delay": "1.5", "jitter": 0}, Limit(delay=1.5)),
        ({"delay": 0, "jitter": "2"}, Limit(jitter=2)),
    ],
)
def test_limits_of_ones_own(value, limit):
    """A number is so many at once; a dictionary has the fields of a limit; as text from the command line both too."""
    for given in ({"x": value}, json.dumps({"x": value})):
        assert limits(BATCHER_LIMITS=given) == {**LIMITS, "x": limit}


@pytest.mark.parametrize(
    "rate",
    [
        *("30/", "/m", "30/day", "30/ms", "30/M", "1e3/s", "-1/s", "0/s", "30/m/s", "30 a minute", "x", ""),
        *(0, -1, None, float("inf"), float("nan"), [5], "9" * 400 + "/s", "0." + "0" * 400 + "1/s"),
    ],
)
def test_rates_that_are_none(rate):
    complaint = f"BATCHER_LIMITS['x']['rate'] must be a number a second, or as in '30/minute', not {rate!r}"
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        config(BATCHER_LIMITS={"x": {"rate": rate}})


def test_limits_of_ones_own_come_on_top_of_scrapys():
    """Field by field; a host or slot has the rest from each host, a name of one's own has nothing from anywhere."""
    assert limits(
        CONCURRENT_REQUESTS=50,
        CONCURRENT_REQUESTS_PER_DOMAIN=4,
        DOWNLOAD_DELAY=2,
        DOWNLOAD_SLOTS={"a": {"concurrency": 1}, "b": {"concurrency": 1}},
        BATCHER_LIMITS={
            "x": {"burst": 2},
            "host:b": {"concurrency": 3},
            "host:a": {"jitter": 0},
            "*": {"rate": 10},
            "host:c": {},
            "host:*": {"delay": 1, "rate": "30/m"},
        },
    ) == {
        "*": Limit(50, rate=10),
        "host:*": Limit(4, rate=0.5, delay=1, jitter=0.5),
        "host:a": Limit(1, rate=0.5, delay=1),
        "host:b": Limit(3, rate=0.5, delay=1, jitter=0.5),
        "host:c": Limit(4, rate=0.5, delay=1, jitter=0.5),
        "x": Limit(burst=2),
    }
    assert limits(BATCHER_LIMITS={"*": 5, "host:*": 1}) == {"*": Limit(5), "host:*": Limit(1, jitter=0.5)}


@pytest.mark.parametrize(
    "value",
    [
        *(
            "localhost",
            ":9410",
            "::1:9410",
            "[::1]",
            "http://localhost:9410",
            "localhost:http",
            "65536",
            "1:2:3",
            "-1",
            "\N{SNOWMAN}.example:1",
        ),
        *("metrics.txt", ".prom", "a b:1", True, 9410.0, -1, b"9410", ["9410"]),
    ],
)
def test_places_where_there_can_be_no_metrics(value):
    complaint = f"or the path of a file that ends in .prom, not {value!r}"
    with pytest.raises(ConfigError, match=f"^BATCHER_METRICS must be a port, .*{re.escape(complaint)}$"):
        config(BATCHER_METRICS=value)


def test_the_config_cannot_be_changed():
    """A setting is read once; nobody changes it behind the others' backs."""
    with pytest.raises(AttributeError):
        config().enabled = False


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("HOST:*", 1),
        ("*host", 1),
        ("host:127.0.0.1:8765", 1),
        ("host:http://a.example/", 1),
        (5, 1),
        ("host:*", True),
        ("host:*", {"concurrency": True}),
    ],
)
def test_limits_that_would_limit_nothing(key: object, entry: object) -> None:
    """They are mistakes, which are said rather than passed over."""
    with pytest.raises(ConfigError, match="BATCHER_LIMITS"):
        Config.from_settings(Settings({"BATCHER_LIMITS": {key: entry}}))
