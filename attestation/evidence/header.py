"""The 48-byte header every DCAP quote starts with.

Spec: Intel SGX ECDSA QuoteLibReference (v3), Intel TDX DCAP Quoting Library API (v4, v5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from attestation.wire import Cursor, u16, u32

HEADER_BYTES: Final = 48
TEE_SGX: Final = 0x00
TEE_TDX: Final = 0x81
ECDSA_P256: Final = 2
INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """Quote header; `user_data` is the quoting enclave's platform id, zero-padded.

    In v3 quotes the four bytes called `tee_type` here are reserved and zero, which is SGX.
    """

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next 48 bytes of `c`. Raises MalformedEvidence."""
        return cls(
            version=c.u16("version"),
            attestation_key_type=c.u16("attestation_key_type"),
            tee_type=c.u32("tee_type"),
            qe_svn=c.u16("qe_svn"),
            pce_svn=c.u16("pce_svn"),
            qe_vendor_id=c.take("qe_vendor_id", 16),
            user_data=c.take("user_data", 20),
        )

    def write(self) -> bytes:
        """The 48 bytes `read` reads."""
        return b"".join(
            (
                u16(self.version),
                u16(self.attestation_key_type),
                u32(self.tee_type),
                u16(self.qe_svn),
                u16(self.pce_svn),
                self.qe_vendor_id,
                self.user_data,
            )
        )
