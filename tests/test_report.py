"""``scrapy batcher report``: a page that tells what happened, as a browser has it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scrapy_batcher.jobs.history import bucket_of
from scrapy_batcher.jobs.lanes import HostWork
from scrapy_batcher.jobs.ledger import Ledger, Owner, Settlement
from scrapy_batcher.lists.lines import Mark, Place
from scrapy_batcher.lists.rows import Target
from scrapy_batcher.outcome import Answer, Outcome
from scrapy_batcher.reports.page import page
from scrapy_batcher.reports.report import Report
from scrapy_batcher.reports.survey import survey
from scrapy_batcher.reports.words import size
from tests.browser import Browser
from tests.conftest import Project, make_project
from tests.mockserver import MockServer
from tests.test_command_line import wait_until

# A host, and so an error, a job directory and a path that would be HTML.
NASTY = "http://<img"
PATH = "/src=x/onerror=alert(1)><script>alert(2)</script>\"'&amp;"
FOLDER = "jobs <b>&"

SETTINGS = {"RETRY_ENABLED": False, "BATCHER_REST": False, "CONCURRENT_REQUESTS": 4}

NOW = 1_700_000_000


def lines_of(server: MockServer) -> list[str]:
    hosts = [f"127.0.0.{n}" for n in range(1, 16)]
    return [
        *(server.url(f"page/{n}?size=500", hosts[n % 12]) for n in range(60)),
        *(server.url(f"page/slow?delay=0.1&{n}", hosts[12]) for n in range(2)),
        *(server.url(f"status/404?{n}", hosts[13]) for n in range(7)),
        *(f"http://127.0.0.15:1/{n}" for n in range(5)),
        *(f"nonsense <b>{n}</b>" for n in range(3)),
        NASTY + PATH,
        server.url("page/a?user=" + "x" * 400, hosts[0]),
    ]


def crawl(project: Project, job: str, *args: str) -> subprocess.Popen:
    return project.popen(
        "crawl", "batch", "-a", "urls=urls.txt", *args, settings={**SETTINGS, "JOBDIR": job}, stdin=subprocess.DEVNULL
    )


def finish(process: subprocess.Popen) -> None:
    _, log = process.communicate(timeout=100)
    assert process.returncode == 0, log.decode()


def write_report(project: Project, *jobs: str) -> Path:
    run = project.scrapy("batcher", "report", *jobs, "-o", "report.html")
    assert (run.status, run.log, run.output) == (0, "", "")
    return project.path / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def job(running_server: MockServer, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a job that is finished, of all kinds of outcomes, and its report."""
    running_server.control("clear")
    project = make_project(tmp_path_factory.mktemp("report"))
    project.write("urls.txt", "".join(f"{line}\n" for line in lines_of(running_server)))
    finish(crawl(project, FOLDER, "-o", "items.jsonl"))
    write_report(project, FOLDER)
    return project


@pytest.fixture(scope="module")
def html(job: Project) -> Path:
    return job.path / "report.html"


def ledger(project: Project, statement: str) -> list[tuple]:
    database = sqlite3.connect(project.path / FOLDER / "ledger.sqlite")
    try:
        return database.execute(statement).fetchall()
    finally:
        database.close()


def table(page, caption: str) -> dict[str, list[str]]:
    """The rows of the table with *caption*, by the heading of each."""
    rows = page.evaluate(f"""
        [...document.querySelectorAll("table")].filter(table => table.caption.textContent === {json.dumps(caption)})
        .flatMap(table => table.tBodies.length > 1 ? [...table.tBodies] : [...table.tBodies[0].rows])
        .map(row => [...row.querySelectorAll("th, td")].map(cell => cell.textContent))
    """)
    return {first: others for first, *others in rows}


def number(text: str) -> int:
    return int(text.replace(",", ""))


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(360, 800), (1280, 900)])
def test_it_opens(browser: Browser, html: Path, width: int, height: int, dark: bool) -> None:
    """It opens without a complaint, loads nothing, fits the screen, and follows the night."""
    with browser.page(html, width=width, height=height, dark=dark) as page:
        assert page.complaints() == []
        assert [url for url in page.requests() if not url.startswith("data:")] == [html.as_uri()]
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        outside = """
            [...document.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > innerWidth + 0.5)
            .map(one => one.outerHTML.slice(0, 200))
        """
        assert page.evaluate(outside) == []
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(re.findall(r"\d+", back)[0])
        assert red < 64 if dark else red > 192


@pytest.mark.parametrize(("width", "columns"), [(360, 1), (1280, 2)])
def test_there_is_room(browser: Browser, html: Path, width: int, columns: int) -> None:
    """On a telephone no word of a table's heading is torn, and on a wide screen reasons are side by side."""
    with browser.page(html, width=width, height=800) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        torn = """
            [...document.querySelectorAll("thead th")].filter(cell => {
                const text = document.createRange();
                text.selectNodeContents(cell);
                return text.getClientRects().length > cell.textContent.split(" ").length;
            }).map(cell => cell.textContent)
        """
        assert page.evaluate(torn) == []
        lefts = "[...document.querySelectorAll('.reasons h3')].map(one => Math.round(one.getBoundingClientRect().left))"
        assert len(set(page.evaluate(lefts))) == columns


def test_long_names(browser: Browser, tmp_path: Path) -> None:
    """A name that is longer than a telephone is wide is not written over the number beside it."""
    path = make_job(tmp_path / "job", {n: ("w" * 60, LOST, Answer(1, 0.1)) for n in range(2000)})
    (tmp_path / "r.html").write_text("\n".join(page(Report.of([path]))), encoding="utf-8")
    with browser.page(tmp_path / "r.html", width=320, height=800) as shown:
        there = """
            [...document.querySelectorAll("#worst .value")].map(value => {
                value.scrollIntoView();
                const box = value.getBoundingClientRect();
                return document.elementsFromPoint(box.left, box.top + box.height / 2).map(one => one.textContent);
            }).flat()
        """
        found = shown.evaluate(there)
        assert shown.evaluate("document.documentElement.scrollWidth") == 320
    assert "2,000 of 2,000" in found
    assert "w" * 31 + "…" not in found


def test_on_paper(browser: Browser, html: Path) -> None:
    """By night, too, it is printed by day, and paper has nothing to unfold."""
    with browser.page(html, width=800, height=800, dark=True) as page:
        night = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.call("Emulation.setEmulatedMedia", media="print", features=night)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("[...document.querySelectorAll('summary')].every(one => !one.checkVisibility())")


def test_the_plots_are_there(browser: Browser, html: Path) -> None:
    """Each plot has a title, a description, something drawn that can be seen, and a table beside it."""
    with browser.page(html, width=360, height=800) as page:
        plots = page.evaluate("""
            [...document.querySelectorAll("svg[id]")].map(svg => ({
                id: svg.id,
                told: svg.getAttribute("aria-labelledby").split(" ").map(id => document.getElementById(id).textContent),
                drawn: [...svg.querySelectorAll("rect, polygon")].filter(one => {
                    const box = one.getBoundingClientRect();
                    return box.width > 0 && box.height > 0;
                }).length,
                text: [...svg.querySelectorAll("text")].map(one => one.getBoundingClientRect().height),
                tables: svg.id === "sum" ? 1 : svg.closest("figure").querySelectorAll("table").length,
            }))
        """)
    assert [plot["id"] for plot in plots] == [
        "sum", "progress", "rate", "outcomes", "latency", "slowest", "worst"
    ]  # fmt: skip
    for plot in plots:
        assert all(plot["told"]), plot
        assert plot["drawn"], plot
        assert plot["tables"] == 1, plot
        assert all(height >= 11 for height in plot["text"]), "it can be read on a telephone"


def test_it_can_be_read_aloud(browser: Browser, html: Path) -> None:
    """A screen reader is told of a language, headings, and what each plot shows."""
    with browser.page(html, width=1280, height=900) as page:
        assert page.evaluate("document.documentElement.lang") == "en"
        told = page.read_aloud()
        headings = [name for role, name in told if role == "heading"]
        images = [name for role, name in told if role in ("image", "img")]
        tables = [name for role, name in told if role == "DisclosureTriangle"]
    assert len(tables) == len(set(tables)) == 6
    assert tables[0] == "As a table: Targets with an outcome at a time, UTC"
    groups = [name for role, name in told if role == "group" and name]
    assert groups == [], "a plot is one image; what is in it is in the table beside"
    assert headings[:6] == [FOLDER, "Progress", "Rate", "Outcomes", "Latency", "Hosts"]
    assert [name.split(" Of ")[0] for name in images][:1] == ["What became of all targets"]
    assert len(images) == 7


def test_its_numbers_are_the_ledgers(browser: Browser, job: Project, html: Path) -> None:
    """Each number of the page is what the ledger has."""
    states = dict(ledger(job, "SELECT state, count(*) FROM target GROUP BY state"))
    assert states == {
        "fetched": 63, "failed/http-404": 7, "failed/refused": 5, "failed/dns": 1, "skipped/invalid": 3
    }  # fmt: skip
    with browser.page(html, width=1280, height=900) as page:
        figures = dict(
            page.evaluate("""
            [...document.querySelectorAll("dl div")].map(div => [...div.children].map(one => one.textContent))
        """)
        )
        outcomes = table(page, "Targets by outcome")
        progress = table(page, "Targets with an outcome at a time, UTC")
        settled = table(page, "Targets settled, by time, UTC")
        latencies = table(page, "Responses by latency")
        worst = table(page, "Hosts: most failures")
        slowest = table(page, "Hosts: slowest to answer")
        reasons = page.evaluate("[...document.querySelectorAll('section:last-of-type h3')].map(one => one.textContent)")
    assert {name: figures[name] for name in ("read", "fetched", "failed", "skipped", "pending")} == {
        "read": "79", "fetched": "63", "failed": "13", "skipped": "3", "pending": "0"
    }  # fmt: skip
    assert figures["of fetched pages"] == size(sum(item["length"] for item in job.items()))
    assert {name: number(count) for name, (count, _) in outcomes.items()} == states
    assert [number(count) for count in list(progress.values())[-1]] == [63, 13, 3]
    assert sum(number(fetched) for fetched, _, _ in settled.values()) == 63
    assert sum(number(failed) for _, failed, _ in settled.values()) == 13
    assert sum(number(count) for _, count, _ in latencies.values()) == 63 + 7, "which were answered"
    assert {host: row[:3] for host, row in worst.items()} == {
        "127.0.0.14": ["0", "0", "7"], "127.0.0.15": ["0", "0", "5"], "<img": ["0", "0", "1"]
    }  # fmt: skip
    assert next(iter(slowest)) == "127.0.0.13"
    assert len(slowest) == 10
    assert [reason.split()[:2] for reason in reasons] == [
        ["failed/http-404", "7,"], ["failed/refused", "5,"], ["skipped/invalid", "3,"], ["failed/dns", "1,"]
    ]  # fmt: skip


def test_what_others_have_written_is_text(browser: Browser, html: Path) -> None:
    """HTML in a URL, a host's name, an error or the name of a folder is shown, and is none."""
    with browser.page(html, width=1280, height=900) as page:
        assert page.evaluate("document.querySelectorAll('img, script, b').length") == 0
        text = page.evaluate("document.body.textContent")
        links = page.evaluate("[...document.links].map(link => [link.href.slice(0, 8), link.rel])")
        assert page.evaluate("document.querySelector('h1').textContent") == FOLDER
    assert NASTY + PATH in text
    assert "no address found for <img" in text
    assert "nonsense <b>0</b>" in text
    assert {tuple(link) for link in links} == {
        ("http://1", "noreferrer noopener nofollow"),
        ("http://<", "noreferrer noopener nofollow"),
    }


# -- without one -------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Which tags are open at the end, and all attributes there are."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.ids.update(value for name, value in attrs if name == "id")

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_its_tags_are_closed(html: Path) -> None:
    """Each tag is closed, in order, and each id is there once."""
    tags = Tags()
    tags.feed(html.read_text(encoding="utf-8"))
    assert tags.open == []
    assert set(tags.ids.values()) == {1}


def test_while_it_runs_and_after_a_kill(project: Project, server: MockServer) -> None:
    """A report is made while the batch runs, when it was killed, and when it has gone on."""
    project.write("urls.txt", "".join(f"{server.url(f'page/{n}')}\n" for n in range(30)))
    server.control("allow?more=10")
    process = crawl(project, "job", "-s", "BATCHER_CHECKPOINT_TARGETS=2")
    wait_until(lambda: sum(server.control()["hits"].values()) >= 14, process)

    def header() -> str:
        return re.findall(r"<header>.*?</p>", write_report(project, "job").read_text(), re.DOTALL)[0]

    wait_until(
        lambda: re.search("<dt>fetched</dt><dd>([8-9]|10)</dd>", write_report(project, "job").read_text()), process
    )
    assert "Running. Begun on" in header()
    process.kill()
    process.communicate()
    assert "Not finished, killed. Begun on" in header()
    server.control("clear")
    finish(crawl(project, "job"))
    assert "Finished. Begun on" in header()
    report = Report.of([str(project.path / "job")])
    assert (report.totals.fetched, report.jobs[0].runs.number, report.jobs[0].settled) == (30, 2, 30)
    assert sum(report.latencies.values()) == 30
    assert sum(span.settled["fetched"] for span in report.spans) == 30


def make_job(folder: Path, settled: dict[int, tuple[str, Outcome, Answer]], shard: str = "1/1", file: str = "") -> str:
    """A job in *folder*, whose targets ended a number of seconds after its start."""
    folder.mkdir()
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.belong(Owner("batch", "txt", "url", shard))
    ledger.history._clock = lambda: NOW
    ledger.history.begin_run()
    rows = [
        (Target(n, n, f"http://{host}/{n}", {}, file=file), (f"host:{host}",), None)
        for n, (host, _, _) in enumerate(settled.values(), 1)
    ]
    ledger.load(rows, Mark(len(rows), Place(len(rows), 10, 3)))
    ledger.complete_list(ledger.mark)
    done = enumerate(settled.items(), 1)
    ledger.settle([Settlement(n, outcome, 1, NOW + second, answer) for n, (second, (_, outcome, answer)) in done], {})
    ledger.history._clock = lambda: NOW + max(settled, default=0) + 1
    ledger.history.end_run()
    ledger.close()
    return str(folder)


FETCHED = Outcome("fetched", 200)
LOST = Outcome("failed/http-404", 404, "404 Not Found")


def test_several_jobs(tmp_path: Path) -> None:
    """Shards are one report: a host that is in several of them has their sums, and time is the same for all."""
    jobs = [
        make_job(tmp_path / "1", {0: ("a", FETCHED, Answer(5, 1.0)), 1: ("b", LOST, Answer(5, 0.1))}, "1/2"),
        make_job(tmp_path / "2", {100: ("a", LOST, Answer(5, 3.0)), 599: ("c", FETCHED, Answer(7, 0.1))}, "2/2"),
    ]
    report = Report.of(jobs)
    assert (report.totals.fetched, report.totals.failed, report.totals.bytes) == (2, 2, 12)
    assert report.hosts.count == 3
    assert report.hosts.slowest[0] == HostWork("host:a", 0, 1, 1, 2, 4.0, 0.0)
    assert [host.host for host in report.hosts.worst] == ["host:a", "host:b"]
    assert report.latencies == {bucket_of(1.0): 1, bucket_of(0.1): 2, bucket_of(3.0): 1}
    assert [(span.start - NOW, span.end - span.start) for span in report.spans[::20]] == [(0, 10), (200, 10), (400, 10)]
    assert len(report.spans) == 60
    assert report.spans[-1].ended == Counter(fetched=2, failed=2)
    text = "\n".join(page(report))
    assert "<h1>2 jobs</h1>" in text
    assert f"{jobs[1]}, shard 2/2: finished" in text


@pytest.mark.parametrize(("later", "seconds"), [(0, 10), (4, 14), (1000, 20)])
def test_how_long_jobs_took(tmp_path: Path, later: int, seconds: int) -> None:
    """Of jobs that were worked on at the same time that counts once, and the rate is that of all in this time."""
    settled = {n: ("a", FETCHED, Answer(1, 0.1)) for n in range(10)}
    jobs = [make_job(tmp_path / name, settled) for name in ("one", "other")]
    database = sqlite3.connect(tmp_path / "other" / "ledger.sqlite")
    database.execute("UPDATE list SET started = started + ?, heard = heard + ?", (later, later))
    database.commit()
    database.close()
    report = Report.of(jobs)
    assert (report.seconds, report.rate) == (seconds, 20 / seconds)


def test_how_long_answers_took(tmp_path: Path) -> None:
    """Half of the answers, and nine in ten, came within about that time."""
    settled = {n: ("a", FETCHED, Answer(1, 0.01 if n < 50 else 0.1 if n < 95 else 10.0)) for n in range(100)}
    report = Report.of([make_job(tmp_path / "job", settled)])
    assert 0.008 < report.latency(0.5) < 0.0125
    assert 0.08 < report.latency(0.9) < 0.125
    assert 8 < report.latency(0.99) < 12.5


def test_examples(tmp_path: Path) -> None:
    """Of each outcome there are a few examples, with different errors, the most frequent one first."""
    errors = ["abcdefgh"[n % 8] if n % 2 else "often" for n in range(40)]
    settled = {n: ("h", Outcome("failed/other", None, error), Answer()) for n, error in enumerate(errors)}
    [reason] = Report.of([make_job(tmp_path / "job", settled)]).reasons
    assert (reason.outcome, reason.count) == ("failed/other", 40)
    assert [record.outcome.error for record in reason.examples] == ["often", "b", "d", "f", "h"]


@pytest.mark.parametrize(("number", "told"), [(12, ""), (40, "; the 12 most frequent of 40")])
def test_many_outcomes(tmp_path: Path, number: int, told: str) -> None:
    """When not all outcomes have a bar, that is said; the table beside has all."""
    settled = {n: ("a", Outcome(f"failed/http-{400 + n}", 400 + n), Answer()) for n in range(number)}
    text = "".join(page(Report.of([make_job(tmp_path / "job", settled)])))
    assert f"of the {number} targets that were read{told}</p>" in text
    assert len(re.findall(r'<th scope="row">failed/http-', text)) == number


def test_examples_whose_errors_name_them(tmp_path: Path) -> None:
    """Errors that differ by what only one target has, its URL, host and numbers, are the same error."""
    hosts = [f"name-{n}" for n in range(40)]
    errors = [f"LostError: http://{host}/{n}: lost after {n} ms, as {host} is" for n, host in enumerate(hosts)]
    errors[30] = "LostError: http://name-30/30: reset"
    settled = {
        n: (host, Outcome("failed/connection", None, error), Answer())
        for n, (host, error) in enumerate(zip(hosts, errors, strict=True))
    }
    [reason] = Report.of([make_job(tmp_path / "job", settled)]).reasons
    assert [record.outcome.error for record in reason.examples] == [errors[0], errors[30], errors[1]]


def test_which_file_an_example_is_in(tmp_path: Path) -> None:
    """Of a list that has several files an example names its own."""
    path = make_job(tmp_path / "job", {0: ("a", LOST, Answer())}, file="lists/<b>.txt")
    assert "lists/&lt;b&gt;.txt line 1, 1 attempt<" in "".join(page(Report.of([path])))


@pytest.mark.parametrize("begun", [0, NOW - 10**8, NOW - 50, NOW + 10**8])
def test_a_clock_that_was_set(tmp_path: Path, begun: int) -> None:
    """Whatever the clock said when the job was begun, there are a few spans, and all that was settled is in them."""
    settled = {n: ("a", FETCHED, Answer(1, 0.1)) for n in range(50)}
    path = make_job(tmp_path / "job", settled)
    database = sqlite3.connect(tmp_path / "job" / "ledger.sqlite")
    database.execute("UPDATE list SET begun = ?", (begun,))
    database.commit()
    database.close()
    spans = Report.of([path]).spans
    assert 1 <= len(spans) <= 61
    assert sum(span.settled["fetched"] for span in spans) == spans[-1].ended["fetched"] == 50


def test_a_job_that_has_done_nothing(tmp_path: Path) -> None:
    """A job of which nothing is known yet has a page, too."""
    (tmp_path / "job").mkdir()
    Ledger(tmp_path / "job" / "ledger.sqlite").close()
    text = "\n".join(page(Report.of([str(tmp_path / "job")])))
    assert "<dt>read</dt><dd>0</dd>" in text
    assert 'id="progress"' not in text
    assert 'class="legend"' not in text
    assert "None: nothing is settled yet." in text


def test_no_host_is_forgotten_among_many() -> None:
    """Of any number of hosts, those with the highest numbers are named, in order; the others are counted."""
    many = [
        HostWork(f"host:{n:05}", n % 7, n % 11, n % 13, n % 3, n % 101 * (n % 3), 5.0 * (n % 2)) for n in range(2000)
    ]
    found = survey([iter(many[::2]), iter(many[1::2])], now=1.0, most=4)
    assert (found.count, found.pending) == (2000, sum(1 for host in many if host.pending))
    assert found.resting == sum(1 for host in many if host.pending and host.due)
    assert found.largest == sorted(many, key=lambda host: (-host.pending, host.host))[:4]
    assert found.worst == sorted(many, key=lambda host: (-host.failed, host.host))[:4]
    answered = [host for host in many if host.answers]
    assert found.slowest == sorted(answered, key=lambda host: (-host.seconds / host.answers, host.host))[:4]
