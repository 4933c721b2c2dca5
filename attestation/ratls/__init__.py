"""RA-TLS: certificates that carry evidence about the machine that holds their key."""

from __future__ import annotations

from attestation.ratls.appraise import AttestedPeer, appraise_certificate
from attestation.ratls.certificate import RaTlsCertificate, certificate_der
from attestation.ratls.extension import Claims, PubkeyHash, TaggedEvidence
from attestation.ratls.introduction import Introduction

__all__ = [
    "AttestedPeer",
    "Claims",
    "Introduction",
    "PubkeyHash",
    "RaTlsCertificate",
    "TaggedEvidence",
    "appraise_certificate",
    "certificate_der",
]
