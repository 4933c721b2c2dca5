"""Policy evaluation: every mismatch between what is genuine and what is wanted."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from attestation.errors import Finding, PolicyError
from attestation.policy.appraisal import _SEAL, Appraisal
from attestation.policy.claims import Shown, typed_claims
from attestation.policy.dcap import dcap_findings
from attestation.policy.dstack import dstack_findings
from attestation.policy.events import events_findings
from attestation.policy.gpu import GpuResult, gpu_findings
from attestation.policy.model import Policy, Registers
from attestation.policy.nitro import nitro_findings
from attestation.policy.reference import measurements_at
from attestation.policy.snp import snp_findings
from attestation.policy.tpm import tpm_findings
from attestation.policy.values import one_of
from attestation.verify import DcapReport, VerifiedReport
from attestation.verify.nitro import NitroReport
from attestation.verify.nvidia_gpu import GPU_BINDING_BYTES, gpu_nonce
from attestation.verify.snp_report import SnpReport
from attestation.verify.tpm import TpmReport

if TYPE_CHECKING:
    from attestation.verify.dstack import DstackFacts
    from attestation.verify.events import VerifiedEvents


def _differences(report: VerifiedReport, registers: Registers) -> list[Finding]:
    out = []
    for name, expected in registers.items():
        actual = report.measurements.get(name)
        if actual is None:
            out.append(Finding(f"measurements.{report.tee}.{name}", expected, "not stated"))
        elif actual != expected:
            out.append(Finding(f"measurements.{report.tee}.{name}", expected, actual))
    return out


def _measurements(report: VerifiedReport, policy: Policy, now: int) -> Iterator[Finding]:
    """Some alternative matches in every register; else the nearest one's differences.

    Alternatives are those in the policy and in the reference values it names.
    """
    if policy.measurements is None:
        return
    published, outdated = measurements_at(policy.references, report.tee, now)
    alternatives = (*policy.measurements.get(report.tee, ()), *published)
    name = f"measurements.{report.tee}.{report.measurement_name}"
    unpinned = [Finding(name, "a measurement you pin", report.measurement)]
    differences = [_differences(report, registers) for registers in alternatives]
    nearest = min(differences, key=len, default=unpinned)
    yield from nearest
    for release, registers in outdated if nearest else ():
        if not _differences(report, registers):
            actual = f"{release.label}, good until {release.not_after}"
            yield Finding("reference_values", f"a release that is good at {now}", actual)


def _kind(report: VerifiedReport, policy: Policy, now: int) -> Iterator[Finding]:
    """What the section of this kind of evidence finds. A kind without one is a mistake of ours."""
    match report:
        case DcapReport():
            return dcap_findings(
                report,
                tcb=policy.tcb,
                tdx=policy.tdx,
                sgx=policy.sgx,
                denied_flags=policy.denied_flags,
                now=now,
            )
        case NitroReport():
            return nitro_findings(report, policy.nitro, now)
        case SnpReport():
            return snp_findings(report, policy.snp, now)
        case TpmReport():
            return _tpm(report, policy, now)
        case _:
            raise TypeError(f"no policy section judges {type(report).__name__}")


def _tpm(report: TpmReport, policy: Policy, now: int) -> Iterator[Finding]:
    """The quote, and the hardware that vouches for its key, each by the section of its kind.

    Hardware says what its guest asked it to say: whoever owns a machine can have it vouch for
    a TPM of his own making, so the guest that made this one must be wanted as well.
    """
    yield from tpm_findings(report, policy.tpm, now)
    if report.hardware is not None:
        yield from _kind(report.hardware, policy, now)
        yield from _measurements(report.hardware, policy, now)


def _root(report: VerifiedReport, policy: Policy) -> Iterator[Finding]:
    if policy.roots is not None and report.root_sha256 not in policy.roots:
        yield Finding("roots", one_of(sorted(policy.roots)), report.root_sha256)


def _report_data(
    report: VerifiedReport, policy: Policy, expected: bytes | None
) -> Iterator[Finding]:
    actual = report.report_data
    if expected is None:
        if not policy.dangerous_allow_unbound_report_data:
            yield Finding("report_data", "a value the caller knows", f"{actual.hex()}, unchecked")
    elif not hmac.compare_digest(expected, actual):
        yield Finding("report_data", expected.hex(), actual.hex())


def _gpus(
    report: VerifiedReport, policy: Policy, gpus: Sequence[GpuResult], now: int
) -> Iterator[Finding]:
    """The devices answered a nonce that only this report can have led to."""
    if not gpus and not policy.gpu.required and not policy.gpu.min_count:
        return iter(())
    if len(report.report_data) != GPU_BINDING_BYTES:
        return iter((Finding("gpu.nonce", "made from 64 bytes of report data", report.tee),))
    return gpu_findings(gpus, policy.gpu, nonce=gpu_nonce(report.report_data), now=now)


def evaluate_gpus(
    gpus: Sequence[GpuResult], policy: Policy, *, nonce: bytes | None, now: int
) -> None:
    """These devices by themselves are what `policy` wants, at `now` (Unix seconds).

    They say nothing about a CPU: give them to `evaluate` for that. `nonce` is the one the
    caller chose, None where it knows none. Raises PolicyError with every mismatch.
    """
    findings = tuple(gpu_findings(gpus, policy.gpu, nonce=nonce, now=now))
    if findings:
        raise PolicyError(findings)


def evaluate(
    report: VerifiedReport,
    policy: Policy,
    *,
    report_data: bytes | None,
    now: int,
    gpus: Sequence[GpuResult] = (),
    events: VerifiedEvents | None = None,
    dstack: DstackFacts | None = None,
    other_findings: Sequence[Finding] = (),
) -> Appraisal:
    """The evidence is what `policy` wants, at `now` (Unix seconds).

    `report_data` is the 64 bytes the quote must carry, None where the caller knows none.
    `gpus` are the devices shown beside it, verified under `gpu_nonce` of its report data;
    `events` and `dstack` what its event log proved.
    `other_findings` are mismatches outside the quote that the caller found under the same
    policy. Raises PolicyError with every mismatch.
    """
    findings = (
        *_kind(report, policy, now),
        *_measurements(report, policy, now),
        *_root(report, policy),
        *_report_data(report, policy, report_data),
        *_gpus(report, policy, gpus, now),
        *events_findings(report, events, policy.events),
        *dstack_findings(report, dstack, policy.dstack),
        *other_findings,
    )
    if findings:
        raise PolicyError(findings)
    shown = Shown(report=report, bound=report_data is not None, gpus=tuple(gpus), dstack=dstack)
    claims = typed_claims(shown, policy)
    return Appraisal(
        report=report,
        policy_name=policy.name,
        inspection_only=policy.inspection_only,
        claims=MappingProxyType(claims),
        seal=_SEAL,
    )
