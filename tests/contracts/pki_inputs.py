"""Certificates and CRLs with anything odd in them, byte by byte, under the simulator's keys.

Every part of a document has its healthy value and may be given another as raw DER, also where
no library would write it. Times are Unix seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attested
from chain import Chain, Contract
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.collateral import Collateral
from attestation.issuers.simulator import SimulatedPlatform, pki
from attestation.issuers.simulator.platform import CERTIFICATES_FROM, CERTIFICATES_UNTIL
from attestation.x509 import Certificate, read_chain

NOW = attested.NOW
DAY = 86_400
P256VERIFY = "0x" + "00" * 18 + "0100"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
VECTORS = Path(os.environ.get("ADYTON_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
AKI, SKI, USAGE, CONSTRAINTS = (bytes.fromhex(f"551d{last}") for last in ("23", "0e", "0f", "13"))
SGX = bytes.fromhex("2a864886f84d010d01")
CA_USAGE, LEAF_USAGE = b"\x03\x02\x01\x06", b"\x03\x02\x06\xc0"
IS_CA, NOT_CA = bytes.fromhex("30060101ff020100"), b"\x30\x00"


def tlv(tag: int, *parts: bytes) -> bytes:
    """An element in DER."""
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    raw = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(raw)]) + raw + value


def number(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def utc(unix: int) -> bytes:
    return tlv(0x17, datetime.fromtimestamp(unix, UTC).strftime("%y%m%d%H%M%SZ").encode())


def generalized(text: str) -> bytes:
    return tlv(0x18, text.encode())


def extension(oid: bytes, value: bytes, critical: bytes = b"") -> bytes:
    return tlv(0x30, tlv(6, oid), critical, tlv(4, value))


def sign(key: ec.EllipticCurvePrivateKey, tbs: bytes, *, high_s: bool = False) -> bytes:
    """An ECDSA-Sig-Value; with `high_s` the other of the two signatures that verify."""
    der = key.sign(tbs, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = utils.decode_dss_signature(der)
    if high_s == (s <= ORDER // 2):
        s = ORDER - s
    return tlv(0x30, number(r), number(s))


def document(
    tbs: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    outer_algorithm: bytes = ECDSA_SHA256,
    high_s: bool = False,
    unused_bits: int = 0,
    inside: bytes = b"",
) -> bytes:
    signature = tlv(3, bytes([unused_bits]), sign(key, tbs, high_s=high_s))
    return tlv(0x30, tbs, outer_algorithm, signature, inside)


@dataclass(frozen=True)
class Holder:
    """A key with the name and identifier its certificate gives it."""

    key: ec.EllipticCurvePrivateKey
    name: bytes
    key_id: bytes

    @classmethod
    def of(cls, party: pki.Party) -> Holder:
        name = party.certificate.subject.public_bytes()
        return cls(
            party.key,
            name,
            x509.SubjectKeyIdentifier.from_public_key(party.key.public_key()).digest,
        )

    @classmethod
    def new(cls, role: str) -> Holder:
        key = pki.derive_key(attested.SEED, role)
        name = pki.name(f"Simulated {role}").public_bytes()
        digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
        return cls(key, name, digest)

    @property
    def xy(self) -> tuple[int, int]:
        numbers = self.key.public_key().public_numbers()
        return numbers.x, numbers.y

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def aki(key_id: bytes) -> bytes:
    return extension(AKI, tlv(0x30, tlv(0x80, key_id)))


def ski(key_id: bytes) -> bytes:
    return extension(SKI, tlv(4, key_id))


def extensions(
    issuer: Holder, subject: Holder, *, ca: bool, without: bytes = b"", **odd: bytes
) -> list[bytes]:
    """The four extensions every certificate has, each replaceable whole by its name."""
    critical = b"\x01\x01\xff"
    healthy = {
        AKI: odd.get("aki", aki(issuer.key_id)),
        SKI: odd.get("ski", ski(subject.key_id)),
        USAGE: odd.get("usage", extension(USAGE, CA_USAGE if ca else LEAF_USAGE, critical)),
        CONSTRAINTS: odd.get(
            "constraints", extension(CONSTRAINTS, IS_CA if ca else NOT_CA, critical)
        ),
    }
    return [value for oid, value in healthy.items() if oid != without]


def certificate(
    issuer: Holder,
    subject: Holder,
    *,
    ca: bool = False,
    version: bytes = bytes.fromhex("a003020102"),
    serial: bytes | int = 0x1234,
    algorithm: bytes = ECDSA_SHA256,
    issuer_name: bytes | None = None,
    not_before: bytes | int = CERTIFICATES_FROM,
    not_after: bytes | int = CERTIFICATES_UNTIL,
    spki: bytes | None = None,
    parts: Sequence[bytes] | None = None,
    more: Sequence[bytes] = (),
    after_extensions: bytes = b"",
    signer: ec.EllipticCurvePrivateKey | None = None,
    outside: dict[str, Any] | None = None,
    **odd: Any,
) -> bytes:
    """A certificate of `subject` by `issuer`; `more` are extensions beside the usual ones."""
    if parts is None:
        parts = [*extensions(issuer, subject, ca=ca, **odd), *more]
    dates = [utc(d) if isinstance(d, int) else d for d in (not_before, not_after)]
    tbs = tlv(
        0x30,
        version,
        number(serial) if isinstance(serial, int) else serial,
        algorithm,
        issuer.name if issuer_name is None else issuer_name,
        tlv(0x30, *dates),
        subject.name,
        subject.spki if spki is None else spki,
        tlv(0xA3, tlv(0x30, *parts)),
        after_extensions,
    )
    return document(tbs, signer or issuer.key, **(outside or {}))


def entry(serial: int | bytes, *more: bytes) -> bytes:
    raw = number(serial) if isinstance(serial, int) else serial
    return tlv(0x30, raw, utc(NOW - DAY), *more)


def crl(
    issuer: Holder,
    revoked: Sequence[int | bytes] = (),
    *,
    version: bytes = b"\x02\x01\x01",
    algorithm: bytes = ECDSA_SHA256,
    issuer_name: bytes | None = None,
    this_update: bytes | int = NOW - DAY,
    next_update: bytes | int = NOW + 30 * DAY,
    parts: Sequence[bytes] | None = None,
    after_extensions: bytes = b"",
    signer: ec.EllipticCurvePrivateKey | None = None,
    outside: dict[str, Any] | None = None,
) -> bytes:
    """A CRL; entries are serials, or an entry's raw DER."""
    entries = [entry(e) if isinstance(e, int) else e for e in revoked]
    dates = [utc(d) if isinstance(d, int) else d for d in (this_update, next_update)]
    number_ = extension(bytes.fromhex("551d14"), number(1))
    listed = [number_, aki(issuer.key_id)] if parts is None else parts
    tbs = tlv(
        0x30,
        version,
        algorithm,
        issuer.name if issuer_name is None else issuer_name,
        *dates,
        tlv(0x30, *entries) if entries else b"",
        tlv(0xA0, tlv(0x30, *listed)) if listed else b"",
        after_extensions,
    )
    return document(tbs, signer or issuer.key, **(outside or {}))


PLATFORM = attested.platform()
ROOT, CA, TCB = (Holder.of(p) for p in (PLATFORM.root, PLATFORM.pck_ca, PLATFORM.tcb_signing))
SIMULATED = PLATFORM.collateral("tdx")


def sgx_value(of: SimulatedPlatform = PLATFORM) -> bytes:
    """The value of a simulated PCK certificate's SGX extension."""
    oid = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
    found = of.pck.certificate.extensions.get_extension_for_oid(oid).value
    assert isinstance(found, x509.UnrecognizedExtension)
    return found.value


def leaf(value: bytes | None = None, *, issuer: Holder = CA, **odd: Any) -> bytes:
    """A PCK certificate with this SGX extension; b"" leaves it out."""
    value = sgx_value() if value is None else value
    more = [extension(SGX, value)] if value else []
    holder = Holder.new("odd leaf")
    return certificate(issuer, holder, **{"serial": 0x777, "more": more, **odd})


def fresh(issuer: Holder, leaf_der: bytes) -> bytes:
    """`platform` with a leaf certificate."""
    x, y = issuer.xy
    return b"\0" + x.to_bytes(32, "big") + y.to_bytes(32, "big") + leaf_der


def deploy(chain: Chain, root: tuple[int, int] = ROOT.xy) -> Contract:
    return chain.deploy("PkiHarness", *root, P256VERIFY)


def fill(chain: Chain, store: Contract) -> Contract:
    """The simulator's certificates and CRLs, submitted in order."""
    chain.send(store, "addCertificate", PLATFORM.root.der)
    chain.send(store, "updateCrl", SIMULATED.root_ca_crl, *ROOT.xy)
    chain.send(store, "addCertificate", PLATFORM.pck_ca.der)
    chain.send(store, "addCertificate", PLATFORM.tcb_signing.der)
    chain.send(store, "updateCrl", SIMULATED.pck_crl, *CA.xy)
    return store


@dataclass(frozen=True)
class Real:
    """One real quote's PKI: Intel's certificates and CRLs, and the platform's leaf."""

    name: str
    now: int
    root: Certificate
    ca: Certificate
    tcb: Certificate
    root_crl: bytes
    pck_crl: bytes
    leaf: Certificate

    @staticmethod
    def xy(certificate: Certificate) -> tuple[int, int]:
        assert certificate.key is not None
        numbers = certificate.key.public_numbers()
        return numbers.x, numbers.y

    @property
    def fresh(self) -> bytes:
        x, y = self.xy(self.ca)
        return b"\0" + x.to_bytes(32, "big") + y.to_bytes(32, "big") + self.leaf.der

    def fill(self, chain: Chain, store: Contract) -> dict[str, int]:
        """Everything but the leaf submitted in order; the gas of each transaction."""
        root, ca = self.xy(self.root), self.xy(self.ca)
        return {
            "root": chain.send(store, "addCertificate", self.root.der)["gas"],
            "root_crl": chain.send(store, "updateCrl", self.root_crl, *root)["gas"],
            "ca": chain.send(store, "addCertificate", self.ca.der)["gas"],
            "tcb": chain.send(store, "addCertificate", self.tcb.der)["gas"],
            "pck_crl": chain.send(store, "updateCrl", self.pck_crl, *ca)["gas"],
        }


def real() -> list[Real]:
    """One for each platform among the accepted vectors, the latest; empty without vectors."""
    manifest = VECTORS / "manifest.json"
    if not manifest.is_file():
        return []
    found: dict[bytes, Real] = {}
    for vector in json.loads(manifest.read_text()):
        accepted = (vector.get("expected") or {}).get("verdict") == "accept"
        if vector.get("set") != "dcap" or not accepted:
            continue
        one = _real(vector)
        if one.leaf.der not in found or found[one.leaf.der].now < one.now:
            found[one.leaf.der] = one
    return list(found.values())


def _real(vector: dict[str, Any]) -> Real:
    collateral = Collateral.from_json(json.loads((VECTORS / vector["collateral"]).read_text()))
    quote = (VECTORS / vector["quote"]).read_bytes()
    ca, root = read_chain("ca", collateral.pck_crl_issuer_chain.encode())
    return Real(
        name=vector["id"],
        now=vector["verification_time"],
        root=root,
        ca=ca,
        tcb=read_chain("tcb", collateral.tcb_info_issuer_chain.encode())[0],
        root_crl=collateral.root_ca_crl,
        pck_crl=collateral.pck_crl,
        leaf=read_chain("pck", quote[quote.index(b"-----BEGIN") :])[0],
    )
