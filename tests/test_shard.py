"""A list is divided: each row is in exactly one shard, the same one always, and a shard is read like a list."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_twisted import ensureDeferred

from scrapy_batcher import BatchSpider
from scrapy_batcher.config import Config
from scrapy_batcher.lists.lines import START, Mark
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.shard import BY, WHOLE, Shard
from scrapy_batcher.lists.sources import Source, SourceError
from scrapy_batcher.throttling.limits import Limits
from scrapy_batcher.throttling.rules import Rules
from tests.crawling import make_crawler
from tests.jobs import Work
from tests.mockserver import MockServer

settings.register_profile("shard", deadline=None, max_examples=60)  # a deadline would depend on the machine
settings.load_profile("shard")

RULES = Rules(Config(), Limits({}))


def target(url: str, line: int = 1) -> Target:
    return Target(1, line, url, {})


def shards(count: int, by: str) -> list[Shard]:
    return [Shard(number, count, by) for number in range(1, count + 1)]


def shard_of(url: str, count: int, by: str = "host", line: int = 1) -> Shard:
    """The one shard of *count* that has *url*."""
    [shard] = [shard for shard in shards(count, by) if shard.has(target(url, line))]
    return shard


# -- which shard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "shard"), [("2/8", Shard(2, 8)), ("8/8", Shard(8, 8)), ("1/1", WHOLE)])
def test_shards_by_name(text, shard):
    """A shard is named by its number and how many there are, and calls itself so."""
    assert Shard.parse(text) == shard
    assert str(shard) == text


@pytest.mark.parametrize(
    "text", ["0/8", "9/8", "a/b", "8", "2/0", "0/0", "", "-1/8", "2/-8", "1/2/3", "2/8\n", " 2/8", "1.0/8", "\u00b2/8"]
)
def test_shards_that_are_none(text):
    """What names no shard is refused with its value, and with what to pass."""
    with pytest.raises(
        ValueError, match="is none: pass -a shard=2/8 for the second of eight, from 1/8 to 8/8"
    ) as error:
        Shard.parse(text)
    assert str(error.value).startswith(f"shard: {text!r} is none")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "by_host", "by_url"),
    [
        ("http://a/", 8, 3),
        ("http://b.example/x", 4, 1),
        ("http://127.0.0.1:80/", 5, 2),
        ("nonsense", 7, 7),
        ("mailto:a@b", 2, 2),
    ],
)
def test_a_row_stays_where_it_is(url, by_host, by_url):
    """A row is in the same shard in each process, and in each version: a job goes on with the rows it began with."""
    assert shard_of(url, 8).number == by_host
    assert shard_of(url, 8, "url").number == by_url


@pytest.mark.parametrize("by", BY)
def test_rows_without_a_text_are_told_by_their_lines(by):
    """Rows of which there is nothing but a line are not all in one shard."""
    assert len({shard_of("", 8, by, line) for line in range(1, 100)}) == 8


hosts = st.sampled_from(
    ["a.example", "A.example", "b.example", "b\u00fccher.example", "xn--bcher-kva.example", "[::1]"]
)
spelt = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP"]),
    st.sampled_from(["", "user:password@"]),
    hosts,
    st.sampled_from(["", ":80", ":8080"]),
    st.sampled_from(["", "/", "/x?y#z", "?http://c.example/"]),
)


@given(spelt, spelt, st.integers(2, 64))
def test_what_counts_for_one_host_is_in_one_shard(one, other, count):
    """However a host is spelt: what has the same limits is worked on by the same process."""
    same_limits = RULES.site_of(target(one)) == RULES.site_of(target(other))
    assert not same_limits or shard_of(one, count) == shard_of(other, count)


def test_by_url_a_host_is_divided():
    """By URL each of the shards has a part of one host's rows; by host, one has all of them."""
    urls = [f"http://a.example/{number}" for number in range(100)]
    assert len({shard_of(url, 4) for url in urls}) == 1
    assert len({shard_of(url, 4, "url") for url in urls}) == 4


@pytest.mark.parametrize("name", ["site-{}.example", "www.{:x}.com", "10.0.0.{}"])
def test_shards_are_about_even(name):
    """Of a thousand hosts whose names are similar, each of eight shards has about as many."""
    sizes = Counter(shard_of(f"http://{name.format(number)}/", 8).number for number in range(1000))
    assert len(sizes) == 8
    assert all(90 <= size <= 160 for size in sizes.values()), sizes


# -- a shard of a list -------------------------------------------------------------------------------------------------

lines = st.one_of(
    spelt.map(str.encode),
    st.sampled_from([b"", b"# comment", b"mailto:a@b", b"http://", b"http://h:99999/", b'"', b"\xff\0"]),
    st.text(max_size=20).map(lambda text: text.encode(errors="replace")),
    st.binary(max_size=20),
)
lists = st.tuples(
    st.sampled_from([("txt", b"", b"%s"), ("csv", b"url,n\n", b"%s,1"), ("jsonl", b"", b'{"url": "%s"}')]),
    st.lists(lines, max_size=20),
).map(lambda drawn: (drawn[0][0], drawn[0][1] + b"".join(drawn[0][2] % line + b"\n" for line in drawn[1])))


@contextmanager
def written(data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list"
        path.write_bytes(data)
        yield path


def read(path: Path, row_format: str, shard: Shard, mark: Mark = START) -> tuple[list[tuple[Target, Mark]], Mark]:
    """The rows of *shard* behind *mark*, and how far the list was read in the end."""
    source = Source(str(path), row_format, shard=shard)
    source.resume(mark)
    return list(source.marked()), source.mark


@given(lists, st.integers(1, 9), st.sampled_from(BY))
def test_shards_are_the_list(drawn, count, by):
    """Any list, in any number of shards: each row is in exactly one, as it is in the whole list, and in its order."""
    row_format, data = drawn
    with written(data) as path:
        try:
            whole, end = read(path, row_format, WHOLE)
        except SourceError:  # the first row of JSON lines has no URL: no shard can be read either
            for shard in shards(count, by):
                with pytest.raises(SourceError):
                    read(path, row_format, shard)
            return
        parts = [read(path, row_format, shard) for shard in shards(count, by)]
    together = [row for rows, _ in parts for row in rows]
    assert sorted(together, key=lambda row: row[0].id) == whole
    assert all(rows == sorted(rows, key=lambda row: row[0].id) for rows, _ in parts)
    assert {last for _, last in parts} == {end}


@given(st.lists(spelt, max_size=20), st.integers(1, 4), st.sampled_from(BY), st.data())
def test_a_shard_is_gone_on_with(urls, count, by, data):
    """From the mark of any of its rows on, a shard has those rows that were behind it, with the same numbers."""
    with written("".join(f"{url}\n" for url in urls).encode()) as path:
        for shard in shards(count, by):
            rows, end = read(path, "txt", shard)
            done = data.draw(st.integers(0, len(rows)))
            mark = rows[done - 1][1] if done else START
            assert read(path, "txt", shard, mark) == (rows[done:], end)
            assert read(path, "txt", shard, end) == ([], end)


# -- a job of a shard --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", BY)
def test_the_spider_has_its_shard(work: Work, by: str) -> None:
    """The argument says which part, and the setting how the list is divided."""
    work.write("http://a.example/")
    crawler = make_crawler(BatchSpider, BATCHER_SHARD_BY=by)
    spider = BatchSpider.from_crawler(crawler, urls=str(work.list), shard="2/3")
    assert spider.source.shard == Shard(2, 3, by)
    spider.source.close()
    spider = BatchSpider.from_crawler(crawler, urls=str(work.list))
    assert spider.source.shard == WHOLE
    spider.source.close()


@ensureDeferred
async def test_another_shard_than_the_jobs(server: MockServer, work: Work) -> None:
    """A job goes on with its own shard, divided as it was; another one, or the whole list, is refused."""
    work.write(*(server.url("page/1", host) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3")))
    assert (await work.run(shard="2/3")).totals.read == 1
    for shard in ("1/3", "2/4", "1/1"):
        sentence = await work.refused(shard=shard)
        assert "the shard of the job in" in sentence
        assert f"is '2/3', not {shard!r}: give that, or another JOBDIR" in sentence
    sentence = await work.refused(work.settings(BATCHER_SHARD_BY="url"), shard="2/3")
    assert "the BATCHER_SHARD_BY of the job in" in sentence
    assert "is 'host', not 'url': give that, or another JOBDIR" in sentence
    assert (await work.run(shard="2/3")).totals.fetched == 1
    assert sum(server.control()["hits"].values()) == 1


@ensureDeferred
async def test_the_whole_list_is_divided_by_nothing(server: MockServer, work: Work) -> None:
    """A job without shards goes on whatever the setting says, which is only for those."""
    work.write(server.url("page/1"))
    await work.run()
    assert (await work.run(settings=work.settings(BATCHER_SHARD_BY="url"))).totals.fetched == 1


@ensureDeferred
async def test_a_list_that_changed_behind_the_last_row_of_a_shard(server: MockServer, work: Work) -> None:
    """A list is told from another one by all of its rows, also by those of other shards; one that grew is gone on with,
    and only the new rows of this shard are taken up."""
    mine, others = server.url("page/mine", "127.0.0.2"), server.url("page/them", "127.0.0.1")
    assert (shard_of(mine, 3).number, shard_of(others, 3).number) == (2, 1)
    work.write(mine, others)
    assert (await work.run(shard="2/3")).totals.read == 1
    work.write(mine, mine)
    assert "has other text in its first 2 lines than when they were read before" in await work.refused(shard="2/3")
    work.write(mine, others, others, mine)
    crawler = await work.run(shard="2/3")
    assert (crawler.totals.read, crawler.totals.fetched, crawler.totals.complete) == (2, 2, True)
    assert "/page/them" not in server.control()["hits"]


@ensureDeferred
async def test_a_shard_without_rows(server: MockServer, work: Work) -> None:
    """A shard that none of the rows is in is through at once; it is that list's all the same."""
    work.write(server.url("page/1"))
    for _ in range(2):
        totals = (await work.run(shard="2/3")).totals
        assert (totals.read, totals.complete, totals.error) == (0, True, None)
    work.write(server.url("page/2"))
    assert "has other text in its first 1 lines" in await work.refused(shard="2/3")
    assert server.control()["hits"] == {}
