"""Whether certificates of a path are revoked, from OCSP responses and CRLs handed in.

Nothing is fetched: whoever calls hands in what it has, and reads in the result which
certificates were covered. A document about other certificates is passed over; one about a
certificate of the path must be signed by who may sign it and be current. A certificate on
hold is reported, not refused, because NVIDIA holds and releases them: policy decides.
Spec: RFC 6960 sections 3.2 and 4.2.2.2; RFC 5280 sections 5.3.1 and 6.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.errors import CollateralError, VerificationError
from attestation.verify.nvidia_path import Link, Path, check_windows, is_issued_by
from attestation.x509 import Crl, Window, read_crl

_MAX_DOCUMENT: Final = 1 << 18
_MAX_DOCUMENTS: Final = 64
_MAX_ANSWERS: Final = 64
_SEQUENCE: Final = 0x30
_ENUMERATED: Final = 0x0A
_SIGNED: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# SHA-1 is what RFC 6960 profiles name certificates by; it only finds, it proves nothing.
_DIGESTS: Final = (hashes.SHA1, *_SIGNED)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What the documents said of a path: positions in it, and when the documents may be used.

    `good` are those that some document covers and none holds; `held` those on hold.
    """

    good: frozenset[int]
    held: frozenset[int]
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class _Status:
    """What one document says of one certificate; `reason` None is good."""

    reason: x509.ReasonFlags | None
    windows: tuple[Window, ...]


def _is_ocsp(der: bytes) -> bool:
    """An OCSPResponse starts with its status, an ENUMERATED; a CRL with a SEQUENCE."""
    if len(der) < 2 or der[0] != _SEQUENCE:
        return False
    at = 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)
    return der[at : at + 1] == bytes([_ENUMERATED])


def _read_ocsp(der: bytes) -> ocsp.OCSPResponse:
    response = ocsp.load_der_ocsp_response(der)
    for single in response.responses:
        _ = single.certificate_status, single.this_update_utc, single.next_update_utc
        _ = single.hash_algorithm, single.revocation_reason
    _ = response.signature_hash_algorithm
    for certificate in response.certificates:
        _ = certificate.extensions, certificate.public_key(), certificate.subject
    return response


def _read_crl(name: str, der: bytes) -> Crl:
    crl = read_crl(name, der)
    _ = crl.parsed.extensions
    for entry in crl.parsed:
        _ = entry.extensions
    return crl


@lru_cache(maxsize=64)
def _read(name: str, der: bytes) -> ocsp.OCSPResponse | Crl:
    """The document, every part looked at once: parsing is lazy, and may fail only here."""
    if len(der) > _MAX_DOCUMENT:
        raise CollateralError(f"{name}: longer than {_MAX_DOCUMENT} bytes")
    try:
        return _read_ocsp(der) if _is_ocsp(der) else _read_crl(name, der)
    except CollateralError:
        raise
    except Exception as e:
        # ValueError, UnsupportedAlgorithm, InvalidVersion: no common root, one meaning.
        raise CollateralError(f"{name}: neither an OCSP response nor a CRL ({e})") from None


def _names(single: ocsp.OCSPSingleResponse, child: Link, issuer: Link) -> bool:
    """True when this answer is about `child`, by its number and its issuer's name and key."""
    algorithm = single.hash_algorithm
    if single.serial_number != child.certificate.serial or not isinstance(algorithm, _DIGESTS):
        return False
    name, key = hashes.Hash(algorithm), hashes.Hash(algorithm)
    name.update(issuer.parsed.subject.public_bytes())
    key.update(issuer.key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    return (single.issuer_name_hash, single.issuer_key_hash) == (name.finalize(), key.finalize())


def _may_answer(certificate: x509.Certificate, issuer: Link) -> bool:
    """True for the issuer itself and for whom it has made a certificate for just this."""
    if certificate == issuer.parsed:
        return True
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage and is_issued_by(certificate, issuer.parsed)


def _has_signed(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    key, digest = certificate.public_key(), response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(digest, _SIGNED):
        return False
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def _signer(name: str, response: ocsp.OCSPResponse, issuer: Link) -> tuple[Window, ...]:
    """The window of the delegate that signed; nothing where the issuer did by itself."""
    for certificate in (issuer.parsed, *response.certificates):
        if _has_signed(response, certificate) and _may_answer(certificate, issuer):
            if certificate == issuer.parsed:
                return ()
            der = certificate.public_bytes(Encoding.DER)
            return (Link.read(f"{name} responder", der).certificate.window,)
    raise VerificationError("revocation", f"{name} is not signed by who may answer")


def _ask_ocsp(
    name: str, response: ocsp.OCSPResponse, child: Link, issuer: Link
) -> Iterator[_Status]:
    answers = list(islice(response.responses, _MAX_ANSWERS + 1))
    if len(answers) > _MAX_ANSWERS:
        raise CollateralError(f"{name}: more than {_MAX_ANSWERS} answers")
    for single in answers:
        if not _names(single, child, issuer):
            continue
        delegate = _signer(name, response, issuer)
        if single.next_update_utc is None:
            raise VerificationError("revocation", f"{name} does not say until when it is good")
        if single.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
            raise VerificationError("revocation", f"{name}: its certificate is unknown")
        reason = None
        if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
            reason = single.revocation_reason or x509.ReasonFlags.unspecified
        window = Window(
            name,
            int(single.this_update_utc.timestamp()),
            int(single.next_update_utc.timestamp()),
        )
        yield _Status(reason, (window, *delegate))


def _crl_reason(crl: Crl, serial: int) -> x509.ReasonFlags | None:
    entry = crl.parsed.get_revoked_certificate_by_serial_number(serial)
    if entry is None:
        return None
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return x509.ReasonFlags.unspecified


def _ask_crl(name: str, crl: Crl, child: Link, issuer: Link) -> Iterator[_Status]:
    if crl.issuer != issuer.certificate.subject:
        return
    if not issuer.key_usage("crl_sign") or not crl.is_signed_by(issuer.certificate):
        raise VerificationError("revocation", f"{name} is not signed by its issuer")
    # A delta or partial CRL is marked by a critical extension, and its silence says nothing.
    if any(e.critical for e in crl.parsed.extensions):
        raise VerificationError("revocation", f"{name} is not a complete CRL")
    yield _Status(_crl_reason(crl, child.certificate.serial), (crl.window,))


def _statuses(
    documents: Sequence[tuple[str, ocsp.OCSPResponse | Crl]], child: Link, issuer: Link
) -> Iterator[_Status]:
    for name, document in documents:
        if isinstance(document, Crl):
            yield from _ask_crl(name, document, child, issuer)
        else:
            yield from _ask_ocsp(name, document, child, issuer)


def check_revocation(path: Path, documents: Sequence[bytes], now: int) -> Revocation:
    """No certificate of `path` is revoked, as far as `documents` (DER) say at `now`.

    Raises CollateralError when a document cannot be read, VerificationError with step
    `revoked` when one says so, `revocation` when one is not signed by who may sign it or
    does not know the certificate, `expired` or `not_yet_valid` when it is not current.
    """
    if len(documents) > _MAX_DOCUMENTS:
        raise CollateralError(f"revocation: more than {_MAX_DOCUMENTS} documents")
    read = [(f"revocation[{i}]", _read(f"revocation[{i}]", d)) for i, d in enumerate(documents)]
    good, held, windows = set(), set(), []
    for i, (child, issuer) in enumerate(pairwise(path.links)):
        statuses = list(_statuses(read, child, issuer))
        check_windows((w for s in statuses for w in s.windows), now)
        reasons = {s.reason for s in statuses}
        if reasons - {None, x509.ReasonFlags.certificate_hold}:
            raise VerificationError("revoked", f"certificate {child.certificate.serial:#x}")
        if x509.ReasonFlags.certificate_hold in reasons:
            held.add(i)
        elif statuses:
            good.add(i)
        windows += [w for s in statuses for w in s.windows]
    return Revocation(frozenset(good), frozenset(held), tuple(windows))
