"""Endorsements and reference values that quotes are verified against."""

from attestation.collateral.model import Collateral

__all__ = ["Collateral"]
