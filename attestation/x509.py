"""Certificates and CRLs read completely at once, so that nothing fails later.

`cryptography` parses lazily: a damaged name or date raises when it is first looked at,
with one of several exceptions. Here every part that is ever looked at is read under one
guard, and what does not read is a CollateralError that names the document.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import CollateralError

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_BLOCK: Final = re.compile(_BEGIN + rb"[^-]{1,16384}" + _END)
_BETWEEN: Final = re.compile(rb"[\r\n]*\0?")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/=\r\n]*")
_MAX_CHAIN: Final = 8


@dataclass(frozen=True, slots=True)
class Window:
    """A document and when it may be used, both ends included, Unix seconds."""

    name: str
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """What path checks need of a certificate; `key` is None unless it is elliptic-curve."""

    der: bytes
    issuer: x509.Name
    subject: x509.Name
    serial: int
    is_ca: bool
    window: Window
    key: ec.EllipticCurvePublicKey | None


@dataclass(frozen=True, slots=True)
class Crl:
    """What is revoked by whom, until when; `parsed` is kept to check the signature."""

    issuer: x509.Name
    revoked: frozenset[int]
    window: Window
    parsed: x509.CertificateRevocationList

    def revokes(self, certificate: Certificate) -> bool:
        return certificate.issuer == self.issuer and certificate.serial in self.revoked

    def is_signed_by(self, certificate: Certificate) -> bool:
        """True when `certificate` is the issuer named and its key made the signature."""
        if certificate.key is None or certificate.subject != self.issuer:
            return False
        with _reading("CRL signature", "one that can be checked"):
            return self.parsed.is_signature_valid(certificate.key)


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except CollateralError:
        raise
    except Exception as e:
        # ValueError, InvalidVersion, DuplicateExtension, UnsupportedAlgorithm and others with
        # no common root: whatever a damaged document raises, it cannot be read.
        raise CollateralError(f"{name}: not {what} ({e})") from None


def _certificate(name: str, parsed: x509.Certificate) -> Certificate:
    try:
        constraints = parsed.extensions.get_extension_for_class(x509.BasicConstraints)
        is_ca = constraints.value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    key = parsed.public_key()
    return Certificate(
        der=parsed.public_bytes(Encoding.DER),
        issuer=parsed.issuer,
        subject=parsed.subject,
        serial=parsed.serial_number,
        is_ca=is_ca,
        window=Window(
            name,
            int(parsed.not_valid_before_utc.timestamp()),
            int(parsed.not_valid_after_utc.timestamp()),
        ),
        key=key if isinstance(key, ec.EllipticCurvePublicKey) else None,
    )


def read_certificate(name: str, der: bytes) -> Certificate:
    """The certificate that `der` is. Raises CollateralError naming it."""
    with _reading(name, "a certificate"):
        return _certificate(name, x509.load_der_x509_certificate(der))


def read_chain(name: str, pem: bytes) -> tuple[Certificate, ...]:
    """The certificates of a PEM text in order, 1 to 8. Raises CollateralError naming it."""
    blocks = _BLOCK.findall(pem)
    if not 0 < len(blocks) <= _MAX_CHAIN:
        raise CollateralError(f"{name}: {len(blocks)} certificates, expected 1 to {_MAX_CHAIN}")
    with _reading(name, "a certificate chain"):
        return tuple(_certificate(name, x509.load_pem_x509_certificate(b)) for b in blocks)


def check_armour(name: str, pem: bytes) -> None:
    """Nothing but line breaks may vary in this PEM text. Raises CollateralError naming it.

    No signature covers the armour around certificates. A lenient reader would let one quote
    have many encodings, and text between certificates that only some readers see.
    """
    if not _BETWEEN.fullmatch(_BLOCK.sub(b"", pem)):
        raise CollateralError(f"{name}: text outside the certificates")
    for block in _BLOCK.findall(pem):
        inner = block.removeprefix(_BEGIN).removesuffix(_END)
        if not _BASE64.fullmatch(inner):
            raise CollateralError(f"{name}: a certificate is not base64")
        text = inner.replace(b"\r", b"").replace(b"\n", b"")
        try:
            exact = base64.b64encode(base64.b64decode(text, validate=True)) == text
        except ValueError:
            exact = False
        if not exact:
            raise CollateralError(f"{name}: a certificate is not canonical base64")


def read_crl(name: str, der: bytes) -> Crl:
    """The CRL that `der` is. Raises CollateralError naming it, also when it never ends."""
    with _reading(name, "a CRL"):
        parsed = x509.load_der_x509_crl(der)
        issued, update = parsed.last_update_utc, parsed.next_update_utc
        if update is None:
            raise CollateralError(f"{name}: has no next update")
        return Crl(
            issuer=parsed.issuer,
            revoked=frozenset(r.serial_number for r in parsed),
            window=Window(name, int(issued.timestamp()), int(update.timestamp())),
            parsed=parsed,
        )
