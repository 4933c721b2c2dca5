"""What stands beside a report is judged with it: GPUs, boot and dstack guest, bound to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nitro_pki
import nvidia_pki
import pytest
from attested import NOW
from test_dstack_bindings import CHECKSUMS, boot, judge, report_of, vm_config
from test_policy_evaluate import findings, wanting

from attestation.canonical import sha256_hex
from attestation.errors import PolicyError
from attestation.policy import evaluate, load_policy
from attestation.policy.evaluate import evaluate_gpus
from attestation.verify import VerifiedReport
from attestation.verify.model import _SEAL
from attestation.verify.nitro import verify_nitro
from attestation.verify.nvidia_gpu import VerifiedGpu, gpu_nonce

EVENTS = boot()
REPORT = report_of(EVENTS)
GPU_RULES = {"required": True}


def gpu(of: VerifiedReport = REPORT, **odd: Any) -> VerifiedGpu:
    """A wholly checked GPU that answered the nonce of this report."""
    nonce = gpu_nonce(of.report_data)
    rims = [
        nvidia_pki.rim(x, revocation=nvidia_pki.rim_revocation())
        for x in (nvidia_pki.driver_rim(), nvidia_pki.vbios_rim())
    ]
    return nvidia_pki.verify(
        nvidia_pki.evidence(nonce=nonce),
        nonce=nonce,
        rims=rims,
        revocation=nvidia_pki.device_revocation(),
        **odd,
    )


def accepted(**more: Any) -> Any:
    document = more.pop("document", {"gpu": GPU_RULES})
    policy = wanting(REPORT, **document)
    return evaluate(REPORT, policy, report_data=REPORT.report_data, now=NOW, **more)


def test_a_gpu_that_answered_this_reports_nonce_is_attested() -> None:
    claims = accepted(gpus=[gpu()]).claims
    assert claims["gpu_attested"].status == "asserted"
    assert claims["gpu_attested"].source == "hardware_proven"


def test_without_gpus_nothing_is_said_of_them() -> None:
    assert accepted(document={}).claims["gpu_attested"].status == "unknown"


def test_a_wanted_gpu_that_is_not_shown_is_a_finding() -> None:
    policy = wanting(REPORT, gpu={"min_count": 2})
    found = findings(REPORT, policy, report_data=REPORT.report_data, gpus=[gpu()])
    assert "gpu.count" in found


def test_a_gpu_asked_for_another_report_is_a_finding() -> None:
    other = report_of(EVENTS, report_data=b"\x77" * 64)
    assert other.report_data != REPORT.report_data
    policy = wanting(REPORT, gpu=GPU_RULES)
    found = findings(REPORT, policy, report_data=REPORT.report_data, gpus=[gpu(other)])
    assert "gpu[0].nonce" in found


def test_evidence_without_64_bytes_of_report_data_binds_no_gpu() -> None:
    report = verify_nitro(
        nitro_pki.Hypervisor(changes={"user_data": b"short"}).document(),
        [nitro_pki.root()],
        nitro_pki.NOW,
    )
    with pytest.raises(PolicyError) as e:
        evaluate(
            report,
            load_policy({"version": 1, "name": "n", "gpu": GPU_RULES}),
            report_data=report.report_data,
            now=nitro_pki.NOW,
        )
    assert "gpu.nonce" in {f.field for f in e.value.findings}


def test_gpus_by_themselves_are_judged_under_the_callers_nonce() -> None:
    policy = load_policy({"version": 1, "name": "g", "gpu": GPU_RULES})
    one = nvidia_pki.wanted_gpu()
    evaluate_gpus([one], policy, nonce=nvidia_pki.NONCE, now=NOW)
    with pytest.raises(PolicyError, match="nonce"):
        evaluate_gpus([one], policy, nonce=b"\x01" * 32, now=NOW)
    with pytest.raises(PolicyError, match="count"):
        evaluate_gpus([], policy, nonce=None, now=NOW)


def test_a_pinned_os_image_is_a_claim_and_an_unpinned_one_is_not() -> None:
    facts = judge(EVENTS, vm_config=vm_config())
    pinned = {"dstack": {"os_image_hashes": [sha256_hex(CHECKSUMS)]}}
    assert accepted(document=pinned, dstack=facts).claims["os_known_good"].status == "asserted"
    assert accepted(document={}, dstack=facts).claims["os_known_good"].status == "unknown"


def test_events_and_guest_that_a_policy_wants_must_be_shown() -> None:
    policy = wanting(REPORT, events={"required": True}, dstack={"required": True})
    found = findings(REPORT, policy, report_data=REPORT.report_data)
    assert {"events", "dstack"} <= found.keys()


def test_a_kind_that_no_section_judges_is_our_mistake() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Unheard(VerifiedReport):
        tee = "unheard"
        debug = False
        report_data = bytes(64)
        tcb_status = None
        measurement_name = "m"
        measurements = {"m": "00"}  # noqa: RUF012 - a stand-in
        simulated = False

        def facts(self) -> dict[str, Any]:
            return {}

    stranger = Unheard(
        verified_at=NOW,
        endorsements_not_before=0,
        endorsements_not_after=NOW,
        root_sha256="",
        seal=_SEAL,
    )
    with pytest.raises(TypeError, match="Unheard"):
        evaluate(stranger, load_policy("genuine"), report_data=None, now=NOW)
