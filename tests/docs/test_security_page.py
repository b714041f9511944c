"""Each promise of docs/security.md has tests that exist."""

from __future__ import annotations

import ast
import re

from documents import ROOT

PAGE = ROOT / "docs" / "security.md"
TESTS = ROOT / "tests"


def rows() -> list[list[str]]:
    """Promise, how it is tested, what remains outside."""
    table = PAGE.read_text(encoding="utf-8").partition("## Promises")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_each_promise_names_tests_that_exist() -> None:
    assert len(rows()) > 20
    for promise, tested, *_ in rows():
        files = re.findall(r"`((?:unit|property|integration|dashboard|docs)/test_\w+\.py)`", tested)
        assert files, promise
        for file in files:
            assert _functions(file), f"{promise}: there is no test in {file}"


def test_a_test_that_is_named_stands_in_the_file_beside_it() -> None:
    named = re.findall(r"`(test_\w+)` \(`(\w+/test_\w+\.py)`\)", PAGE.read_text(encoding="utf-8"))
    assert named
    for test, file in named:
        assert test in _functions(file), test


def _functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")}
