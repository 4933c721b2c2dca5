"""Azure's vTPM: its key counts only as far as verified hardware vouches for it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from typing import Any

import attested
import pytest
import snp_pki
import tpm_device
from tpm_device import AZURE_PCRS, NONCE, bundle, claims, hcl, jwk

from attestation.errors import Finding, MalformedEvidence, PolicyError, VerificationError
from attestation.evidence.azure import AzureBundle
from attestation.evidence.hcl import TDX_VM_REPORT, HclReport
from attestation.policy import Policy, evaluate, load_policy
from attestation.verify.azure import verify_azure_vtpm, vouched_key
from attestation.verify.snp import verify_snp
from attestation.verify.snp_report import SnpReport
from attestation.verify.tpm import TpmReport

NOW = snp_pki.NOW


@lru_cache
def hardware(report: HclReport | None = None) -> SnpReport:
    raw = (report or hcl()).hardware_report
    return verify_snp(raw, snp_pki.endorsements(), snp_pki.roots(), NOW)


def verify(of: AzureBundle | None = None, **more: Any) -> TpmReport:
    nonce = more.pop("nonce", NONCE)
    chosen = {"hardware": hardware(), "now": NOW} | more
    return verify_azure_vtpm(of or bundle(), chosen["hardware"], chosen["now"], nonce=nonce)


def step(of: AzureBundle | None = None, **more: Any) -> str:
    with pytest.raises(VerificationError) as e:
        verify(of, **more)
    return e.value.step


def test_a_genuine_bundle_is_accepted() -> None:
    report = verify()
    assert (report.tee, report.binding) == ("tpm", "hardware")
    assert report.hardware is hardware()
    assert report.root_sha256 == hardware().root_sha256
    assert report.endorsements_not_after == hardware().endorsements_not_after
    assert report.endorsements_not_before == hardware().endorsements_not_before
    assert report.report_data == NONCE
    assert report.measurements["pcr23"] == AZURE_PCRS[23].hex()
    assert report.facts()["hardware"] == "sev-snp"
    assert report.tcb_status == hardware().tcb_status
    assert (report.debug, report.simulated) == (False, False)


@pytest.mark.parametrize("hash_type", [1, 2, 3])
def test_claims_may_be_hashed_by_any_known_hash(hash_type: int) -> None:
    report = hcl(hash_type=hash_type)
    assert verify(bundle(report), hardware=hardware(report)).binding == "hardware"


def test_claims_the_hardware_was_not_asked_about_bind_no_key() -> None:
    """The attack: a genuine report, and runtime claims that name the attacker's own key."""
    other = replace(hcl(), runtime_claims=claims([jwk(), {"kid": "more"}]))
    assert step(bundle(other)) == "runtime_claims"


def test_report_of_another_machine_binds_no_key() -> None:
    stranger = hcl(report_data=bytes(64))
    assert step(hardware=hardware(stranger)) == "runtime_claims"


def test_bytes_after_the_digest_must_be_zero() -> None:
    digest = hashlib.sha256(claims()).digest()
    padded = hcl(report_data=digest + b"\1" * 32)
    assert step(bundle(padded), hardware=hardware(padded)) == "runtime_claims"


def test_hash_type_is_not_the_attackers_choice() -> None:
    """The header is not measured: another hash type means another expected digest."""
    assert step(bundle(replace(hcl(), hash_type=2))) == "runtime_claims"


@pytest.mark.parametrize("vmpl", [1, 2, 3])
def test_report_that_the_guest_itself_asked_for_binds_no_key(vmpl: int) -> None:
    """Below the paravisor runs the guest, which may put any digest into a report of its own."""
    report = hcl(vmpl=vmpl)
    assert step(bundle(report), hardware=hardware(report)) == "vmpl"


def test_hardware_of_another_kind_is_refused() -> None:
    tdx = replace(hcl(), report_type=TDX_VM_REPORT, hardware_report=bytes(1024))
    assert step(bundle(tdx)) == "report_type"


def test_tdx_hardware_vouches_by_the_same_rule() -> None:
    report = replace(hcl(), report_type=TDX_VM_REPORT, hardware_report=bytes(1024))
    quote = attested.verify("tdx-v4", report_data=report.report_data)
    verified = verify(bundle(report), hardware=quote, now=attested.NOW)
    assert verified.hardware is quote
    assert (verified.simulated, verified.tcb_status) == (quote.simulated, "UpToDate")
    other = attested.verify("tdx-v4", report_data=bytes(64))
    assert step(bundle(report), hardware=other, now=attested.NOW) == "runtime_claims"
    assert step(hardware=quote, now=attested.NOW) == "report_type"


@pytest.mark.parametrize(
    "keys", [[jwk() | {"n": "Aw"}], [jwk() | {"e": "AQ"}]], ids=["short", "exponent"]
)
def test_keys_that_are_none_are_refused(keys: Any) -> None:
    report = hcl(claims(keys))
    with pytest.raises(VerificationError) as e:
        vouched_key(report, hardware(report))
    assert e.value.step == "key"


def test_claims_without_the_vtpms_key_bind_none() -> None:
    report = hcl(claims([jwk("HCLEkPub")]))
    with pytest.raises(MalformedEvidence):
        vouched_key(report, hardware(report))


def test_quote_by_another_key_is_refused() -> None:
    quote = tpm_device.quoted(AZURE_PCRS).write()
    forged = tpm_device.signed(quote, snp_pki.rsa_key("ark")).parts[0]
    assert step(replace(bundle(), signature=forged)) == "signature"
    with pytest.raises(MalformedEvidence):
        verify(replace(bundle(), signature=b""))


def test_other_registers_and_nonces_are_refused() -> None:
    changed = (*bundle().pcrs[:23], bytes(32))
    assert step(replace(bundle(), pcrs=changed)) == "pcr_digest"
    assert step(nonce=bytes(32)) == "nonce"


def test_a_key_is_good_while_the_hardware_report_is() -> None:
    assert step(now=hardware().endorsements_not_after + 1) == "expired"
    assert step(now=hardware().endorsements_not_before - 1) == "not_yet_valid"


# Policy.


def wanting(report: TpmReport, **document: Any) -> Policy:
    pinned = {
        "tpm": [{"pcr_composite": report.measurement}],
        "sev-snp": [{"measurement": hardware().measurement}],
    }
    return load_policy({"version": 1, "name": "test", "measurements": pinned, **document})


def findings(report: TpmReport, policy: Policy) -> dict[str, Finding]:
    with pytest.raises(PolicyError) as e:
        evaluate(report, policy, report_data=NONCE, now=NOW)
    assert len({f.field for f in e.value.findings}) == len(e.value.findings)
    return {f.field: f for f in e.value.findings}


def test_wanted_machine_under_a_wanted_paravisor_is_accepted() -> None:
    report = verify()
    appraisal = evaluate(report, wanting(report), report_data=NONCE, now=NOW)
    assert appraisal.claims["tee_attested"].status == "asserted"
    assert appraisal.extra["binding"] == "hardware"


def test_anyones_own_machine_cannot_vouch_for_a_tpm_of_his_making() -> None:
    """Genuine hardware, wanted registers, but the guest that made the TPM is a stranger."""
    report = verify()
    only_tpm = {"tpm": [{"pcr_composite": report.measurement}]}
    found = findings(report, wanting(report, measurements=only_tpm))
    assert list(found) == ["measurements.sev-snp.measurement"]
    other = only_tpm | {"sev-snp": [{"measurement": "ab" * 48}]}
    found = findings(report, wanting(report, measurements=other))
    assert found["measurements.sev-snp.measurement"].actual == hardware().measurement


def test_the_hardware_is_judged_by_its_own_section() -> None:
    report = verify()
    strict = wanting(report, snp={"vmpl": [1]})
    assert [f for f in findings(report, strict) if f.startswith("snp.")]


def test_a_wanted_root_is_the_hardwares() -> None:
    report = verify()
    found = findings(report, wanting(report, roots=["ab" * 32]))
    assert list(found) == ["roots"]


def test_genuine_asks_only_for_authenticity() -> None:
    report = verify(nonce=None)
    assert evaluate(report, load_policy("genuine"), report_data=None, now=NOW).inspection_only
