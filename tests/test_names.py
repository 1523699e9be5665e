"""How files are named: whatever is in a URL or a row, a name stays in its folder, and every system can have it."""

from __future__ import annotations

import re
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outputs.names import NAMES, Template, free_names, key_of, safe_name, values_for

DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{n}{d}" for n in ("com", "lpt") for d in "0123456789¹²³"
}

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=300)

NASTY = st.sampled_from(
    [
        *(
            "..",
            ".",
            "",
            " ",
            "../..",
            "/etc/passwd",
            "\\\\host\\share",
            "C:\\x",
            "a\0b",
            "CON",
            "nul.txt",
            "lpt1 .x",
            "a. .",
        ),
        *(
            ".unfinished-0123456789abcdef",
            "x" * 5000,
            "\u00e9" * 300,
            "\u202egpj.exe",
            "\ud800",
            "a/b",
            "~",
            "-rf",
            "a\nb",
        ),
    ]
)


def check_name(name: str) -> None:
    """*name* is one that a file can have on Linux, macOS and Windows, and nothing else than a name."""
    assert name
    assert len(name.encode()) <= 255
    assert not re.search(r'[\x00-\x1f\x7f<>:"/\\|?*]', name)
    assert name.isprintable()
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert name.partition(".")[0].strip().lower() not in DEVICES


@given(ANYTHING | NASTY)
@example("COM¹.txt")
@example("  .  ")
@example("x" * 199 + "é")
@example("x" * 300 + ".html")
@example("..html")
def test_any_text_becomes_a_name(text: str) -> None:
    """Whatever a text holds, a name of one file is made of it, the same each time."""
    check_name(safe_name(text))
    assert safe_name(text) == safe_name(text)


@given(ANYTHING | NASTY, ANYTHING | NASTY, st.integers(1, 2**62))
def test_a_path_stays_in_the_folder(url: str, column: str, id: int) -> None:
    """A template's slashes make folders, nothing that fills it does; also when the name is taken."""
    values = values_for(
        Target(id, 1, f"http://{url}/{url}?{url}", {"c": column, "host": column}), "text/html", "ab" * 32
    )
    for template in (*NAMES, "{c}/{row_host}/{url}/x{name}{ext}", "..{c}/{c}..", "{c}"):
        path = Template(template).fill(values)
        assert path.count("/") == NAMES.get(template, template).count("/")
        for free in islice(free_names(path, id), 4):
            for name in free.split("/"):
                check_name(name)


@given(st.lists(st.tuples(ANYTHING, st.integers(1, 5)), max_size=20, unique=True))
def test_no_two_targets_have_one_file(rows: list[tuple[str, int]]) -> None:
    """Of targets that want one name, or names that are one on some systems, each gets its own, and keeps it."""
    owners: dict[bytes, int] = {}
    paths: dict[int, str] = {}

    def name(id: int, text: str) -> str:
        wanted = Template("{c}").fill(values_for(Target(id, 1, "http://h/", {"c": text}), "", ""))
        return next(path for path in free_names(wanted, id) if owners.setdefault(key_of(path), id) == id)

    for id, (text, _) in enumerate(rows, 1):
        paths[id] = name(id, text)
    assert len({path.casefold() for path in paths.values()}) == len(rows)
    assert [name(id, text) for id, (text, _) in enumerate(rows, 1)] == list(paths.values())


@pytest.mark.parametrize(
    ("path", "other"),
    [("a.b/c.html", "a.b/c-4.html"), ("a.b/c", "a.b/c-4"), ("127.0.0.1_8000_x y", "127.0.0.1_8000_x y-4")],
)
def test_a_name_that_is_taken(path: str, other: str) -> None:
    """The row's number is before the extension, where there is one, and else at the end."""
    assert list(islice(free_names(path, 4), 2)) == [path, other]


@pytest.mark.parametrize(
    ("one", "other"), [("a.html", "A.HTML"), ("stra\u00dfe", "STRASSE"), ("caf\u00e9", "cafe\u0301"), ("\ufb01", "fi")]
)
def test_names_that_are_one_on_some_systems(one: str, other: str) -> None:
    """Capital letters and accents tell no files apart where some system does not."""
    assert key_of(one) == key_of(other) != key_of("b.html")


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("hash", "ab/" + "ab" * 32 + ".html"),
        ("host", "example.com/7-page.html"),
        ("{host}/{id:06}{ext}", "example.com/000007.html"),
        ("{line}-{sku}", "12-A_1"),
        ("{row_id}", "x9"),
        ("{{{none}}}", "{}"),
        ("{url}", "http___u____@example.com_a_page.PHP_q=1"),
        ("{sha256:.8}", "abababab"),
    ],
)
def test_templates(template: str, path: str) -> None:
    """Fields are the page's own, and the row's columns under their names, or with row_ before."""
    columns = {"sku": "A/1", "id": "x9", "none": None}
    target = Target(7, 12, "http://u:secret@example.com/a/page.PHP?q=1", columns)
    assert Template(template).fill(values_for(target, "text/html; charset=utf-8", "ab" * 32)) == path


@pytest.mark.parametrize(
    ("path", "content_type", "name", "ext"),
    [
        ("", "", "index", ""),
        ("/a/", "text/html", "index", ".html"),
        ("/a/photo.JPEG", "", "photo", ".jpeg"),
        ("/a/photo.JPEG", "image/png", "photo", ".png"),
        ("/x.tar.gz", "application/octet-stream", "x.tar", ".gz"),
        ("/a%2Fb%20c.txt", "nonsense", "a/b c", ".txt"),
        ("/.htaccess", "text/plain", ".htaccess", ".txt"),
        ("/v1.2", "application/json", "v1", ".json"),
    ],
)
def test_the_end_of_a_name(path: str, content_type: str, name: str, ext: str) -> None:
    """A file's extension is that of its content type; else, that of its URL."""
    values = values_for(Target(1, 1, f"http://h{path}", {}), content_type, "")
    assert (values["name"], values["ext"]) == (name, ext)


def test_a_field_that_is_not_there() -> None:
    """A row without the column of a template, or with a value that cannot be shown so, is told of by its name."""
    with pytest.raises(ValueError, match=r"BATCHER_BODIES_NAMES has \{sku\}, and the row has no such column"):
        Template("{sku}").fill({})
    with pytest.raises(ValueError, match="BATCHER_BODIES_NAMES: n 'x' cannot be shown as 03d: "):
        Template("{n:03d}").fill({"n": "x"})


def test_which_names_stand_for_a_content() -> None:
    """Only a template with the whole sum has files of the same name with the same content."""
    by_content = [
        text for text in ("hash", "host", "{sha256}", "{sha256:.8}", "{host}/{sha256}") if Template(text).is_by_content
    ]
    assert by_content == ["hash", "{sha256}", "{host}/{sha256}"]
