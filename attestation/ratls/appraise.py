"""From a certificate to a peer one may talk to: evidence, key, and policy in one decision.

Spec: docs/spec/ratls.md. The binding is judged before policy and cannot be switched off
by it: evidence that is not over this certificate's key is nobody's.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Final

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, Finding, VerificationError
from attestation.policy import Appraisal, Policy, evaluate
from attestation.policy.values import one_of
from attestation.ratls.certificate import RaTlsCertificate
from attestation.ratls.extension import (
    QUOTE_TAG,
    SNP_TAG,
    TaggedEvidence,
    legacy_report_data,
)
from attestation.verify import VerifiedReport
from attestation.verify.cpu import verify_cpu

Endorsements = Collateral | SnpEndorsements
"""What judges evidence under tag 60000, and what judges SEV-SNP reports."""

_SEAL: Final = object()
_TAGS: Final = {"sgx": QUOTE_TAG, "tdx": QUOTE_TAG, "sev-snp": SNP_TAG}
_Bound = tuple[VerifiedReport, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedPeer:
    """A certificate whose key is bound to evidence that a policy wants.

    `not_after` (Unix seconds) is when the first thing it rests on ends: the certificate or
    an endorsement. `nonce` is the one its claims state, whoever chose it.
    """

    certificate: RaTlsCertificate
    appraisal: Appraisal
    not_after: int
    nonce: bytes | None = field(repr=False)
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("an AttestedPeer is made by appraise_certificate only")

    @property
    def spki_sha256(self) -> str:
        return self.certificate.spki_sha256


def appraise_certificate(
    der: bytes,
    *,
    roots: Sequence[bytes],
    policy: Policy,
    now: int,
    collateral: Endorsements | None = None,
    nonce: bytes | None = None,
) -> AttestedPeer:
    """The certificate's key belongs to a workload that `policy` wants, at `now`.

    It says nothing about who presented the certificate: that the peer holds the key is what
    the TLS handshake proves. `collateral` is the caller's, which may be newer than the
    certificate's own; `nonce` must be the one in the claims, where the caller chose one.
    Raises MalformedEvidence, CollateralError, VerificationError naming the step, or
    PolicyError with every finding.
    """
    certificate = RaTlsCertificate.read(der)
    _check_window(certificate, now)
    if certificate.evidence is None and certificate.legacy_quote is None:
        raise VerificationError("evidence", "the certificate carries no evidence")
    _check_nonce(certificate.evidence, nonce)
    if certificate.evidence is not None:
        certificate.evidence.claims.pubkey_hash.check(certificate.spki)
    endorsements = collateral or certificate.endorsements
    if endorsements is None:
        raise CollateralError("the certificate carries no endorsements and the caller gave none")
    bound = _verify_all(certificate, endorsements, roots, now)
    _check_agreement([report for report, _ in bound])
    others = tuple(_statement_findings(certificate.evidence, policy))
    appraisals = [
        evaluate(report, policy, report_data=expected, now=now, other_findings=others)
        for report, expected in bound
    ]
    return AttestedPeer(
        certificate=certificate,
        appraisal=appraisals[0],
        not_after=min(
            certificate.not_after, *(report.endorsements_not_after for report, _ in bound)
        ),
        nonce=None if certificate.evidence is None else certificate.evidence.claims.nonce,
        seal=_SEAL,
    )


def _check_window(certificate: RaTlsCertificate, now: int) -> None:
    if now < certificate.not_before:
        raise VerificationError("not_yet_valid", f"valid from {certificate.not_before}")
    if now > certificate.not_after:
        raise VerificationError("expired", f"valid until {certificate.not_after}")


def _check_nonce(evidence: TaggedEvidence | None, expected: bytes | None) -> None:
    if expected is None:
        return
    stated = None if evidence is None else evidence.claims.nonce
    if stated is None or not hmac.compare_digest(stated, expected):
        raise VerificationError("nonce", "the evidence is not over the caller's nonce")


def _verify_all(
    certificate: RaTlsCertificate, endorsements: Endorsements, roots: Sequence[bytes], now: int
) -> list[_Bound]:
    """Every piece of evidence with the report data that binds it, the interoperable first."""
    bound: list[_Bound] = []
    if certificate.evidence is not None:
        stated = certificate.evidence
        report = verify_cpu(stated.evidence, endorsements, roots, now)
        if stated.tag != _TAGS[report.tee]:
            raise VerificationError("evidence", f"{report.tee} evidence under tag {stated.tag}")
        bound.append((report, stated.claims.report_data))
    if certificate.legacy_quote is not None:
        report = verify_cpu(certificate.legacy_quote, endorsements, roots, now)
        if report.tee != "sgx":
            raise VerificationError("evidence", f"{report.tee} in the extension for SGX quotes")
        bound.append((report, legacy_report_data(certificate.spki)))
    for report, expected in bound:
        if not hmac.compare_digest(report.report_data, expected):
            raise VerificationError("report_data", "the evidence is not over this key")
    return bound


def _check_agreement(reports: Sequence[VerifiedReport]) -> None:
    """Whoever reads only one of two extensions sees the workload that we see."""
    first = reports[0]
    for other in reports[1:]:
        if (other.tee, other.measurements) != (first.tee, first.measurements):
            raise VerificationError("evidence", "the two extensions attest different workloads")


def _statement_findings(evidence: TaggedEvidence | None, policy: Policy) -> Iterator[Finding]:
    """What a policy wants stated that the certificate does not state."""
    custody = None if evidence is None else evidence.claims.custody
    if policy.key_custody is not None and custody not in policy.key_custody:
        actual = "nothing" if custody is None else repr(custody)[:64]
        yield Finding("key_custody.kind", one_of(policy.key_custody), actual)
    source = policy.source
    for name in ("repo_url", "repo_commit", "image_digest"):
        expected = getattr(source, name)
        if expected is not None:
            yield Finding(f"source_provenance.{name}", expected, "not in certificates")
    if source.required:
        yield Finding("source_provenance", "a source", "not in certificates")
