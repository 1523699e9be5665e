"""Every setting: its default, its meaning, its complaint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scrapy.settings import BaseSettings, Settings

from scrapy_batcher.config import OPTIONAL_FIELDS, Config, ConfigError


def config(**settings) -> Config:
    return Config.from_settings(Settings(settings))


def test_defaults():
    """Without a setting, the values are the defaults, which are Scrapy's where the setting is Scrapy's."""
    assert Config.from_settings(BaseSettings()) == Config()
    assert config() == Config(
        enabled=True, fields=(), columns=True, schemes=frozenset({"http", "https"}), skip_duplicates=False,
        failures=None, checkpoint_targets=1000, checkpoint_seconds=1.0, jobdir=None,
        concurrency=16, host_concurrency=8, slot_concurrency={}, url_length=2083,
    )  # fmt: skip


SLOTS = {"a.example": {"concurrency": "2", "delay": 1}, "b.example": {"delay": 2}}


@pytest.mark.parametrize(
    ("name", "value", "attribute", "meaning"),
    [
        ("BATCHER_ENABLED", "0", "enabled", False),
        ("BATCHER_ENABLED", "true", "enabled", True),
        ("BATCHER_FIELDS", ["status", "headers"], "fields", ("status", "headers")),
        ("BATCHER_FIELDS", "status, final_url,status,", "fields", ("status", "final_url")),
        ("BATCHER_FIELDS", "", "fields", ()),
        ("BATCHER_FIELDS", OPTIONAL_FIELDS, "fields", OPTIONAL_FIELDS),
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
        ("CONCURRENT_REQUESTS_PER_DOMAIN", "1", "host_concurrency", 1),
        ("DOWNLOAD_SLOTS", SLOTS, "slot_concurrency", {"a.example": 2}),
        ("DOWNLOAD_SLOTS", json.dumps(SLOTS), "slot_concurrency", {"a.example": 2}),
        ("DOWNLOAD_SLOTS", None, "slot_concurrency", {}),
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
        ("BATCHER_FIELDS", "status,colour", "BATCHER_FIELDS has 'colour'; choose from status, headers, "),
        ("BATCHER_FIELDS", 5, "BATCHER_FIELDS must be a list of names, not 5"),
        ("BATCHER_FIELDS", [b"status"], "BATCHER_FIELDS must be a list of names, not [b'status']"),
        ("BATCHER_SCHEMES", "", "BATCHER_SCHEMES must name a scheme, not ''"),
        ("BATCHER_SCHEMES", [], "BATCHER_SCHEMES must name a scheme, not []"),
        ("BATCHER_SCHEMES", "https://", "BATCHER_SCHEMES has 'https://', which is not a URL scheme"),
        ("BATCHER_SCHEMES", True, "BATCHER_SCHEMES must be a list of names, not True"),
        ("BATCHER_FAILURES", True, "BATCHER_FAILURES must be a path, not True"),
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
        ("BATCHER_FIELD", "status", "there is no setting BATCHER_FIELD; did you mean BATCHER_FIELDS?"),
        ("BATCHER_XYZZY", 1, "there is no setting BATCHER_XYZZY; the settings are BATCHER_ENABLED, "),
    ],
)
def test_complaints(name, value, complaint):
    """A value that cannot be used is refused with the setting's name and the value."""
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        config(**{name: value})


def test_the_config_cannot_be_changed():
    """A setting is read once; nobody changes it behind the others' backs."""
    with pytest.raises(AttributeError):
        config().enabled = False
