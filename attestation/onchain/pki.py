"""Certificates, CRLs and PCK leaves as the contracts take them, refused here if they would be.

What depends on the time, or on what a contract has stored, is left to the contracts. Spec:
contracts/src/collateral/Pki.sol and contracts/src/PlatformRegistry.sol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from attestation.onchain.abi import keccak
from attestation.onchain.certificates import PkiCertificate, PkiCrl
from attestation.onchain.der import INTEGER, SEQUENCE, Der
from attestation.onchain.errors import NotProvable

_SGX: Final = bytes.fromhex("2a864886f84d010d01")
_OID: Final = 0x06
_OCTETS: Final = 0x04
_ENUMERATED: Final = 0x0A
_COMPONENTS: Final = 16
_MAX_REVOKED: Final = 24_575 // 8
"""A contract's code holds 8 bytes for each revoked serial, and has 24,576 at most."""
LEAF_CERTIFICATE: Final = b"\x00"
LEAF_KNOWN: Final = b"\x01"
LEAF_IN_PASSING: Final = b"\x06"


def issuer_id(x: int, y: int) -> bytes:
    """What the contracts know the issuer with this key by (32 bytes)."""
    return keccak(x.to_bytes(32, "big") + y.to_bytes(32, "big"))


def leaf_id(issuer: bytes, serial: int) -> bytes:
    """What the contracts know a registered leaf by (32 bytes)."""
    return keccak(issuer + serial.to_bytes(32, "big"))


def revocation_tag(serial: int) -> bytes:
    """What the contracts keep of a revoked serial (8 bytes)."""
    return keccak(serial.to_bytes(32, "big"))[:8]


def _entry(der: Der, arcs: bytes, tag: int) -> Der:
    """The value of the entry 1.2.840.113741.1.13.1.<arcs>, which must come next."""
    one = der.open(SEQUENCE)
    if one.open(_OID).rest() != _SGX + arcs:
        raise der.error(f"SGX entry {'.'.join(map(str, arcs))} is not where it must be")
    return one.last(tag)


def _sized(der: Der, arcs: bytes, size: int) -> bytes:
    value = _entry(der, arcs, _OCTETS).rest()
    if len(value) != size:
        raise der.error(f"SGX entry {'.'.join(map(str, arcs))} has not {size} bytes")
    return value


def _svn(der: Der, component: int, size: int) -> int:
    one = der.open(SEQUENCE)
    if one.open(_OID).rest() != _SGX + bytes([2, component]) or one.tag != INTEGER:
        raise der.error(f"SGX component {component} is not where it must be")
    value = one.unsigned(size)
    one.finish()
    return value


@dataclass(frozen=True, slots=True)
class PckTcb:
    """What a PCK certificate's SGX extension says: cpusvn (16 component SVNs), pcesvn, fmspc (6),
    pceid (2, big-endian)."""

    cpusvn: bytes
    pcesvn: int
    fmspc: bytes
    pceid: bytes

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Read the extension's value. Raises NotProvable where the contract would refuse it."""
        der = Der("pck.sgx", value).last(SEQUENCE)
        _sized(der, b"\1", 16)
        tcb = _entry(der, b"\2", SEQUENCE)
        svns = bytes(_svn(tcb, i, 1) for i in range(1, _COMPONENTS + 1))
        pcesvn = _svn(tcb, 17, 2)
        _sized(tcb, bytes([2, 18]), 16)
        tcb.finish()
        pceid, fmspc = _sized(der, b"\3", 2), _sized(der, b"\4", 6)
        if len(_entry(der, b"\5", _ENUMERATED).rest()) != 1:
            raise der.error("the SGX type has not one byte")
        last = 5
        while der:
            arcs = der.open(SEQUENCE).open(_OID).rest().removeprefix(_SGX)
            if len(arcs) != 1 or arcs[0] <= last:
                raise der.error("SGX entries are not in ascending order, each once")
            last = arcs[0]
        return cls(svns, pcesvn, fmspc, pceid)

    def write(self) -> bytes:
        """What `platform` repeats of a registered leaf: 26 bytes."""
        return self.cpusvn + self.pcesvn.to_bytes(2, "big") + self.fmspc + self.pceid


@dataclass(frozen=True, slots=True)
class PckLeaf:
    """A PCK certificate and its CA's, both in the form the contracts read."""

    ca: PkiCertificate
    certificate: PkiCertificate
    tcb: PckTcb

    @classmethod
    def parse(cls, ca: bytes, leaf: bytes) -> Self:
        """Read two certificates (DER); no signature is checked. Raises NotProvable."""
        issuer = PkiCertificate.parse("pck_ca", ca)
        if not issuer.ca:
            raise NotProvable("pck_ca", "not a CA")
        certificate = PkiCertificate.parse("pck", leaf)
        if certificate.ca:
            raise NotProvable("pck", "a CA's certificate")
        if certificate.sgx is None:
            raise NotProvable("pck", "no SGX extension")
        return cls(issuer, certificate, PckTcb.parse(certificate.sgx))

    @classmethod
    def read(cls, ca: bytes, leaf: bytes) -> Self:
        """As `parse`, and the CA signed the leaf. Raises NotProvable."""
        read = cls.parse(ca, leaf)
        issuer, certificate = read.ca, read.certificate
        issuer.require_issued("pck", certificate.issuer, certificate.authority_key_id)
        issuer.require_signature("pck", certificate.tbs, certificate.r, certificate.s)
        return read

    @property
    def issuer_id(self) -> bytes:
        """What the contracts know its CA by (32 bytes)."""
        return issuer_id(self.ca.x, self.ca.y)

    @property
    def serial(self) -> int:
        return self.certificate.serial

    def fresh(self, remember: bool = True) -> bytes:
        """`platform` with the whole leaf: see `platform_certificate`."""
        form = LEAF_CERTIFICATE if remember else LEAF_IN_PASSING
        return form + _point(self.ca) + self.certificate.der

    @property
    def known(self) -> bytes:
        """`platform` for a leaf registered before: see `platform_known`."""
        serial = self.serial.to_bytes(20, "big")
        return LEAF_KNOWN + self.issuer_id + serial + _point(self.certificate) + self.tcb.write()


def _point(certificate: PkiCertificate) -> bytes:
    return certificate.x.to_bytes(32, "big") + certificate.y.to_bytes(32, "big")


def certificate_arguments(der: bytes, root: bytes) -> tuple[bytes]:
    """The arguments of `addCertificate` for the root itself or for one that `root` (DER) signed.

    Raises NotProvable.
    """
    anchor = PkiCertificate.parse("root", root)
    if not anchor.ca or anchor.path_length == 0:
        raise NotProvable("root", "not a CA that may have CAs below it")
    certificate = PkiCertificate.parse("certificate", der)
    anchor.require_issued("certificate", certificate.issuer, certificate.authority_key_id)
    anchor.require_signature("certificate", certificate.tbs, certificate.r, certificate.s)
    return (der,)


def crl_arguments(der: bytes, issuer: bytes) -> tuple[bytes, int, int]:
    """The arguments of `updateCrl` for the CRL `der` of the PCK CA or root `issuer` (DER).

    Raises NotProvable.
    """
    ca = PkiCertificate.parse("issuer", issuer)
    if not ca.ca:
        raise NotProvable("issuer", "not a CA")
    crl = PkiCrl.parse("crl", der)
    if len(crl.revoked) > _MAX_REVOKED:
        raise NotProvable("crl", f"{len(crl.revoked)} revoked serials, at most {_MAX_REVOKED}")
    ca.require_issued("crl", crl.issuer, crl.authority_key_id)
    ca.require_signature("crl", crl.tbs, crl.r, crl.s)
    return der, ca.x, ca.y


def platform_certificate(ca: bytes, leaf: bytes, remember: bool = True) -> bytes:
    """`platform` for a PCK leaf a contract has not seen: 0x00, the CA's key, the leaf (DER).

    With `remember` false it starts with 0x06: the leaf is judged the same and not remembered,
    which costs less once and more from the second time on. `ca` is the PCK CA's certificate
    (DER). Raises NotProvable.
    """
    return PckLeaf.read(ca, leaf).fresh(remember)


def platform_known(ca: bytes, leaf: bytes) -> bytes:
    """`platform` for a PCK leaf registered before: 143 bytes, see `IQuoteVerifier`.

    `ca` is the PCK CA's certificate (DER). Raises NotProvable.
    """
    return PckLeaf.read(ca, leaf).known
