"""Verification: pure functions from (evidence, collateral, roots, now) to a VerifiedReport."""

from __future__ import annotations

from attestation.verify.dcap import verify_quote
from attestation.verify.model import VerifiedReport

__all__ = ["VerifiedReport", "verify_quote"]
