"""Verification: pure functions from (evidence, collateral, roots, now) to a VerifiedReport."""

from __future__ import annotations

from attestation.verify.dcap import verify_quote
from attestation.verify.dcap_report import DcapReport
from attestation.verify.model import VerifiedReport
from attestation.verify.nvidia_gpu import VerifiedGpu, VerifiedGpuToken

__all__ = ["DcapReport", "VerifiedGpu", "VerifiedGpuToken", "VerifiedReport", "verify_quote"]
