"""docs/pitfalls.md names all ten pitfalls; it and docs/verifiers.md name tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
COMPARED: Final = (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8")
SECTIONS: Final = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]


def named_in(text: str) -> list[str]:
    return sorted(set(re.findall(r"`(tests/[^`]*)`", text)))


NAMED: Final = named_in(TEXT)


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


@pytest.mark.parametrize("test", [n for n in named_in(TEXT + COMPARED) if "::" in n])
def test_every_named_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert name.rpartition("::")[2].startswith("test_")
    assert name in functions(path)


def test_files_and_folders_named_without_a_test_exist() -> None:
    assert all((ROOT / n).exists() for n in named_in(TEXT + COMPARED) if "::" not in n)


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


def test_every_compared_feature_says_where_it_was_read() -> None:
    rows = re.findall(r"^\| ([A-Z][0-9]+) \|", COMPARED, flags=re.MULTILINE)
    sources = re.findall(r"^- \*\*([A-Z0-9, ]+)\*\* \S", COMPARED, flags=re.MULTILINE)
    assert len(rows) == len(set(rows)) >= 80
    assert [r for group in sources for r in group.split(", ")] == rows


def test_every_compared_module_of_ours_exists() -> None:
    modules = set(re.findall(r"\battestation(?:\.[a-z_]+)+", COMPARED))
    assert len(modules) >= 15
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
