"""Sitemaps are lists, and what is wrong with them, or with where they lead, does no harm."""

from __future__ import annotations

import gzip
import itertools
import tempfile
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_twisted import ensureDeferred

from scrapy_batcher.lists import sitemap
from scrapy_batcher.lists.lines import START
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.lists.shard import Shard
from scrapy_batcher.lists.sources import Source, SourceError
from tests.jobs import Stops, Work
from tests.mockserver import MockServer

settings.register_profile("sitemap", deadline=None, max_examples=60)  # a deadline would depend on the machine
settings.load_profile("sitemap")

NAMESPACE = (
    'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"'
)


def urlset(*entries: str, head: str = '<?xml version="1.0" encoding="UTF-8"?>\n') -> bytes:
    return (
        f"{head}<urlset {NAMESPACE}>\n{''.join(f'<url>{entry}</url>' + chr(10) for entry in entries)}</urlset>".encode()
    )


def index(*locs: str) -> bytes:
    entries = "".join(f"<sitemap><loc>{escape(loc)}</loc></sitemap>\n" for loc in locs)
    return f"<sitemapindex {NAMESPACE}>\n{entries}</sitemapindex>".encode()


def loc(url: str) -> str:
    return f"<loc>{escape(url)}</loc>"


def with_doctype(declared: str, loc: str) -> bytes:
    return f"<!DOCTYPE urlset {declared}>\n".encode() + urlset(f"<loc>{loc}</loc>", head="")


def rows_of(data: bytes, name: str = "sitemap.xml") -> list[Target]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(data)
        return list(Source(f"{folder}/{name}"))


def complaint(data: bytes) -> str:
    with pytest.raises(SourceError) as raised:
        rows_of(data)
    assert "\n" not in str(raised.value)
    return str(raised.value).partition("sitemap.xml ")[2]


# -- one sitemap -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sitemap.xml", "sitemap.xml.gz", "sitemap", "list.gz"])
def test_by_name_and_by_content(name):
    """A sitemap is one by its name, or by how it begins."""
    data = urlset(loc("http://a/"))
    assert [row.url for row in rows_of(gzip.compress(data) if "gz" in name else data, name)] == ["http://a/"]


def test_zipped_though_its_name_does_not_say_so():
    """A sitemap that is compressed is read, whatever it is called."""
    data = gzip.compress(urlset(loc("http://a/")))
    assert [row.url for row in rows_of(data)] == ["http://a/"]
    assert [row.url for row in rows_of(gzip.compress(data), "sitemap.xml.gz")] == ["http://a/"], "compressed twice"


def test_what_a_row_has():
    """A row has the address, and what is said of it; what else is there does not matter."""
    data = urlset(
        "<loc>\n http://a/?b=1&amp;c=<![CDATA[&]]>2 </loc><lastmod>2026-11-28</lastmod>"
        "<changefreq>daily</changefreq><priority>0.8</priority>",
        "<image:image><image:loc>http://image/</image:loc></image:image><!-- no --><loc>http://b/</loc><?pi?>"
        "<image:loc>http://image/</image:loc>",
        "<lastmod>2026</lastmod>",
        "<loc>nonsense</loc>",
    )
    rows = rows_of(data)
    assert [(row.id, row.line, row.url) for row in rows] == [
        (1, 3, "http://a/?b=1&c=&2"),
        (2, 5, "http://b/"),
        (3, 6, ""),
        (4, 7, "nonsense"),
    ]
    assert rows[0].columns == {"lastmod": "2026-11-28", "changefreq": "daily", "priority": "0.8"}
    assert rows[1].columns == dict.fromkeys(sitemap.COLUMNS)
    assert [row.error for row in rows[2:]] == ["it has no URL", "not a URL: it has no scheme such as https://"]


addresses = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), max_size=20).map(
    "http://h/{}".format
)


@given(st.lists(addresses, max_size=10), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]), st.integers(1, 64))
def test_round_trip(urls, encoding, chunk):
    """What is written is what is read, in pieces of any size."""
    document = urlset(*map(loc, urls), head="").decode()
    if encoding == "utf-16":
        document = f'<?xml version="1.0" encoding="utf-16"?>{document}'
    original, sitemap._CHUNK = sitemap._CHUNK, chunk
    try:
        assert [row.url for row in rows_of(document.encode(encoding))] == urls
    finally:
        sitemap._CHUNK = original


def test_a_namespace_is_not_asked_for():
    """Many sitemaps lack the namespace, or have another."""
    assert [row.url for row in rows_of(b"<urlset><url><loc>http://a/</loc></url></urlset>")] == ["http://a/"]
    assert [
        row.url for row in rows_of(b'<x:urlset xmlns:x="y"><x:url><x:loc>http://a/</x:loc></x:url></x:urlset>')
    ] == ["http://a/"]


NO_ENCODING = "cannot be read: it has an encoding that cannot be read"

ENCODINGS = ["Shift_JIS", "nonsense", "zlib", "idna"]  # more than a byte, none, no text, a codec that fails


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cannot be read: it is no XML: no element found"),
        (b"http://a/\n", "cannot be read: it is no XML: not well-formed"),
        (b"<html></html>", "cannot be read: no sitemap: its root is <html>, not <urlset> or <sitemapindex>"),
        (
            urlset(loc("http://a/"), "<loc>http://b/?x&y</loc>"),
            "broke off after line 3: it is no XML: not well-formed (invalid token): line 4",
        ),
        (urlset(loc("http://a/"))[:-9], "broke off after line 3: it is no XML: "),
        (b"<urlset>" + b"<a>" * 100, "cannot be read: its elements are nested more than 50 levels deep"),
        (
            with_doctype('[<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]', "http://&b;/"),
            "cannot be read: it has a document type",
        ),
        (with_doctype('[<!ENTITY a SYSTEM "file:///etc/passwd">]', "&a;"), "cannot be read: it has a document type"),
        (with_doctype('SYSTEM "http://127.0.0.1:1/x.dtd"', "http://a/"), "cannot be read: it has a document type"),
        (urlset("<loc>http://&a;/</loc>"), "cannot be read: it is no XML: undefined entity"),
        (b"<urlset><!--" + b"x" * 2_000_000 + b"--></urlset>", "cannot be read: a piece of it is longer than 512 KiB"),
        (b'<urlset a="' + b"x" * 2_000_000 + b'"></urlset>', "cannot be read: a piece of it is longer than 512 KiB"),
        *((urlset(head=f'<?xml version="1.0" encoding="{name}"?>'), NO_ENCODING) for name in ENCODINGS),
    ],
    ids=[
        *("nothing", "a list", "a page", "a bare ampersand", "cut", "depth", "entities", "a file", "a DTD"),
        *("an entity", "a comment", "an attribute", *ENCODINGS),
    ],
)
def test_what_is_no_sitemap(data, why):
    """What is none is refused; what stops being one gives what was before that."""
    assert complaint(data).startswith(why)


def test_what_breaks_off_has_given_its_rows(folder):
    """The rows before what is wrong are given."""
    (folder / "sitemap.xml").write_bytes(urlset(loc("http://a/"), "<loc>&</loc>"))
    rows = []
    with pytest.raises(SourceError):
        rows.extend(Source("sitemap.xml"))
    assert [row.url for row in rows] == ["http://a/"]


def test_two_addresses_in_one_entry():
    """An entry that has two addresses is invalid: neither is lost without a word, nor is one made of both."""
    rows = rows_of(urlset(loc("http://a/") + loc("http://b/"), loc("http://c/")))
    assert [(row.url, row.error) for row in rows] == [
        ("http://a/http://b/", "it has more than one <loc>"),
        ("http://c/", None),
    ]


@pytest.mark.parametrize("lines", [2, 100_000])
def test_blank_lines_before_it(lines):
    """What many sites have before their XML declaration, though no XML has it."""
    rows = rows_of(b"\n" * lines + b"  " + urlset(loc("http://a/")))
    assert [(row.url, row.line) for row in rows] == [("http://a/", lines + 3)]


def test_an_address_that_is_too_long():
    """An entry that is too long is invalid, and no more of it is kept than of any row."""
    rows = rows_of(urlset(f"<loc>http://a/{'x' * 3_000_000}</loc>", loc("http://b/")))
    assert [(row.url[:9], row.error) for row in rows] == [("http://a/", "longer than 64 KiB"), ("http://b/", None)]
    assert len(rows[0].url) == 1000


def test_memory(tmp_path):
    """A sitemap is read a piece at a time, however long it is."""
    path = tmp_path / "sitemap.xml"
    with path.open("wb") as file:
        file.write(b"<urlset>")
        for n in range(100_000):
            file.write(
                b"<url><loc>http://example.com/a/rather/long/path/%d</loc><lastmod>2026-11-28</lastmod></url>\n" % n
            )
        file.write(b"</urlset>")
    assert path.stat().st_size > 9_000_000
    tracemalloc.start()
    assert sum(1 for _ in Source(str(path))) == 100_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000, peak


# -- an index ----------------------------------------------------------------------------------------------------------


def read(location: str) -> list[tuple[str, str, str | None]]:
    return [(row.where, row.url, row.error) for row in Source(location)]


def test_an_index_leads_to_its_sitemaps(folder):
    """The rows of an index are those of its sitemaps, in its order; what is wrong with one of those is one row."""
    (folder / "maps").mkdir()
    (folder / "maps/index.xml").write_bytes(
        index(
            *("b.xml.gz", "no.xml", "a%20b.xml", "broken.xml", "page.xml", "b.xml.gz", "", "/etc/passwd", "../up.xml"),
            *("%2e%2e/up.xml", "file:///etc/passwd", "sub/c.xml"),
        )
    )
    (folder / "maps/a b.xml").write_bytes(urlset(loc("http://a/")))
    (folder / "maps/b.xml.gz").write_bytes(gzip.compress(urlset(loc("http://b/"), loc("http://c/"))))
    (folder / "maps/broken.xml").write_bytes(urlset(loc("http://d/"), "&"))
    (folder / "maps/page.xml").write_bytes(b"<html/>")
    (folder / "maps/sub").mkdir()
    (folder / "maps/sub/c.xml").write_bytes(urlset(loc("http://e/")))
    not_read = "a sitemap that is not read: "
    no_sitemap = "no sitemap: its root is <html>, not <urlset> or <sitemapindex>"
    away = f"{not_read}an index leads to the web, or to what is in its own folder"
    assert read("maps/index.xml") == [
        ("maps/b.xml.gz line 3", "http://b/", None),
        ("maps/b.xml.gz line 4", "http://c/", None),
        ("line 3", "no.xml", "a sitemap that cannot be read: No such file or directory"),
        ("maps/a b.xml line 3", "http://a/", None),
        ("maps/broken.xml line 3", "http://d/", None),
        (
            "maps/broken.xml line 3",
            "broken.xml",
            "a sitemap that broke off: it is no XML: not well-formed (invalid token): line 4, column 6",
        ),
        ("line 6", "page.xml", f"a sitemap that cannot be read: {no_sitemap}"),
        ("line 7", "b.xml.gz", f"{not_read}it was led to before"),
        ("line 8", "", away),
        ("line 9", "/etc/passwd", away),
        ("line 10", "../up.xml", away),
        ("line 11", "%2e%2e/up.xml", away),
        ("line 12", "file:///etc/passwd", away),
        ("maps/sub/c.xml line 3", "http://e/", None),
    ]


def test_circles_and_depth(folder):
    """Indexes that lead to themselves, to each other, or ever deeper, come to an end."""
    (folder / "a.xml").write_bytes(index("a.xml", "b.xml"))
    (folder / "b.xml").write_bytes(index("./a.xml", "0.xml"))
    for n in range(9):
        (folder / f"{n}.xml").write_bytes(index(f"{n + 1}.xml"))
    (folder / "9.xml").write_bytes(urlset(loc("http://a/")))
    errors = [error for _, _, error in read("a.xml")]
    before = "a sitemap that is not read: it was led to before"
    assert errors == [
        before,
        before,
        "a sitemap that is not read: it is behind more than 3 indexes, or one of more than 50,000",
    ]


def test_a_sitemap_that_is_cut_short_ends_the_list(folder):
    """What may be whole the next time is not passed over."""
    (folder / "index.xml").write_bytes(index("a.xml", "b.xml.gz", "c.xml"))
    (folder / "a.xml").write_bytes(urlset(loc("http://a/")))
    (folder / "b.xml.gz").write_bytes(gzip.compress(urlset(loc("http://b/")))[:-9])
    (folder / "c.xml").write_bytes(urlset(loc("http://c/")))
    rows = []
    with pytest.raises(SourceError, match=r"index.xml broke off after line 3: the sitemap b.xml.gz: Compressed"):
        rows.extend(Source("index.xml"))
    assert [row.url for row in rows] == ["http://a/"]


# -- where a loc may lead ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "given", "child"),
    [
        ("https://h/maps/index.xml", "a.xml", "https://h/maps/a.xml"),
        ("https://h/maps/index.xml", "/a.xml?b=c", "https://h/a.xml?b=c"),
        ("https://h/index.xml", "http://other/a.xml", "http://other/a.xml"),
        ("index.xml", "https://h/a.xml", "https://h/a.xml"),
        ("s3://bucket/maps/index.xml", "a.xml", "s3://bucket/maps/a.xml"),
        ("s3://bucket/index.xml", "https://h/a.xml", "https://h/a.xml"),
        ("-", "a.xml", "a.xml"),
        ("maps/index.xml", "./sub//./a.xml", "maps/sub/a.xml"),
    ],
)
def test_where_it_leads(location, given, child):
    """An address that is not whole is one beside the index."""
    assert sitemap._child(location, given) == child


@pytest.mark.parametrize(
    ("location", "given"),
    [
        ("https://h/index.xml", "file:///etc/passwd"),
        ("https://h/index.xml", "s3://bucket/a.xml"),
        ("https://h/index.xml", "http://[/a.xml"),
        ("https://h/index.xml", "http:///a.xml"),
        ("https://h/index.xml", "//[/a.xml"),
        ("index.xml", "a%00.xml"),
        ("index.xml", "s3://bucket/a.xml"),
        ("index.xml", "zip::a"),
        ("s3://bucket/index.xml", "s3://other/a.xml"),
        ("s3://bucket/index.xml", "file:///etc/passwd"),
        ("s3://bucket/index.xml", "../a.xml"),
    ],
)
def test_where_it_may_not_lead(location, given):
    """An index, which anybody may have written, opens nothing of the machine's, nor of another storage."""
    with pytest.raises(sitemap._RefusedError):
        sitemap._child(location, given)


# -- gone on with ------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.sampled_from(["http://a/", "http://b/", "nonsense", ""]), max_size=5), max_size=4), st.data()
)
def test_from_the_mark_of_any_row(maps, data):
    """From the mark of any row on there are those behind it; shards have their parts of them."""
    with tempfile.TemporaryDirectory() as folder:
        for number, urls in enumerate(maps):
            Path(folder, f"{number}.xml").write_bytes(urlset(*map(loc, urls)))
        Path(folder, "index.xml").write_bytes(index("", *(f"{number}.xml" for number in range(len(maps) + 1)), ""))
        for location in (f"{folder}/index.xml", f"{folder}/[0-9].xml,{folder}/index.xml"):
            if not maps and "," in location:
                continue
            source = Source(location)
            whole = list(source.marked())
            done = data.draw(st.integers(0, len(whole)))
            again = Source(location)
            again.resume(whole[done - 1][1] if done else START)
            assert list(again.marked()) == whole[done:]
            assert again.mark == source.mark
            parts = [Source(location, shard=Shard(number, 3)).marked() for number in (1, 2, 3)]
            assert sorted(itertools.chain(*parts), key=lambda row: row[0].id) == whole


def test_other_sitemaps_are_refused(folder):
    """When what was read has other URLs now, it is refused."""
    (folder / "index.xml").write_bytes(index("a.xml", "b.xml"))
    (folder / "a.xml").write_bytes(urlset(loc("http://a/")))
    (folder / "b.xml").write_bytes(urlset(loc("http://b/"), loc("http://c/")))
    mark = [mark for _, mark in Source("index.xml").marked()][1]
    (folder / "a.xml").write_bytes(urlset(loc("http://x/")))
    source = Source("index.xml")
    with pytest.raises(SourceError, match="has other URLs in its first 2 than when they were read before"):
        source.resume(mark)
    source.close()
    (folder / "b.xml").write_bytes(urlset())
    source = Source("index.xml")
    with pytest.raises(SourceError, match=r"ends after \d+ bytes, where \d+ were read before"):
        source.resume(mark)
    source.close()


@ensureDeferred
async def test_a_job(server: MockServer, work: Work, caplog) -> None:
    """A job over an index is stopped and gone on with; its failures tell their sitemap."""
    for number in range(3):
        urls = [server.url(f"page/{number}-{n}") for n in range(5)] + [server.url(f"status/404?{number}")]
        (work.folder / f"{number}.xml").write_bytes(urlset(*map(loc, urls)))
    work.list = work.folder / "sitemap.xml"
    work.list.write_bytes(index(*(f"{number}.xml" for number in range(3))))
    for _ in range(3):
        await work.run(Stops, pages=3)
    crawler = await work.run()
    assert crawler.totals.outcomes == {"fetched": 15, "failed/http-404": 3}
    assert len(set(work.items())) == len(work.items()) == 15
    assert f"({work.folder}/1.xml line 8, 1 attempt)" in caplog.text
