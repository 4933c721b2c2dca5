"""SIGSTRUCT: what an enclave's author signed, written, read and verified.

Spec: Intel SDM volume 3D, "Enclave Signature Structure (SIGSTRUCT)", 1808 bytes. All
numbers are little-endian, also the RSA ones; dates are binary-coded decimal.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Final, Self

from attestation.errors import MalformedEvidence, VerificationError
from attestation.manifest.measure import table
from attestation.wire import Cursor, u16, u32

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

SIGSTRUCT_BYTES: Final = 1808
KEY_BYTES: Final = 384
HEADER: Final = bytes.fromhex("06000000e10000000000010000000000")
HEADER2: Final = bytes.fromhex("01010000600000006000000001000000")
EXPONENT: Final = 3

FLAG_DEBUG: Final = 0x2
FLAG_MODE64: Final = 0x4
FLAGS_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
XFRM_LEGACY: Final = 0x3
XFRM_MASK: Final = 0xFFFF_FFFF_FFF9_FF1B
MISC_EXINFO: Final = 0x1
MISC_MASK: Final = 0xFFFF_FFFF

CPU_FEATURES: Final = {"avx": 0x4, "avx512": 0xE4, "amx": 0x60000, "mpx": 0x18, "pkru": 0x200}
"""XFRM bits of each `sgx.cpu_features` option. Without a word on them, the first three are
left to the machine and the last two are off."""

_DATE: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigstruct:
    """The structure, fields in specification order; `modulus`, `signature`, `q1`, `q2` are
    the 384 little-endian bytes of a number."""

    vendor: int = 0
    date: bytes = bytes(4)
    """Day, month, then the year's two halves, last first: each a BCD byte."""
    sw_defined: int = 0
    modulus: bytes = bytes(KEY_BYTES)
    exponent: int = EXPONENT
    signature: bytes = bytes(KEY_BYTES)
    misc_select: int
    misc_mask: int = MISC_MASK
    cet_attributes: int = 0
    cet_attributes_mask: int = 0
    isv_family_id: bytes = bytes(16)
    attribute_flags: int
    attribute_xfrm: int
    attribute_flags_mask: int = FLAGS_MASK
    attribute_xfrm_mask: int
    enclave_hash: bytes
    isv_ext_prod_id: bytes = bytes(16)
    isv_prod_id: int
    isv_svn: int
    q1: bytes = bytes(KEY_BYTES)
    q2: bytes = bytes(KEY_BYTES)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The structure in exactly these bytes; says nothing about its signature."""
        c = Cursor("sigstruct", data)
        _constant(c, "header", HEADER)
        vendor, day = c.u32("vendor"), c.take("date", 4)
        _constant(c, "header2", HEADER2)
        head: dict[str, Any] = {"vendor": vendor, "date": day, "sw_defined": c.u32("sw_defined")}
        c.zeros("reserved1", 84)
        head |= {
            "modulus": c.take("modulus", KEY_BYTES),
            "exponent": c.u32("exponent"),
            "signature": c.take("signature", KEY_BYTES),
            "misc_select": c.u32("misc_select"),
            "misc_mask": c.u32("misc_mask"),
            "cet_attributes": c.u8("cet_attributes"),
            "cet_attributes_mask": c.u8("cet_attributes_mask"),
        }
        c.zeros("reserved2", 2)
        head |= {
            "isv_family_id": c.take("isv_family_id", 16),
            "attribute_flags": c.u64("attribute_flags"),
            "attribute_xfrm": c.u64("attribute_xfrm"),
            "attribute_flags_mask": c.u64("attribute_flags_mask"),
            "attribute_xfrm_mask": c.u64("attribute_xfrm_mask"),
            "enclave_hash": c.take("enclave_hash", 32),
        }
        c.zeros("reserved3", 16)
        head |= {
            "isv_ext_prod_id": c.take("isv_ext_prod_id", 16),
            "isv_prod_id": c.u16("isv_prod_id"),
            "isv_svn": c.u16("isv_svn"),
        }
        c.zeros("reserved4", 12)
        head |= {"q1": c.take("q1", KEY_BYTES), "q2": c.take("q2", KEY_BYTES)}
        c.finish()
        return cls(**head)

    def write(self) -> bytes:
        """The 1808 bytes that `read` reads."""
        return b"".join(
            (
                self._head(),
                self.modulus,
                u32(self.exponent),
                self.signature,
                self._body(),
                bytes(12),
                self.q1,
                self.q2,
            )
        )

    def _head(self) -> bytes:
        return HEADER + u32(self.vendor) + self.date + HEADER2 + u32(self.sw_defined) + bytes(84)

    def _body(self) -> bytes:
        return b"".join(
            (
                u32(self.misc_select),
                u32(self.misc_mask),
                bytes((self.cet_attributes, self.cet_attributes_mask, 0, 0)),
                self.isv_family_id,
                *(
                    value.to_bytes(8, "little")
                    for value in (
                        self.attribute_flags,
                        self.attribute_xfrm,
                        self.attribute_flags_mask,
                        self.attribute_xfrm_mask,
                    )
                ),
                self.enclave_hash,
                bytes(16),
                self.isv_ext_prod_id,
                u16(self.isv_prod_id),
                u16(self.isv_svn),
            )
        )

    @property
    def signed_bytes(self) -> bytes:
        """The 256 bytes under the signature: the 128 before the key, the 128 after it."""
        return self._head() + self._body()

    @property
    def mr_signer(self) -> str:
        """SHA-256 of the modulus as it stands, lowercase hex."""
        return hashlib.sha256(self.modulus).hexdigest()

    @property
    def debug(self) -> bool:
        return bool(self.attribute_flags & FLAG_DEBUG)


def verify_sigstruct(sigstruct: Sigstruct) -> None:
    """The signature holds under the key inside, and q1 and q2 are what EINIT wants.

    Raises VerificationError with step `exponent`, `modulus`, `signature` or `quotients`.
    Says nothing about whose key it is: compare `mr_signer`.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import rsa

    if sigstruct.exponent != EXPONENT:
        raise VerificationError("exponent", f"is {sigstruct.exponent}, not {EXPONENT}")
    n = int.from_bytes(sigstruct.modulus, "little")
    s = int.from_bytes(sigstruct.signature, "little")
    if n.bit_length() != KEY_BYTES * 8 or not n & 1:
        raise VerificationError("modulus", "is no odd number of 3072 bits")
    key = rsa.RSAPublicNumbers(EXPONENT, n).public_key()
    try:
        key.verify(s.to_bytes(KEY_BYTES, "big"), sigstruct.signed_bytes, *_scheme())
    except InvalidSignature:
        raise VerificationError("signature", "is not over this structure by this key") from None
    if (sigstruct.q1, sigstruct.q2) != _quotients(s, n):
        raise VerificationError("quotients", "q1 or q2 does not belong to this signature")


def sign_sigstruct(unsigned: Sigstruct, key: RSAPrivateKey) -> Sigstruct:
    """The same structure signed; equal inputs give equal bytes.

    Raises MalformedEvidence where the key is not RSA-3072 with exponent 3, as EINIT demands.
    """
    numbers = key.public_key().public_numbers()
    if key.key_size != KEY_BYTES * 8 or numbers.e != EXPONENT:
        raise MalformedEvidence(
            "key", f"RSA-{key.key_size} with exponent {numbers.e}; SGX wants RSA-3072 with 3"
        )
    s = int.from_bytes(key.sign(unsigned.signed_bytes, *_scheme()), "big")
    q1, q2 = _quotients(s, numbers.n)
    signed = replace(
        unsigned,
        modulus=_le(numbers.n),
        exponent=EXPONENT,
        signature=_le(s),
        q1=q1,
        q2=q2,
    )
    verify_sigstruct(signed)
    return signed


def unsigned_sigstruct(document: dict[str, Any], mr_enclave: str, day: date) -> Sigstruct:
    """What Gramine's signer would sign for this manifest, at this date.

    Raises MalformedEvidence naming the option that makes no sense.
    """
    sgx = table(document, "sgx")
    xfrm, mask = _xfrm(table(sgx, "cpu_features"))
    flags = FLAG_MODE64 | (FLAG_DEBUG if sgx.get("debug", False) is True else 0)
    return Sigstruct(
        date=bytes.fromhex(f"{day.day:02}{day.month:02}{day.year % 100:02}{day.year // 100:02}"),
        misc_select=MISC_EXINFO if sgx.get("use_exinfo", False) is True else 0,
        attribute_flags=flags,
        attribute_xfrm=xfrm,
        attribute_xfrm_mask=mask,
        enclave_hash=bytes.fromhex(mr_enclave),
        isv_prod_id=_u16(sgx, "isvprodid"),
        isv_svn=_u16(sgx, "isvsvn"),
    )


def parse_date(text: str) -> date:
    """`YYYY-MM-DD`. Raises MalformedEvidence: a signature's date is given, never today's."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise MalformedEvidence("date", f"{text[:40]!r} is not YYYY-MM-DD")
    try:
        return date(*map(int, match.groups()))
    except ValueError:
        raise MalformedEvidence("date", f"{text} is no day") from None


def _scheme() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.PKCS1v15(), hashes.SHA256()


def _quotients(s: int, n: int) -> tuple[bytes, bytes]:
    """q1 = s^2 / n and q2 = (s^3 - q1*s*n) / n, rounded down. Spec: SDM, SIGSTRUCT.Q1, Q2."""
    q1 = s * s // n
    return _le(q1), _le((s * s - q1 * n) * s // n)


def _le(value: int) -> bytes:
    return value.to_bytes(KEY_BYTES, "little")


def _constant(c: Cursor, field: str, value: bytes) -> None:
    start = c.offset
    if c.take(field, len(value)) != value:
        raise MalformedEvidence(f"sigstruct.{field}", "is not the constant it must be", start)


def _u16(sgx: dict[str, Any], name: str) -> int:
    value = sgx.get(name, 0)
    if type(value) is not int or not 0 <= value <= 0xFFFF:
        raise MalformedEvidence(f"manifest.sgx.{name}", "is not between 0 and 65535")
    return value


def _xfrm(features: dict[str, Any]) -> tuple[int, int]:
    """XFRM and its mask: `required` sets both, `disabled` only the mask."""
    xfrm, mask = XFRM_LEGACY, XFRM_MASK
    for name, bits in CPU_FEATURES.items():
        hardening = name in ("mpx", "pkru")
        match features.get(name, "disabled" if hardening else "unspecified"):
            case "required":
                xfrm, mask = xfrm | bits, mask | bits
            case "disabled":
                xfrm, mask = xfrm & ~bits, mask | bits
            case "unspecified" if not hardening:
                pass
            case _:
                raise MalformedEvidence(f"manifest.sgx.cpu_features.{name}", "has no such value")
    return xfrm, mask
