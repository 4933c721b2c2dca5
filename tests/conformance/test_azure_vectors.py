"""Real bundles of confidential VMs on Azure, from the hardware's root to the TPM's registers.

The vectors are collected from public repositories and are not part of this project:
ADYTON_VECTORS names their folder. Their manifest gives no verdict; what holds is checked here.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attested import flip

from attestation.collateral.snp import SnpEndorsements
from attestation.errors import AttestationError, CollateralError, VerificationError
from attestation.evidence.azure import AzureBundle
from attestation.evidence.hcl import HclReport
from attestation.policy import evaluate, load_policy
from attestation.roots import AMD_ARKS
from attestation.verify.azure import verify_azure_vtpm
from attestation.verify.snp import verify_snp
from attestation.verify.snp_report import SnpReport

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))
CHAINS = [
    VECTORS / "sev-snp" / folder / "ask_ark_asvk.pem"
    for folder in ("milan-google", "milan-trustee-genoa-chain")
]
NOW = 1_750_000_000
NONCES = {
    "snp-az-evidence-v0.json": b"challenge",
    "snp-az-evidence-v1.json": b"challenge",
}


def cases() -> list[Any]:
    manifest = VECTORS / "manifest.json"
    if not manifest.is_file():
        reason = "no manifest.json where ADYTON_VECTORS points"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    wanted = [v for v in json.loads(manifest.read_text()) if "azure vTPM" in v.get("format", "")]
    return [pytest.param(v, id=v["id"]) for v in wanted]


def bundle_of(vector: dict[str, Any]) -> AzureBundle:
    return AzureBundle.read((VECTORS / vector["report"]).read_bytes())


def hardware_of(bundle: AzureBundle) -> SnpReport:
    """The SNP report inside, under the chain of its own product."""
    assert bundle.vcek is not None
    report = HclReport.read(bundle.hcl_report).hardware_report
    failures: list[AttestationError] = []
    for chain in CHAINS:
        try:
            endorsements = SnpEndorsements.from_files(bundle.vcek, chain.read_bytes())
            return verify_snp(report, endorsements, AMD_ARKS, NOW)
        except (VerificationError, CollateralError) as e:
            failures.append(e)
    raise failures[0]


@pytest.mark.parametrize("vector", cases())
def test_hardware_vouches_for_the_key_that_signed_the_registers(vector: dict[str, Any]) -> None:
    bundle = bundle_of(vector)
    hardware = hardware_of(bundle)
    report = verify_azure_vtpm(bundle, hardware, NOW, nonce=NONCES.get(vector["id"]))
    assert (report.binding, report.bank, len(report.pcrs)) == ("hardware", "sha256", 24)
    assert report.root_sha256 == hardware.root_sha256
    evaluate(report, load_policy("genuine"), report_data=None, now=NOW)


@pytest.mark.parametrize("vector", cases())
def test_reports_are_written_back_byte_for_byte(vector: dict[str, Any]) -> None:
    raw = bundle_of(vector).hcl_report
    report = HclReport.read(raw)
    assert report.write() == raw
    assert report.attestation_key().e == 65537


@pytest.mark.parametrize("vector", cases())
def test_every_damaged_part_is_refused_by_its_own_step(vector: dict[str, Any]) -> None:
    bundle = bundle_of(vector)
    hardware = hardware_of(bundle)
    claims = bundle.hcl_report.index(b'"HCLAkPub"')
    damaged = {
        "runtime_claims": replace(bundle, hcl_report=flip(bundle.hcl_report, claims * 8 + 9)),
        "signature": replace(bundle, signature=flip(bundle.signature, 99)),
        "pcr_digest": replace(bundle, pcrs=(flip(bundle.pcrs[0], 0), *bundle.pcrs[1:])),
    }
    for step, changed in damaged.items():
        with pytest.raises(VerificationError) as e:
            verify_azure_vtpm(changed, hardware, NOW)
        assert e.value.step == step
    with pytest.raises(VerificationError) as e:
        verify_azure_vtpm(bundle, hardware, NOW, nonce=b"another")
    assert e.value.step == "nonce"


def test_one_machines_hardware_does_not_vouch_for_anothers_tpm() -> None:
    found = [p.values[0] for p in cases() if p.values[0] is not None]
    if not found:
        pytest.skip("no manifest.json where ADYTON_VECTORS points")
    bundles = [bundle_of(v) for v in found]
    for one in bundles:
        for other in bundles:
            claims = [HclReport.read(b.hcl_report).runtime_claims for b in (one, other)]
            if claims[0] == claims[1]:
                continue  # the same machine, asked twice
            with pytest.raises(VerificationError) as e:
                verify_azure_vtpm(one, hardware_of(other), NOW)
            assert e.value.step == "runtime_claims"
