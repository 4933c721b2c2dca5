"""The signature section of a DCAP quote: who signed the body, and who vouches for them.

v3 quotes lay the parts out flat; v4 and v5 wrap the quoting enclave's report in a
certification data of type 6. Both read into one value, `EcdsaSignatureData`.
Only the ECDSA-P256 layout (attestation key type 2) exists in the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.evidence.enclave import REPORT_BODY_BYTES, SgxReportBody
from attestation.wire import Cursor, u16, u32

PPID_PLAIN: Final = 1
PPID_RSA2048: Final = 2
PPID_RSA3072: Final = 3
PCK_LEAF: Final = 4
PCK_CHAIN: Final = 5
QE_REPORT: Final = 6
PLATFORM_MANIFEST: Final = 7
_KNOWN: Final = frozenset(range(PPID_PLAIN, PLATFORM_MANIFEST + 1))
_MAX_CERTIFICATION: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class CertificationData:
    """How to certify the quoting enclave: u16 type, u32 size, then that many bytes.

    Types 1-3 name the platform (PPID plain or encrypted, CPUSVN, PCESVN, PCEID), 4 and 5
    carry the PCK certificate or its chain (PEM, leaf first), 6 nests the QE report, 7 is a
    platform manifest.
    """

    kind: int
    data: bytes

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next certification data of `c`. Raises MalformedEvidence on an unknown type."""
        kind = c.u16("certification_data_type")
        if kind not in _KNOWN:
            raise c.error("certification_data_type", f"type {kind} is not defined")
        size = c.u32("certification_data_size")
        if size > _MAX_CERTIFICATION:
            raise c.error("certification_data_size", f"{size} exceeds {_MAX_CERTIFICATION}")
        return cls(kind=kind, data=c.take("certification_data", size))

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return u16(self.kind) + u32(len(self.data)) + self.data


@dataclass(frozen=True, slots=True)
class EcdsaSignatureData:
    """ECDSA-P256 quote signature data; `nested` tells the v4/v5 layout from the v3 one.

    `signature` and `qe_report_signature` are raw r || s, `attestation_key` is raw x || y,
    each 64 bytes, big-endian. `qe_report_raw` is the slice the PCK key signed.
    """

    signature: bytes
    attestation_key: bytes
    qe_report: SgxReportBody
    qe_report_raw: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification: CertificationData
    nested: bool

    @classmethod
    def read(cls, c: Cursor, *, nested: bool) -> Self:
        """All of `c`, which must hold nothing else. Raises MalformedEvidence."""
        signature = c.take("signature", 64)
        attestation_key = c.take("attestation_key", 64)
        if nested:
            outer = CertificationData.read(c)
            if outer.kind != QE_REPORT:
                raise MalformedEvidence(
                    "quote.signature.certification_data_type",
                    f"must be {QE_REPORT} in this quote version, not {outer.kind}",
                    c.offset,
                )
            c.finish()
            c = Cursor("quote.signature.qe", outer.data, c.offset - len(outer.data))
        start = c.offset
        qe_report_raw = c.take("qe_report", REPORT_BODY_BYTES)
        qe_report = SgxReportBody.read(Cursor("quote.signature.qe_report", qe_report_raw, start))
        qe_report_signature = c.take("qe_report_signature", 64)
        qe_auth_data = c.take("qe_auth_data", c.u16("qe_auth_data_size"))
        certification = CertificationData.read(c)
        if certification.kind == QE_REPORT:
            raise c.error("certification_data_type", "a QE report inside a QE report")
        c.finish()
        return cls(
            signature=signature,
            attestation_key=attestation_key,
            qe_report=qe_report,
            qe_report_raw=qe_report_raw,
            qe_report_signature=qe_report_signature,
            qe_auth_data=qe_auth_data,
            certification=certification,
            nested=nested,
        )

    def write(self) -> bytes:
        """The bytes `read` reads with the same `nested`."""
        inner = b"".join(
            (
                self.qe_report.write(),
                self.qe_report_signature,
                u16(len(self.qe_auth_data)),
                self.qe_auth_data,
                self.certification.write(),
            )
        )
        if self.nested:
            inner = CertificationData(QE_REPORT, inner).write()
        return self.signature + self.attestation_key + inner

    @property
    def pck_chain(self) -> bytes | None:
        """The embedded PCK certificate chain (PEM), when the quote carries one."""
        return self.certification.data if self.certification.kind == PCK_CHAIN else None
