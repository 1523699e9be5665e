"""Several files are one list: their order, their names, and that a job goes on with the same ones."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_twisted import ensureDeferred

from scrapy_batcher.lists.lines import START
from scrapy_batcher.lists.locations import locations_in
from scrapy_batcher.lists.sources import Source, SourceError
from tests.jobs import Stops, Work
from tests.mockserver import MockServer

settings.register_profile("several", deadline=None, max_examples=60)  # a deadline would depend on the machine
settings.load_profile("several")


# -- which files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("b.txt,a.txt", ["b.txt", "a.txt"]),
        (" b.txt , a.txt,", ["b.txt", "a.txt"]),
        ("*.txt", ["a.txt", "b.txt", "with,comma.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("?.txt,*.txt", ["a.txt", "b.txt", "with,comma.txt"]),
        ("**/*.csv", ["sub/c.csv", "sub/deep/d.csv"]),
        ("sub/*", ["sub/c.csv"]),
        ("b.txt,*.txt", ["b.txt", "a.txt", "with,comma.txt"]),
        ("with,comma.txt", ["with,comma.txt"]),
        (r"with\,comma.txt,a.txt", ["with,comma.txt", "a.txt"]),
        ("[x].txt", ["[x].txt"]),
        ("not there.txt", ["not there.txt"]),
        ("file://a.txt", ["a.txt"]),
        ("s3://bucket/a,s3://bucket/b", ["s3://bucket/a", "s3://bucket/b"]),
        ("-", ["-"]),
    ],
)
def test_names_and_patterns(folder, text, found):
    """Names in their order, what a pattern matches in that of the names, each once; a file that is there is itself."""
    (folder / "sub/deep").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "with,comma.txt", "sub/c.csv", "sub/deep/d.csv"):
        (folder / name).touch()
    if "[x]" in text:
        (folder / "[x].txt").touch()
        (folder / "x.txt").touch()
    assert locations_in(text) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lists/*.csv", "no file matches lists/*.csv: give a path, or a pattern of which there is one"),
        ("a.txt,no-?.txt", "no file matches no-?.txt: give a path, or a pattern of which there is one"),
        (",", "the list ',' names no file"),
        ("-,a.txt", "-,a.txt: stdin (-) is a list by itself, and cannot be one of several"),
        ("a.txt,no.txt", "no.txt cannot be read: No such file or directory"),
        ("a.txt,b.pdf", "the list b.pdf has an unknown format 'pdf'"),
        ("a.txt,b.csv", "b.csv has no column 'url': its columns are 'link'"),
        ("a.txt,c.csv.gz", "c.csv.gz cannot be read: Not a gzipped file"),
    ],
)
def test_refused_at_once(folder, text, sentence):
    """What is wrong with any of the files is said before the first row, with the name of the file."""
    (folder / "a.txt").write_text("http://a/\n")
    (folder / "b.pdf").touch()
    (folder / "b.csv").write_text("link\nhttp://a/\n")
    (folder / "c.csv.gz").write_text("url\nhttp://a/\n")
    with pytest.raises(SourceError) as raised:
        Source(text)
    assert str(raised.value).startswith(sentence)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has only UTF-8 names")
def test_names_that_are_not_utf_8(folder):
    """A file is read whatever its name is, and its name is shown so that a log can hold it."""
    name = os.fsdecode(b"list-\xff.txt")
    (folder / name).write_text("http://a/\n")
    (folder / "list-a.txt").write_text("http://b/\n")
    assert [row.url for row in Source(name)] == ["http://a/"]
    rows = list(Source("*.txt"))
    assert [(row.url, row.file) for row in rows] == [("http://b/", "list-a.txt"), ("http://a/", "list-\\udcff.txt")]
    assert rows[1].where.isprintable()


# -- what they hold ----------------------------------------------------------------------------------------------------


def test_each_has_its_format_and_header(folder):
    """Each file has a header, a compression and a format of its own; ids go on, lines begin anew."""
    (folder / "1.csv").write_text("url,name\nhttp://a/,x\n")
    (folder / "2.csv.gz").write_bytes(gzip.compress(b"name,url\ny,http://b/\n\nz,http://c/\n"))
    (folder / "3.txt.bz2").write_bytes(bz2.compress(b"# nothing\n"))
    (folder / "4.jsonl").write_text('{"url": "http://d/", "n": 1}')
    (folder / "5.txt").write_text("http://e/\n")
    source = Source("*")
    assert [(row.id, row.where, row.url, row.columns) for row in source] == [
        (1, "1.csv line 2", "http://a/", {"name": "x"}),
        (2, "2.csv.gz line 2", "http://b/", {"name": "y"}),
        (3, "2.csv.gz line 4", "http://c/", {"name": "z"}),
        (4, "4.jsonl line 1", "http://d/", {"n": 1}),
        (5, "5.txt line 1", "http://e/", {}),
    ]
    assert str(source) == "*"
    assert source.row_format == "csv, txt, jsonl"


def test_one_format_for_all(folder):
    """A format that is passed is that of all files."""
    for name in ("a", "b"):
        (folder / name).write_text(f"url,n\nhttp://{name}/,1\n")
    assert [row.url for row in Source("a,b", "csv")] == ["http://a/", "http://b/"]


def test_a_file_that_breaks_off(folder):
    """A file that was cut short ends the list, with its name; the rows before it have been given."""
    (folder / "a.txt").write_text("http://a/\n")
    data = gzip.compress("".join(f"http://{n * 7919 % 10007}/\n" for n in range(10_000)).encode())
    (folder / "b.txt.gz").write_bytes(data[:-20])
    (folder / "c.txt").write_text("http://c/\n")
    rows = []
    with pytest.raises(SourceError) as raised:
        rows.extend(Source("*"))
    assert rows[0].url == "http://a/"
    assert str(raised.value).startswith(f"b.txt.gz broke off after line {rows[-1].line}: Compressed")


def test_pipes(folder):
    """A pipe, which can be opened only once, is one of several like any file."""
    (folder / "a.txt").write_text("http://a/\n")
    os.mkfifo("pipe")
    writer = Thread(target=lambda: (folder / "pipe").write_text("http://b/\n"))
    source = Source("a.txt,pipe")
    writer.start()
    assert [(row.where, row.url) for row in source] == [("a.txt line 1", "http://a/"), ("pipe line 1", "http://b/")]
    writer.join()


def test_a_file_is_told_from_others(folder):
    """Each of the files is known to be of the list, that no feed overwrites it."""
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).touch()
    source = Source("a.txt,b.txt")
    source.close()
    assert [source.is_file(name) for name in ("a.txt", "b.txt", "c.txt", "d.txt")] == [True, True, False, False]


def test_files_are_closed(folder):
    """However many files there are, one is open at a time, and none in the end."""
    for n in range(5):
        (folder / f"{n}.txt.gz").write_bytes(gzip.compress(f"http://{n}/\n".encode()))
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    source = Source("*.gz")
    for _ in source:
        assert before is None or len(os.listdir("/proc/self/fd")) == before + 1
    assert before is None or len(os.listdir("/proc/self/fd")) == before


# -- gone on with ------------------------------------------------------------------------------------------------------

FORMATS = {
    "txt": lambda urls: "".join(f"{url}\n" for url in urls),
    "csv": lambda urls: "url,n\n" + "".join(f"{url},{n}\n" for n, url in enumerate(urls)),
    "jsonl": lambda urls: "\n" + "".join(json.dumps({"url": url}) + "\n\n" for url in urls),
}
ENDINGS = {"": lambda data: data, ".gz": gzip.compress}
rows = st.lists(st.integers(0, 99).map("http://h/{}".format), max_size=6)
files = st.lists(
    st.tuples(rows, st.sampled_from(sorted(FORMATS)), st.sampled_from(sorted(ENDINGS))), min_size=1, max_size=5
)


@given(files, st.data())
def test_from_the_mark_of_any_row(drawn, data):
    """From the mark of any row on there are those behind it, with the same numbers, files and lines."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (urls, form, ending) in enumerate(drawn):
            path = Path(folder, f"{number}.{form}{ending}")
            path.write_bytes(ENDINGS[ending](FORMATS[form](urls).encode()))
        source = Source(f"{folder}/*")
        whole = list(source.marked())
        assert [row.url for row, _ in whole] == [url for urls, _, _ in drawn for url in urls]
        assert source.mark == (whole[-1][1] if whole else START)
        done = data.draw(st.integers(0, len(whole)))
        again = Source(f"{folder}/*")
        again.resume(whole[done - 1][1] if done else START)
        assert list(again.marked()) == whole[done:]
        assert again.mark == source.mark


def changed(folder: Path, done: int, change) -> str | list[str]:
    """The URLs that follow *done* rows of three files, when something about them was changed; or the complaint."""
    for name, urls in (("a.txt", "123"), ("b.csv", "456"), ("c.txt", "789")):
        (folder / name).write_text(FORMATS[name[2:]](f"http://{url}/" for url in urls))
    mark = [mark for _, mark in Source("?.*").marked()][done - 1]
    change(folder)
    source = Source("?.*")
    try:
        source.resume(mark)
        return [row.url[7] for row in source]
    except SourceError as e:
        source.close()
        return str(e)


def rename(old: str, new: str):
    return lambda folder: (folder / old).rename(folder / new)


def write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("done", "change", "follows"),
    [
        (5, lambda folder: None, "6789"),
        (5, rename("a.txt", "A.txt"), "6789"),
        (5, write("d.txt", "http://0/\n"), "67890"),
        (9, write("d.txt", "http://0/\n"), "0"),
        (6, write("c.txt", "http://0/\n"), "0"),
        (3, write("a.txt", "http://1/\nhttp://2/\nhttp://3/\nhttp://0/\n"), "0456789"),
    ],
)
def test_files_that_may_change(folder, done, change, follows):
    """What was read must be the same, under whatever names; what was not may be anything, more files too."""
    assert changed(folder, done, change) == list(follows)


@pytest.mark.parametrize(
    ("done", "change"),
    [
        (5, rename("a.txt", "d.txt")),
        (5, write("a.txt", "http://1/\nhttp://0/\nhttp://3/\n")),
        (5, write("a.txt", "http://1/\nhttp://2/\n")),
        (5, write("a.txt", "http://1/\nhttp://2/\nhttp://3/\nhttp://0/\n")),
        (5, write("a.csv", "url\nhttp://0/\n")),
        (4, lambda folder: [(folder / name).unlink() for name in ("b.csv", "c.txt")]),
    ],
    ids=["moved", "changed", "cut", "grown", "added", "removed"],
)
def test_files_that_changed(folder, done, change):
    """Files that were read and are others now, or in another order, are refused."""
    told = changed(folder, done, change)
    assert isinstance(told, str), told
    assert re.match(r"\?\.\*(, up to \w\.\w+,)? (has other text in its first \d+ lines|ends after \d+ bytes)", told)
    assert told.endswith("give the list that this job was begun with, or another JOBDIR")


@ensureDeferred
async def test_a_job_over_several_files(server: MockServer, work: Work, caplog) -> None:
    """A job over a pattern is stopped and gone on with, and tells of each failure which file it is in."""
    for number in range(4):
        work.write(
            *(server.url(f"page/{number}-{n}") for n in range(4)),
            server.url(f"status/404?{number}"),
            name=f"{number}.txt",
        )
    urls = str(work.folder / "?.txt")
    for _ in range(3):
        await work.run(Stops, urls=urls, pages=4)
    crawler = await work.run(urls=urls)
    assert crawler.totals.outcomes == {"fetched": 16, "failed/http-404": 4}
    assert len(set(work.items())) == len(work.items()) == 16
    lines = [json.loads(line) for line in (work.folder / "failures.jsonl").read_text().splitlines()]
    named = {(line["url"][-1], line["file"], line["line"]) for line in lines}
    assert named == {(str(number), str(work.folder / f"{number}.txt"), 5) for number in range(4)}
    assert f"404 Not Found ({work.folder}/2.txt line 5, 1 attempt)" in caplog.text
    again = await work.run(
        urls=work.folder / "failures.jsonl", settings={"JOBDIR": str(work.folder / "other")}, failures=""
    )
    assert again.totals.outcomes == {"failed/http-404": 4}
    assert "(line 4, 1 attempt)" in caplog.text, "a failures file is one file"


@ensureDeferred
async def test_another_set_is_refused(server: MockServer, work: Work) -> None:
    """A job is refused when the files that it has read are others now."""
    for number in range(3):
        work.write(*(server.url(f"page/{number}-{n}") for n in range(4)), name=f"{number}.txt")
    urls = str(work.folder / "?.txt")
    await work.run(urls=urls)
    work.write("http://127.0.0.1:1/", name="1.txt")
    assert "or another JOBDIR" in await work.refused(urls=urls)


@ensureDeferred
async def test_a_feed_that_is_a_file_of_the_list(work: Work) -> None:
    """No feed may be one of the files."""
    work.write("http://127.0.0.1:1/", name="a.jsonl")
    work.write("http://127.0.0.1:1/", name="items.jsonl")
    sentence = await work.refused(urls=str(work.folder / "*.jsonl"), format="txt")
    assert "is the list itself" in sentence
