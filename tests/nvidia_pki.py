"""A made-up NVIDIA: device chains, evidence, reference values, revocation and verdicts.

Keys and dates are fixed. Nothing here is NVIDIA's but the formats.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation.evidence import nvidia as fields
from attestation.evidence.nvidia import OpaqueField
from attestation.evidence.spdm import (
    MeasurementBlock,
    MeasurementsRequest,
    MeasurementsResponse,
)
from attestation.verify import VerifiedGpu
from attestation.verify.nvidia import verify_gpu
from attestation.verify.nvidia_device import (
    COMPOSITE_DEVICE_ID,
    DEVICE_INFO,
    SHA384,
    TCB_INFO,
    CompositeDeviceId,
    Fwid,
    PublicKeyInfo,
    TcbInfo,
)
from attestation.verify.nvidia_gpu import gpu_nonce
from attestation.verify.nvidia_rim import VerifiedRim, verify_rim

NOW = 1_780_000_000
START = NOW - 86_400
END = NOW + 86_400
REPORT_DATA = bytes(range(64))
NONCE = gpu_nonce(REPORT_DATA)
DRIVER = "550.144.03"
VBIOS = "96.00.5E.00.01"
SWITCH_BIOS = "96.10.55.00.01"
FIRMWARE = hashlib.sha384(b"firmware").digest()
ISSUER = "https://nras.example"
_RIM_NS = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384_NS = "http://www.w3.org/2001/04/xmlenc#sha384"


def key(role: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """The key of this role, always the same."""
    number = int.from_bytes(hashlib.sha512(role.encode()).digest()[:31], "big")
    return ec.derive_private_key(number, curve or ec.SECP384R1())


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Nobody"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def at(unix: int) -> datetime:
    return datetime.fromtimestamp(unix, UTC)


@dataclass(frozen=True)
class Party:
    """A certificate and its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def issue(
    role: str,
    issuer: Party | None,
    *,
    ca: bool | None = True,
    path_length: int | None = None,
    usage: tuple[str, ...] | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
    window: tuple[int, int] = (START, END),
    curve: ec.EllipticCurve | None = None,
    digest: hashes.HashAlgorithm | None = None,
    common_name: str | None = None,
) -> Party:
    """A certificate of `role`; `ca` None leaves the constraints out, `usage` () the usage."""
    own = key(role, curve)
    subject = name(common_name or role)
    signer = own if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(own.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(role.encode()).digest()[:8], "big"))
        .not_valid_before(at(window[0]))
        .not_valid_after(at(window[1]))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    allowed = usage if usage is not None else (("cert_sign", "crl") if ca else ("sign",))
    if allowed:
        builder = builder.add_extension(_usage(allowed), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    certificate = builder.sign(signer, digest or hashes.SHA384(), ecdsa_deterministic=True)
    return Party(own, certificate)


def _usage(allowed: tuple[str, ...]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="sign" in allowed,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement="agree" in allowed,
        key_cert_sign="cert_sign" in allowed,
        crl_sign="crl" in allowed,
        encipher_only=False,
        decipher_only=False,
    )


def device_name(text: str = "NVIDIA:GH100:48B0000000000001") -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.OtherName(DEVICE_INFO, asn1.encode_der(text))])


def composite(
    issuer: Party, digest: bytes = FIRMWARE, algorithm: x509.ObjectIdentifier = SHA384
) -> x509.UnrecognizedExtension:
    """The legacy DICE extension over the key of `issuer`."""
    spki = issuer.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    value = CompositeDeviceId(
        version=1,
        device_id=asn1.decode_der(PublicKeyInfo, spki),
        fwid=Fwid(algorithm=algorithm, digest=digest),
    )
    return x509.UnrecognizedExtension(COMPOSITE_DEVICE_ID, asn1.encode_der(value))


def tcb_info(*digests: bytes) -> x509.UnrecognizedExtension:
    """The DICE TcbInfo extension with these firmware digests."""
    value = TcbInfo(
        vendor="NVIDIA",
        model="GB100",
        version=None,
        svn=1,
        layer=1,
        index=0,
        fwids=[Fwid(algorithm=SHA384, digest=d) for d in digests] or None,
        flags=None,
        vendor_info=None,
        type=None,
    )
    return x509.UnrecognizedExtension(TCB_INFO, asn1.encode_der(value))


@dataclass(frozen=True)
class Chain:
    """Leaf first, root last."""

    parties: tuple[Party, ...]

    @property
    def pem(self) -> bytes:
        return b"".join(p.pem for p in self.parties)

    @property
    def root(self) -> bytes:
        return self.parties[-1].der

    @property
    def leaf(self) -> Party:
        return self.parties[0]


@lru_cache
def authorities() -> tuple[Party, Party, Party]:
    """Identity of a device, its family's authority, and the root."""
    root = issue("device root", None)
    family = issue("family", root)
    return issue("GH100 A01 GSP BROM", family, usage=("cert_sign",)), family, root


def chain(*extensions: x509.ExtensionType, **odd: Any) -> Chain:
    """A device chain whose leaf has these extensions, by default a healthy GPU's."""
    brom, family, root = authorities()
    chosen = extensions or (device_name(), composite(brom))
    leaf = issue("leaf", brom, **{"ca": None, "usage": ("sign",), "extensions": chosen} | odd)
    return Chain((leaf, brom, family, root))


@lru_cache
def gpu_chain() -> Chain:
    return chain()


@lru_cache
def switch_chain() -> Chain:
    return chain(device_name("NVIDIA:LS_10:48B0000000000002"), composite(authorities()[0]))


def measurement(index: int) -> bytes:
    """What healthy firmware measures at this index, from 0."""
    return hashlib.sha384(b"measurement %d" % index).digest()


def opaque(**odd: bytes | None) -> tuple[OpaqueField, ...]:
    """Opaque fields of a healthy GPU, changed or left out by name."""
    stated: dict[int, bytes | None] = {
        fields.VBIOS_VERSION: bytes.fromhex("005e009601000000"),
        fields.CHIP_SKU: b"882\0\0\0\0\0\0",
        fields.PROJECT: b"1010\0",
        fields.PROJECT_SKU: b"0200\0",
        fields.DRIVER_VERSION: DRIVER.encode() + b"\0",
        fields.NVDEC0_STATUS: b"\xaa",
        fields.FWID: FIRMWARE,
        fields.PROTECTED_PCIE_STATUS: b"\x55",
        fields.OPAQUE_DATA_VERSION: b"\1\0",
        fields.FEATURE_FLAG: b"\1\0",
    }
    stated |= {getattr(fields, k.upper()): v for k, v in odd.items()}
    return tuple(OpaqueField(k, v) for k, v in stated.items() if v is not None)


def switch_opaque() -> tuple[OpaqueField, ...]:
    return (OpaqueField(fields.VBIOS_VERSION, SWITCH_BIOS.encode()), OpaqueField(26, bytes(64)))


def blocks(count: int = 64, **odd: bytes) -> tuple[MeasurementBlock, ...]:
    """Healthy measurements, those at index `m<from 0>` replaced."""
    values = [odd.get(f"m{i}", measurement(i)) for i in range(count)]
    return tuple(MeasurementBlock(i + 1, 1, v) for i, v in enumerate(values))


REQUEST = MeasurementsRequest(attributes=1, operation=0xFF, nonce=NONCE, slot_id=0)


def evidence(
    leaf: Party | None = None,
    *,
    request: MeasurementsRequest = REQUEST,
    nonce: bytes | None = None,
    stated: Sequence[OpaqueField] | None = None,
    measured: Sequence[MeasurementBlock] | None = None,
    param2: int = 0,
) -> bytes:
    """Evidence that `leaf` signs, by default of a healthy GPU for NONCE."""
    if nonce is not None:
        request = replace(request, nonce=nonce)
    response = MeasurementsResponse(
        param1=0,
        param2=param2,
        blocks=tuple(blocks() if measured is None else measured),
        nonce=b"\x22" * 32,
        opaque=b"".join(f.write() for f in (opaque() if stated is None else stated)),
        signature=bytes(96),
    )
    return sign(request.write() + response.write()[:-96], leaf or gpu_chain().leaf)


def sign(signed: bytes, leaf: Party) -> bytes:
    """These bytes and the signature of `leaf` over them."""
    r, s = utils.decode_dss_signature(
        leaf.key.sign(signed, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    )
    return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")


def switch_evidence() -> bytes:
    return evidence(switch_chain().leaf, stated=switch_opaque(), measured=blocks(31))


def verify(
    raw: bytes | None = None, by: Chain | None = None, now: int = NOW, **odd: Any
) -> VerifiedGpu:
    """`verify_gpu` of a healthy GPU, or of what is given."""
    chosen = by or gpu_chain()
    arguments = {"nonce": NONCE, **odd}
    roots = arguments.pop("roots", [chosen.root])
    return verify_gpu(evidence() if raw is None else raw, chosen.pem, roots, now, **arguments)


# Reference values.


@lru_cache
def rim_chain() -> Chain:
    root = issue("rim root", None)
    family = issue("rim family", root, path_length=0)
    leaf = issue("rim signer", family, ca=False, usage=("sign",))
    return Chain((leaf, family, root))


def rim_xml(
    version: str = DRIVER,
    indexes: Sequence[int] = range(20, 40),
    *,
    product: str = "GH100",
    edition: str = "GPU",
    values: Mapping[int, Sequence[bytes]] | None = None,
    inactive: Sequence[int] = (),
) -> str:
    """Unsigned reference values over these indexes; `values` are alternatives by index."""

    def resource(i: int) -> str:
        accepted = (values or {}).get(i, (measurement(i),))
        texts = " ".join(f'ns2:Hash{n}="{v.hex()}"' for n, v in enumerate(accepted))
        return (
            f'<ns0:Resource type="Measurement" index="{i}" active="{i not in inactive}" '
            f'alternatives="{len(accepted)}" {texts} name="Measurement_{i}" size="48"/>'
        )

    return (
        f'<SoftwareIdentity xmlns="{_RIM_NS}" xmlns:ns0="{_RIM_NS}" xmlns:ns2="{_SHA384_NS}" '
        f'name="{product}" tagId="0f" version="1.0">'
        f'<ns0:Meta colloquialVersion="{version}" edition="{edition}" product="{product}"/>'
        f"<ns0:Payload>{''.join(resource(i) for i in indexes)}"
        '<ns0:Resource type="Note"/></ns0:Payload></SoftwareIdentity>'
    )


def sign_rim(xml: str, by: Chain | None = None, **odd: Any) -> bytes:
    """The file as NVIDIA signs it, or with other parameters of signxml's signer."""
    from lxml import etree
    from signxml import XMLSigner, methods

    chosen = by or rim_chain()
    signer = XMLSigner(
        method=methods.enveloped,
        **{
            "signature_algorithm": "ecdsa-sha384",
            "digest_algorithm": "sha384",
            "c14n_algorithm": "http://www.w3.org/2006/12/xml-c14n11",
        }
        | odd.pop("signer", {}),
    )
    arguments = {"reference_uri": None, **odd}
    signed = signer.sign(
        etree.fromstring(xml.encode()),
        key=chosen.leaf.key,
        cert=[p.certificate for p in chosen.parties],
        always_add_key_value=False,
        **arguments,
    )
    return etree.tostring(signed)


@lru_cache
def driver_rim() -> bytes:
    return sign_rim(rim_xml())


@lru_cache
def vbios_rim() -> bytes:
    return sign_rim(rim_xml(VBIOS, range(20)))


@lru_cache
def switch_rim() -> bytes:
    return sign_rim(rim_xml(SWITCH_BIOS, range(31), product="LS10", edition="SWITCH"))


def rim(xml: bytes, **odd: Any) -> VerifiedRim:
    return verify_rim(xml, [rim_chain().root], odd.pop("now", NOW), **odd)


# Revocation.


def crl(
    issuer: Party,
    revoked: Mapping[Party, x509.ReasonFlags | None] | None = None,
    *,
    window: tuple[int, int] = (START, END),
    by: Party | None = None,
    critical: x509.ExtensionType | None = None,
) -> bytes:
    """A CRL in the name of `issuer`; `by` is who really signs."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(at(window[0]))
        .next_update(at(window[1]))
    )
    for party, reason in (revoked or {}).items():
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(party.certificate.serial_number)
            .revocation_date(at(START))
        )
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    signed = builder.sign((by or issuer).key, hashes.SHA384(), ecdsa_deterministic=True)
    return signed.public_bytes(Encoding.DER)


def responder(issuer: Party, role: str = "responder", **odd: Any) -> Party:
    """Somebody `issuer` lets answer for it."""
    usage = [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])]
    return issue(role, issuer, **{"ca": None, "usage": ("sign",), "extensions": usage} | odd)


def ocsp_response(
    child: Party,
    issuer: Party,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    by: Party | None = None,
    window: tuple[int, int | None] = (START, END),
    algorithm: hashes.HashAlgorithm | None = None,
    signed_with: hashes.HashAlgorithm | None = None,
) -> bytes:
    """What `by`, by default a delegate of `issuer`, answers about `child`."""
    signer = by or responder(issuer)
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=child.certificate,
            issuer=issuer.certificate,
            algorithm=algorithm or hashes.SHA384(),
            cert_status=status,
            this_update=at(window[0]),
            next_update=None if window[1] is None else at(window[1]),
            revocation_time=at(START) if revoked else None,
            revocation_reason=reason,
        )
        .responder_id(ocsp.OCSPResponderEncoding.NAME, signer.certificate)
        .certificates([signer.certificate])
    )
    response = builder.sign(signer.key, signed_with or hashes.SHA384())
    return response.public_bytes(Encoding.DER)


@lru_cache
def device_revocation() -> tuple[bytes, ...]:
    """Good answers about every certificate of a device chain that authorities issued."""
    brom, family, root = authorities()
    return ocsp_response(brom, family), crl(root)


@lru_cache
def rim_revocation() -> tuple[bytes, ...]:
    leaf, family, root = rim_chain().parties
    return ocsp_response(leaf, family), crl(root)


@lru_cache
def wanted_gpu() -> VerifiedGpu:
    """A GPU of which everything was checked."""
    rims = [rim(x, revocation=rim_revocation()) for x in (driver_rim(), vbios_rim())]
    return verify(rims=rims, revocation=device_revocation())


# Verdicts of the service.


@lru_cache
def service() -> Chain:
    root = issue("service root", None)
    return Chain((issue("service", root, ca=None, usage=("sign",)), root))


def jwks(**odd: Any) -> bytes:
    """The service's key set; `odd` changes members of its key."""
    numbers = service().leaf.key.public_key().public_numbers()
    entry = {
        "kty": "EC",
        "crv": "P-384",
        "use": "sig",
        "alg": "ES384",
        "kid": "key-1",
        "x": _b64(numbers.x.to_bytes(48, "big")),
        "y": _b64(numbers.y.to_bytes(48, "big")),
        "x5c": [base64.b64encode(p.der).decode() for p in service().parties],
    } | odd
    return json.dumps({"keys": [{k: v for k, v in entry.items() if v is not None}]}).encode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def common_claims(**odd: Any) -> dict[str, Any]:
    claims = {"iss": ISSUER, "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3600}
    return {k: v for k, v in (claims | {"eat_nonce": NONCE.hex()} | odd).items() if v is not None}


_GOOD_CHAIN: Any = {
    "x-nvidia-cert-status": "valid",
    "x-nvidia-cert-ocsp-status": "good",
    "x-nvidia-cert-revocation-reason": None,
}


def device_claims(kind: str = "gpu", version: str = "3.0", **odd: Any) -> dict[str, Any]:
    """Claims of a healthy device; `odd` changes or, with None, drops them."""
    rims = ("driver-rim", "vbios-rim") if kind == "gpu" else ("bios-rim",)
    old = version == "2.0"
    report = ("parsed", "signature-verified", "nonce-match")
    rim = ("fetched", "signature-verified", "measurements-available", "schema-validated")
    own_report = "cert-chain-validated" if old else "cert-chain-fwid-match"
    own_rim = "cert-validated" if old else "version-match"
    parts = {"attestation-report": (*report, own_report)} | dict.fromkeys(rims, (*rim, own_rim))
    true = ["arch-check", *(f"{p}-{n}" for p, names in parts.items() for n in names)]
    true += ["vbios-index-no-conflict"] if kind == "gpu" else []
    claims = dict.fromkeys((f"x-nvidia-{kind}-{name}" for name in true), True)
    if not old:
        claims |= dict.fromkeys((f"x-nvidia-{kind}-{p}-cert-chain" for p in parts), _GOOD_CHAIN)
    versions = {"driver-version": DRIVER, "vbios-version": VBIOS}
    stated = versions if kind == "gpu" else {"bios-version": SWITCH_BIOS}
    claims |= {f"x-nvidia-{kind}-{k}": v for k, v in stated.items()}
    claims |= {
        "measres": "success",
        "secboot": True,
        "dbgstat": "disabled",
        "hwmodel": "GH100 A01 GSP BROM" if kind == "gpu" else "LS_10 A01 FSP BROM",
        "ueid": "1234" if kind == "gpu" else "5678",
    }
    return common_claims(**claims | odd)


def token(claims: Mapping[str, Any], header: Mapping[str, Any] | None = None, **odd: Any) -> str:
    """A token the service signs; `odd` are another key or algorithm."""
    arguments = {"key": service().leaf.key, "algorithm": "ES384", **odd}
    return jwt.encode(dict(claims), headers={"kid": "key-1", **(header or {})}, **arguments)


def bundle(
    devices: Mapping[str, str] | None = None, overall: str | None = None, **odd: Any
) -> bytes:
    """A verdict over these device tokens; `odd` changes the overall claims."""
    tokens = {"GPU-0": token(device_claims())} if devices is None else dict(devices)
    digests = {
        n: ["DIGEST", ["SHA-256", hashlib.sha256(t.encode()).hexdigest()]]
        for n, t in tokens.items()
    }
    claims = {
        "sub": "NVIDIA-PLATFORM-ATTESTATION",
        "x-nvidia-ver": "3.0",
        "x-nvidia-overall-att-result": True,
        "submods": digests,
    } | odd
    return json.dumps([["JWT", overall or token(common_claims(**claims))], tokens]).encode()
