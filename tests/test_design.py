"""docs/design.md is true: its tables of rooms are the package, and its arrows are the imports."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / "scrapy_batcher"
MODULES = {path.stem: path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
FLOORS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
DESIGN = (ROOT / "docs/design.md").read_text()


def imports(path: Path) -> set[str]:
    """The modules of ours that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scrapy_batcher"):
            name = (node.module or "").rpartition(".")[2]
            found |= {alias.name for alias in node.names} if name in {"scrapy_batcher", *FLOORS} else {name}
    return found


def floor(module: str) -> str:
    """The folder that a module is in; none at the top of the package."""
    return MODULES[module].parent.name if MODULES[module].parent != PACKAGE else ""


def named(row: str) -> set[str]:
    """What the last column of a table names."""
    return set() if row == "\N{EN DASH}" else set(row.split(", "))


def test_the_tables_of_rooms() -> None:
    """Every module is in the table of its floor, with the modules it imports; none of them is over 300 lines."""
    top, *sections = re.split(r"^### `(\w+)/`$", DESIGN, flags=re.MULTILINE)
    tables = {"": top, **dict(zip(sections[::2], sections[1::2], strict=True))}
    rooms = {
        (name, module): row
        for name, text in tables.items()
        for module, row in re.findall(r"^\| `(\w+)\.py` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    }
    assert rooms.pop(("", "__init__")) == "the rooms it lists"
    assert {at: named(row) for at, row in rooms.items()} == {
        (floor(module), module): imports(path) for module, path in MODULES.items()
    }
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > 300} == {}


def test_the_table_of_floors() -> None:
    """Each floor knows those that its row names, and every one of them is further down."""
    table = re.findall(r"^\| `(\w+)/` \|.*\| ([^|]+) \|$", DESIGN, re.MULTILINE)
    known: dict[str, set[str]] = {name: set() for name in FLOORS}
    for module, path in MODULES.items():
        known.setdefault(floor(module), set()).update(floor(other) for other in imports(path))
    assert {name: named(row) for name, row in table} == {name: known[name] - {name, ""} for name in FLOORS}
    below = [name for name, _ in table]
    for name, row in table:
        assert named(row) <= set(below[below.index(name) + 1 :])


def test_arrows_run_one_way() -> None:
    """No module imports itself by way of others."""
    graph = {module: imports(path) for module, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)
