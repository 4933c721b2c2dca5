"""SEV-SNP attestation reports, versions 2 to 5.

Spec: AMD 56860, SEV Secure Nested Paging Firmware ABI, ATTESTATION_REPORT (chapter
"Attestation"). 1184 bytes, little-endian; the first 672 are signed. Version 3 added the
CPUID fields, version 5 the mitigation vectors; before, those bytes are reserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.evidence.snp_fields import (
    PRODUCTS,
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    TcbParts,
    TcbVersion,
)
from attestation.wire import Cursor, u8, u32, u64

__all__ = [
    "ECDSA_P384_SHA384",
    "MAX_VMPL",
    "PRODUCTS",
    "REPORT_BYTES",
    "SIGNED_BYTES",
    "SIGNED_BY_NONE",
    "SIGNED_BY_VCEK",
    "SIGNED_BY_VLEK",
    "VERSIONS",
    "AttestationReport",
    "FirmwareVersion",
    "GuestPolicy",
    "PlatformInfo",
    "TcbParts",
    "TcbVersion",
]

REPORT_BYTES: Final = 0x4A0
SIGNED_BYTES: Final = 0x2A0
"""The signature covers the bytes before it."""

ECDSA_P384_SHA384: Final = 1
SIGNED_BY_VCEK: Final = 0
SIGNED_BY_VLEK: Final = 1
SIGNED_BY_NONE: Final = 7
MAX_VMPL: Final = 3
VERSIONS: Final = (2, 3, 4, 5)

_SCALAR_BYTES: Final = 72
_MODELS: Final = (
    (0x19, 0x00, 0x0F, "Milan"),
    (0x19, 0x10, 0x1F, "Genoa"),
    (0x19, 0xA0, 0xAF, "Genoa"),
    (0x1A, 0x00, 0x11, "Turin"),
)


@dataclass(frozen=True, slots=True)
class AttestationReport:
    """ATTESTATION_REPORT, fields in the specification's order and with its names.

    `signing_key`: 0 VCEK, 1 VLEK, 7 none. Fields a version lacks are None, and their bytes
    zero. `signature_r` and `signature_s` are 72 bytes, little-endian; what follows them in
    the 512-byte signature field must be zero.
    """

    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algo: int
    current_tcb: TcbVersion
    platform_info: PlatformInfo
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: TcbVersion
    cpuid_fam_id: int | None
    cpuid_mod_id: int | None
    cpuid_step: int | None
    chip_id: bytes
    committed_tcb: TcbVersion
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_tcb: TcbVersion
    launch_mit_vector: int | None
    current_mit_vector: int | None
    signature_r: bytes
    signature_s: bytes

    @property
    def product(self) -> str | None:
        """The product its CPUID fields name; None without them, or for an unknown model."""
        for family, first, last, name in _MODELS:
            if self.cpuid_fam_id == family and first <= (self.cpuid_mod_id or 0) <= last:
                return name
        return None

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A report from all of `data`, 1184 bytes. Raises MalformedEvidence."""
        c = Cursor("report", data)
        version = c.u32("version")
        if version not in VERSIONS:
            raise MalformedEvidence("report.version", f"{version} is not 2 to 5", 0)
        guest_svn, policy = c.u32("guest_svn"), GuestPolicy.read(c)
        family_id, image_id = c.take("family_id", 16), c.take("image_id", 16)
        vmpl, signature_algo = c.u32("vmpl"), c.u32("signature_algo")
        current_tcb = TcbVersion(c.take("current_tcb", 8))
        platform_info = PlatformInfo(c.u64("platform_info"))
        key = _read_key_info(c)
        c.zeros("reserved", 4)
        middle = {name: c.take(name, size) for name, size in _MIDDLE}
        reported_tcb = TcbVersion(c.take("reported_tcb", 8))
        family, model, step = _read_cpuid(c, version)
        chip_id = c.take("chip_id", 64)
        committed_tcb = TcbVersion(c.take("committed_tcb", 8))
        current_version = FirmwareVersion.read("current", c)
        committed_version = FirmwareVersion.read("committed", c)
        launch_tcb = TcbVersion(c.take("launch_tcb", 8))
        launch_mit_vector, current_mit_vector = _read_mitigations(c, version)
        signature_r = c.take("signature_r", _SCALAR_BYTES)
        signature_s = c.take("signature_s", _SCALAR_BYTES)
        c.zeros("signature_reserved", REPORT_BYTES - SIGNED_BYTES - 2 * _SCALAR_BYTES)
        c.finish()
        return cls(
            version=version,
            guest_svn=guest_svn,
            policy=policy,
            family_id=family_id,
            image_id=image_id,
            vmpl=vmpl,
            signature_algo=signature_algo,
            current_tcb=current_tcb,
            platform_info=platform_info,
            author_key_en=bool(key & 1),
            mask_chip_key=bool(key & 2),
            signing_key=key >> 2,
            **middle,
            reported_tcb=reported_tcb,
            cpuid_fam_id=family,
            cpuid_mod_id=model,
            cpuid_step=step,
            chip_id=chip_id,
            committed_tcb=committed_tcb,
            current_version=current_version,
            committed_version=committed_version,
            launch_tcb=launch_tcb,
            launch_mit_vector=launch_mit_vector,
            current_mit_vector=current_mit_vector,
            signature_r=signature_r,
            signature_s=signature_s,
        )

    def write(self) -> bytes:
        """The bytes `read` reads; the first SIGNED_BYTES of them are what gets signed."""
        key = self.author_key_en | self.mask_chip_key << 1 | self.signing_key << 2
        cpuid = (self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step)
        signed = (
            *(u32(self.version), u32(self.guest_svn), u64(self.policy.value)),
            *(self.family_id, self.image_id, u32(self.vmpl), u32(self.signature_algo)),
            *(self.current_tcb.raw, u64(self.platform_info.value), u32(key), bytes(4)),
            *(self.report_data, self.measurement, self.host_data),
            *(self.id_key_digest, self.author_key_digest, self.report_id, self.report_id_ma),
            *(self.reported_tcb.raw, *(u8(part or 0) for part in cpuid), bytes(21)),
            *(self.chip_id, self.committed_tcb.raw),
            *(self.current_version.write(), self.committed_version.write()),
            *(self.launch_tcb.raw, u64(self.launch_mit_vector or 0)),
            *(u64(self.current_mit_vector or 0), bytes(152)),
        )
        out = b"".join((*signed, self.signature_r, self.signature_s))
        return out + bytes(REPORT_BYTES - len(out))


_MIDDLE: Final = (
    ("report_data", 64),
    ("measurement", 48),
    ("host_data", 32),
    ("id_key_digest", 48),
    ("author_key_digest", 48),
    ("report_id", 32),
    ("report_id_ma", 32),
)


def _read_key_info(c: Cursor) -> int:
    """Bit 0 AUTHOR_KEY_EN, bit 1 MASK_CHIP_KEY, bits 2 to 4 SIGNING_KEY; the rest zero."""
    start = c.offset
    value = c.u32("key_info")
    if value >> 5:
        raise MalformedEvidence("report.key_info", f"reserved bits of {value:#x}", start)
    return value


def _read_cpuid(c: Cursor, version: int) -> tuple[int, int, int] | tuple[None, None, None]:
    """Family, model and stepping, which version 2 lacks; 24 bytes either way."""
    if version < 3:
        c.zeros("cpuid_reserved", 24)
        return None, None, None
    family, model, step = c.u8("cpuid_fam_id"), c.u8("cpuid_mod_id"), c.u8("cpuid_step")
    c.zeros("cpuid_reserved", 21)
    return family, model, step


def _read_mitigations(c: Cursor, version: int) -> tuple[int, int] | tuple[None, None]:
    """Mitigation vectors at launch and now, from version 5 on; 168 bytes either way."""
    if version < 5:
        c.zeros("mit_vector_reserved", 168)
        return None, None
    launch, current = c.u64("launch_mit_vector"), c.u64("current_mit_vector")
    c.zeros("mit_vector_reserved", 152)
    return launch, current
