"""What is said of versions in several places is the same in all. (What is built, and how it runs: `.ci/matrix.py`.)"""

from __future__ import annotations

import re
from configparser import ConfigParser

from tests.conftest import ROOT

SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def lines(section: str, option: str) -> list[str]:
    return SETUP[section][option].strip().splitlines()


def test_the_oldest_are_tried() -> None:
    """tox has an environment with the oldest of what is required, and of nothing else."""
    oldest = [line.replace(">=", "==") for line in lines("options", "install_requires")]
    assert [line.removeprefix("oldest: ") for line in lines("testenv", "deps")] == oldest


def test_the_oldest_python() -> None:
    """mypy and ruff look with the eyes of the oldest Python, and the README names it, and the oldest Scrapy."""
    python = SETUP["options"]["python_requires"].removeprefix(">=")
    scrapy = lines("options", "install_requires")[0].removeprefix("scrapy>=")
    assert SETUP["mypy"]["python_version"] == python
    ruff = re.search(r'^target-version = "py(\d)(\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert ".".join(ruff.groups()) == python
    assert f"Scrapy {scrapy} and newer, Python {python} and newer" in (ROOT / "README.md").read_text()
