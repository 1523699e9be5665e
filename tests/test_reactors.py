"""What is tested on asyncio's reactor in this process is tested once more, in a process of its own, on another one."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    "file",
    ["test_semaphore_paths.py", "test_cooperator_paths.py", "test_engine.py", "test_reader.py", "test_resume.py"],
)
def test_on_a_reactor_that_is_not_asyncio(file: str) -> None:
    """The same tests pass on Twisted's default reactor."""
    command = [sys.executable, "-m", "pytest", "--reactor=default", "-q", f"tests/{file}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 1
