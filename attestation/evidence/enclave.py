"""The SGX enclave report body: what the CPU measured about one enclave.

It appears twice: as the body of an SGX quote, and inside every quote as the report of
the quoting enclave that signed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from attestation.wire import Cursor, u16, u32

REPORT_BODY_BYTES: Final = 384
_DEBUG: Final = 0x02


@dataclass(frozen=True, slots=True)
class SgxReportBody:
    """384 bytes, `sgx_report_body_t`. Spec: Intel SGX SDK, sgx_report.h.

    `attributes` is flags (u64) then XFRM (u64), little-endian. Reserved bytes must be zero,
    so a field Intel adds later is refused rather than ignored.
    """

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @property
    def debug(self) -> bool:
        """True when a debugger may read the enclave's memory."""
        return bool(self.attributes[0] & _DEBUG)

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next 384 bytes of `c`. Raises MalformedEvidence."""
        cpu_svn = c.take("cpu_svn", 16)
        misc_select = c.u32("misc_select")
        c.zeros("reserved1", 12)
        isv_ext_prod_id = c.take("isv_ext_prod_id", 16)
        attributes = c.take("attributes", 16)
        mr_enclave = c.take("mr_enclave", 32)
        c.zeros("reserved2", 32)
        mr_signer = c.take("mr_signer", 32)
        c.zeros("reserved3", 32)
        config_id = c.take("config_id", 64)
        isv_prod_id = c.u16("isv_prod_id")
        isv_svn = c.u16("isv_svn")
        config_svn = c.u16("config_svn")
        c.zeros("reserved4", 42)
        return cls(
            cpu_svn=cpu_svn,
            misc_select=misc_select,
            isv_ext_prod_id=isv_ext_prod_id,
            attributes=attributes,
            mr_enclave=mr_enclave,
            mr_signer=mr_signer,
            config_id=config_id,
            isv_prod_id=isv_prod_id,
            isv_svn=isv_svn,
            config_svn=config_svn,
            isv_family_id=c.take("isv_family_id", 16),
            report_data=c.take("report_data", 64),
        )

    def write(self) -> bytes:
        """The 384 bytes `read` reads."""
        return b"".join(
            (
                self.cpu_svn,
                u32(self.misc_select),
                bytes(12),
                self.isv_ext_prod_id,
                self.attributes,
                self.mr_enclave,
                bytes(32),
                self.mr_signer,
                bytes(32),
                self.config_id,
                u16(self.isv_prod_id),
                u16(self.isv_svn),
                u16(self.config_svn),
                bytes(42),
                self.isv_family_id,
                self.report_data,
            )
        )
