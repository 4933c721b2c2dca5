"""Policy evaluation: every mismatch between what is genuine and what is wanted."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from types import MappingProxyType

from attestation.errors import Finding, PolicyError
from attestation.evidence import SgxQuote, TdxQuote
from attestation.policy.appraisal import _SEAL, UNKNOWN, Appraisal, Claim
from attestation.policy.model import Policy, Registers
from attestation.verify import VerifiedReport


def _one_of(values: Sequence[object]) -> str:
    return "one of " + ", ".join(str(v) for v in values)


def _tcb(report: VerifiedReport, policy: Policy, now: int) -> Iterator[Finding]:
    tcb = policy.tcb
    # dcap-qvl merges only some statuses of the quoting enclave into the whole; every part
    # must do by itself, or the merge would hide it.
    parts = (
        ("tcb.status", report.tcb_status),
        ("tcb.platform_status", report.platform_tcb_status),
        ("tcb.qe_status", report.qe_tcb_status),
    )
    for i, (name, status) in enumerate(parts):
        if status not in tcb.statuses and status not in (s for _, s in parts[:i]):
            yield Finding(name, _one_of(tcb.statuses), status)
    advisories = set(report.advisory_ids)
    refused = advisories & tcb.refused_advisories
    if tcb.allowed_advisories is not None:
        refused |= advisories - tcb.allowed_advisories
    if refused:
        yield Finding("tcb.advisories", "none that is refused", ", ".join(sorted(refused)))
    if report.tcb_eval_data_number < tcb.min_evaluation_data_number:
        yield Finding(
            "tcb.evaluation_data_number",
            f"at least {tcb.min_evaluation_data_number}",
            str(report.tcb_eval_data_number),
        )
    age = now - report.collateral_issued
    if age > tcb.max_collateral_age_s:
        yield Finding("tcb.collateral_age", f"at most {tcb.max_collateral_age_s} s", f"{age} s")
    if not report.collateral_not_before <= now <= report.collateral_not_after:
        yield Finding(
            "tcb.collateral_window",
            f"valid at {now}",
            f"valid {report.collateral_not_before} to {report.collateral_not_after}",
        )


def _differences(report: VerifiedReport, registers: Registers) -> list[Finding]:
    out = []
    for name, expected in registers.items():
        actual = report.measurements[name]
        if actual != expected:
            out.append(Finding(f"measurements.{report.tee}.{name}", expected, actual))
    return out


def _measurements(report: VerifiedReport, policy: Policy) -> Iterator[Finding]:
    """Some alternative matches in every register; else the nearest one's differences."""
    if policy.measurements is None:
        return
    alternatives = policy.measurements.get(report.tee, ())
    if not alternatives:
        name = "mr_enclave" if report.tee == "sgx" else "mr_td"
        yield Finding(
            f"measurements.{report.tee}.{name}", "a measurement you pin", report.measurement
        )
        return
    differences = [_differences(report, registers) for registers in alternatives]
    yield from min(differences, key=len)


def _tdx(quote: TdxQuote, policy: Policy) -> Iterator[Finding]:
    body, wanted = quote.body, policy.tdx
    for name, mask in (("td_attributes", wanted.td_attributes), ("xfam", wanted.xfam)):
        actual = getattr(body, name)
        if mask is not None and not mask.admits(actual):
            yield Finding(f"tdx.{name}", str(mask), actual.hex())
    if any(a < m for a, m in zip(body.tee_tcb_svn, wanted.min_tee_tcb_svn, strict=True)):
        yield Finding(
            "tdx.tee_tcb_svn",
            f"each byte at least {wanted.min_tee_tcb_svn.hex()}",
            body.tee_tcb_svn.hex(),
        )
    if not wanted.dangerous_allow_custom_seam:
        for name in ("mr_signer_seam", "seam_attributes"):
            actual = getattr(body, name)
            if any(actual):
                yield Finding(f"tdx.{name}", "zero, Intel's own module", actual.hex())


def _sgx(quote: SgxQuote, policy: Policy) -> Iterator[Finding]:
    body, wanted = quote.body, policy.sgx
    if wanted.attributes is not None and not wanted.attributes.admits(body.attributes):
        yield Finding("sgx.attributes", str(wanted.attributes), body.attributes.hex())
    if wanted.mr_signer is not None and body.mr_signer.hex() not in wanted.mr_signer:
        yield Finding("sgx.mr_signer", _one_of(wanted.mr_signer), body.mr_signer.hex())
    if wanted.isv_prod_id is not None and body.isv_prod_id not in wanted.isv_prod_id:
        yield Finding("sgx.isv_prod_id", _one_of(wanted.isv_prod_id), str(body.isv_prod_id))
    if body.isv_svn < wanted.min_isv_svn:
        yield Finding("sgx.isv_svn", f"at least {wanted.min_isv_svn}", str(body.isv_svn))


def _platform(report: VerifiedReport, policy: Policy) -> Iterator[Finding]:
    for name in policy.denied_flags:
        actual = getattr(report, name)
        if actual is not False:
            stated = "not stated" if actual is None else "true"
            yield Finding(f"platform.{name}", "false", stated)
    if policy.roots is not None and report.root_sha256 not in policy.roots:
        yield Finding("roots", _one_of(sorted(policy.roots)), report.root_sha256)


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
    up_to_date = report.tcb_status == "UpToDate"
    return {
        "tee_attested": Claim(
            "asserted",
            "hardware_proven",
            f"{report.tee} quote verified to root {report.root_sha256}, report data bound",
        )
        if bound
        else UNKNOWN,
        "gpu_attested": UNKNOWN,
        "tcb_up_to_date": Claim(
            "asserted" if up_to_date else "refuted",
            "hardware_proven",
            f"TCB status {report.tcb_status}",
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
    quote = report.quote
    findings = (
        *_tcb(report, policy, now),
        *_measurements(report, policy),
        *(_sgx(quote, policy) if isinstance(quote, SgxQuote) else _tdx(quote, policy)),
        *_platform(report, policy),
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
