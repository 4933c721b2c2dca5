"""Evidence formats: bytes become frozen values, or a MalformedEvidence that says where."""

from __future__ import annotations

from attestation.evidence.enclave import SgxReportBody
from attestation.evidence.header import HEADER_BYTES, TEE_SGX, QuoteHeader
from attestation.evidence.nitro import NitroDocument
from attestation.evidence.sgx import SgxQuote
from attestation.evidence.signature import CertificationData, EcdsaSignatureData
from attestation.evidence.snp import AttestationReport
from attestation.evidence.snp_certs import CertificateTable
from attestation.evidence.tdx import TdReport10, TdReport15, TdReport15Ex, TdxQuote
from attestation.evidence.tpm import TpmQuote, TpmSignature
from attestation.evidence.tpm_public import TpmPublic
from attestation.wire import Cursor

__all__ = [
    "AttestationReport",
    "CertificateTable",
    "CertificationData",
    "EcdsaSignatureData",
    "NitroDocument",
    "QuoteHeader",
    "SgxQuote",
    "SgxReportBody",
    "TdReport10",
    "TdReport15",
    "TdReport15Ex",
    "TdxQuote",
    "TpmPublic",
    "TpmQuote",
    "TpmSignature",
    "parse_quote",
]


def parse_quote(data: bytes) -> SgxQuote | TdxQuote:
    """The quote in `data`, by the TEE type its header names. Raises MalformedEvidence.

    Parsing proves nothing: only `attestation.verify` says whether it is authentic.
    """
    header = QuoteHeader.read(Cursor("quote", data[:HEADER_BYTES]))
    return SgxQuote.read(data) if header.tee_type == TEE_SGX else TdxQuote.read(data)
