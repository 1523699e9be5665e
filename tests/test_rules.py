"""Which limits a request counts for, and who has them together with whom."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator

import pytest
from scrapy import Request, Spider
from scrapy.crawler import Crawler
from scrapy.robotstxt import ProtegoRobotParser
from scrapy.settings import Settings

from scrapy_batcher.config import Config
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.throttling.limiter import Limit
from scrapy_batcher.throttling.limiters import UnknownLimitError
from scrapy_batcher.throttling.limits import Limits
from scrapy_batcher.throttling.rules import LIMITS_KEY, Rules, limits_of, rules_of
from scrapy_batcher.values import ConfigError

LIMITS = {"x": 1, "y": 2, "site:*": 3}


def config(**settings: object) -> Config:
    return Config.from_settings(Settings({"BATCHER_LIMITS": LIMITS, **settings}))


def rules(**settings: object) -> Rules:
    made = config(**settings)
    return Rules(made, Limits(made.limits))


def target(url: str = "http://a.example/", **columns: object) -> Target:
    return Target(1, 1, url, columns)


# -- the host ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://a.example/", "host:a.example"),
        ("https://a.example/b?c", "host:a.example"),
        ("http://a.example:8080/", "host:a.example"),
        ("http://a.example", "host:a.example"),
        ("http://a.example?b=http://c.example/", "host:a.example"),
        ("http://a.example#b", "host:a.example"),
        ("http://A.Example/", "host:a.example"),
        ("http://user:password@a.example/", "host:a.example"),
        ("http://user@b.example:80@a.example/", "host:a.example"),
        ("http://www.a.example/", "host:www.a.example"),
        ("http://127.0.0.1:1/", "host:127.0.0.1"),
        ("http://[::1]:80/", "host:::1"),
        ("http://bücher.example/", "host:xn--bcher-kva.example"),
        ("http://BÜCHER.example:81/ö", "host:xn--bcher-kva.example"),
        ("http://xn--bcher-kva.example/", "host:xn--bcher-kva.example"),
        ("ftp://a.example/b", "host:a.example"),
        ("file:///a/b", "host:"),
        ("data:,a", "host:"),
    ],
)
def test_a_url_counts_for_its_host(url, key):
    """Whatever the port; and a row of the list for the same as its request."""
    assert rules().keys_of(Request(url)) == (key,)
    assert rules().keys_for(target(url)) == (key,)


@pytest.mark.parametrize("url", ["", "x", "http://[a/", "http://" + "ü" * 70 + ".example/", "http://..ü/"])
def test_what_is_no_url_counts_for_no_host(url):
    assert rules().keys_for(target(url)) == ("host:",)


def downloaded(request: Request) -> Request:
    """What Scrapy's downloader does to *request*, and we behind it."""
    request.meta.setdefault("download_slot", request.url.split("/")[2].partition(":")[0])
    rules().note_slot(request)
    return request


def test_a_slot_that_the_spider_chose_counts_instead_of_the_host():
    """Also after a redirect to another host, which takes it along, as in Scrapy itself."""
    request = Request("http://a.example/", meta={"download_slot": "slow"})
    assert rules().keys_of(request) == ("host:slow",)
    redirected = downloaded(request).replace(url="http://b.example/")
    assert rules().keys_of(redirected) == ("host:slow",)
    assert rules().keys_of(downloaded(redirected).replace(url="http://c.example/")) == ("host:slow",)


def test_a_slot_that_scrapy_wrote_does_not_count_after_a_redirect():
    """Though the meta of the redirected request has it: what goes to another host counts there."""
    request = Request("http://a.example:8080/")
    redirected = downloaded(request).replace(url="http://b.example/")
    assert redirected.meta["download_slot"] == "a.example"
    assert rules().keys_of(redirected) == ("host:b.example",)
    further = downloaded(redirected).replace(url="http://c.example/")
    assert rules().keys_of(further) == ("host:c.example",)
    assert rules().keys_of(further.replace(url="http://a.example/")) == ("host:a.example",)


def test_a_slot_that_the_spider_chose_later_counts():
    """When a request is made from another with a slot of its own, that is the spider's choice."""
    request = downloaded(Request("http://a.example/"))
    chosen = request.replace(meta={**request.meta, "download_slot": "slow"})
    assert rules().keys_of(chosen) == ("host:slow",)


# -- names of one's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        ("x", ("x",)),
        (["x", "y"], ("x", "y")),
        (("y", "x", "y"), ("y", "x")),
        ({"x"}, ("x",)),
        (frozenset(), ()),
        ([], ()),
        ("site:one", ("site:one",)),
        (["host:a.example", "x"], ("x",)),
    ],
)
def test_names_in_the_meta_of_a_request(names, keys):
    """One, or several; each counts once."""
    request = Request("http://a.example/", meta={LIMITS_KEY: names})
    assert rules().keys_of(request) == ("host:a.example", *keys)


@pytest.mark.parametrize("names", [5, True, b"x", ["x", 5], {"x": 1}, object])
def test_what_are_no_names(names):
    """They are a mistake that is said, with the place where they are."""
    complaint = f"request.meta['batcher_limits'] must be a list of names of limits, not {names!r}"
    with pytest.raises(ValueError, match=re.escape(complaint)):
        rules().keys_of(Request("http://a.example/", meta={LIMITS_KEY: names}))


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("x", ["x"]),
        ("x,y", ["x", "y"]),
        (" x , ,y, ", ["x", "y"]),
        ("", []),
        (" ", []),
        (None, []),
        (["x", " y ", ""], ["x", "y"]),
        ([], []),
        ("site:a b", ["site:a b"]),
    ],
)
def test_names_in_a_column_of_the_list(column, names):
    """With commas between, or as a list, which a line of JSON may have."""
    asked = rules(BATCHER_LIMITS_COLUMN="group")
    assert asked.names_of(target(group=column)) == names
    assert asked.keys_for(target(group=column)) == ("host:a.example", *names)


def test_a_column_that_is_not_there_names_nothing():
    """Nor does one that no setting names."""
    assert rules(BATCHER_LIMITS_COLUMN="group").names_of(target(other="x")) == []
    assert rules().keys_for(target(group="x")) == ("host:a.example",)


@pytest.mark.parametrize("column", [5, True, {"x": 1}, [1], 0])
def test_a_column_without_names(column):
    complaint = f"the column group must be a list of names of limits, not {column!r}"
    with pytest.raises(ValueError, match=re.escape(complaint)):
        rules(BATCHER_LIMITS_COLUMN="group").names_of(target(group=column))


def test_names_from_a_function():
    """It is given the request, and what it says counts beside the names in the meta."""

    def by_path(request: Request) -> object:
        return {"/x": "x", "/both": ["x", "y"], "/none": [], "/bad": 5}[request.url[len("http://a.example") :]]

    asked = rules(BATCHER_LIMITS_FUNCTION=by_path)
    for path, keys in (("/x", ("x",)), ("/both", ("x", "y")), ("/none", ())):
        assert asked.keys_of(Request(f"http://a.example{path}")) == ("host:a.example", *keys)
    request = Request("http://a.example/x", meta={LIMITS_KEY: ["y", "x"]})
    assert asked.keys_of(request) == ("host:a.example", "y", "x")
    with pytest.raises(
        ValueError, match="what BATCHER_LIMITS_FUNCTION returns must be a list of names of limits, not 5"
    ):
        asked.keys_of(Request("http://a.example/bad"))


@pytest.mark.parametrize("name", ["X", "x,y", "z", "", "site"])
def test_a_name_that_no_limit_has(name):
    """It is said where it is met, with the names that there are."""
    sentence = re.escape(
        f"there is no limit {name!r}; give it one in BATCHER_LIMITS, which has *, host:*, site:*, x, y"
    )
    with pytest.raises(UnknownLimitError, match=sentence):
        rules().keys_of(Request("http://a.example/", meta={LIMITS_KEY: [name]}))
    with pytest.raises(UnknownLimitError, match=sentence):
        rules(BATCHER_LIMITS_FUNCTION=lambda request: [name]).keys_of(Request("http://a.example/"))
    if name and "," not in name:
        with pytest.raises(UnknownLimitError, match=sentence):
            rules(BATCHER_LIMITS_COLUMN="group").keys_for(target(group=name))


# -- robots.txt --------------------------------------------------------------------------------------------------------


def robots(delay: str, agent: str = "*") -> ProtegoRobotParser:
    return ProtegoRobotParser(f"User-agent: {agent}\nCrawl-delay: {delay}\n".encode(), spider=None)


def limit_with(robots: ProtegoRobotParser, **settings: object) -> Limit:
    asked = rules(**settings)
    asked.keep_crawl_delay(Request("http://a.example:80/robots.txt"), robots)
    assert asked.limits.limit("host:b.example") == rules(**settings).limits.limit("host:b.example")
    return asked.limits.limit("host:a.example")


def test_a_crawl_delay_is_kept():
    """Of that host; with what the limit says beside, and without jitter, which would make it shorter at times."""
    assert limit_with(robots("5")) == Limit(concurrency=8, delay=5)
    assert limit_with(robots("1.5"), DOWNLOAD_DELAY=1, CONCURRENT_REQUESTS_PER_DOMAIN=2) == Limit(2, delay=1.5)


@pytest.mark.parametrize("delay", ["0", "-1", "soon", "nan", ""])
def test_a_crawl_delay_that_is_none_changes_nothing(delay):
    assert limit_with(robots(delay), DOWNLOAD_DELAY=2) == Limit(8, delay=2, jitter=0.5)


def test_a_crawl_delay_below_every_delay_changes_nothing():
    """What the project sets is longer, also with its jitter."""
    assert limit_with(robots("1"), DOWNLOAD_DELAY=2) == Limit(8, delay=2, jitter=0.5)


def test_a_crawl_delay_is_not_kept_for_ever():
    """It is no longer than a rest that a host asks for can be."""
    assert limit_with(robots("86400")).delay == 3600
    assert limit_with(robots("86400"), BATCHER_RETRY_AFTER_MAX=10).delay == 10


def test_a_crawl_delay_is_for_whom_it_is_meant():
    """By ROBOTSTXT_USER_AGENT, or else USER_AGENT."""
    for name, delay in (("mybot", 5), ("other", 0)):
        assert limit_with(robots("5", "mybot"), ROBOTSTXT_USER_AGENT=name, USER_AGENT="third").delay == delay
        assert limit_with(robots("5", "mybot"), USER_AGENT=name).delay == delay


def test_a_crawl_delay_is_of_the_slot_that_the_spider_chose():
    asked = rules()
    asked.keep_crawl_delay(Request("http://a.example/", meta={"download_slot": "slow"}), robots("5"))
    assert asked.limits.limit("host:slow").delay == 5
    assert asked.limits.limit("host:a.example").delay == 0


# -- limits of several spiders -----------------------------------------------------------------------------------------


@pytest.fixture
def others_are_gone() -> Iterator[None]:
    """What is shared is gone with the crawlers that have it."""
    yield
    gc.collect()


def crawler_with(**settings: object) -> tuple[Crawler, Config]:
    made = Settings({"BATCHER_LIMITS": LIMITS, **settings})
    return Crawler(Spider, made), Config.from_settings(made)


def test_a_crawler_has_one_set_of_rules():
    """Whoever asks for it, and another crawler another one."""
    crawler, other = crawler_with(), crawler_with()
    assert rules_of(*crawler) is rules_of(*crawler)
    assert limits_of(crawler[0]) is rules_of(*crawler).limits
    assert rules_of(*other) is not rules_of(*crawler)
    assert rules_of(*other).limits is not rules_of(*crawler).limits


def test_a_crawler_without_a_part_of_ours_has_no_limits():
    with pytest.raises(KeyError):
        limits_of(crawler_with()[0])


@pytest.mark.usefixtures("others_are_gone")
def test_crawlers_have_limits_together():
    """Those that say so; each adds those that the others do not have."""
    shared = {"BATCHER_LIMITS_SHARED": True}
    one, two = crawler_with(**shared), crawler_with(**shared, BATCHER_LIMITS={"x": 1, "z": 4})
    alone = crawler_with()
    limits = rules_of(*one).limits
    assert rules_of(*two).limits is limits
    assert rules_of(*two) is not rules_of(*one)
    assert rules_of(*alone).limits is not limits
    assert [limits.limit(name).concurrency for name in ("x", "y", "z")] == [1, 2, 4]


@pytest.mark.usefixtures("others_are_gone")
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"BATCHER_LIMITS": {"x": 5}}, "x"),
        ({"CONCURRENT_REQUESTS": 5}, "*"),
        ({"DOWNLOAD_DELAY": 5}, "host:*"),
    ],
)
def test_a_limit_that_is_another_in_another_crawler(settings, key):
    """Which of them counts cannot be known, so the second crawler does not start."""
    one = crawler_with(BATCHER_LIMITS_SHARED=True)
    two = crawler_with(BATCHER_LIMITS_SHARED=True, **settings)
    ours, theirs = two[1].limits[key], rules_of(*one).limits.limit(key)
    sentence = f"BATCHER_LIMITS_SHARED: the limit {key!r} is {ours} here, {theirs} in another spider"
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        rules_of(*two)
    assert rules_of(*one).limits.limit(key) == theirs


@pytest.mark.usefixtures("others_are_gone")
def test_shared_limits_are_gone_with_the_last_crawler_that_has_them():
    """So that spiders that run one after the other can have others."""
    one = crawler_with(BATCHER_LIMITS_SHARED=True)
    rules_of(*one)
    del one
    gc.collect()
    two = crawler_with(BATCHER_LIMITS_SHARED=True, BATCHER_LIMITS={"x": 5})
    assert rules_of(*two).limits.limit("x").concurrency == 5
