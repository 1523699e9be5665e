"""Environments of their own for what is compared: made once, with pip, and used again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

from common import HERE, Case

OURS = HERE.parent

# Where scrapy-batcher is not installed, the project's own spiders are all there are.
ALONE = {"SPIDER_MODULES": "benchmark_project"}

# What is installed in each, and the module without which it cannot be used.
PACKAGES = {
    "scrapy": (["scrapy"], "scrapy"),
    "batch": (["-e", str(OURS)], "scrapy_batcher"),
    "fast": (["-e", f"{OURS}[fast]"], "scrapy_batcher.fast.curl"),
    # It has no extra for pycurl, with which it is faster.
    "minet": (["minet", "pycurl"], "minet"),
    "crawlee": (["crawlee"], "crawlee"),
    "aiohttp": (["aiohttp"], "aiohttp"),
    "curl_cffi": (["curl_cffi"], "curl_cffi"),
}

VERSIONS = """
from importlib.metadata import distributions
names = {
    "scrapy", "twisted", "pycurl", "minet", "urllib3", "crawlee", "impit", "aiohttp", "curl_cffi", "scrapy-batcher"
}
found = {f"{d.name} {d.version}" for d in distributions() if d.name.lower() in names}
print(", ".join(sorted(found, key=str.lower)))
"""


class Environments:
    """The environments in a *folder*, each made when it is first asked for.

    :raises SystemExit: with a sentence, when one cannot be made
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def python(self, name: str) -> str:
        """The interpreter of the environment *name*."""
        packages, _ = PACKAGES[name]
        folder = self._folder.resolve() / name
        python, done = folder / "bin" / "python", folder / "installed.txt"
        wanted = "\n".join([sys.version, *packages, (OURS / "setup.cfg").read_text() if "-e" in packages else ""])
        if not done.exists() or done.read_text() != wanted:
            print(f"making the environment {folder}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            for command in (
                [sys.executable, "-m", "venv", folder],
                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
            ):
                made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                if made.returncode:
                    sys.exit(f"the environment of {name} could not be made, {command[-1]} failed:\n{made.stdout}")
            done.write_text(wanted)
        return str(python)

    def is_usable(self, name: str) -> bool:
        """Whether what the environment *name* is for can be imported there: ``fast`` is an extra."""
        _, module = PACKAGES[name]
        return subprocess.run([self.python(name), "-c", f"import {module}"], capture_output=True).returncode == 0

    def cases(self, *, jobs: bool = False) -> dict[str, Case]:
        """By short names: plain Scrapy, the batch spider, and that with the extra ``fast``, if it can be used.

        :param jobs: whether the batch spider is there with ``JOBDIR``, too
        """
        found = {"scrapy": Case("plain Scrapy", "plain", ALONE, python=self.python("scrapy"))}
        for name, title in (("batch", "batch spider"), ("fast", "batch spider, fast")):
            if not self.is_usable(name):
                print(f"{title}: cannot be used here, left out")
                continue
            found[name] = Case(title, "batch", python=self.python(name))
            if jobs:
                found[f"{name}-job"] = Case(f"{title}, with JOBDIR", "batch", job=True, python=self.python(name))
        return found

    def versions(self, name: str) -> str:
        """What is installed there, of what matters."""
        return subprocess.run(
            [self.python(name), "-c", VERSIONS], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()


def add_option(parser: ArgumentParser) -> None:
    """Let *parser* take ``--environments``."""
    parser.add_argument(
        "--environments",
        type=Path,
        default=HERE / ".environments",
        help="folder of the environments that are made, and used again (%(default)s)",
    )
