"""An AMD of our own for tests: fixed keys and dates, and a way to get every part wrong.

RSA-4096 keys take seconds to make, so each prime is a seed's hash plus the small offset at
which a search once found a prime. The keys are public by construction and worth nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from attestation.collateral.snp import SnpEndorsements
from attestation.evidence.snp import (
    REPORT_BYTES,
    SIGNED_BYTES,
    AttestationReport,
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    TcbParts,
    TcbVersion,
)

NOW = 1_780_000_000
DAY = 86400
PRODUCTS = ("Milan", "Genoa", "Turin")
KINDS = ("vcek", "vlek")
REPORT_DATA = bytes(range(64))
PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_OFFSETS = {"ark": (154, 918), "ask": (1252, 1020), "asvk": (148, 970), "other": (124, 914)}
_CPUID = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
LEVELS = {
    "Milan": TcbParts(None, 4, 0, 24, 219),
    "Genoa": TcbParts(None, 10, 0, 23, 84),
    "Turin": TcbParts(1, 2, 3, 4, 68),
}
CSP_ID = "CN=cc.example.com"
_BASE = "1.3.6.1.4.1.3704.1."


@lru_cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    p, q = (
        (int.from_bytes(hashlib.shake_256(f"adyton test {name} {part}".encode()).digest(256)))
        | 3 << 2046
        | 1
        for part in "pq"
    )
    p, q = p + _OFFSETS[name][0], q + _OFFSETS[name][1]
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(65537, p * q)
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


@lru_cache
def ec_key(name: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()), curve())


def name_of(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Adyton tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(**on: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


Extension = tuple[x509.ExtensionType, bool]


def ca_extensions(
    *,
    ca: bool = True,
    path_length: int | None = None,
    cert_sign: bool = True,
    crl_sign: bool = True,
) -> list[Extension]:
    constraints = x509.BasicConstraints(ca=ca, path_length=path_length)
    return [(constraints, True), (_usage(key_cert_sign=cert_sign, crl_sign=crl_sign), True)]


def certificate(
    subject: str,
    issuer: str,
    key: Any,
    signer: Any,
    extensions: Iterable[Extension],
    *,
    serial: int = 1,
    not_before: int = NOW - 30 * DAY,
    not_after: int = NOW + 30 * DAY,
    scheme: Any = PSS,
    hashed: hashes.HashAlgorithm | None = None,
) -> bytes:
    """One certificate, DER. `scheme` None is PKCS #1 v1.5, and must be for an EC signer."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(subject))
        .issuer_name(name_of(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(datetime.fromtimestamp(not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(not_after, UTC))
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    signed = builder.sign(signer, hashed or hashes.SHA384(), rsa_padding=scheme)
    return signed.public_bytes(Encoding.DER)


@lru_cache
def _healthy(kind: str, product: str) -> bytes:
    return _ark(product) if kind == "ark" else _intermediate(kind, product)


def ark(product: str = "Milan", **odd: Any) -> bytes:
    """A self-signed root key. `odd` goes to `ca_extensions` or `certificate`.

    PSS signatures are salted at random, so only the healthy certificates, made once, have
    the same bytes whenever they are asked for.
    """
    return _ark(product, **odd) if odd else _healthy("ark", product)


def _ark(product: str, *, key: str = "ark", **odd: Any) -> bytes:
    own = {n: odd.pop(n) for n in ("ca", "path_length", "cert_sign", "crl_sign") if n in odd}
    name = odd.pop("subject", f"ARK-{product}")
    made = rsa_key(key)
    return certificate(
        name, name, made, odd.pop("signer", made), ca_extensions(**own), serial=65536, **odd
    )


def intermediate(kind: str = "vcek", product: str = "Milan", **odd: Any) -> bytes:
    """An ASK or ASVK under `ark`."""
    return _intermediate(kind, product, **odd) if odd else _healthy(kind, product)


def _intermediate(kind: str, product: str, **odd: Any) -> bytes:
    own = {n: odd.pop(n) for n in ("ca", "path_length", "cert_sign", "crl_sign") if n in odd}
    extensions = ca_extensions(**{"path_length": 0, "crl_sign": False, **own})
    name, key = ("SEV-", "ask") if kind == "vcek" else ("SEV-VLEK-", "asvk")
    return certificate(
        odd.pop("subject", name + product),
        odd.pop("issuer", f"ARK-{product}"),
        odd.pop("key", None) or rsa_key(key),
        odd.pop("signer", None) or rsa_key("ark"),
        [*extensions, *odd.pop("more", ())],
        **{"serial": 65537, **odd},
    )


def chip_id(product: str = "Milan") -> bytes:
    full = hashlib.sha512(product.encode()).digest()
    return full[:8].ljust(64, b"\0") if product == "Turin" else full


def vek_extensions(kind: str = "vcek", product: str = "Milan") -> dict[str, bytes]:
    """The values AMD's extensions have, by the end of their OIDs; change them at will."""
    levels = LEVELS[product]
    name = f"{product}-B0" if kind == "vcek" else product
    numbers = {
        "1": int(product == "Turin"),
        "3.1": levels.bootloader,
        "3.2": levels.tee,
        "3.3": levels.snp,
        **{f"3.{i}": 0 for i in (4, 5, 6, 7)},
        "3.8": levels.microcode,
    }
    if levels.fmc is not None:
        numbers["3.9"] = levels.fmc
    out = {end: asn1.encode_der(value) for end, value in numbers.items()}
    out["2"] = asn1.encode_der(asn1.IA5String(name))
    if kind == "vcek":
        out["4"] = chip_id(product)[: 8 if product == "Turin" else 64]
    else:
        out["5"] = asn1.encode_der(asn1.IA5String(CSP_ID))
    return out


def vek(
    kind: str = "vcek",
    product: str = "Milan",
    *,
    without: Iterable[str] = (),
    amd: Mapping[str, bytes] | None = None,
    more: Iterable[Extension] = (),
    **odd: Any,
) -> bytes:
    """A VCEK or VLEK. `amd` replaces extension values, `without` leaves some out."""
    values = {**vek_extensions(kind, product), **(amd or {})}
    own = [
        (x509.UnrecognizedExtension(ObjectIdentifier(_BASE + end), value), False)
        for end, value in values.items()
        if end not in set(without)
    ]
    issuer, signer = ("SEV-", "ask") if kind == "vcek" else ("SEV-VLEK-", "asvk")
    return certificate(
        odd.pop("subject", f"SEV-{kind.upper()}"),
        odd.pop("issuer", issuer + product),
        odd.pop("key", None) or ec_key(kind),
        odd.pop("signer", None) or rsa_key(signer),
        [*own, *more],
        **odd,
    )


def crl(
    revoked: Iterable[int] = (),
    *,
    product: str = "Milan",
    issuer: str | None = None,
    signer: Any = None,
    last_update: int = NOW - DAY,
    next_update: int = NOW + DAY,
    scheme: Any = PSS,
    hashed: hashes.HashAlgorithm | None = None,
    more: Iterable[Extension] = (),
) -> bytes:
    """A revocation list by the ARK, DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name_of(issuer or f"ARK-{product}"))
        .last_update(datetime.fromtimestamp(last_update, UTC))
        .next_update(datetime.fromtimestamp(next_update, UTC))
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        moment = datetime.fromtimestamp(NOW - DAY, UTC)
        builder = builder.add_revoked_certificate(entry.revocation_date(moment).build())
    for value, critical in more:
        builder = builder.add_extension(value, critical)
    signed = builder.sign(signer or rsa_key("ark"), hashed or hashes.SHA384(), rsa_padding=scheme)
    return signed.public_bytes(Encoding.DER)


def resigned(der: bytes, old: bytes, new: bytes, signer: rsa.RSAPrivateKey) -> bytes:
    """The certificate `der` with equally long bytes put in for others, and signed again.

    For what no builder makes. The signed part follows the outer header of 4 bytes.
    """
    assert der.count(old) == 1
    assert len(old) == len(new)
    changed = der.replace(old, new)
    end = 8 + int.from_bytes(der[6:8])
    return changed[:-512] + signer.sign(changed[4:end], PSS, hashes.SHA384())


@lru_cache(maxsize=64)
def endorsements(kind: str = "vcek", product: str = "Milan") -> SnpEndorsements:
    """A healthy chain and an empty revocation list."""
    chain = (intermediate(kind, product), ark(product))
    return SnpEndorsements(vek(kind, product), chain, crl(product=product))


def tcb(levels: TcbParts) -> TcbVersion:
    """`levels` in the layout of a product that has the parts they have."""
    low = (levels.bootloader, levels.tee)
    if levels.fmc is None:
        return TcbVersion(bytes((*low, 0, 0, 0, 0, levels.snp, levels.microcode)))
    return TcbVersion(bytes((levels.fmc, *low, levels.snp, 0, 0, 0, levels.microcode)))


def parsed_report(
    kind: str = "vcek", product: str = "Milan", version: int = 3, **fields: Any
) -> AttestationReport:
    """A healthy report's fields, unsigned; `fields` replaces any of them."""
    level = tcb(LEVELS[product])
    cpuid = _CPUID[product] if version >= 3 else (None, None, None)
    mitigation = 3 if version >= 5 else None
    healthy = AttestationReport(
        version=version,
        guest_svn=2,
        policy=GuestPolicy(0x30000),
        family_id=b"f" * 16,
        image_id=b"i" * 16,
        vmpl=0,
        signature_algo=1,
        current_tcb=level,
        platform_info=PlatformInfo(0b100101),
        author_key_en=True,
        mask_chip_key=False,
        signing_key=KINDS.index(kind),
        report_data=REPORT_DATA,
        measurement=b"\xa5" * 48,
        host_data=bytes(32),
        id_key_digest=b"\x1d" * 48,
        author_key_digest=b"\xaa" * 48,
        report_id=b"r" * 32,
        report_id_ma=b"\xff" * 32,
        reported_tcb=level,
        cpuid_fam_id=cpuid[0],
        cpuid_mod_id=cpuid[1],
        cpuid_step=cpuid[2],
        chip_id=chip_id(product) if kind == "vcek" else bytes(64),
        committed_tcb=level,
        current_version=FirmwareVersion(1, 55, 29),
        committed_version=FirmwareVersion(1, 55, 29),
        launch_tcb=level,
        launch_mit_vector=mitigation,
        current_mit_vector=mitigation,
        signature_r=bytes(72),
        signature_s=bytes(72),
    )
    return replace(healthy, **fields)


def sign(raw: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """`raw` with its signature made anew over whatever its signed bytes are."""
    span = raw[:SIGNED_BYTES]
    r, s = decode_dss_signature(key.sign(span, ec.ECDSA(hashes.SHA384())))
    return (span + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(REPORT_BYTES, b"\0")


def report(
    kind: str = "vcek",
    product: str = "Milan",
    version: int = 3,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    **fields: Any,
) -> bytes:
    """A report signed by this kind of key; `fields` replaces any field, lying included."""
    return sign(parsed_report(kind, product, version, **fields).write(), key or ec_key(kind))


@lru_cache
def roots() -> tuple[bytes, ...]:
    """The trust anchors of the healthy chains."""
    return tuple(ark(product) for product in PRODUCTS)
