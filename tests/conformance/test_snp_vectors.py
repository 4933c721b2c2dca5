"""Real SEV-SNP reports with AMD's certificates, and the same damaged on purpose.

ADYTON_VECTORS names the folder, as in test_shared_vectors. The trust anchors are those this
project ships, not the ones the vectors bring along.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from attestation.collateral.snp import SnpEndorsements
from attestation.errors import AttestationError, VerificationError
from attestation.evidence.snp import REPORT_BYTES, SIGNED_BYTES, AttestationReport
from attestation.policy import evaluate, load_policy
from attestation.roots import AMD_ARKS, PRODUCTION_ROOTS
from attestation.verify.snp import verify_snp

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))

# Which step refuses, where the manifest says that something must: forged differently, each
# falls at the first link that does not hold.
STEPS = {
    "snp-milan-trustee-vcek-invalid-legacy": "chain",
    "snp-milan-trustee-vcek-invalid-new": "chain",
    "snp-milan-trustee-flip-measurement": "signature",
    "snp-milan-trustee-flip-sig": "signature",
    "snp-milan-trustee-zero-sig": "signature",
    "snp-milan-trustee-genoa-chain": "chain",
    "snp-milan-virtee-other-vcek": "signature",
    "snp-milan-google": "debug",
}


def manifest(wanted: str) -> list[Any]:
    """The entries with a `verdict`, only the accepted ones, or any `report` there is."""
    path = VECTORS / "manifest.json"
    if not path.is_file():
        reason = "no manifest.json where ADYTON_VECTORS points"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    chosen = []
    for vector in json.loads(path.read_text()):
        verdict = (vector.get("expected") or {}).get("verdict")
        is_report = vector["tee"] == "sev-snp" and vector["format"].startswith("report_")
        if (
            is_report
            and {"report": True, "verdict": verdict, "accept": verdict == "accept"}[wanted]
        ):
            chosen.append(pytest.param(vector, id=vector["id"]))
    return chosen


def read(vector: dict[str, Any], member: str) -> bytes:
    return (VECTORS / vector[member]).read_bytes()


def endorsements(vector: dict[str, Any]) -> SnpEndorsements:
    return SnpEndorsements.from_files(read(vector, "endorsement"), read(vector, "chain"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("vector", manifest("verdict"))
def test_verdict_under_genuine(vector: dict[str, Any]) -> None:
    now = vector["verification_time"]

    def judge() -> None:
        report = verify_snp(read(vector, "report"), endorsements(vector), PRODUCTION_ROOTS, now)
        evaluate(report, load_policy("genuine"), report_data=None, now=now)

    if vector["expected"]["verdict"] == "accept":
        judge()
    else:
        with pytest.raises(VerificationError) as e:
            judge()
        assert e.value.step == STEPS.get(vector["id"], e.value.step)


@pytest.mark.parametrize("vector", manifest("report"))
def test_real_reports_are_written_as_they_were_read(vector: dict[str, Any]) -> None:
    raw, stated = read(vector, "report"), vector["fields"]
    report = AttestationReport.read(raw)
    assert report.write() == raw
    assert (report.version, report.vmpl) == (stated["version"], stated["vmpl"])
    assert report.policy.value == int(stated["policy"], 16)
    assert report.policy.debug == stated["debug"]
    assert report.reported_tcb.raw.hex() == stated["reported_tcb"]
    assert report.chip_id.hex().startswith(stated["chip_id"])
    assert report.platform_info.unknown == 0


@pytest.mark.parametrize("vector", manifest("accept"))
@pytest.mark.parametrize("at", [*range(0, SIGNED_BYTES, 96), SIGNED_BYTES, SIGNED_BYTES + 72])
def test_fresh_damage_to_real_reports_is_refused(vector: dict[str, Any], at: int) -> None:
    raw = bytearray(read(vector, "report"))
    assert len(raw) == REPORT_BYTES
    raw[at] ^= 1
    with pytest.raises(AttestationError):
        verify_snp(bytes(raw), endorsements(vector), AMD_ARKS, vector["verification_time"])


@pytest.mark.parametrize("vector", manifest("accept"))
def test_real_reports_need_amds_root_of_their_product_and_a_time(vector: dict[str, Any]) -> None:
    raw, own, now = read(vector, "report"), endorsements(vector), vector["verification_time"]
    others = tuple(r for r in PRODUCTION_ROOTS if r not in own.chain)
    assert len(others) == len(PRODUCTION_ROOTS) - 1
    for roots, when, step in (
        (others, now, "root"),
        ((), now, "root"),
        (AMD_ARKS, now - 20 * 365 * 86400, "not_yet_valid"),
        (AMD_ARKS, now + 20 * 365 * 86400, "expired"),
    ):
        with pytest.raises(VerificationError) as e:
            verify_snp(raw, own, roots, when)
        assert e.value.step == step
