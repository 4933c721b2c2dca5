"""A Nitro hypervisor of our own: fixed keys and dates, every field open to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

NOW: Final = int(datetime(2026, 1, 15, 12, tzinfo=UTC).timestamp())
PROTECTED: Final = bytes.fromhex("a1013822")
USER_DATA: Final = b"a keyset's statement".ljust(64, b"\0")
_HOUR: Final = 3600
Key = ec.EllipticCurvePrivateKey


@lru_cache
def key(name: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> Key:
    """The same key whenever it is asked for by the same name."""
    return ec.derive_private_key(int.from_bytes(name.encode().ljust(30, b"\1")), curve())


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


@dataclass(frozen=True)
class Issue:
    """One certificate to be made. `signer` and `issuer` name its issuer's key and subject."""

    subject: str
    issuer: str
    ca: bool = True
    path_length: int | None = None
    usage: frozenset[str] = frozenset({"key_cert_sign"})
    not_before: int = NOW - _HOUR
    not_after: int = NOW + _HOUR
    signer: str | None = None
    public: Any = None
    digest: type[HashAlgorithm] = SHA384
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()

    def der(self) -> bytes:
        usages = {
            u: u in self.usage
            for u in (
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "key_cert_sign",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            )
        }
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.subject))
            .issuer_name(name(self.issuer))
            .public_key(self.public or key(self.subject).public_key())
            .serial_number(int.from_bytes(self.subject.encode()) % 2**64 + 1)
            .not_valid_before(datetime.fromtimestamp(self.not_before, UTC))
            .not_valid_after(datetime.fromtimestamp(self.not_after, UTC))
            .add_extension(x509.BasicConstraints(self.ca, self.path_length), critical=True)
            .add_extension(x509.KeyUsage(**usages), critical=True)
        )
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical)
        made = builder.sign(
            key(self.signer or self.issuer), self.digest(), ecdsa_deterministic=True
        )
        return made.public_bytes(Encoding.DER)


ROOT: Final = Issue("root", "root", not_before=NOW - 9 * _HOUR, not_after=NOW + 9 * _HOUR)
REGION: Final = Issue("region", "root", path_length=1)
INSTANCE: Final = Issue("instance", "region", path_length=0)
ENCLAVE: Final = Issue("enclave", "instance", ca=False, usage=frozenset({"digital_signature"}))


@lru_cache
def root() -> bytes:
    return ROOT.der()


@dataclass(frozen=True)
class Hypervisor:
    """What it says about its enclave. `changes` replace members; a None value removes one."""

    chain: tuple[Issue, ...] = (ROOT, REGION, INSTANCE)
    leaf: Issue = ENCLAVE
    signer: str = "enclave"
    pcrs: Mapping[int, bytes] = field(
        default_factory=lambda: {i: bytes([i + 1]) * 48 for i in range(3)} | {4: bytes(48)}
    )
    changes: Mapping[Any, Any] = field(default_factory=dict)

    def members(self) -> dict[Any, Any]:
        document: dict[Any, Any] = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
            "digest": "SHA384",
            "timestamp": NOW * 1000 + 578,
            "pcrs": dict(self.pcrs),
            "certificate": self.leaf.der(),
            "cabundle": [issue.der() for issue in self.chain],
            "public_key": None,
            "user_data": USER_DATA,
            "nonce": b"chosen by the caller",
        }
        document |= self.changes
        return {k: v for k, v in document.items() if v is not ABSENT}

    def document(self) -> bytes:
        return sign(cbor2.dumps(self.members()), self.signer)


ABSENT: Final = object()


def sign(payload: bytes, signer: str = "enclave") -> bytes:
    """The untagged COSE_Sign1 of `payload`."""
    signed = cbor2.dumps(["Signature1", PROTECTED, b"", payload])
    der = key(signer).sign(signed, ec.ECDSA(SHA384(), deterministic_signing=True))
    signature = b"".join(n.to_bytes(48) for n in decode_dss_signature(der))
    return cbor2.dumps([PROTECTED, {}, payload, signature])


@lru_cache
def document() -> bytes:
    """A genuine document under `root()`."""
    return Hypervisor().document()
