"""Who an NVIDIA device is, by the certificate of the key that signs its evidence.

The leaf names the device (a DMTF device information in its alternative name) and the digest
of the firmware that held the key (a DICE extension, in one of two layouts). The older layout
also repeats the key of the certificate above, which ties the two together once more.
Spec: DSP0274 1.1 section 10.7 (id-DMTF-device-info); TCG DICE Attestation Architecture,
sections on TcbInfo and on the legacy composite device identifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.errors import CollateralError, VerificationError
from attestation.verify.nvidia_path import Link, Path, verify_path
from attestation.x509 import check_armour, read_chain

DEVICE_INFO: Final = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
COMPOSITE_DEVICE_ID: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1.1")
SHA384: Final = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.2")
_MAX_CHAIN: Final = 1 << 17

ARCHITECTURES: Final = {"GH100": "hopper", "LS_10": "ls10"}
_BLACKWELL: Final = "GB"
SWITCHES: Final = frozenset({"ls10"})


@asn1.sequence
class Fwid:
    """Digest of the firmware a DICE layer handed over to."""

    algorithm: x509.ObjectIdentifier
    digest: bytes


@asn1.sequence
class KeyAlgorithm:
    """Algorithm of a public key: id-ecPublicKey and the curve."""

    algorithm: x509.ObjectIdentifier
    curve: x509.ObjectIdentifier


@asn1.sequence
class PublicKeyInfo:
    """A SubjectPublicKeyInfo."""

    algorithm: KeyAlgorithm
    key: asn1.BitString


@asn1.sequence
class CompositeDeviceId:
    """The legacy DICE extension: version 1, the device's own key, the firmware's digest."""

    version: int
    device_id: PublicKeyInfo
    fwid: Fwid


@asn1.sequence
class TcbInfo:
    """The DICE extension: what layer this is; every field is optional."""

    vendor: Annotated[str | None, asn1.Implicit(0)]
    model: Annotated[str | None, asn1.Implicit(1)]
    version: Annotated[str | None, asn1.Implicit(2)]
    svn: Annotated[int | None, asn1.Implicit(3)]
    layer: Annotated[int | None, asn1.Implicit(4)]
    index: Annotated[int | None, asn1.Implicit(5)]
    fwids: Annotated[list[Fwid] | None, asn1.Implicit(6)]
    flags: Annotated[asn1.BitString | None, asn1.Implicit(7)]
    vendor_info: Annotated[bytes | None, asn1.Implicit(8)]
    type: Annotated[bytes | None, asn1.Implicit(9)]


@dataclass(frozen=True, slots=True)
class Device:
    """A device and the path above its key. Windows of the path are not checked yet.

    `device_id` is `NVIDIA:<product>:<serial>`. `ueid` is the leaf's serial number in
    decimal and `hwmodel` the name above the leaf, both as NVIDIA's own service reports them.
    `fwid` is None where the leaf states none.
    """

    path: Path
    device_id: str
    product: str
    serial: str
    architecture: str
    ueid: str
    hwmodel: str
    fwid: bytes | None

    @property
    def is_switch(self) -> bool:
        return self.architecture in SWITCHES


def device_info(leaf: x509.Certificate) -> str | None:
    """The device information in the alternative name of `leaf`, None where it has none."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    found = [n for n in names if isinstance(n, x509.OtherName) and n.type_id == DEVICE_INFO]
    if not found:
        return None
    if len(found) != 1:
        raise VerificationError("device", "the leaf names several devices")
    return str(_decode(str, found[0].value))


def _decode(kind: type[Any], der: bytes) -> Any:
    try:
        return asn1.decode_der(kind, der)
    except ValueError as e:
        raise VerificationError("device", f"the leaf's identity cannot be read ({e})") from None


def _extension(leaf: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes | None:
    for extension in leaf.extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def _public_key(link: Link) -> bytes:
    return link.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _composite_fwid(der: bytes, issuer: Link) -> Fwid:
    """The digest in the legacy extension, whose key must be that of the certificate above."""
    composite: CompositeDeviceId = _decode(CompositeDeviceId, der)
    if asn1.encode_der(composite.device_id) != _public_key(issuer):
        raise VerificationError("device", "the leaf names another device key than its issuer's")
    return composite.fwid


def _tcb_fwid(der: bytes) -> Fwid | None:
    """The first digest in the list, which is that of the firmware holding the key."""
    info: TcbInfo = _decode(TcbInfo, der)
    return info.fwids[0] if info.fwids else None


def leaf_fwid(leaf: Link, issuer: Link) -> bytes | None:
    """The firmware digest (48 bytes) that `leaf` states; None where it states none."""
    composite = _extension(leaf.parsed, COMPOSITE_DEVICE_ID)
    tcb = _extension(leaf.parsed, TCB_INFO)
    if composite is not None and tcb is not None:
        raise VerificationError("device", "the leaf states its firmware in two ways")
    fwid = None
    if composite is not None:
        fwid = _composite_fwid(composite, issuer)
    elif tcb is not None:
        fwid = _tcb_fwid(tcb)
    if fwid is None:
        return None
    if fwid.algorithm != SHA384 or len(fwid.digest) != 48:
        raise VerificationError("device", "the leaf's firmware digest is not SHA-384")
    return fwid.digest


def architecture_of(product: str) -> str:
    """The architecture of a chip by its name. Raises VerificationError with step `device`."""
    known = "blackwell" if product.startswith(_BLACKWELL) else ARCHITECTURES.get(product)
    if known is None:
        raise VerificationError("device", f"product {product[:32]!r} is not one that is known")
    return known


def _common_name(name: x509.Name) -> str:
    return "".join(str(a.value) for a in name.get_attributes_for_oid(NameOID.COMMON_NAME))


@lru_cache(maxsize=256)
def read_device(chain: bytes, roots: tuple[bytes, ...]) -> Device:
    """The device whose certificate chain (PEM, leaf first) leads to one of `roots` (DER).

    Pure in its arguments, so the last few hundred are kept: a device answers often under
    one chain. Raises CollateralError when the chain cannot be read, VerificationError with
    step `chain`, `root` or `device`.
    """
    if len(chain) > _MAX_CHAIN:
        raise CollateralError(f"cert_chain: longer than {_MAX_CHAIN} bytes")
    certificates = read_chain("cert_chain", chain)
    check_armour("cert_chain", chain)
    path = verify_path("cert_chain", [c.der for c in certificates], roots)
    leaf, issuer = path.links[0], path.links[1]
    device_id = device_info(leaf.parsed)
    vendor, _, rest = (device_id or "").partition(":")
    product, _, serial = rest.partition(":")
    if device_id is None or vendor != "NVIDIA" or not serial:
        raise VerificationError("device", "the leaf does not name a device of NVIDIA's")
    return Device(
        path=path,
        device_id=device_id,
        product=product,
        serial=serial,
        architecture=architecture_of(product),
        ueid=str(leaf.certificate.serial),
        hwmodel=_common_name(issuer.certificate.subject),
        fwid=leaf_fwid(leaf, issuer),
    )
