"""What docs/onchain.md and docs/spec/onchain.md say of the contracts is what the contracts are."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [p.read_text() for p in sorted((ROOT / "contracts" / "src").rglob("*.sol"))]
ERRORS = sorted({name for text in SOURCES for name in re.findall(r"^\s*error (\w+)\(", text, re.M)})
FORMATS = (ROOT / "docs" / "spec" / "onchain.md").read_text()
GUIDE = (ROOT / "docs" / "onchain.md").read_text()
# Words in backticks that begin as errors do and are none: contracts, libraries, types, members.
NAMES = sorted(set(re.findall(r"`([A-Z][A-Za-z0-9]*\*?|\*[A-Z][A-Za-z0-9]+)`", FORMATS)))
KINDS = re.compile(r"\b(?:contract|library|struct|event|interface) (\w+)")
DECLARED = {name for text in SOURCES for name in KINDS.findall(text)}


def test_there_are_errors_to_compare() -> None:
    assert len(ERRORS) > 100


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_explained(error: str) -> None:
    assert any(fnmatch.fnmatchcase(error, name) for name in NAMES), f"{error} is not in the tables"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_the_tables_exists(name: str) -> None:
    assert fnmatch.filter(ERRORS, name) or name in DECLARED, f"no contract knows {name}"


def test_the_guide_shows_the_gas_that_was_measured() -> None:
    measured = json.loads((ROOT / "contracts" / "gas.json").read_text())
    rows = re.findall(r"^\| .* \| `(\w+)` \| ([\d,]+) \|", GUIDE, re.M)
    assert len(rows) >= 10
    shown = {key: int(value.replace(",", "")) for key, value in rows}
    assert shown == {key: measured[key] for key in shown}
