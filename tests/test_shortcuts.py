"""Each shortcut does what the method of Scrapy's does that it stands for."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_twisted import ensureDeferred
from scrapy import Request
from scrapy.downloadermiddlewares.cookies import CookiesMiddleware
from scrapy.downloadermiddlewares.httpauth import HttpAuthMiddleware
from scrapy.downloadermiddlewares.redirect import MetaRefreshMiddleware
from scrapy.downloadermiddlewares.stats import DownloaderStats
from scrapy.downloadermiddlewares.useragent import UserAgentMiddleware
from scrapy.http import HtmlResponse, Response, TextResponse
from scrapy.http.cookies import CookieJar
from scrapy.statscollectors import MemoryStatsCollector

from scrapy_batcher import BatchSpider
from scrapy_batcher.adapters.shortcuts import shortcut
from tests.crawling import Pages, make_crawler, run
from tests.mockserver import MockServer

CLASSES = [DownloaderStats, CookiesMiddleware, MetaRefreshMiddleware]


def pair(cls: type, **settings: Any) -> tuple[Any, Any]:
    """Two middlewares of the same class, each with a crawler of its own."""
    made = []
    for _ in range(2):
        crawler = make_crawler(Pages, **settings)
        crawler._apply_settings()
        made.append(cls.from_crawler(crawler))
    return made[0], made[1]


urls = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["http://", "https://", "HTTP://"]),
        st.sampled_from(
            [
                "h",
                "h.example",
                "H.example:81",
                "127.0.0.1:8080",
                "[::1]:80",
                "user@h",
                "bücher.example",
                f"{'ü' * 64}.example",
            ]
        ),
        st.sampled_from(["", "/", "//", "/a//b", "/a;b=1", "//a", "/é b", "/%7e"]),
        st.sampled_from(["", "?", "?a=b", "?a=b;c?d"]),
        st.sampled_from(["", "#", "#f"]),
    ),
)
headers = st.dictionaries(
    st.sampled_from(["Accept", "accept-language", "X-Empty", "X-None", "Cookie", "Set-Cookie2x"]),
    st.sampled_from(["", "a", "å", ["a", "b"], [], None, 5]),
)


@settings(deadline=None, max_examples=50)
@given(
    urls,
    st.sampled_from(["GET", "HEAD", "POST", "put", "GÉT"]),
    headers,
    st.binary(max_size=9),
)
def test_requests_are_counted(url: str, method: str, fields: dict[str, Any], body: bytes) -> None:
    ours, scrapys = pair(DownloaderStats)
    request = Request(url, method=method, headers=fields, body=body)
    assert shortcut(ours.process_request)(request=request) is scrapys.process_request(request) is None
    assert ours.stats.get_stats() == scrapys.stats.get_stats()


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([200, 204, 299, 404, 999]), headers, st.binary(max_size=9))
def test_responses_are_counted(status: int, fields: dict[str, Any], body: bytes) -> None:
    ours, scrapys = pair(DownloaderStats)
    request = Request("http://h/")
    response = Response("http://h/", status=status, headers=fields, body=body)
    assert shortcut(ours.process_response)(request=request, response=response) is response
    assert scrapys.process_response(request, response) is response
    assert ours.stats.get_stats() == scrapys.stats.get_stats()


@pytest.mark.parametrize("project", [{}, {"HTTPAUTH_USER": "u", "HTTPAUTH_DOMAIN": "h.example"}])
@pytest.mark.parametrize("url", ["http://h.example/", "http://other.example/"])
@pytest.mark.parametrize("meta", [{}, {"http_user": "m"}, {"http_pass": "p", "http_auth_domain": "h.example"}])
@pytest.mark.parametrize("sent", [{}, {"authorization": "by hand"}])
def test_authorization(project: dict[str, str], url: str, meta: dict[str, str], sent: dict[str, str]) -> None:
    ours, scrapys = pair(HttpAuthMiddleware, **project)
    requests = [Request(url, meta=dict(meta), headers=sent) for _ in range(2)]
    assert shortcut(ours.process_request)(request=requests[0]) is scrapys.process_request(requests[1]) is None
    assert requests[0].headers == requests[1].headers
    assert ("Authorization" in requests[0].headers) == bool(
        sent or ((project or meta) and "http://h." in url) or meta.get("http_user")
    )


metas = st.fixed_dictionaries({}, optional={"cookiejar": st.integers(0, 1), "dont_merge_cookies": st.booleans()})
steps = st.tuples(
    st.sampled_from(["http://h.example/", "http://h.example/deep/er", "https://other.example/", "http://127.0.0.1/"]),
    metas,
    st.sampled_from([{}, {"given": "1"}, [{"name": "given", "value": "2", "domain": "h.example"}]]),
    st.sampled_from([{}, {"Cookie": "by=hand"}]),
    st.sampled_from(
        [{}, {"Set-Cookie": "a=1"}, {"set-cookie": ["a=; Max-Age=0", "b=2; Path=/deep"]}, {"Set-Cookie2": "c"}]
    ),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(steps, max_size=6))
def test_cookies(walk: list[tuple[str, dict[str, Any], Any, dict[str, str], dict[str, Any]]]) -> None:
    """Whatever came before, the same cookies are sent."""
    ours, scrapys = pair(CookiesMiddleware)
    for url, meta, cookies, sent, received in walk:
        requests = [Request(url, meta=dict(meta), cookies=cookies, headers=sent) for _ in range(2)]
        assert shortcut(ours.process_request)(request=requests[0]) is scrapys.process_request(requests[1]) is None
        assert requests[0].headers == requests[1].headers
        response = Response(url, headers=received)
        assert shortcut(ours.process_response)(request=requests[0], response=response) is response
        assert scrapys.process_response(requests[1], response) is response
    assert [(key, [*map(str, jar)]) for key, jar in ours.jars.items()] == [
        (key, [*map(str, jar)]) for key, jar in scrapys.jars.items()
    ]


def test_a_jar_of_a_projects_own_is_asked() -> None:
    class Jar(CookieJar):
        def add_cookie_header(self, request: Request) -> None:
            request.headers["Cookie"] = "from=file"

    ours, _ = pair(CookiesMiddleware)
    ours.jars = defaultdict(Jar)
    request = Request("http://h/")
    shortcut(ours.process_request)(request=request)
    assert request.headers["Cookie"] == b"from=file"


REFRESH = '<meta http-equiv="{}" content="0; url=/next">'


@pytest.mark.parametrize(
    "name", ["refresh", "REFRESH", "Refresh", "refre\N{LATIN SMALL LETTER LONG S}h", "&#114;efresh", "other"]
)
@pytest.mark.parametrize("before", ["", "é" * 100, " " * 4090, " " * 4096, "a & b &amp; c", "<!--", "\N{SNOWMAN}"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1251"])
@pytest.mark.parametrize("status", [200, 404])
def test_refreshes(name: str, before: str, encoding: str, status: int) -> None:
    """They are found where Scrapy finds them, and nowhere else."""
    ours, scrapys = pair(MetaRefreshMiddleware)
    text = f"<html>{before}{REFRESH.format(name)}</html>"
    body = text.encode(encoding, "replace")
    for cls in (HtmlResponse, TextResponse):
        response = cls("http://h/", status=status, body=body, encoding=encoding)
        results = [
            shortcut(ours.process_response)(request=Request("http://h/"), response=response),
            scrapys.process_response(Request("http://h/"), response),
        ]
        assert {type(result) for result in results} in ({Request}, {cls})
        assert results[0].url == results[1].url
    picture = Response("http://h/", body=body)
    assert shortcut(ours.process_response)(request=Request("http://h/"), response=picture) is picture


@pytest.mark.parametrize("name", ["ref<!-- -->resh", "RE<!---->fresh", "ref&unknown;resh", "&#x72;efresh"])
def test_what_may_be_a_refresh_is_left_to_scrapy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for w3lib to say, of which versions before 2.5 take such a name for one."""
    monkeypatch.setattr(
        "scrapy.downloadermiddlewares.redirect.get_meta_refresh", lambda *_, **__: (0.0, "http://h/next")
    )
    ours, _ = pair(MetaRefreshMiddleware)
    response = HtmlResponse("http://h/", body=REFRESH.format(name).encode())
    result = shortcut(ours.process_response)(request=Request("http://h/"), response=response)
    assert result.url == "http://h/next"


def test_a_text_that_is_no_page_is_not_decoded() -> None:
    class Large(TextResponse):
        @property
        def text(self) -> str:
            raise AssertionError("nobody needs it")

    ours, _ = pair(MetaRefreshMiddleware)
    response = Large("http://h/")
    assert shortcut(ours.process_response)(request=Request("http://h/"), response=response) is response


@pytest.mark.parametrize("cls", CLASSES)
def test_only_scrapys_own(cls: type) -> None:
    """A method of a subclass, one that was put in its place, and one that is no middleware's, stay what they are."""

    class Mine(cls):  # type: ignore[misc]  # a class that is an argument
        def process_response(self, request: Request, response: Response) -> Response:
            return response

    for middleware in pair(Mine):
        assert shortcut(middleware.process_response) == middleware.process_response
        if hasattr(cls, "process_request"):
            # An inherited method goes without the wrapper, but what it calls may be the subclass's own.
            assert shortcut(middleware.process_request).__func__ is cls.process_request.__wrapped__
    _, middleware = pair(cls)
    middleware.process_response = print
    assert shortcut(middleware.process_response) is print
    stays = MemoryStatsCollector.get_stats
    assert shortcut(stays) is stays


def test_scrapys_own_have_one() -> None:
    """Were Scrapy's middlewares others, no page would be the quicker for what stands for them."""
    for cls in CLASSES:
        middleware, _ = pair(cls)
        assert "scrapy_batcher" in shortcut(middleware.process_response).__module__
    middleware, _ = pair(HttpAuthMiddleware)
    assert "scrapy_batcher" in shortcut(middleware.process_request).__module__
    middleware, _ = pair(UserAgentMiddleware)
    assert shortcut(middleware.process_request).__func__ is UserAgentMiddleware.process_request.__wrapped__


@ensureDeferred
async def test_a_batch_with_and_without(server: MockServer, urls) -> None:
    """What they count and find in a batch is what Scrapy's downloader counts and finds."""
    counted = []
    names = ["page/one", "redirect?n=1", "status/404"]
    for downloader in ("scrapy_batcher.adapters.downloader.Downloader", "scrapy.core.downloader.Downloader"):
        crawler = await run(BatchSpider, urls(*map(server.url, names)), {"DOWNLOADER": downloader})
        counted.append(
            {key: value for key, value in crawler.stats.get_stats().items() if key.startswith("downloader/")}
        )
    assert counted[0] == counted[1]
    assert counted[0]["downloader/response_status_count/404"] == 1
