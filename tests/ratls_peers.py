"""Simulated nodes for RA-TLS tests: certificates genuine, odd, or put together by a forger."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from attested import NOW, SEED
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation.issuers.simulator import MeasuredState, SimulatorIssuer
from attestation.policy import Policy, load_policy
from attestation.ratls import AttestedPeer, Claims, TaggedEvidence, appraise_certificate
from attestation.ratls.extension import (
    EVIDENCE_OID,
    LEGACY_OID,
    QUOTE_TAG,
    legacy_report_data,
)
from enclave.ratls import issue_certificate
from enclave.tls import TlsIdentity, subject_names

DAY = 86_400
STATE = MeasuredState(b"\x01" * 32, b"\x02" * 32, b"\x03" * 32)
OTHER_STATE = MeasuredState(b"\x09" * 32, b"\x02" * 32, b"\x03" * 32)
OTHER_SEED = b"a foreign platform's fixed seed!"
SNP_MEASUREMENT = (
    "d5d8e44fe4f28c21c36d2adbcc22c4fdf91d9e89baf5a133bead39c4221bc5f3"
    "a9e8fd0e16dd5abb1c6a4e3be26ff36e"
)
Extension = tuple[str, bytes, bool]


@lru_cache
def ec_key(number: int) -> ec.EllipticCurvePrivateKey:
    """The same key for the same number."""
    return ec.derive_private_key(0x5EED_0000 + number, ec.SECP256R1())


@lru_cache
def _simulator(tee: str, seed: bytes, state: MeasuredState, now: int) -> SimulatorIssuer:
    """Made once: a simulated AMD makes RSA keys, which is slow and never the same twice."""
    return SimulatorIssuer(tee, seed, state, now=lambda: now)


@dataclass
class Issuing:
    """A simulated node's issuer; `asked` keeps the report data it was asked to quote."""

    tee: str = "tdx"
    seed: bytes = SEED
    state: MeasuredState = STATE
    now: int = NOW
    asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inner = _simulator(self.tee, self.seed, self.state, self.now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def issue(self, report_data: bytes) -> Any:
        self.asked.append(report_data)
        return self.inner.issue(report_data)


def spki_of(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def issued(tee: str = "tdx", number: int = 1, **changes: Any) -> TlsIdentity:
    """A node's key and the certificate it issues itself."""
    key = ec_key(number)
    issuing = {k: changes.pop(k) for k in ("seed", "state") if k in changes}
    arguments: dict[str, Any] = {
        "names": subject_names(()),
        "now": NOW,
        "not_after": NOW + DAY,
        "simulated": True,
        "custody": "sealed",
        **changes,
    }
    issuer: Any = Issuing(tee, **issuing)
    return TlsIdentity(key, issue_certificate(issuer, key, **arguments))


def der_of(identity: TlsIdentity) -> bytes:
    return identity.certificate.public_bytes(Encoding.DER)


def quote_over(report_data: bytes, tee: str = "tdx", **changes: Any) -> bytes:
    quote: bytes = Issuing(tee, **changes).inner.issue(report_data).quote
    return quote


def evidence_for(
    spki: bytes, tee: str = "tdx", *, claims: Claims | None = None, quote: bytes | None = None
) -> bytes:
    """The interoperable extension's value over this key, or with parts of the caller's."""
    claims = claims or Claims.build(spki, custody="sealed")
    quote = quote_over(claims.report_data, tee) if quote is None else quote
    return TaggedEvidence(QUOTE_TAG, quote, claims).write()


def interoperable(key: Any, tee: str = "tdx") -> Extension:
    return (EVIDENCE_OID, evidence_for(spki_of(key), tee), False)


def legacy(key: Any, tee: str = "sgx") -> Extension:
    return (LEGACY_OID, quote_over(legacy_report_data(spki_of(key)), tee), False)


def forge(
    extensions: Iterable[Extension] = (),
    *,
    key: Any = None,
    signer: Any = None,
    issuer_name: str | x509.Name = "forged",
    not_before: int = NOW - 3600,
    not_after: int = NOW + DAY,
    ca: bool = False,
    usage: x509.KeyUsage | None = None,
    names: Sequence[x509.GeneralName] = (x509.DNSName("localhost"),),
) -> bytes:
    """A certificate (DER) made of whatever a forger likes."""
    key = key or ec_key(1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name("forged"))
        .issuer_name(_name(issuer_name) if isinstance(issuer_name, str) else issuer_name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(_at(not_before))
        .not_valid_after(_at(not_after))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    for oid, value, critical in extensions:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(unknown, critical=critical)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(Encoding.DER)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _at(unix: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix, datetime.UTC)


def wanting(**members: Any) -> Policy:
    """A policy that wants this workload on any simulated TEE."""
    return load_policy(
        {
            "version": 1,
            "name": "test",
            "measurements": {
                "tdx": [{"mr_td": STATE.mr_td.hex()}],
                "sgx": [{"mr_enclave": STATE.mr_enclave.hex()}],
                "sev-snp": [{"measurement": SNP_MEASUREMENT}],
            },
            **members,
        }
    )


@lru_cache
def collateral_for(tee: str, seed: bytes = SEED) -> Any:
    return Issuing(tee, seed).inner.issue(bytes(64)).collateral


@lru_cache
def root_of(tee: str) -> bytes:
    root: bytes = Issuing(tee).inner.root_der
    return root


def appraise(der: bytes, tee: str = "tdx", **changes: Any) -> AttestedPeer:
    """Judge a certificate as a careful peer would."""
    arguments: dict[str, Any] = {
        "roots": [root_of(tee)],
        "policy": wanting(),
        "now": NOW,
        "collateral": collateral_for(tee),
        **changes,
    }
    return appraise_certificate(der, **arguments)


def appraised(identity: TlsIdentity, tee: str = "tdx", **changes: Any) -> AttestedPeer:
    return appraise(der_of(identity), tee, **changes)
