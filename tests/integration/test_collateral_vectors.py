"""Real collateral, signed by Intel, and its forgeries; skipped where the vectors are not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestation.collateral.check import check_item, join_checked
from attestation.collateral.item import Item, split_collateral
from attestation.collateral.kds import chips_of
from attestation.collateral.model import Collateral
from attestation.collateral.platform import platform_of
from attestation.errors import AttestationError, CollateralError
from attestation.roots import PRODUCTION_ROOTS
from attestation.x509 import read_chain

VECTORS = Path(os.environ.get("ADYTON_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
MANIFEST = VECTORS / "manifest.json"
pytestmark = pytest.mark.skipif(
    not MANIFEST.exists(), reason=f"no vectors at {VECTORS}; name them in ADYTON_VECTORS"
)
# What was changed in a derived vector, as its id ends, where collateral alone must notice.
FORGED = (
    "pck-crl-swapped",
    "pck-crl-tampered",
    "qeid-other-tee",
    "qeid-status-upgraded",
    "tcbinfo-other-fmspc",
    "tcbinfo-sig-flip",
    "tcbinfo-status-upgraded",
)


def vectors(*tees: str) -> Iterator[dict[str, Any]]:
    for vector in json.loads(MANIFEST.read_text()):
        if vector.get("tee") in tees:
            yield vector


def checked(vector: dict[str, Any]) -> Collateral:
    platform = platform_of((VECTORS / vector["quote"]).read_bytes())
    document = json.loads((VECTORS / vector["collateral"]).read_bytes())
    items = split_collateral(Collateral.from_json(document), platform)
    at = vector["verification_time"]
    return join_checked([check_item(i, PRODUCTION_ROOTS, at) for i in items])


def test_genuine_collateral_passes_every_check_byte_for_byte() -> None:
    count = 0
    for vector in vectors("sgx", "tdx"):
        if vector.get("collateral") and vector["expected"]["verdict"] == "accept":
            given = json.loads((VECTORS / vector["collateral"]).read_bytes())
            given.pop("pck_certificate_chain", None)
            assert checked(vector).to_json() == given, vector["id"]
            count += 1
    assert count > 20


def test_forged_collateral_is_refused_before_it_could_be_cached() -> None:
    count = 0
    for vector in vectors("sgx", "tdx"):
        if vector["id"].endswith(FORGED):
            with pytest.raises(CollateralError):
                checked(vector)
            count += 1
    assert count > 20


def test_real_vceks_are_those_of_their_reports() -> None:
    count = 0
    for vector in vectors("sev-snp"):
        wanted = vector["expected"] or {}
        if wanted.get("verdict") != "accept" or not vector.get("endorsement"):
            continue
        if "report" not in vector:
            continue
        try:
            (chip, *_) = chips_of((VECTORS / vector["report"]).read_bytes())
        except AttestationError:
            continue  # a report that names no chip needs a person to say which
        if chip.signer != "vcek":
            continue
        vek = (VECTORS / vector["endorsement"]).read_bytes()
        der = read_chain("vek", vek)[0].der if b"-----BEGIN" in vek else vek
        item = Item(chip.vcek, der, b"", (VECTORS / vector["chain"]).read_text())
        assert check_item(item, PRODUCTION_ROOTS, vector["verification_time"])
        count += 1
    assert count >= 2
