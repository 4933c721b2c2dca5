"""Bit fields and small structures of an SEV-SNP attestation report, with AMD's names.

Spec: AMD 56860, SEV Secure Nested Paging Firmware ABI: TCB_VERSION (section 2.2), guest
policy (section 4.3), and PLATFORM_INFO of ATTESTATION_REPORT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.wire import Cursor

PRODUCTS: Final = ("Milan", "Genoa", "Turin")

_ALWAYS_ONE: Final = 1 << 17
_POLICY_BITS: Final = 26
_PLATFORM_BITS: Final = 0xFF


def _bit(value: int, position: int) -> bool:
    return bool(value >> position & 1)


@dataclass(frozen=True, slots=True)
class GuestPolicy:
    """What the guest's owner allowed at launch; `value` is the 64-bit POLICY field."""

    value: int

    @classmethod
    def read(cls, c: Cursor) -> Self:
        """The next 8 bytes of `c`; bit 17 must be one and bits 26 to 63 zero."""
        start = c.offset
        value = c.u64("policy")
        if not value & _ALWAYS_ONE or value >> _POLICY_BITS:
            raise MalformedEvidence("report.policy", f"reserved bits of {value:#x}", start)
        return cls(value)

    @property
    def abi_minor(self) -> int:
        """Lowest minor firmware ABI version the guest runs on."""
        return self.value & 0xFF

    @property
    def abi_major(self) -> int:
        """Lowest major firmware ABI version the guest runs on."""
        return self.value >> 8 & 0xFF

    @property
    def smt(self) -> bool:
        """True when the guest may share a core with another through SMT."""
        return _bit(self.value, 16)

    @property
    def migrate_ma(self) -> bool:
        """True when a migration agent may be bound to the guest, and so receive its memory."""
        return _bit(self.value, 18)

    @property
    def debug(self) -> bool:
        """True when the host may decrypt the guest's memory."""
        return _bit(self.value, 19)

    @property
    def single_socket(self) -> bool:
        """True when the guest may run on one socket only."""
        return _bit(self.value, 20)

    @property
    def cxl_allow(self) -> bool:
        """True when memory or devices behind CXL are allowed."""
        return _bit(self.value, 21)

    @property
    def mem_aes_256_xts(self) -> bool:
        """True when memory must be encrypted with AES-256-XTS."""
        return _bit(self.value, 22)

    @property
    def rapl_dis(self) -> bool:
        """True when energy counters (RAPL) must be off."""
        return _bit(self.value, 23)

    @property
    def ciphertext_hiding(self) -> bool:
        """True when the host must not see the guest's ciphertext."""
        return _bit(self.value, 24)

    @property
    def page_swap_disable(self) -> bool:
        """True when the host must not move or swap the guest's pages."""
        return _bit(self.value, 25)


@dataclass(frozen=True, slots=True)
class PlatformInfo:
    """What the platform has switched on; `value` is the 64-bit PLATFORM_INFO field."""

    value: int

    @property
    def smt_en(self) -> bool:
        """True when SMT is on."""
        return _bit(self.value, 0)

    @property
    def tsme_en(self) -> bool:
        """True when transparent memory encryption is on."""
        return _bit(self.value, 1)

    @property
    def ecc_en(self) -> bool:
        """True when memory has error correction."""
        return _bit(self.value, 2)

    @property
    def rapl_dis(self) -> bool:
        """True when energy counters (RAPL) are off."""
        return _bit(self.value, 3)

    @property
    def ciphertext_hiding_en(self) -> bool:
        """True when the host does not see guests' ciphertext in memory."""
        return _bit(self.value, 4)

    @property
    def alias_check_complete(self) -> bool:
        """True when memory was checked for aliased addresses since reset (BadRAM)."""
        return _bit(self.value, 5)

    @property
    def iommu_write_safe(self) -> bool:
        """True when devices behind the IOMMU cannot write where they must not (Turin)."""
        return _bit(self.value, 6)

    @property
    def tio_en(self) -> bool:
        """True when trusted devices (SEV-TIO) are on."""
        return _bit(self.value, 7)

    @property
    def unknown(self) -> int:
        """The bits no published version of the specification defines."""
        return self.value & ~_PLATFORM_BITS


@dataclass(frozen=True, slots=True)
class TcbParts:
    """Security patch levels, one for each firmware part; `fmc` exists from Turin on."""

    fmc: int | None
    bootloader: int
    tee: int
    snp: int
    microcode: int

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        rest = f"bootloader {self.bootloader}, tee {self.tee}, snp {self.snp}"
        return f"({fmc}{rest}, microcode {self.microcode})"


@dataclass(frozen=True, slots=True)
class TcbVersion:
    """TCB_VERSION, 8 bytes whose layout depends on the product: see `parts`."""

    raw: bytes

    def parts(self, product: str) -> TcbParts:
        """The levels as `product` lays them out. Raises MalformedEvidence on reserved bytes."""
        raw = self.raw
        if product == "Turin":
            reserved = raw[4:7]
            out = TcbParts(raw[0], raw[1], raw[2], raw[3], raw[7])
        else:
            reserved = raw[2:6]
            out = TcbParts(None, raw[0], raw[1], raw[6], raw[7])
        if any(reserved):
            raise MalformedEvidence("report.tcb", f"reserved bytes of {raw.hex()} for {product}")
        return out


@dataclass(frozen=True, slots=True, order=True)
class FirmwareVersion:
    """Version of the SNP firmware, compared by major, minor, build."""

    major: int
    minor: int
    build: int

    @classmethod
    def read(cls, name: str, c: Cursor) -> Self:
        """The next 4 bytes of `c`: build, minor, major, zero."""
        build, minor, major = c.u8(f"{name}_build"), c.u8(f"{name}_minor"), c.u8(f"{name}_major")
        c.zeros(f"{name}_reserved", 1)
        return cls(major, minor, build)

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return bytes((self.build, self.minor, self.major, 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"
