"""What the package carries of the contracts can be deployed as it is, and hides nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chain
import pytest

EIP_170 = 24_576
EIP_3860 = 2 * EIP_170
GAS_LIMIT = 1 << 24  # of one transaction: EIP-7825
CARRIED = sorted(chain.CARRIED.glob("*.json"))
MEMBERS = {"contract", "source", "kind", "size", "abi", "bytecode"}
FORWARDING = ("DELEGATECALL", "CALLCODE", "SELFDESTRUCT")


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_all_parts_are_carried() -> None:
    names = {path.stem for path in CARRIED}
    assert names >= {"QuoteVerifier", "NodeRegistry", "MeasurementPolicy", "SoftwareP256"}


@pytest.mark.parametrize("path", CARRIED, ids=lambda path: path.stem)
def test_a_contract_of_ours_within_the_limits_of_code(path: Path) -> None:
    artefact = read(path)
    assert set(artefact) == MEMBERS and artefact["contract"] == path.stem
    assert (chain.CONTRACTS / artefact["source"]).is_file()
    assert 0 < artefact["size"] <= EIP_170
    assert len(bytes.fromhex(artefact["bytecode"])) <= EIP_3860
    assert 32_000 + 200 * artefact["size"] < GAS_LIMIT


@pytest.mark.parametrize("path", CARRIED, ids=lambda path: path.stem)
def test_the_same_as_compiled_here(path: Path) -> None:
    """The tests of this folder are of what is carried; that is what the sources say."""
    compiled = chain.COMPILED / path.name
    assert compiled.is_file(), "run make contracts-compile"
    assert read(compiled) == read(path), "run make artefacts"


@pytest.mark.parametrize(
    "path", sorted((chain.CONTRACTS / "src").rglob("*.sol")), ids=lambda path: path.stem
)
def test_no_code_of_others_is_run_as_our_own(path: Path) -> None:
    """No proxies: what was deployed stays what it is."""
    text = path.read_text()
    assert not [op for op in FORWARDING if op.lower() in text.lower()]
    assert "pragma solidity 0.8.37;" in text and "SPDX-License-Identifier: Apache-2.0" in text


def test_two_errors_never_share_a_selector() -> None:
    """An operator who sees four bytes can tell which check failed."""
    found: dict[bytes, str] = {}
    for path in CARRIED:
        for item in read(path)["abi"]:
            if item["type"] == "error":
                name = found.setdefault(chain.selector(item), item["name"])
                assert name == item["name"]
    assert len(found) > 30
