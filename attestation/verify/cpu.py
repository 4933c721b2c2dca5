"""A CPU's evidence of whichever kind its own bytes are: a DCAP quote or an SEV-SNP report.

What somebody calls the evidence chooses nothing here. Each verifier demands its whole
format, and collateral of the other vendor is refused rather than looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError
from attestation.evidence.kind import EvidenceKind, kind_of
from attestation.verify.dcap import verify_quote
from attestation.verify.model import VerifiedReport
from attestation.verify.snp import verify_snp


def _is_snp(evidence: bytes) -> bool:
    return kind_of(evidence) is EvidenceKind.SEV_SNP


def read_endorsements_json(evidence: bytes, document: Any) -> Collateral | SnpEndorsements:
    """The endorsements that this evidence needs, from their JSON form. Raises CollateralError."""
    if _is_snp(evidence):
        return SnpEndorsements.from_json(document)
    return Collateral.from_json(document)


def verify_cpu(
    evidence: bytes,
    endorsements: Collateral | SnpEndorsements,
    roots: Sequence[bytes],
    now: int,
) -> VerifiedReport:
    """The evidence is authentic at `now` (Unix seconds) under one of `roots` (DER).

    Pure, as the verifiers behind it are; raises what they raise, and CollateralError where
    the endorsements are of another kind than the evidence.
    """
    if _is_snp(evidence):
        if not isinstance(endorsements, SnpEndorsements):
            raise CollateralError("an SEV-SNP report needs AMD's endorsements, not DCAP collateral")
        return verify_snp(evidence, endorsements, roots, now)
    if not isinstance(endorsements, Collateral):
        raise CollateralError("a quote needs DCAP collateral, not AMD's endorsements")
    return verify_quote(evidence, endorsements, roots, now)
