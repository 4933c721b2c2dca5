"""Verification: pure functions from (evidence, collateral, roots, now) to a VerifiedReport."""

from __future__ import annotations

from attestation.verify.dcap import verify_quote
from attestation.verify.dcap_report import DcapReport
from attestation.verify.model import VerifiedReport
from attestation.verify.nvidia_gpu import VerifiedGpu, VerifiedGpuToken
from attestation.verify.snp import verify_snp
from attestation.verify.snp_report import SnpReport

__all__ = [
    "DcapReport",
    "SnpReport",
    "VerifiedGpu",
    "VerifiedGpuToken",
    "VerifiedReport",
    "verify_quote",
    "verify_snp",
]
