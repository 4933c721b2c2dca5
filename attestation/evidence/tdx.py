"""TDX quotes, versions 4 and 5, with TD report bodies 1.0, 1.5 and 1.5 extended.

Spec: Intel TDX DCAP Quoting Library API (quote format 4 and 5), Intel TDX module ABI
(TDREPORT, TDINFO). Version 5 puts u16 body type and u32 body size before the body.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.evidence.header import TEE_TDX, QuoteHeader
from attestation.evidence.signature import EcdsaSignatureData
from attestation.wire import Cursor, u8, u16, u32

BODY_TD10: Final = 2
BODY_TD15: Final = 3
BODY_TD15_EX: Final = 4
_DEBUG: Final = 0x01


@dataclass(frozen=True, slots=True)
class TdReport10:
    """584 bytes: the TDX module that runs the TD, then the TD itself.

    Measurements are SHA-384. `td_attributes` and `xfam` are little-endian bit fields.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rt_mr0: bytes
    rt_mr1: bytes
    rt_mr2: bytes
    rt_mr3: bytes
    report_data: bytes

    @property
    def debug(self) -> bool:
        """True when the host may read the TD's memory and state."""
        return bool(self.td_attributes[0] & _DEBUG)

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next 584 bytes of `c`. Raises MalformedEvidence."""
        return cls(**{name: c.take(name, size) for name, size in _TD10})

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return b"".join(getattr(self, name) for name, _ in _TD10)


@dataclass(frozen=True, slots=True)
class TdReport15(TdReport10):
    """648 bytes: 1.0, then the current module's SVNs and the bound service TD's hash."""

    tee_tcb_svn2: bytes
    mr_service_td: bytes

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next 648 bytes of `c`. Raises MalformedEvidence."""
        return cls(**{name: c.take(name, size) for name, size in _TD15})

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return b"".join(getattr(self, name) for name, _ in _TD15)


@dataclass(frozen=True, slots=True)
class TdReport15Ex(TdReport15):
    """885 bytes: 1.5, then the TD's identity and where it started before any migration.

    Spec: sgx_quote_5.h, `sgx_report2_body_v1_5_ex_t`.
    """

    vmid: int
    td_id: bytes
    dev_info: bytes
    init_service_td_hash: bytes
    init_service_td_attributes: bytes
    init_cpu_svn: bytes
    init_tee_tcb_svn: bytes
    init_tee_fmspc: bytes
    cur_service_td_hash: bytes
    cur_service_td_attributes: bytes

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next 885 bytes of `c`. Raises MalformedEvidence."""
        base = {name: c.take(name, size) for name, size in _TD15}
        vmid = c.u8("vmid")
        return cls(vmid=vmid, **base, **{name: c.take(name, size) for name, size in _TD15_EX})

    def write(self) -> bytes:
        """The bytes `read` reads."""
        head = b"".join(getattr(self, name) for name, _ in _TD15)
        tail = b"".join(getattr(self, name) for name, _ in _TD15_EX)
        return head + u8(self.vmid) + tail


_TD10: Final = (
    ("tee_tcb_svn", 16),
    ("mr_seam", 48),
    ("mr_signer_seam", 48),
    ("seam_attributes", 8),
    ("td_attributes", 8),
    ("xfam", 8),
    ("mr_td", 48),
    ("mr_config_id", 48),
    ("mr_owner", 48),
    ("mr_owner_config", 48),
    ("rt_mr0", 48),
    ("rt_mr1", 48),
    ("rt_mr2", 48),
    ("rt_mr3", 48),
    ("report_data", 64),
)
_TD15: Final = (*_TD10, ("tee_tcb_svn2", 16), ("mr_service_td", 48))
_TD15_EX: Final = (
    ("td_id", 32),
    ("dev_info", 48),
    ("init_service_td_hash", 48),
    ("init_service_td_attributes", 8),
    ("init_cpu_svn", 16),
    ("init_tee_tcb_svn", 16),
    ("init_tee_fmspc", 12),
    ("cur_service_td_hash", 48),
    ("cur_service_td_attributes", 8),
)
_BODIES: Final[dict[int, tuple[type[TdReport10], int]]] = {
    BODY_TD10: (TdReport10, 584),
    BODY_TD15: (TdReport15, 648),
    BODY_TD15_EX: (TdReport15Ex, 885),
}
_TYPES: Final = {cls: kind for kind, (cls, _) in _BODIES.items()}


@dataclass(frozen=True, slots=True)
class TdxQuote:
    """Header, TD report, signature section, and whatever the device left behind it.

    `signed` is the slice of the original bytes that the attestation key signed; in v5 it
    includes the body's type and size.
    """

    header: QuoteHeader
    body: TdReport10
    signature: EcdsaSignatureData
    trailing: bytes
    signed: bytes = field(repr=False, compare=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A quote from all of `data`. Raises MalformedEvidence."""
        c = Cursor("quote", data)
        header = QuoteHeader.read(c)
        if header.tee_type != TEE_TDX or header.version not in (4, 5):
            raise MalformedEvidence(
                "quote.version",
                f"version {header.version} for TEE type {header.tee_type:#x} is not supported",
                0,
            )
        kind, size = BODY_TD10, 584
        if header.version == 5:
            kind, size = c.u16("body_type"), c.u32("body_size")
        if kind not in _BODIES:
            raise c.error("body_type", f"type {kind} is not a TD report")
        body_class, expected = _BODIES[kind]
        if size != expected:
            raise c.error("body_size", f"{size}, but type {kind} has {expected} bytes")
        body = body_class.read(c.sub("body", size))
        signed = data[: c.offset]
        signature = EcdsaSignatureData.read(
            c.sub("signature", c.u32("signature_data_size")), nested=True
        )
        return cls(header, body, signature, c.rest(), signed)

    def write(self) -> bytes:
        """The bytes `read` reads, trailing included."""
        body = self.body.write()
        if self.header.version == 5:
            body = u16(_TYPES[type(self.body)]) + u32(len(body)) + body
        signature = self.signature.write()
        return b"".join((self.header.write(), body, u32(len(signature)), signature, self.trailing))
