"""SGX quote, version 3. Spec: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.evidence.enclave import REPORT_BODY_BYTES, SgxReportBody
from attestation.evidence.header import HEADER_BYTES, TEE_SGX, QuoteHeader
from attestation.evidence.signature import EcdsaSignatureData
from attestation.wire import Cursor, u32

SGX_QUOTE_VERSION: Final = 3


@dataclass(frozen=True, slots=True)
class SgxQuote:
    """Header, report body, signature section, and whatever the device left behind it.

    `signed` is the slice of the original bytes that the attestation key signed.
    """

    header: QuoteHeader
    body: SgxReportBody
    signature: EcdsaSignatureData
    trailing: bytes
    signed: bytes = field(repr=False, compare=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A quote from all of `data`. Raises MalformedEvidence."""
        c = Cursor("quote", data)
        header = QuoteHeader.read(c)
        if header.version != SGX_QUOTE_VERSION or header.tee_type != TEE_SGX:
            raise MalformedEvidence(
                "quote.version", f"SGX version {header.version} is not supported", 0
            )
        body = SgxReportBody.read(c.sub("body", REPORT_BODY_BYTES))
        signature = EcdsaSignatureData.read(
            c.sub("signature", c.u32("signature_data_size")), nested=False
        )
        return cls(header, body, signature, c.rest(), data[: HEADER_BYTES + REPORT_BODY_BYTES])

    def write(self) -> bytes:
        """The bytes `read` reads, trailing included."""
        signature = self.signature.write()
        return b"".join(
            (
                self.header.write(),
                self.body.write(),
                u32(len(signature)),
                signature,
                self.trailing,
            )
        )
