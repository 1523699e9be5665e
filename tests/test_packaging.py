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
    """tox has an environment with the oldest of all that is required, by the extras and the tests, too."""
    required = lines("options", "install_requires") + lines("options.extras_require", "test")
    oldest = [re.sub(r"\[\w+\]", "", line).replace(">=", "==", 1) for line in required]
    assert [line.removeprefix("oldest: ") for line in lines("testenv", "deps")] == list(dict.fromkeys(oldest))


def test_the_tests_have_every_extra() -> None:
    """What a feature needs the tests need, in the same version."""
    features = SETUP["options.extras_require"].keys() - {"test", "lint"}
    needed = {line for name in features for line in lines("options.extras_require", name)}
    assert needed
    assert needed <= set(lines("options.extras_require", "test"))


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
