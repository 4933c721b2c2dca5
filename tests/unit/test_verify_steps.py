"""Step names are an interface: the reference lists each, and none that does not exist."""

from __future__ import annotations

import ast
from pathlib import Path

from attestation.receipts import receipt
from attestation.verify import dcap

ROOT = Path(__file__).parents[2]


def raised(path: str) -> set[str]:
    """Every literal first argument of a VerificationError in this file."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "VerificationError"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def listed(path: str) -> set[str]:
    """Every name in the first column of the tables headed `step`."""
    names: set[str] = set()
    in_table = False
    for line in (ROOT / path).read_text().splitlines():
        if line.startswith("| step |"):
            in_table = True
        elif not line.startswith("|"):
            in_table = False
        elif in_table:
            names.update(line.split("|")[1].replace("`", "").replace(",", " ").split())
    return names - {"---"}


def test_steps_of_verification_are_those_of_the_reference() -> None:
    steps = raised("attestation/verify/dcap.py") | {step for _, step in dcap._STEPS} | {"dcap"}
    steps |= raised("attestation/report.py") | {"workload_keyset_digest", "report_data"}
    assert steps == listed("docs/spec/policy.md")


def test_steps_of_receipts_are_those_of_the_reference() -> None:
    steps = raised("attestation/receipts/receipt.py") | set(receipt._ONCE)
    assert steps == listed("docs/spec/receipts.md")


def test_messages_of_the_library_map_to_the_most_specific_step() -> None:
    assert dcap._step("Fmspc mismatch") == "fmspc"
    assert dcap._step("QE Identity expired") == "qe_identity"
    assert dcap._step("QE report hash mismatch") == "qe_report"
    assert dcap._step("QE MRSIGNER mismatch: expected 00, got 11") == "qe_report"
    assert dcap._step("a message of some later version") == "dcap"
    prefixes = [prefix for prefix, _ in dcap._STEPS]
    for i, prefix in enumerate(prefixes):
        hidden = [p for p in prefixes[:i] if prefix.startswith(p)]
        assert not hidden, f"{prefix!r} can never match"
