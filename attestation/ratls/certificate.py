"""An RA-TLS certificate, read completely at once and held to one form.

Reading proves nothing: `appraise_certificate` does. What is refused here is what two
readers could take for two things, and what would let the key speak for other keys.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from attestation.collateral.model import Collateral
from attestation.errors import MalformedEvidence, VerificationError
from attestation.ratls.endorsements import ENDORSEMENTS_OID, read_endorsements
from attestation.ratls.extension import EVIDENCE_OID, LEGACY_OID, TaggedEvidence

MAX_CERTIFICATE_BYTES: Final = 64 << 10
_MAX_LEGACY_QUOTE: Final = 32 << 10
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_PEM: Final = re.compile(rb"\s*" + _BEGIN + rb"([A-Za-z0-9+/=\r\n]{1,131072})" + _END + rb"\s*")
_RSA_BITS: Final = range(2048, 4097)

# Extensions that may be critical, because every TLS library and this reader know them.
_MAY_BE_CRITICAL: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)


@dataclass(frozen=True, slots=True)
class RaTlsCertificate:
    """One X.509 certificate with the evidence it carries; times in Unix seconds.

    `spki` is the SubjectPublicKeyInfo, DER. `server_name` is a name a TLS client may expect
    in it; it identifies nobody.
    """

    der: bytes = field(repr=False)
    spki: bytes = field(repr=False)
    not_before: int
    not_after: int
    server_name: str | None
    evidence: TaggedEvidence | None = field(repr=False)
    legacy_quote: bytes | None = field(repr=False)
    endorsements: Collateral | None = field(repr=False)

    @property
    def spki_sha256(self) -> str:
        """64 lowercase hex, as keysets list it."""
        return hashlib.sha256(self.spki).hexdigest()

    @classmethod
    def read(cls, der: bytes) -> Self:
        """Raises MalformedEvidence, or VerificationError naming what must not be.

        Steps: `critical_extension`, `not_leaf`, `key`, `self_signature`.
        """
        parsed, extensions = _parse(der)
        for extension in extensions:
            if extension.critical and extension.oid not in _MAY_BE_CRITICAL:
                raise VerificationError(
                    "critical_extension", f"{extension.oid.dotted_string} must not be critical"
                )
        _check_leaf(extensions)
        spki = _spki(parsed)
        _check_self_signed(parsed)
        values = _unrecognized(extensions)
        evidence = values.get(EVIDENCE_OID)
        endorsements = values.get(ENDORSEMENTS_OID)
        legacy = values.get(LEGACY_OID)
        if legacy is not None and len(legacy) > _MAX_LEGACY_QUOTE:
            raise MalformedEvidence("ratls.legacy", f"longer than {_MAX_LEGACY_QUOTE} bytes")
        return cls(
            der=der,
            spki=spki,
            not_before=int(parsed.not_valid_before_utc.timestamp()),
            not_after=int(parsed.not_valid_after_utc.timestamp()),
            server_name=_server_name(parsed, extensions),
            evidence=None if evidence is None else TaggedEvidence.read(evidence),
            legacy_quote=legacy,
            endorsements=None if endorsements is None else read_endorsements(endorsements),
        )


def certificate_der(data: bytes) -> bytes:
    """The one certificate in `data`, PEM or DER, as DER. Raises MalformedEvidence."""
    if not data.lstrip().startswith(_BEGIN):
        return data  # also DER, whose quote has PEM certificates inside
    if len(data) > 2 * MAX_CERTIFICATE_BYTES:
        raise MalformedEvidence("certificate", "too long for one certificate")
    found = _PEM.fullmatch(data)
    if found is None:
        raise MalformedEvidence("certificate", "not exactly one PEM certificate")
    try:
        return base64.b64decode(re.sub(rb"[\r\n]", b"", found[1]), validate=True)
    except ValueError:
        raise MalformedEvidence("certificate", "not base64") from None


def _parse(der: bytes) -> tuple[x509.Certificate, x509.Extensions]:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise MalformedEvidence("certificate", f"longer than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        parsed = x509.load_der_x509_certificate(der)
        extensions = parsed.extensions
        # Everything looked at later is read once here, so that nothing fails later.
        _ = parsed.subject, parsed.public_key(), parsed.not_valid_before_utc
        _ = parsed.not_valid_after_utc, parsed.tbs_certificate_bytes
        exact = parsed.public_bytes(Encoding.DER) == der
    except Exception as e:
        # ValueError, DuplicateExtension, InvalidVersion, UnsupportedAlgorithm and others
        # with no common root: whatever a damaged document raises, it cannot be read.
        raise MalformedEvidence("certificate", f"not a certificate ({e})"[:200]) from None
    if not exact or parsed.version is not x509.Version.v3:
        raise MalformedEvidence("certificate", "not the one DER encoding of a v3 certificate")
    if parsed.serial_number <= 0:
        raise MalformedEvidence("certificate", "a serial number that is not positive")
    return parsed, extensions


def _check_leaf(extensions: x509.Extensions) -> None:
    """It can vouch for no other key: a TLS library that trusts it trusts this key alone."""
    for extension in extensions:
        value = extension.value
        ca = isinstance(value, x509.BasicConstraints) and value.ca
        signs = isinstance(value, x509.KeyUsage) and value.key_cert_sign
        if ca or signs:
            raise VerificationError("not_leaf", "the certificate may sign other certificates")


def _spki(parsed: x509.Certificate) -> bytes:
    """The key's SubjectPublicKeyInfo, in the only encoding everybody hashes alike."""
    key = parsed.public_key()
    known = (
        (
            isinstance(key, ec.EllipticCurvePublicKey)
            and key.curve.name in ("secp256r1", "secp384r1")
        )
        or (isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS)
        or isinstance(key, ed25519.Ed25519PublicKey)
    )
    if not known:
        raise VerificationError("key", "not P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if spki not in parsed.tbs_certificate_bytes:
        raise MalformedEvidence("certificate.spki", "an unusual encoding of the key")
    return spki


def _check_self_signed(parsed: x509.Certificate) -> None:
    try:
        parsed.verify_directly_issued_by(parsed)
    except Exception as e:
        # InvalidSignature, ValueError for another issuer, TypeError or UnsupportedAlgorithm
        # for a signature of another kind: none of them is this key's.
        raise VerificationError(
            "self_signature", f"{type(e).__name__}: not by its own key"
        ) from None


def _unrecognized(extensions: x509.Extensions) -> dict[str, bytes]:
    return {
        e.oid.dotted_string: e.value.value
        for e in extensions
        if isinstance(e.value, x509.UnrecognizedExtension)
    }


def _server_name(parsed: x509.Certificate, extensions: x509.Extensions) -> str | None:
    for extension in extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            for name in extension.value.get_values_for_type(x509.DNSName):
                if "*" not in name:
                    return name
            return None
    common = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else None
