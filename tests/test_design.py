"""docs/design.md is true: its table of rooms is the package, and its arrows are the imports."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter

from tests.conftest import ROOT

PACKAGE = ROOT / "scrapy_batcher"


def imports(name: str) -> set[str]:
    """The modules of ours that the module *name* imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scrapy_batcher"):
            _, _, module = (node.module or "").partition(".")
            found |= {module} if module else {alias.name for alias in node.names}
    return found


def test_the_table_of_rooms() -> None:
    """Every module is in the table, with the modules it imports; none of them is over 300 lines."""
    table = dict(re.findall(r"^\| `(\w+\.py)` \|.*\| ([^|]+) \|$", (ROOT / "docs/design.md").read_text(), re.MULTILINE))
    modules = {path.name: imports(path.name) for path in PACKAGE.glob("*.py")}
    assert table.pop("__init__.py") == "the rooms it lists"
    del modules["__init__.py"]
    assert {name: set() if row == "\N{EN DASH}" else set(row.split(", ")) for name, row in table.items()} == modules
    assert {name: length for name in modules if (length := len((PACKAGE / name).read_text().splitlines())) > 300} == {}


def test_arrows_run_one_way() -> None:
    """No module imports itself by way of others."""
    graph = {path.stem: imports(path.name) for path in PACKAGE.glob("*.py")}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)
