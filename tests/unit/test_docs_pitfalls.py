"""docs/pitfalls.md names all ten pitfalls, and only tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
SECTIONS: Final = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
NAMED: Final = sorted(
    set(re.findall(r"`(tests/[^`]*)`", TEXT)) - {"tests/unit/test_docs_pitfalls.py"}
)


@cache
def functions(path: str) -> frozenset[str]:
    """Names of the test functions of a file, with their class where they have one."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            names |= {f"{node.name}::{n.name}" for n in inner}
    return frozenset(names)


@pytest.mark.parametrize("test", [n for n in NAMED if "::" in n])
def test_every_named_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert name.rpartition("::")[2].startswith("test_")
    assert name in functions(path)


def test_files_and_folders_named_without_a_test_exist() -> None:
    assert all((ROOT / n).exists() for n in NAMED if "::" not in n)


def test_all_ten_are_there_in_order() -> None:
    numbers = [int(section.partition(".")[0]) for section in SECTIONS]
    assert numbers == list(range(1, 11))


def test_every_point_of_every_pitfall_names_a_test() -> None:
    for section in SECTIONS:
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert len(rows) >= 3, section.splitlines()[0]
        for row in rows:
            assert "::test_" in row, row


def test_every_pitfall_test_is_named() -> None:
    """What test_pitfalls.py adds is there for the document."""
    own = functions("tests/unit/test_pitfalls.py")
    named = {n.partition("::")[2] for n in NAMED if n.startswith("tests/unit/test_pitfalls.py::")}
    assert {name for name in own if name.startswith("test_")} == named
