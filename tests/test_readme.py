"""What the README and docs/ say is there, and what is there they say."""

from __future__ import annotations

import inspect
import re

from scrapy_batcher import BatchSpider, Totals
from scrapy_batcher.config import FIELDS, Config
from tests.conftest import ROOT, Project
from tests.mockserver import MockServer

README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
LISTS = (ROOT / "docs/lists.md").read_text()
OUTPUT = (ROOT / "docs/output.md").read_text()
PROMISES = (ROOT / "docs/promises.md").read_text()


# What is in the configuration of Scrapy's own settings.
_SCRAPYS = {
    "jobdir",
    "concurrency",
    "timeout",
    "obeys_robots",
    "robots_user_agent",
    "autothrottle",
    "log_seconds",
    "logs_to_file",
    "url_length",
}


# The tests that show each row of the table of promises: without a job, with one, or both.
_SHOWN_BY = {
    "each row has one outcome, and they add up": [
        "test_cooperator_paths.py::test_one_outcome_each",
        "test_resume.py::test_stopped_again_and_again",
    ],
    "Ctrl-C once": ["test_command_line.py::test_interrupted_once", "test_killed.py::test_interrupted"],
    "`kill -9`, a crash": ["test_killed.py::test_a_fault_at_each_step", "test_killed.py::test_killed_again_and_again"],
    "lines in local feeds": [
        "test_resume.py::test_feeds_without_a_job_are_scrapys",
        "test_killed.py::test_killed_again_and_again",
    ],
    "bodies as files": ["test_files_killed.py::test_without_a_job", "test_bodies.py::test_the_disk_has_it_first"],
    "WARC": ["test_files_killed.py::test_without_a_job", "test_files_killed.py::test_killed_again_and_again"],
    "items in a pipeline's database": [
        "test_cooperator_paths.py::test_a_job_ends_with_its_pipelines",
        "test_killed.py::test_a_database_of_a_pipeline",
    ],
    "remote feeds, JSON arrays, XML, Parquet": [
        "test_parquet.py::test_a_crawl",
        "test_resume.py::test_feeds_that_cannot_be_gone_on_with",
    ],
    "limits of hosts, rests, robots.txt": [
        "test_command_line.py::test_a_list_on_every_reactor",
        "test_polite.py::test_many_hosts",
        "test_rests.py::test_a_rest_goes_on_after_a_restart",
        "test_retries.py::test_a_retry_that_is_not_due_waits_over_a_restart",
    ],
    "a disk that is full": [
        "test_killed.py::test_no_room_for_a_feed_without_a_job",
        "test_killed.py::test_no_room_for_a_feed",
        "test_killed.py::test_no_room_for_the_ledger",
        "test_files_killed.py::test_no_room",
    ],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_settings() -> None:
    """Every setting is in the table with its default, and the table has no other."""
    table = dict(re.findall(r"^\| `BATCHER_(\w+)` \| `(.*?)` \|", SETTINGS, re.MULTILINE))
    defaults = {name.lower(): eval(value) for name, value in table.items()}
    config = Config()
    assert defaults.keys() | _SCRAPYS == vars(config).keys()
    for name, value in defaults.items():
        assert getattr(config, name) == (type(getattr(config, name))(value) if isinstance(value, list) else value)
    for field in FIELDS:
        assert f"`{field}`" in OUTPUT
    assert set(re.findall(r"BATCHER_(\w+)", README)) <= table.keys()


def test_outcomes() -> None:
    """Every outcome that the code can give is in the table."""
    code = "".join(path.read_text() for path in (ROOT / "scrapy_batcher").rglob("*.py"))
    outcomes = set(re.findall(r'"((?:failed|skipped)/[a-z-]+)"', code))
    assert len(outcomes) > 15
    assert {name for name in outcomes if f"`{name}`" not in PROMISES} == set()


def test_promises() -> None:
    """Each row of the table of promises has tests that show it, and they are there."""
    table = PROMISES.split("## What is promised")[1].split("## ")[0]
    promises = re.findall(r"^\| ([^|\n]+) \|", table, re.MULTILINE)
    assert promises == list(_SHOWN_BY)
    for file, _, test in (name.partition("::") for names in _SHOWN_BY.values() for name in names):
        code = (ROOT / "tests" / file).read_text()
        assert re.search(rf"^(async )?def {test}\(", code, re.MULTILINE), f"{file}::{test}"


def test_arguments_and_totals() -> None:
    """The spider's arguments and the totals' names are there."""
    arguments = set(inspect.signature(BatchSpider.__init__).parameters) - {"self", "name", "kwargs"}
    section = LISTS.split("## Arguments")[1].split("## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \| ", section, re.MULTILINE)) == arguments
    assert {name for name in arguments if f"`{name}`" not in README} == set()
    for name in (*Totals.__dataclass_fields__, "fetched", "failed", "skipped"):
        assert f"`{name}`" in SETTINGS


def test_ci_runs_the_test_command() -> None:
    """.ci/run runs the README's test command, as it stands there."""
    commands = [command.strip() for command in blocks("sh") if "pytest" in command]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci/run").read_text()


def test_the_subclass(project: Project, server: MockServer) -> None:
    """The README's own spider runs."""
    [spider] = [block for block in blocks("python") if "class Titles" in block]
    project.write("titles.py", spider)
    project.write("list.csv", f"url,id,head\n{server.url('page/abc')},1,\n{server.url('status/404')},2,\n")
    run = project.scrapy("runspider", "titles.py", "-a", "urls=list.csv", "-O", "items.jsonl")
    assert run.status == 0, run.log
    assert sorted(project.items(), key=lambda item: item["id"]) == [
        {"id": "1", "title": "abc"},
        {"id": "2", "error": "HttpError"},
    ]
