"""What a policy may want of SGX and TDX evidence beside its measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.errors import Finding
from attestation.evidence import SgxQuote, TdxQuote
from attestation.policy.values import Mask, mask_of, one_of, optional_tuple
from attestation.verify import DcapReport

DEFAULT_COLLATERAL_AGE_S: Final = 30 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbPolicy:
    """How up to date the platform and what is known about it must be."""

    statuses: tuple[str, ...] = ("UpToDate",)
    allowed_advisories: frozenset[str] | None = None
    refused_advisories: frozenset[str] = frozenset()
    min_evaluation_data_number: int = 0
    max_collateral_age_s: int = DEFAULT_COLLATERAL_AGE_S

    @classmethod
    def from_json(cls, tcb: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        advisories = tcb.get("advisories", {})
        allowed = advisories.get("allow")
        return cls(
            statuses=tuple(tcb.get("statuses", ("UpToDate",))),
            allowed_advisories=None if allowed is None else frozenset(allowed),
            refused_advisories=frozenset(advisories.get("refuse", ())),
            min_evaluation_data_number=int(tcb.get("min_evaluation_data_number", 0)),
            max_collateral_age_s=int(tcb.get("max_collateral_age_s", DEFAULT_COLLATERAL_AGE_S)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPolicy:
    """What a TD and its TDX module must be, beside the measurements."""

    td_attributes: Mask | None = None
    xfam: Mask | None = None
    min_tee_tcb_svn: bytes = bytes(16)
    dangerous_allow_custom_seam: bool = False

    @classmethod
    def from_json(cls, tdx: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        return cls(
            td_attributes=mask_of(tdx.get("td_attributes")),
            xfam=mask_of(tdx.get("xfam")),
            min_tee_tcb_svn=bytes.fromhex(tdx.get("min_tee_tcb_svn", "00" * 16)),
            dangerous_allow_custom_seam=tdx.get("dangerous_allow_custom_seam", False),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxPolicy:
    """What an enclave must be, beside the measurements; None accepts every value."""

    attributes: Mask | None = None
    mr_signer: tuple[str, ...] | None = None
    isv_prod_id: tuple[int, ...] | None = None
    min_isv_svn: int = 0

    @classmethod
    def from_json(cls, sgx: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        return cls(
            attributes=mask_of(sgx.get("attributes")),
            mr_signer=optional_tuple(sgx.get("mr_signer")),
            isv_prod_id=optional_tuple(sgx.get("isv_prod_id")),
            min_isv_svn=int(sgx.get("min_isv_svn", 0)),
        )


def _tcb(report: DcapReport, tcb: TcbPolicy, now: int) -> Iterator[Finding]:
    # dcap-qvl merges only some statuses of the quoting enclave into the whole; every part
    # must do by itself, or the merge would hide it.
    parts = (
        ("tcb.status", report.tcb_status),
        ("tcb.platform_status", report.platform_tcb_status),
        ("tcb.qe_status", report.qe_tcb_status),
    )
    for i, (name, status) in enumerate(parts):
        if status not in tcb.statuses and status not in (s for _, s in parts[:i]):
            yield Finding(name, one_of(tcb.statuses), status)
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
    if not report.endorsements_not_before <= now <= report.endorsements_not_after:
        yield Finding(
            "tcb.collateral_window",
            f"valid at {now}",
            f"valid {report.endorsements_not_before} to {report.endorsements_not_after}",
        )


def _tdx(quote: TdxQuote, wanted: TdxPolicy) -> Iterator[Finding]:
    body = quote.body
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


def _sgx(quote: SgxQuote, wanted: SgxPolicy) -> Iterator[Finding]:
    body = quote.body
    if wanted.attributes is not None and not wanted.attributes.admits(body.attributes):
        yield Finding("sgx.attributes", str(wanted.attributes), body.attributes.hex())
    if wanted.mr_signer is not None and body.mr_signer.hex() not in wanted.mr_signer:
        yield Finding("sgx.mr_signer", one_of(wanted.mr_signer), body.mr_signer.hex())
    if wanted.isv_prod_id is not None and body.isv_prod_id not in wanted.isv_prod_id:
        yield Finding("sgx.isv_prod_id", one_of(wanted.isv_prod_id), str(body.isv_prod_id))
    if body.isv_svn < wanted.min_isv_svn:
        yield Finding("sgx.isv_svn", f"at least {wanted.min_isv_svn}", str(body.isv_svn))


def _flags(report: DcapReport, denied: tuple[str, ...]) -> Iterator[Finding]:
    for name in denied:
        actual = getattr(report, name)
        if actual is not False:
            stated = "not stated" if actual is None else "true"
            yield Finding(f"platform.{name}", "false", stated)


def dcap_findings(
    report: DcapReport,
    *,
    tcb: TcbPolicy,
    tdx: TdxPolicy,
    sgx: SgxPolicy,
    denied_flags: tuple[str, ...],
    now: int,
) -> Iterator[Finding]:
    """Every way in which this SGX or TDX quote is not what these sections want."""
    quote = report.quote
    yield from _tcb(report, tcb, now)
    yield from _sgx(quote, sgx) if isinstance(quote, SgxQuote) else _tdx(quote, tdx)
    yield from _flags(report, denied_flags)
