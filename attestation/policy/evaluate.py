"""Policy evaluation: every mismatch between what is genuine and what is wanted."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from types import MappingProxyType

from attestation.errors import Finding, PolicyError
from attestation.policy.appraisal import _SEAL, UNKNOWN, Appraisal, Claim
from attestation.policy.dcap import dcap_findings
from attestation.policy.model import Policy, Registers
from attestation.policy.nitro import nitro_findings
from attestation.policy.values import one_of
from attestation.verify import DcapReport, VerifiedReport
from attestation.verify.nitro import NitroReport


def _differences(report: VerifiedReport, registers: Registers) -> list[Finding]:
    out = []
    for name, expected in registers.items():
        actual = report.measurements.get(name)
        if actual is None:
            out.append(Finding(f"measurements.{report.tee}.{name}", expected, "not stated"))
        elif actual != expected:
            out.append(Finding(f"measurements.{report.tee}.{name}", expected, actual))
    return out


def _measurements(report: VerifiedReport, policy: Policy) -> Iterator[Finding]:
    """Some alternative matches in every register; else the nearest one's differences."""
    if policy.measurements is None:
        return
    alternatives = policy.measurements.get(report.tee, ())
    if not alternatives:
        name = f"measurements.{report.tee}.{report.measurement_name}"
        yield Finding(name, "a measurement you pin", report.measurement)
        return
    differences = [_differences(report, registers) for registers in alternatives]
    yield from min(differences, key=len)


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
        case _:
            raise TypeError(f"no policy section judges {type(report).__name__}")


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


def _claims(report: VerifiedReport, policy: Policy, bound: bool) -> dict[str, Claim]:
    status = report.tcb_status
    return {
        "tee_attested": Claim(
            "asserted",
            "hardware_proven",
            f"{report.tee} evidence verified to root {report.root_sha256}, report data bound",
        )
        if bound
        else UNKNOWN,
        "gpu_attested": UNKNOWN,
        "tcb_up_to_date": UNKNOWN
        if status is None
        else Claim(
            "asserted" if status == "UpToDate" else "refuted",
            "hardware_proven",
            f"TCB status {status}",
        ),
        "os_known_good": UNKNOWN,
        "serving_software_known_good": UNKNOWN
        if policy.measurements is None
        else Claim("asserted", "verifier_derived", f"measurement pinned by {policy.name}"),
        "model_weights_provenance": UNKNOWN,
    }


def evaluate(
    report: VerifiedReport,
    policy: Policy,
    *,
    report_data: bytes | None,
    now: int,
    other_findings: Sequence[Finding] = (),
) -> Appraisal:
    """The evidence is what `policy` wants, at `now` (Unix seconds).

    `report_data` is the 64 bytes the quote must carry, None where the caller knows none.
    `other_findings` are mismatches outside the quote that the caller found under the same
    policy. Raises PolicyError with every mismatch.
    """
    findings = (
        *_kind(report, policy, now),
        *_measurements(report, policy),
        *_root(report, policy),
        *_report_data(report, policy, report_data),
        *other_findings,
    )
    if findings:
        raise PolicyError(findings)
    claims = _claims(report, policy, bound=report_data is not None)
    return Appraisal(
        report=report,
        policy_name=policy.name,
        inspection_only=policy.inspection_only,
        claims=MappingProxyType(claims),
        seal=_SEAL,
    )
