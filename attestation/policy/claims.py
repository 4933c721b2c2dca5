"""What an appraisal lets others say, as ACI's typed claims.

A claim is asserted only where evidence was looked at and held; what was not looked at is
unknown, which is neither a pass nor a refutation. Spec: ACI section 8.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.policy.appraisal import UNKNOWN, Claim
from attestation.policy.gpu import GpuResult
from attestation.policy.model import Policy
from attestation.verify import VerifiedReport
from attestation.verify.tpm import TpmReport

if TYPE_CHECKING:
    from attestation.verify.dstack import DstackFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What was verified, and wanted. `bound` says that the caller knew the report data."""

    report: VerifiedReport
    bound: bool
    gpus: tuple[GpuResult, ...]
    dstack: DstackFacts | None


def _tee(report: VerifiedReport, *, bound: bool) -> Claim:
    if not bound:
        return UNKNOWN
    if isinstance(report, TpmReport) and report.hardware is None:
        return UNKNOWN  # A TPM says what booted, not that memory is closed to the owner.
    where = f"{report.tee} evidence verified to root {report.root_sha256}"
    return Claim("asserted", "hardware_proven", f"{where}, report data bound")


def _gpu(gpus: Sequence[GpuResult]) -> Claim:
    """The devices exist and are genuine. That they serve this CPU is not proven by it."""
    if not gpus:
        return UNKNOWN
    models = ", ".join(sorted({g.hwmodel for g in gpus}))
    return Claim(
        "asserted",
        "hardware_proven",
        f"{len(gpus)} devices ({models}) answered a nonce made from the report data",
    )


def _tcb(report: VerifiedReport) -> Claim:
    status = report.tcb_status
    if status is None:
        return UNKNOWN
    verdict = "asserted" if status == "UpToDate" else "refuted"
    return Claim(verdict, "hardware_proven", f"TCB status {status}")


def _os(dstack: DstackFacts | None, policy: Policy) -> Claim:
    if dstack is None or policy.dstack.os_image_hashes is None:
        return UNKNOWN
    return Claim(
        "asserted",
        "verifier_derived",
        f"OS image {dstack.os_image_hash} pinned by {policy.name}",
    )


def _software(policy: Policy) -> Claim:
    if policy.measurements is None:
        return UNKNOWN
    return Claim("asserted", "verifier_derived", f"measurement pinned by {policy.name}")


def typed_claims(shown: Shown, policy: Policy) -> dict[str, Claim]:
    """Every claim of ACI's table for evidence that `policy` wanted."""
    return {
        "tee_attested": _tee(shown.report, bound=shown.bound),
        "gpu_attested": _gpu(shown.gpus),
        "tcb_up_to_date": _tcb(shown.report),
        "os_known_good": _os(shown.dstack, policy),
        "serving_software_known_good": _software(policy),
        "model_weights_provenance": UNKNOWN,
    }
