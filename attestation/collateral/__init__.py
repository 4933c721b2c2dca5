"""Endorsements and reference values that quotes are verified against."""

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements

__all__ = ["Collateral", "SnpEndorsements"]
