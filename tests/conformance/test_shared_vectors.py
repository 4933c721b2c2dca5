"""Real quotes with Intel-signed collateral, and the same damaged on purpose.

The vectors are collected from public repositories and are not part of this project:
ADYTON_VECTORS names their folder, which has a manifest.json. `accept` there means
authentic and not revoked, which is what the policy `genuine` asks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attested
import pytest

from attestation.collateral import Collateral
from attestation.errors import AttestationError
from attestation.evidence import parse_quote
from attestation.policy import evaluate, load_policy
from attestation.verify import verify_quote

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))


def cases() -> list[Any]:
    manifest = VECTORS / "manifest.json"
    if not manifest.is_file():
        reason = "no manifest.json where ADYTON_VECTORS points"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    wanted = [
        v
        for v in json.loads(manifest.read_text())
        if v["tee"] in {"sgx", "tdx"} and (v.get("expected") or {}).get("verdict")
    ]
    return [pytest.param(v, id=v["id"]) for v in wanted]


def read(vector: dict[str, Any], member: str) -> bytes:
    return (VECTORS / vector[member]).read_bytes()


def root(vector: dict[str, Any]) -> bytes:
    path = VECTORS / vector["root"]
    # Cases of a foreign root need not carry it: any root that is not the vendor's will do.
    return path.read_bytes() if path.is_file() else attested.platform().root_der


@pytest.mark.parametrize("vector", cases())
def test_verdict_under_genuine(vector: dict[str, Any]) -> None:
    now, expected = vector["verification_time"], vector["expected"]
    collateral = Collateral.from_json(json.loads(read(vector, "collateral")))

    def judge() -> str:
        report = verify_quote(read(vector, "quote"), collateral, [root(vector)], now)
        evaluate(report, load_policy("genuine"), report_data=None, now=now)
        return report.tcb_status

    if expected["verdict"] == "accept":
        assert judge() == expected["tcb_status"]
        raw = read(vector, "quote")
        assert parse_quote(raw).write() == raw
    else:
        with pytest.raises(AttestationError):
            judge()
