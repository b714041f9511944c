"""The house as its documents describe it: names used once, files of one idea, imports without a circle, a true map."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Final

import pytest
from documents import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES: Final = ("producers", "streams", "analytics", "dashboard", "stagekeeper")
MOST_LINES: Final = 400
MOST_LINES_IN_ALL: Final = 60_850

# A command's file is named after the command, a view's after the view, and each room has its errors.
NAMED_BY_OTHERS: Final = re.compile(r"stagekeeper/commands/|dashboard/views/|/errors\.py$|/__\w+__\.py$")

FILES: Final = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """Read when a test asks: every process that collects imports this module, and reading takes a second."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_holds_more_than_one_idea_could_fill() -> None:
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    assert sum(lines.values()) <= MOST_LINES_IN_ALL


def test_no_two_modules_share_a_name() -> None:
    modules: dict[str, list[str]] = defaultdict(list)
    for name in map(name_of, FILES):
        if not NAMED_BY_OTHERS.search(name):
            modules[name.rpartition("/")[2]].append(name)
    assert {module: names for module, names in modules.items() if len(names) > 1} == {}


def test_no_two_classes_share_a_name(trees: dict[Path, ast.Module]) -> None:
    classes: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(name_of(path))
    assert {name: places for name, places in classes.items() if len(places) > 1} == {}


def test_no_modules_import_each_other_in_a_circle(trees: dict[Path, ast.Module]) -> None:
    modules = {name_of(path)[: -len(".py")].replace("/", "."): tree for path, tree in trees.items()}
    imports: dict[str, set[str]] = {}
    for module, tree in modules.items():
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        named = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        imports[module] = (named | {str(node.module) for node in froms}) & modules.keys() - {module}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' -> '.join(circle.args[1])}")


def test_the_map_names_every_room_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {f"{name_of(path.parent)}/" for path in FILES}
    mapped = set(re.findall(r"^\| `((?:" + "|".join(PACKAGES) + r")/[\w/]*)` \|", page, re.MULTILINE))
    assert mapped == rooms
