"""TPMT_PUBLIC: a TPM key and what its TPM lets it do. All integers are big-endian.

Spec: TCG TPM 2.0 Library, Part 2: Structures, revision 1.59, 8.3 (attributes), 12.2 (public
area); Part 1, section 16 (Names).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.evidence.tpm import HASH_NAMES, read_2b, write_2b
from attestation.wire import BigEndianCursor

ALG_RSA: Final = 0x0001
ALG_ECC: Final = 0x0023
_ALG_NULL: Final = 0x0010
_ALG_RSAES: Final = 0x0015
_ALG_ECDAA: Final = 0x001A

FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17
SIGN: Final = 1 << 18

CURVES: Final = {0x0003: "secp256r1", 0x0004: "secp384r1", 0x0005: "secp521r1"}
_MAX_POLICY_BYTES: Final = 64
_MAX_RSA_BYTES: Final = 512
_MAX_ECC_BYTES: Final = 66


def _scheme(c: BigEndianCursor, name: str, details: dict[int, int]) -> bytes:
    """A TPMT_*_SCHEME or TPMT_SYM_DEF_OBJECT, kept as it stands.

    `details` gives how many bytes follow the algorithm where it is not two.
    """
    scheme = c.u16(name)
    if scheme == _ALG_NULL:
        return scheme.to_bytes(2)
    return scheme.to_bytes(2) + c.take(f"{name}.details", details.get(scheme, 2))


def _symmetric(c: BigEndianCursor) -> bytes:
    """TPMT_SYM_DEF_OBJECT: key bits and mode follow every algorithm but null."""
    algorithm = c.u16("symmetric")
    more = b"" if algorithm == _ALG_NULL else c.take("symmetric.details", 4)
    return algorithm.to_bytes(2) + more


@dataclass(frozen=True, slots=True)
class TpmPublic:
    """TPMT_PUBLIC (12.2.4) of an RSA or elliptic-curve key.

    `symmetric`, `scheme` and `kdf` are kept as they stand. RSA keys have `key_bits` and
    `exponent` (zero for 65537), others `curve_id` and `kdf`; what a kind lacks is zero or
    empty. `unique` is the modulus, or x and y.
    """

    type: int
    name_alg: int
    object_attributes: int
    auth_policy: bytes
    symmetric: bytes
    scheme: bytes
    key_bits: int
    exponent: int
    curve_id: int
    kdf: bytes
    unique: tuple[bytes, ...] = field(repr=False)

    @property
    def is_attestation_key(self) -> bool:
        """True when the TPM lets it sign only what the TPM itself made, and nobody has a copy.

        A key that is not restricted would sign a forged TPMS_ATTEST as it signs any bytes.
        """
        needed = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN
        return self.object_attributes & (needed | DECRYPT) == needed

    @property
    def name(self) -> bytes:
        """The Name: algorithm, then the digest of this public area under it (Part 1, 16)."""
        digest = hashlib.new(HASH_NAMES[self.name_alg], self.write()).digest()
        return self.name_alg.to_bytes(2) + digest

    @classmethod
    def read(cls, data: bytes) -> Self:
        """A public area from all of `data`. Raises MalformedEvidence."""
        c = BigEndianCursor("tpm_public", data)
        kind, name_alg = c.u16("type"), c.u16("name_alg")
        if name_alg not in HASH_NAMES:
            raise c.error("name_alg", f"{name_alg:#x} is not a known hash")
        attributes = c.u32("object_attributes")
        policy = read_2b(c, "auth_policy", _MAX_POLICY_BYTES)
        symmetric = _symmetric(c)
        if kind == ALG_RSA:
            scheme = _scheme(c, "scheme", {_ALG_RSAES: 0})
            numbers = (c.u16("key_bits"), c.u32("exponent"), 0, b"")
            unique: tuple[bytes, ...] = (read_2b(c, "unique", _MAX_RSA_BYTES),)
        elif kind == ALG_ECC:
            scheme = _scheme(c, "scheme", {_ALG_ECDAA: 4})
            numbers = (0, 0, c.u16("curve_id"), _scheme(c, "kdf", {}))
            unique = tuple(read_2b(c, f"unique.{n}", _MAX_ECC_BYTES) for n in "xy")
        else:
            raise MalformedEvidence("tpm_public.type", f"{kind:#x} is neither RSA nor ECC", 0)
        c.finish()
        return cls(kind, name_alg, attributes, policy, symmetric, scheme, *numbers, unique)

    def write(self) -> bytes:
        """The bytes `read` reads."""
        if self.type == ALG_RSA:
            numbers = self.key_bits.to_bytes(2) + self.exponent.to_bytes(4)
        else:
            numbers = self.curve_id.to_bytes(2) + self.kdf
        return b"".join(
            (
                self.type.to_bytes(2),
                self.name_alg.to_bytes(2),
                self.object_attributes.to_bytes(4),
                write_2b(self.auth_policy),
                self.symmetric,
                self.scheme,
                numbers,
                *map(write_2b, self.unique),
            )
        )
