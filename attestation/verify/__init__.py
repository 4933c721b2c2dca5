"""Verification: pure functions from (evidence, collateral, roots, now) to a VerifiedReport."""

from __future__ import annotations

from attestation.verify.dcap import verify_quote
from attestation.verify.dcap_report import DcapReport
from attestation.verify.model import VerifiedReport

__all__ = ["DcapReport", "VerifiedReport", "verify_quote"]
