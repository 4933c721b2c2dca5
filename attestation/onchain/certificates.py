"""Certificates and CRLs of Intel's SGX PKI in the one form the contracts read.

The checks are those of contracts/src/lib/Certificates.sol and Crls.sol, but for what depends
on the time. Spec: RFC 5280; Intel SGX PCK Certificate and CRL Profile Specification 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from attestation.onchain.der import SEQUENCE, Der
from attestation.onchain.errors import NotProvable

_OID: Final = 0x06
_OCTETS: Final = 0x04
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_ALGORITHM: Final = bytes.fromhex("300a06082a8648ce3d040302")
_KEY: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_SGX: Final = bytes.fromhex("2a864886f84d010d01")
_AUTHORITY_KEY_ID: Final = bytes.fromhex("551d23")
_SUBJECT_KEY_ID: Final = bytes.fromhex("551d0e")
_KEY_USAGE: Final = bytes.fromhex("551d0f")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_KNOWN: Final = {
    _AUTHORITY_KEY_ID: "authority key identifier",
    _SUBJECT_KEY_ID: "subject key identifier",
    _KEY_USAGE: "key usage",
    _BASIC_CONSTRAINTS: "basic constraints",
}
_SIGNS_BOTH: Final = 0x06
"""keyCertSign and cRLSign, in the first byte of the named bits; digitalSignature is 0x80."""
_AUTHORITY_KEY_ID_PREFIX: Final = bytes.fromhex("30168014")
_SUBJECT_KEY_ID_PREFIX: Final = bytes.fromhex("0414")


def _signed(name: str, der: bytes) -> tuple[bytes, int, int]:
    """The signed part of a certificate or CRL, whole, and the signature (r, s)."""
    outer = Der(name, der).last(SEQUENCE)
    tbs = outer.element(SEQUENCE)
    outer.exactly(_ALGORITHM, "ECDSA with SHA-256")
    bits = outer.last(0x03)
    bits.exactly(b"\0", "a signature without unused bits")
    both = bits.last(SEQUENCE)
    r, s = both.unsigned(32), both.unsigned(32)
    both.finish()
    return tbs, r, s


def _extensions(der: Der) -> list[tuple[bytes, bool, bytes]]:
    """The extensions of a SEQUENCE's content: OID (its content), critical, value."""
    found = []
    while der:
        one = der.open(SEQUENCE)
        oid = one.open(_OID).rest()
        critical = one.tag == 0x01
        if critical:
            one.exactly(b"\x01\x01\xff", "a critical flag")
        found.append((oid, critical, one.last(_OCTETS).rest()))
    return found


def _key_id(name: str, what: str, value: bytes | None, prefix: bytes) -> bytes:
    if value is None or len(value) != len(prefix) + 20 or not value.startswith(prefix):
        raise NotProvable(name, f"no {what} key identifier of 20 bytes and nothing else")
    return value[len(prefix) :]


def _authority_key_id(name: str, value: bytes | None) -> bytes:
    return _key_id(name, "authority", value, _AUTHORITY_KEY_ID_PREFIX)


def _subject_key_id(name: str, value: bytes | None) -> bytes:
    return _key_id(name, "subject", value, _SUBJECT_KEY_ID_PREFIX)


@dataclass(frozen=True, slots=True)
class PkiCertificate:
    """A certificate whose form the contracts take. `issuer` and `subject` are names' DER.

    `path_length` is None where it is not limited; `sgx` is the value of Intel's extension.
    """

    der: bytes
    tbs: bytes
    r: int
    s: int
    serial: int
    issuer: bytes
    subject: bytes
    not_before: int
    not_after: int
    x: int
    y: int
    authority_key_id: bytes
    subject_key_id: bytes
    ca: bool
    path_length: int | None
    sgx: bytes | None

    @classmethod
    def parse(cls, name: str, der: bytes) -> Self:
        """Read `der`. Raises NotProvable naming `name` where a contract would refuse its form."""
        tbs, r, s = _signed(name, der)
        body = Der(name, tbs).last(SEQUENCE)
        body.exactly(bytes.fromhex("a003020102"), "version 3")
        serial = body.unsigned(20)
        if not serial:
            raise NotProvable(name, "its serial number is zero")
        body.exactly(_ALGORITHM, "ECDSA with SHA-256")
        issuer = body.element(SEQUENCE)
        validity = body.open(SEQUENCE)
        not_before, not_after = validity.date(), validity.date()
        validity.finish()
        subject = body.element(SEQUENCE)
        body.exactly(_KEY, "an uncompressed point on P-256")
        point = body.take(64, "its public key")
        known, sgx = _known_extensions(name, body.last(0xA3).last(SEQUENCE))
        ca, path_length = _constraints(name, known.get(_BASIC_CONSTRAINTS))
        _require_usage(name, ca, known.get(_KEY_USAGE))
        return cls(
            der=der,
            tbs=tbs,
            r=r,
            s=s,
            serial=serial,
            issuer=issuer,
            subject=subject,
            not_before=not_before,
            not_after=not_after,
            x=int.from_bytes(point[:32], "big"),
            y=int.from_bytes(point[32:], "big"),
            authority_key_id=_authority_key_id(name, known.get(_AUTHORITY_KEY_ID)),
            subject_key_id=_subject_key_id(name, known.get(_SUBJECT_KEY_ID)),
            ca=ca,
            path_length=path_length,
            sgx=sgx,
        )

    def require_signature(self, name: str, tbs: bytes, r: int, s: int) -> None:
        """This certificate's key signed `tbs`. Raises NotProvable naming `name`."""
        try:
            key = ec.EllipticCurvePublicNumbers(self.x, self.y, ec.SECP256R1()).public_key()
            key.verify(utils.encode_dss_signature(r, s), tbs, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            raise NotProvable(name, "not signed by the issuer given") from None

    def require_issued(self, name: str, issuer: bytes, authority_key_id: bytes) -> None:
        """A document that names this issuer and key identifier names this certificate."""
        if issuer != self.subject:
            raise NotProvable(name, "names another issuer")
        if authority_key_id != self.subject_key_id:
            raise NotProvable(name, "names another authority key identifier")


def _known_extensions(name: str, der: Der) -> tuple[dict[bytes, bytes], bytes | None]:
    known: dict[bytes, bytes] = {}
    for oid, critical, value in _extensions(der):
        if oid in _KNOWN or oid == _SGX:
            if oid in known:
                raise NotProvable(name, f"extension {oid.hex()} stands twice")
            known[oid] = value
        elif critical:
            raise NotProvable(name, f"unknown critical extension {oid.hex()}")
    sgx = known.pop(_SGX, None)
    for oid, what in _KNOWN.items():
        if oid not in known:
            raise NotProvable(name, f"no {what} extension")
    return known, sgx


def _constraints(name: str, value: bytes | None) -> tuple[bool, int | None]:
    match value:
        case b"\x30\x00":
            return False, None
        case b"\x30\x03\x01\x01\xff":
            return True, None
    if value is None or len(value) != 8 or value[:7] != b"\x30\x06\x01\x01\xff\x02\x01":
        raise NotProvable(name, "basic constraints of a form the contracts do not read")
    if value[7] > 0x7F:
        raise NotProvable(name, "a negative path length")
    return True, value[7]


def _require_usage(name: str, ca: bool, value: bytes | None) -> None:
    bits = Der(name, value or b"").last(0x03).rest()
    if not 2 <= len(bits) <= 3 or bits[0] > 7:
        raise NotProvable(name, "a key usage of a form the contracts do not read")
    signs = bits[1] & _SIGNS_BOTH
    if ca and signs != _SIGNS_BOTH:
        raise NotProvable(name, "a CA's key that is not for certificates and CRLs")
    if not ca and (signs or not bits[1] & 0x80):
        raise NotProvable(name, "a key that is not for digital signatures alone")


@dataclass(frozen=True, slots=True)
class PkiCrl:
    """A CRL whose form the contracts take. `issuer` is the name's DER; times Unix seconds."""

    tbs: bytes
    r: int
    s: int
    issuer: bytes
    this_update: int
    next_update: int
    revoked: tuple[int, ...]
    authority_key_id: bytes

    @classmethod
    def parse(cls, name: str, der: bytes) -> Self:
        """Read `der`. Raises NotProvable naming `name` where a contract would refuse its form."""
        tbs, r, s = _signed(name, der)
        body = Der(name, tbs).last(SEQUENCE)
        body.exactly(b"\x02\x01\x01", "version 2")
        body.exactly(_ALGORITHM, "ECDSA with SHA-256")
        issuer = body.element(SEQUENCE)
        this_update, next_update = body.date(), body.date()
        revoked = _revoked(body.open(SEQUENCE)) if body.tag == SEQUENCE else ()
        return cls(
            tbs=tbs,
            r=r,
            s=s,
            issuer=issuer,
            this_update=this_update,
            next_update=next_update,
            revoked=revoked,
            authority_key_id=_crl_authority(name, body.last(0xA0).last(SEQUENCE)),
        )


def _revoked(entries: Der) -> tuple[int, ...]:
    serials = []
    while entries:
        entry = entries.open(SEQUENCE)
        serials.append(entry.unsigned(20))
        entry.element(_GENERALIZED_TIME if entry.tag == _GENERALIZED_TIME else _UTC_TIME)
        if entry:
            for oid, critical, _ in _extensions(entry.last(SEQUENCE)):
                if critical:
                    raise entries.error(f"critical extension {oid.hex()} of a revoked serial")
    return tuple(serials)


def _crl_authority(name: str, der: Der) -> bytes:
    found = None
    for oid, critical, value in _extensions(der):
        if oid == _AUTHORITY_KEY_ID:
            if found is not None:
                raise NotProvable(name, f"extension {oid.hex()} stands twice")
            found = value
        elif critical:
            raise NotProvable(name, f"unknown critical extension {oid.hex()}")
    return _authority_key_id(name, found)
