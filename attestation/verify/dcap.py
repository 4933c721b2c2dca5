"""DCAP verification of SGX and TDX quotes: dcap-qvl, and the checks it lacks.

The cryptography is dcap-qvl's. Around it stand exact length, header fields, every
validity window, FMSPC and PCEID of the PCK certificate against the TCB info, and errors
that name the first step that failed. docs/spec/policy.md lists the steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import dcap_qvl

from attestation.collateral.model import Collateral
from attestation.errors import CollateralError, VerificationError
from attestation.evidence import SgxQuote, TdReport15, TdReport15Ex, TdxQuote, parse_quote
from attestation.evidence.header import ECDSA_P256, INTEL_QE_VENDOR_ID
from attestation.verify.dcap_report import DcapReport
from attestation.verify.endorsements import Endorsements, read_endorsements
from attestation.verify.model import _SEAL
from attestation.x509 import Certificate, check_armour, read_chain

_DEVICE_BUFFERS: Final = (1024, 8000)
_QUOTING_SERVICE_BYTES: Final = 5006
"""What Intel's quoting service says a TDX quote has; shorter ones end in zeros."""
_FLAGS: Final = {"True": True, "False": False}

# dcap-qvl's errors are untyped: the step is told from the start of the message.
_STEPS: Final = (
    ("Failed to verify certificate chain", "chain"),
    ("Failed to extract PCK", "pck_chain"),
    ("Failed to parse PCK certificate", "pck_chain"),
    ("Certificate chain is too short in quote", "pck_chain"),
    ("Unsupported DCAP PCK cert format", "pck_chain"),
    ("CrlExpired", "expired"),
    ("CertRevoked", "revoked"),
    ("Failed to parse root CA CRL", "root_crl"),
    ("Failed to parse PCK CRL", "pck_crl"),
    ("Failed to parse CRL", "crl"),
    ("Failed to decode TcbInfo", "tcb_info"),
    ("Failed to parse TCB Info", "tcb_info"),
    ("Certificate chain is too short for TCB Info", "tcb_info"),
    ("Signature is invalid for tcb_info", "tcb_info"),
    ("TDX quote with non-TDX TCB info", "tcb_info"),
    ("SGX quote with non-SGX TCB info", "tcb_info"),
    ("TCBInfo", "tcb_info"),
    ("Failed to decode QeIdentity", "qe_identity"),
    ("Failed to parse QE Identity", "qe_identity"),
    ("Certificate chain is too short for QE Identity", "qe_identity"),
    ("Signature is invalid for qe_identity", "qe_identity"),
    ("Unsupported QE Identity", "qe_identity"),
    ("QE Identity", "qe_identity"),
    ("Signature is invalid for qe_report", "qe_report"),
    ("QE ", "qe_report"),
    ("Invalid QE auth data length", "qe_report"),
    ("ISV enclave report signature", "isv_signature"),
    ("Fmspc mismatch", "fmspc"),
    ("No matching TCB level", "tcb_level"),
    ("SGX component count", "tcb_level"),
    ("TDX component count", "tcb_level"),
    ("TDX module", "tdx_module"),
    ("No TDX module", "tdx_module"),
    ("TCB status is invalid", "revoked"),
    ("Unrecognized TCB status", "tcb_level"),
    ("Reserved bits in TD attributes", "td_attributes"),
    ("SEPT_VE_DISABLE", "td_attributes"),
    ("TD migration", "td_attributes"),
    ("SERVTD_EXT", "td_attributes"),
    ("TD profiling", "td_attributes"),
    ("Failed to evaluate the current TDX TCB", "tcb_level"),
)


def _check_header(quote: SgxQuote | TdxQuote) -> None:
    header = quote.header
    if header.qe_vendor_id != INTEL_QE_VENDOR_ID:
        raise VerificationError("header.qe_vendor_id", f"{header.qe_vendor_id.hex()} is not Intel")
    if header.attestation_key_type != ECDSA_P256:
        raise VerificationError(
            "header.attestation_key_type",
            f"{header.attestation_key_type} is not ECDSA-P256 ({ECDSA_P256})",
        )


def _check_length(quote: SgxQuote | TdxQuote, size: int) -> None:
    """Nothing follows the quote but the zeros of a whole device buffer.

    Guest drivers hand out their fixed buffer (8000 bytes, or whole KiB) with the quote at
    its start, and the quoting service a buffer of the size it announced. Anything else is
    unexplained: bytes nobody signed, where two verifiers may see two different quotes.
    """
    if not quote.trailing:
        return
    whole = size == _QUOTING_SERVICE_BYTES or not all(size % b for b in _DEVICE_BUFFERS)
    if any(quote.trailing) or not whole:
        raise VerificationError("quote.trailing", f"{len(quote.trailing)} unexplained bytes")


def _check_lifecycle(quote: SgxQuote | TdxQuote) -> None:
    """Neither a debugger nor a service TD has access to the workload."""
    body = quote.body
    if body.debug:
        raise VerificationError("debug", "a debugger may read this workload's memory")
    if isinstance(body, TdReport15) and any(body.mr_service_td):
        raise VerificationError("service_td", "a service TD is bound to this TD")
    if isinstance(body, TdReport15Ex) and (
        any(body.init_service_td_hash) or any(body.cur_service_td_hash)
    ):
        raise VerificationError("service_td", "a service TD is or was bound to this TD")


def _check_windows(endorsements: Endorsements, now: int) -> None:
    for w in endorsements.windows:
        if now < w.not_before:
            raise VerificationError("not_yet_valid", f"{w.name} is valid from {w.not_before}")
        if now > w.not_after:
            raise VerificationError("expired", f"{w.name} expired at {w.not_after}")


def _candidates(endorsements: Endorsements, roots: Sequence[bytes]) -> Sequence[bytes]:
    """The trusted roots worth trying: the one the chains end in, or all if they name none."""
    stray = endorsements.anchors - frozenset(roots)
    if stray or not roots:
        ends = ", ".join(sorted(hashlib.sha256(a).hexdigest() for a in stray)) or "nothing"
        raise VerificationError("root", f"collateral chains end in {ends}, which is not trusted")
    return tuple(endorsements.anchors) or roots


@lru_cache(maxsize=64)
def _read_pck_chain(pem: bytes) -> tuple[Certificate, ...]:
    check_armour("pck_chain", pem)
    return read_chain("pck_chain", pem)


def _pck_chain(
    quote: SgxQuote | TdxQuote, endorsements: Endorsements, roots: Sequence[bytes]
) -> tuple[Certificate, ...]:
    """PCK certificate, its CA, and nothing else but a trusted root."""
    pem = endorsements.pck_chain or quote.signature.pck_chain
    if pem is None:
        raise VerificationError("pck_chain", "neither quote nor collateral has one")
    try:
        chain = _read_pck_chain(pem)
    except CollateralError as e:
        raise VerificationError("pck_chain", str(e)) from None
    if any(c.der not in roots for c in chain[2:]):
        raise VerificationError("root", "the PCK chain ends in a root that is not trusted")
    return chain


def _explain_chain(
    chain: tuple[Certificate, ...], endorsements: Endorsements, now: int
) -> VerificationError:
    """Which chain failed and why, once dcap-qvl has refused. Never makes a refusal a pass."""
    for certificate in chain:
        if not certificate.window.not_before <= now <= certificate.window.not_after:
            return VerificationError("expired", f"the PCK chain is not valid at {now}")
    for certificate in (*chain, *endorsements.certificates):
        if any(c.revokes(certificate) for c in (endorsements.pck_crl, endorsements.root_crl)):
            return VerificationError("revoked", f"certificate {certificate.serial:#x} is revoked")
    if chain[0].issuer != endorsements.pck_crl.issuer:
        return VerificationError("pck_crl", "the PCK CRL is from another issuer")
    return VerificationError("chain", "a certificate chain does not verify")


def _step(message: str) -> str:
    return next((step for prefix, step in _STEPS if message.startswith(prefix)), "dcap")


def _claims(raw: bytes, endorsements: Endorsements, root: bytes, now: int) -> dict[str, Any]:
    """dcap-qvl's claims about the quote under `root`. Raises VerificationError."""
    try:
        claims = dcap_qvl.QuoteVerifier(root).verify_with_policy(
            raw, endorsements.collateral, now, dcap_qvl.QuotePolicy.claims_only(now)
        )
    except ValueError as e:
        message = str(e).removeprefix("Verification failed: ")
        raise VerificationError(_step(message), message) from None
    out: dict[str, Any] = json.loads(claims.to_json())
    return out


def _judge(
    raw: bytes,
    parsed: SgxQuote | TdxQuote,
    endorsements: Endorsements,
    roots: Sequence[bytes],
    now: int,
) -> tuple[dict[str, Any], bytes]:
    """dcap-qvl's claims and the root they hold under. Raises VerificationError."""
    chain = _pck_chain(parsed, endorsements, roots)
    failures = []
    for root in _candidates(endorsements, roots):
        try:
            return _claims(raw, endorsements, root, now), root
        except VerificationError as e:
            failures.append(e)
    if failures[-1].step == "chain":
        raise _explain_chain(chain, endorsements, now)
    raise failures[-1]


def verify_quote(
    quote: bytes, collateral: Collateral, roots: Sequence[bytes], now: int
) -> DcapReport:
    """The quote is authentic at `now` (Unix seconds) under one of `roots` (DER).

    Pure: no socket, clock, environment or device. Raises MalformedEvidence when the bytes
    are not a quote, CollateralError when the collateral cannot be read, VerificationError
    naming the first step that failed. Genuine says nothing about wanted: ask the policy.
    """
    parsed = parse_quote(quote)
    _check_header(parsed)
    _check_length(parsed, len(quote))
    _check_lifecycle(parsed)
    endorsements = read_endorsements(collateral)
    _check_windows(endorsements, now)
    if not endorsements.pck_crl_signed:
        raise VerificationError("pck_crl", "the PCK CRL is not signed by its issuer chain")
    claims, root = _judge(quote, parsed, endorsements, roots, now)
    pck = claims["platform"]["pck"]
    pce_id = bytes(pck["pce_id"]).hex()
    if pce_id != endorsements.pce_id:
        raise VerificationError(
            "pceid", f"PCK certificate has {pce_id}, TCB info is for {endorsements.pce_id}"
        )
    statuses = (
        claims["tcb"]["status"],
        claims["platform"]["tcb_level"]["tcbStatus"],
        claims["qe"]["tcb_level"]["tcbStatus"],
    )
    if "Revoked" in statuses:
        raise VerificationError("revoked", "the TCB level is revoked")
    return DcapReport(
        quote=parsed,
        verified_at=now,
        merged_tcb_status=statuses[0],
        platform_tcb_status=statuses[1],
        qe_tcb_status=statuses[2],
        advisory_ids=tuple(claims["tcb"]["advisory_ids"]),
        tcb_eval_data_number=min(
            claims["tcb"]["eval_data_number"], claims["qe"]["tcb_eval_data_number"]
        ),
        collateral_issued=endorsements.issued,
        endorsements_not_before=claims["latest_issue_date"],
        endorsements_not_after=claims["earliest_expiration_date"],
        fmspc=bytes(pck["fmspc"]).hex(),
        pce_id=pce_id,
        sgx_type=pck["sgx_type"],
        dynamic_platform=_FLAGS.get(pck["dynamic_platform"]),
        cached_keys=_FLAGS.get(pck["cached_keys"]),
        smt=_FLAGS.get(pck["smt_enabled"]),
        root_sha256=hashlib.sha256(root).hexdigest(),
        seal=_SEAL,
    )
