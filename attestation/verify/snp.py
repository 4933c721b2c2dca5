"""SEV-SNP verification: a report is what a genuine AMD chip said about a guest.

Spec: AMD 56860 (attestation report and its signature), AMD 57230 (certificates). The steps
and what they do not prove are in docs/spec/evidence-snp.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.collateral.snp import SnpEndorsements
from attestation.errors import VerificationError
from attestation.evidence.snp import (
    ECDSA_P384_SHA384,
    MAX_VMPL,
    SIGNED_BY_VCEK,
    SIGNED_BY_VLEK,
    SIGNED_BYTES,
    AttestationReport,
    TcbParts,
)
from attestation.verify.model import _SEAL
from attestation.verify.snp_chain import VerifiedChain, verify_chain
from attestation.verify.snp_report import SnpReport
from attestation.verify.snp_vek import VekExtensions
from attestation.x509 import Window

_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
_SIGNERS: Final = {SIGNED_BY_VCEK: "vcek", SIGNED_BY_VLEK: "vlek"}
_ALGORITHM: Final = ec.ECDSA(hashes.SHA384())


def _check_form(report: AttestationReport) -> None:
    """The report says it is signed, by a kind of key and an algorithm known here."""
    if report.signature_algo != ECDSA_P384_SHA384:
        raise VerificationError("signature_algo", f"{report.signature_algo} is not ECDSA P-384")
    if report.signing_key not in _SIGNERS:
        raise VerificationError("signing_key", f"{report.signing_key} is neither VCEK nor VLEK")


def _check_windows(windows: Iterable[Window], now: int) -> None:
    for w in windows:
        if now < w.not_before:
            raise VerificationError("not_yet_valid", f"{w.name} is valid from {w.not_before}")
        if now > w.not_after:
            raise VerificationError("expired", f"{w.name} expired at {w.not_after}")


def _check_signing_key(report: AttestationReport, vek: VekExtensions) -> None:
    stated = _SIGNERS[report.signing_key]
    if stated != vek.kind:
        raise VerificationError("signing_key", f"the report says {stated}, this is a {vek.kind}")


def _check_signature(raw: bytes, report: AttestationReport, key: ec.EllipticCurvePublicKey) -> None:
    """The key signed the report's first 672 bytes; r and s are little-endian and in range."""
    r = int.from_bytes(report.signature_r, "little")
    s = int.from_bytes(report.signature_s, "little")
    if not 0 < r < _P384_ORDER or not 0 < s < _P384_ORDER:
        raise VerificationError("signature", "r or s is not in 1 to n - 1")
    try:
        key.verify(encode_dss_signature(r, s), raw[:SIGNED_BYTES], _ALGORITHM)
    except InvalidSignature:
        raise VerificationError("signature", "not made by the signing key") from None


def _check_guest(report: AttestationReport) -> None:
    """A guest asked for this report, and the host may not read that guest's memory."""
    if report.policy.debug:
        raise VerificationError("debug", "the host may decrypt this guest's memory")
    if report.vmpl > MAX_VMPL:
        raise VerificationError("vmpl", f"{report.vmpl:#x} is no guest's privilege level")


def _check_product(report: AttestationReport, vek: VekExtensions) -> None:
    """From version 3 on the report names the processor itself."""
    if report.cpuid_fam_id is not None and report.product != vek.product:
        raise VerificationError("product", f"{report.product} with a key of {vek.product}")


def _check_chip(report: AttestationReport, vek: VekExtensions) -> bytes | None:
    """The chip that speaks is the one the VCEK was issued for; its identity, where known.

    A VLEK belongs to a provider, not to a chip. Zeros stand for a chip only where the report
    says that the host masks it.
    """
    masked = not any(report.chip_id)
    if vek.hwid is None:
        return None if masked else report.chip_id
    if report.chip_id != vek.hwid and not (masked and report.mask_chip_key):
        raise VerificationError("chip_id", "the key belongs to another chip")
    return vek.hwid


def _is_at_most(lower: TcbParts, upper: TcbParts) -> bool:
    pairs = zip(astuple(lower), astuple(upper), strict=True)
    return all(a is None or a <= b for a, b in pairs)


def _check_tcb(report: AttestationReport, chain: VerifiedChain) -> tuple[TcbParts, ...]:
    """Current, reported, committed and launch levels, consistent with the key and each other.

    The key is derived from the reported levels, so it must be certified for exactly those.
    Firmware may run ahead of what is committed, and report less than that, never more.
    """
    current, reported, committed, launch = (
        tcb.parts(chain.vek.product)
        for tcb in (
            report.current_tcb,
            report.reported_tcb,
            report.committed_tcb,
            report.launch_tcb,
        )
    )
    if reported != chain.vek.tcb:
        raise VerificationError("tcb", f"report has {reported}, the key is for {chain.vek.tcb}")
    if not _is_at_most(reported, committed) or not _is_at_most(committed, current):
        raise VerificationError("tcb", "reported, committed and current levels are out of order")
    if report.committed_version > report.current_version:
        raise VerificationError("tcb", "committed firmware is newer than the current one")
    return current, reported, committed, launch


def verify_snp(
    report: bytes, endorsements: SnpEndorsements, roots: Sequence[bytes], now: int
) -> SnpReport:
    """The report is authentic at `now` (Unix seconds) under one of `roots` (DER).

    Pure: no socket, clock, environment or device. Raises MalformedEvidence when the bytes
    are not a report, CollateralError when the endorsements cannot be read, VerificationError
    naming the first step that failed. Genuine says nothing about wanted: ask the policy.
    """
    parsed = AttestationReport.read(report)
    _check_form(parsed)
    chain = verify_chain(endorsements, tuple(roots))
    _check_windows(chain.windows, now)
    _check_signing_key(parsed, chain.vek)
    _check_signature(report, parsed, chain.key)
    _check_guest(parsed)
    _check_product(parsed, chain.vek)
    chip = _check_chip(parsed, chain.vek)
    current, reported, committed, launch = _check_tcb(parsed, chain)
    return SnpReport(
        report=parsed,
        verified_at=now,
        product=chain.vek.product,
        signing_key=chain.vek.kind,
        current_tcb=current,
        reported_tcb=reported,
        committed_tcb=committed,
        launch_tcb=launch,
        chip=chip,
        csp_id=chain.vek.csp_id,
        revocation_checked=chain.revocation_checked,
        endorsements_not_before=max(w.not_before for w in chain.windows),
        endorsements_not_after=min(w.not_after for w in chain.windows),
        root_sha256=chain.root_sha256,
        seal=_SEAL,
    )
