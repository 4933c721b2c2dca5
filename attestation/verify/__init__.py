"""Verification: pure functions from (evidence, collateral, roots, now) to a VerifiedReport."""

from __future__ import annotations

from attestation.verify.dcap import verify_quote
from attestation.verify.dcap_report import DcapReport
from attestation.verify.model import VerifiedReport
from attestation.verify.nitro import NitroReport, verify_nitro
from attestation.verify.nvidia_gpu import VerifiedGpu, VerifiedGpuToken
from attestation.verify.snp import verify_snp
from attestation.verify.snp_report import SnpReport
from attestation.verify.tpm import TpmReport, verify_tpm
from attestation.verify.tpm_key import BoundKey, certified_key, enrolled_key

__all__ = [
    "BoundKey",
    "DcapReport",
    "NitroReport",
    "SnpReport",
    "TpmReport",
    "VerifiedGpu",
    "VerifiedGpuToken",
    "VerifiedReport",
    "certified_key",
    "enrolled_key",
    "verify_nitro",
    "verify_quote",
    "verify_snp",
    "verify_tpm",
]
