"""The node's own TLS certificate and the server context that uses it.

Clients trust the key because the attested keyset lists its hash, not because of who signed
the certificate; so it is self-signed, and valid exactly as long as the keyset.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import secrets
import ssl
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enclave.errors import EnclaveError

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
BACKDATE_S: Final = 3600
"""How far behind a client's clock may be and still find the certificate valid."""

_DNS_NAME: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_-]+)*\.?")
_MAX_DNS_NAME: Final = 253
# TLS 1.2 only with forward secrecy and authenticated encryption; TLS 1.3 has nothing else.
_TLS12_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_BOTH_ENDS: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def subject_names(hostnames: Iterable[str]) -> tuple[str, ...]:
    """Every name the certificate covers: this machine's own and `hostnames`, sorted.

    Raises EnclaveError on one that is neither an IP address nor an ASCII DNS name.
    """
    return tuple(sorted({_normal(name) for name in (*LOCAL_NAMES, *hostnames)}))


def _normal(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        lower = name.lower()
        if len(lower) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(lower):
            raise EnclaveError(f"{name[:64]!r} is no IP address and no DNS name") from None
        return lower.rstrip(".")


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TlsIdentity:
    """A private key with the certificate that shows it. Holds a secret: never printed."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def self_signed(
    key: ec.EllipticCurvePrivateKey,
    *,
    names: Iterable[str],
    now: int,
    not_after: int,
    simulated: bool,
    extensions: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    """A certificate of `key` for `names`; its subject says SIMULATED where true.

    It serves both ends of a connection. `extensions` are added, none of them critical. The
    key identifiers let TLS libraries tell certificates with the same subject apart.
    """
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, "adyton")]
    if simulated:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED"))
    subject = x509.Name(attributes)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_at(now - BACKDATE_S))
        .not_valid_after(_at(not_after))
        .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_BOTH_ENDS), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def _at(unix: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix, datetime.UTC)


def spki_sha256(key: ec.EllipticCurvePrivateKey) -> str:
    """Lowercase hex SHA-256 of the SubjectPublicKeyInfo, as the keyset lists it."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(spki).hexdigest()


def server_context(
    key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> ssl.SSLContext:
    """A server context for HTTP/1.1 over TLS 1.2 or later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    load_identity(context, TlsIdentity(key, certificate))
    return context


def load_identity(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    """`context` shows the certificate and holds its key.

    `ssl` loads keys from files only. The one it reads here is encrypted under a password
    that never leaves this call, and is gone when the call returns.
    """
    password = secrets.token_hex(32).encode("ascii")
    encrypted = identity.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
    )
    descriptor, name = tempfile.mkstemp(prefix="adyton-tls-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(identity.certificate.public_bytes(Encoding.PEM) + encrypted)
        context.load_cert_chain(name, password=password)
    finally:
        Path(name).unlink()
