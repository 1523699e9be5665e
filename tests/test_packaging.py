"""What is said of versions in several places is the same in all. (What is built, and how it runs: `.ci/matrix.py`.)"""

from __future__ import annotations

import re
from configparser import ConfigParser

from tests.conftest import ROOT

SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def lines(section: str, option: str) -> list[str]:
    return SETUP[section][option].strip().splitlines()


def without_marker(requirement: str) -> str:
    return requirement.partition(";")[0]


def features() -> list[str]:
    """What the extras require that are for users."""
    return [line for extra in set(SETUP["options.extras_require"]) - {"test", "lint"} for line in of_extra(extra)]


def of_extra(extra: str) -> list[str]:
    return lines("options.extras_require", extra)


def test_the_oldest_are_tried() -> None:
    """tox has an environment with the oldest of what is required, with every extra, and of nothing else."""
    required = [*lines("options", "install_requires"), *features()]
    oldest = {without_marker(line).replace(">=", "==") for line in required}
    deps = [line.removeprefix("oldest: ") for line in lines("testenv", "deps") if not line.startswith("#")]
    assert sorted(map(without_marker, deps)) == sorted(oldest)


def test_the_tests_need_what_the_features_need() -> None:
    """The extra `test` has each extra's requirements, in the same versions."""
    assert set(features()) <= set(of_extra("test"))


def test_every_python_is_named() -> None:
    """The classifiers name the Pythons that tox tries, and no other; the oldest is the oldest that is allowed."""
    named = [line.rpartition(" ")[2] for line in lines("metadata", "classifiers") if re.search(r":: 3\.\d+$", line)]
    minors = re.search(r"py3\{([\d,]+)\}", SETUP["tox:tox"]["env_list"]).group(1).split(",")
    assert named == [f"3.{minor}" for minor in minors]
    assert SETUP["options"]["python_requires"] == f">={named[0]}"


def test_the_oldest_python() -> None:
    """mypy and ruff look with the eyes of the oldest Python, and the README names it, and the oldest Scrapy."""
    python = SETUP["options"]["python_requires"].removeprefix(">=")
    scrapy = lines("options", "install_requires")[0].removeprefix("scrapy>=")
    assert SETUP["mypy"]["python_version"] == python
    ruff = re.search(r'^target-version = "py(\d)(\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert ".".join(ruff.groups()) == python
    assert f"Scrapy {scrapy} and newer, Python {python} and newer" in (ROOT / "README.md").read_text()
