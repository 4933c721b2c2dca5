"""What AMD says in the certificate of a key that signs SEV-SNP reports.

Spec: AMD 57230, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
Specification, certificate extensions under 1.3.6.1.4.1.3704.1. A VCEK names one chip
(hwID), a VLEK one cloud provider (cspID); both name firmware levels, so that the key of
outdated firmware cannot speak for newer firmware.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat import asn1

from attestation.errors import VerificationError
from attestation.evidence.snp_fields import TcbParts

CHIP_ID_BYTES: Final = 64
_TURIN_HWID_BYTES: Final = 8
_BASE: Final = "1.3.6.1.4.1.3704.1."
_STRUCT_VERSION: Final = _BASE + "1"
_PRODUCT_NAME: Final = _BASE + "2"
_BOOTLOADER: Final = _BASE + "3.1"
_TEE: Final = _BASE + "3.2"
_SNP: Final = _BASE + "3.3"
_RESERVED: Final = tuple(f"{_BASE}3.{i}" for i in (4, 5, 6, 7))
_MICROCODE: Final = _BASE + "3.8"
_FMC: Final = _BASE + "3.9"
_HWID: Final = _BASE + "4"
_CSP_ID: Final = _BASE + "5"
_MAX_CSP_ID: Final = 256

# Product names may carry a stepping ("Milan-B0"). Siena and Bergamo are sold under names of
# their own but share Genoa's root, firmware and TCB layout.
_PRODUCTS: Final = {
    "Milan": "Milan",
    "Genoa": "Genoa",
    "Siena": "Genoa",
    "Bergamo": "Genoa",
    "Turin": "Turin",
}

VekKind = Literal["vcek", "vlek"]


@dataclass(frozen=True, slots=True)
class VekExtensions:
    """The extensions, decoded. `hwid` is padded to 64 bytes as CHIP_ID in reports is.

    Exactly one of `hwid` and `csp_id` is there, as `kind` says.
    """

    kind: VekKind
    product: str
    tcb: TcbParts
    hwid: bytes | None
    csp_id: str | None


def _bad(name: str, detail: str) -> VerificationError:
    return VerificationError("vek_extensions", f"{name}: {detail}")


def _decode(name: str, kind: type[Any], value: bytes | None) -> Any:
    """The DER value of an extension that must be there."""
    if value is None:
        raise _bad(name, "missing")
    try:
        return asn1.decode_der(kind, value)
    except ValueError as e:
        raise _bad(name, f"not the DER it should be ({e})") from None


def _level(name: str, value: bytes | None) -> int:
    level: int = _decode(name, int, value)
    if not 0 <= level <= 255:
        raise _bad(name, f"{level} is not a byte")
    return level


def _product(value: bytes | None) -> str:
    text: str = _decode("productName", asn1.IA5String, value).as_str()
    product = _PRODUCTS.get(text.partition("-")[0])
    if product is None:
        raise _bad("productName", f"{text[:32]!r} is no known product")
    return product


def _tcb(values: Mapping[str, bytes], product: str) -> TcbParts:
    """The firmware levels. Only Turin has an FMC, and says so by structVersion 1."""
    version = _level("structVersion", values.get(_STRUCT_VERSION))
    has_fmc = product == "Turin"
    if version != has_fmc:
        raise _bad("structVersion", f"{version} for {product}")
    if not has_fmc and _FMC in values:
        raise _bad("fmcSPL", f"present for {product}")
    for oid in _RESERVED:
        if oid in values and _level(f"reserved {oid}", values[oid]):
            raise _bad(f"reserved {oid}", "not zero")
    return TcbParts(
        fmc=_level("fmcSPL", values.get(_FMC)) if has_fmc else None,
        bootloader=_level("blSPL", values.get(_BOOTLOADER)),
        tee=_level("teeSPL", values.get(_TEE)),
        snp=_level("snpSPL", values.get(_SNP)),
        microcode=_level("ucodeSPL", values.get(_MICROCODE)),
    )


def _hwid(value: bytes | None, product: str) -> bytes:
    """The chip's identity, 64 bytes. AMD puts it in bare; an OCTET STRING is read as well."""
    if value is None:
        raise _bad("hwID", "missing, so that the key names no chip")
    size = _TURIN_HWID_BYTES if product == "Turin" else CHIP_ID_BYTES
    hwid: bytes = value if len(value) == size else _decode("hwID", bytes, value)
    if len(hwid) != size or not any(hwid):
        raise _bad("hwID", f"{hwid.hex()[:128]} is not the identity of a {product} chip")
    return hwid.ljust(CHIP_ID_BYTES, b"\0")


def _csp_id(value: bytes | None) -> str:
    text: str = _decode("cspID", asn1.IA5String, value).as_str()
    if not 0 < len(text) <= _MAX_CSP_ID or not text.isprintable():
        raise _bad("cspID", f"{text[:32]!r} names no provider")
    return text


def read_vek_extensions(certificate: x509.Certificate, kind: VekKind) -> VekExtensions:
    """What `certificate`, whose extensions are known to parse, states as this kind of key.

    Raises VerificationError, step `vek_extensions`, naming the one that is missing, of
    another kind of key, or not decodable.
    """
    values = {
        e.oid.dotted_string: e.value.value
        for e in certificate.extensions
        if isinstance(e.value, x509.UnrecognizedExtension) and e.oid.dotted_string.startswith(_BASE)
    }
    foreign = _CSP_ID if kind == "vcek" else _HWID
    if foreign in values:
        raise _bad(foreign, f"does not belong in a {kind.upper()}")
    product = _product(values.get(_PRODUCT_NAME))
    return VekExtensions(
        kind=kind,
        product=product,
        tcb=_tcb(values, product),
        hwid=_hwid(values.get(_HWID), product) if kind == "vcek" else None,
        csp_id=_csp_id(values.get(_CSP_ID)) if kind == "vlek" else None,
    )
