"""What is tested on asyncio's reactor in this process is tested once more, in a process of its own, on another one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.conftest import ROOT

FILES = (
    "test_cooperator_paths.py",
    "test_semaphore_paths.py",
    "test_resume.py",
    "test_engine.py",
    "test_downloader.py",
    "test_scraper.py",
    "test_signalmanager.py",
    "test_reader.py",
    "test_named_limits.py",
    "test_queue.py",
    "test_loop.py",
    "test_metrics.py",
    "test_bodies.py",
    "test_warc.py",
)


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """The files, each on its way in a process: as many at a time as there are processors."""

    def run(file: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "--reactor=default", "--numprocesses=0", "-q", f"tests/{file}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {file: pool.submit(run, file) for file in FILES}


@pytest.mark.parametrize("file", FILES)
def test_on_a_reactor_that_is_not_asyncio(runs: dict, file: str) -> None:
    """The same tests pass on Twisted's default reactor."""
    run = runs[file].result()
    assert run.returncode == 0, run.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 1
