"""Build sdist and wheel, look at what is in them, and run `smoke.py` from the wheel in environments of their own.

Each Python that is found here (on the path, or as pyenv keeps them) has one with the newest of what scrapy-batcher
needs; the oldest Python has two with the oldest that setup.cfg allows, too, without extras and with all of them, or
with ``--all`` each has. Needs the package `build`, and pip's index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VERSION = "import sys; print(*sys.version_info[:2], sys.implementation.name)"
# What setuptools says that is no fault of ours: where Python is told to write no bytecode, it writes none.
HARMLESS = "byte-compiling is disabled"


def run(*command: str | Path) -> str:
    """What *command* says; ends with that when it fails."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def requirements() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def features() -> list[str]:
    """The extras that are for users."""
    return sorted(requirements()["options.extras_require"].keys() - {"test", "lint"})


def oldest(*extras: str) -> list[str]:
    """What setup.cfg requires, itself and for *extras*, each in the oldest version that it allows."""
    setup = requirements()
    required = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    return [line.replace(">=", "==", 1) for text in required for line in text.split("\n") if line]


def pythons() -> dict[tuple[int, int], str]:
    """The Pythons that are here and new enough, by version, the oldest first."""
    least = tuple(map(int, re.findall(r"\d+", requirements()["options"]["python_requires"])))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[tuple[int, int], str] = {}
    for python in [
        sys.executable,
        *map(shutil.which, (f"python3.{n}" for n in range(10, 30))),
        *pyenv.glob("*/bin/python"),
    ]:
        if python is None:
            continue
        asked = subprocess.run([python, "-c", VERSION], capture_output=True, text=True)
        if asked.returncode:  # pyenv's stand-in for one that is not chosen
            continue
        major, minor, implementation = asked.stdout.split()
        version = int(major), int(minor)
        if version >= least and implementation == "cpython":
            found.setdefault(version, str(python))
    return dict(sorted(found.items()))


def build(folder: Path) -> Path:
    """Build both in *folder*, the wheel from the sdist, as whoever gets that does; returns the wheel.

    :raises SystemExit: with what is wrong with them
    """
    log = run(sys.executable, "-m", "build", "--outdir", folder, ".")
    if warnings := [
        line for line in log.splitlines() if re.search("^warning:|Deprecat", line) and HARMLESS not in line
    ]:
        sys.exit("\n".join(["warnings when it was built:", *warnings]))
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    tracked = set(run("git", "ls-files").splitlines())
    with tarfile.open(sdist) as file:
        packed = {name.partition("/")[2] for name in file.getnames() if not file.getmember(name).isdir()}
    packed = {name for name in packed if name != "PKG-INFO" and ".egg-info/" not in name}
    expect("the sdist", packed, tracked)
    modules = {name for name in tracked if name.startswith("scrapy_batcher/")}
    metadata = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    with ZipFile(wheel) as file:
        expect("the wheel", {name.partition(".dist-info/")[2] or name for name in file.namelist()}, modules | metadata)
    return wheel


def expect(where: str, there: set[str], wanted: set[str]) -> None:
    if there != wanted:
        sys.exit(f"{where} lacks {sorted(wanted - there)}, and has too much: {sorted(there - wanted)}")


def smoke(folder: Path, python: str, packages: list[str], *args: str) -> None:
    """Make an environment in *folder* by *python*, with *packages* alone, and run `smoke.py` with *args* there."""
    run(python, "-m", "venv", "--without-pip", folder)  # the pip that is here does for all, and sooner
    ours = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", ours, "install", "--quiet", "--disable-pip-version-check", *packages)
    print(run(ours, HERE / "smoke.py", *args).strip(), flush=True)
    shutil.rmtree(folder)


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="the oldest of what is needed on each Python, too")
    everything = parser.parse_args().all
    with TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        wheel = str(build(folder))
        found = list(pythons().values())
        with_extras = f"{wheel}[{','.join(features())}]"
        # The sentences are the same everywhere: one environment is enough for them.
        cells = [(found[0], [wheel], "--without-extras"), *((python, [wheel]) for python in found[1:])]
        for python in found if everything else found[:1]:
            cells.append((python, [wheel, *oldest()]))
            cells.append((python, [with_extras, *oldest(*features())], "--with-extras"))
        runs = [pool.submit(smoke, folder / str(n), *cell) for n, cell in enumerate(cells)]
        for each in runs:
            each.result()


if __name__ == "__main__":
    main()
