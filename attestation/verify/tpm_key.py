"""Why a TPM's attestation key is believed: nothing else makes a key that quotes count under.

Three things can vouch for one. A certificate: a CA says the key is in a TPM and signs only
what the TPM made. Enrolment: the relying party checked that itself, by credential
activation against the endorsement key, and kept the key's Name. Hardware: the verified
report of a confidential VM names the key (attestation.verify.azure).
Spec: TCG TPM 2.0 Library, Part 1, sections 9.4 and 16; TCG EK Credential Profile, 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import InitVar, dataclass
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ObjectIdentifier

from attestation.errors import VerificationError
from attestation.evidence.tpm_public import ALG_RSA, CURVES, TpmPublic
from attestation.verify.model import _SEAL, VerifiedReport
from attestation.verify.path import verify_path

TpmKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Binding = Literal["hardware", "certificate", "enrolled"]

ENDLESS: Final = 253_402_300_799
"""Until when a key may be used that nothing dates: RFC 5280's year 9999 (4.1.2.5)."""

_MIN_RSA_BITS: Final = 2048
_DEFAULT_EXPONENT: Final = 65537
_TCG_KEY_PURPOSE: Final = "2.23.133.8."
_CURVES: Final = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundKey:
    """An attestation key and what vouches for it; times are Unix seconds.

    `root_sha256` is the trust anchor behind it: the root's certificate, the enrolled public
    area, or the root of `hardware`, the report that names the key.
    """

    key: TpmKey
    binding: Binding
    root_sha256: str
    not_before: int
    not_after: int
    hardware: VerifiedReport | None = None
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a BoundKey is made by attestation.verify only")


def check_key(key: object) -> TpmKey:
    """`key` is of a kind and size that TPM quotes are accepted under. Step `key`."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _MIN_RSA_BITS:
            raise VerificationError("key", f"RSA of {key.key_size} bits is too short")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES.values():
        return key
    raise VerificationError("key", "neither RSA nor ECDSA on a NIST curve")


def rsa_key(modulus: int, exponent: int) -> TpmKey:
    """The RSA key of these numbers. Raises VerificationError, step `key`."""
    try:
        return check_key(rsa.RSAPublicNumbers(exponent, modulus).public_key())
    except ValueError as e:
        raise VerificationError("key", f"not an RSA key ({e})") from None


def public_key(public: TpmPublic) -> TpmKey:
    """The key in a public area. Raises VerificationError, step `key`."""
    if public.type == ALG_RSA:
        modulus = int.from_bytes(public.unique[0])
        return rsa_key(modulus, public.exponent or _DEFAULT_EXPONENT)
    curve = next((c for c in _CURVES if c.name == CURVES.get(public.curve_id)), None)
    if curve is None:
        raise VerificationError("key", f"curve {public.curve_id:#x} is not accepted")
    x, y = (int.from_bytes(part) for part in public.unique)
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError as e:
        raise VerificationError("key", f"not a point of {curve.name} ({e})") from None


def _attestation_public(data: bytes) -> TpmPublic:
    public = TpmPublic.read(data)
    if not public.is_attestation_key:
        raise VerificationError(
            "key_attributes", "not a restricted signing key that stays in its TPM"
        )
    return public


def _check_purpose(leaf: x509.Certificate) -> None:
    """Where the certificate says what its key is for, that is a TPM's business."""
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not any(_is_tcg(purpose) for purpose in purposes):
        raise VerificationError("chain", "the certificate is not for a key of a TPM")


def _is_tcg(purpose: ObjectIdentifier) -> bool:
    return purpose.dotted_string.startswith(_TCG_KEY_PURPOSE)


def certified_key(
    chain: Sequence[bytes], roots: Sequence[bytes], now: int, *, public: bytes | None = None
) -> BoundKey:
    """The key of the first certificate of `chain` (DER, root last), which holds at `now`.

    The CA answers for the key's attributes. With `public` (TPMT_PUBLIC) they are looked at
    as well; being the prover's word, they can only make this refuse. An endorsement
    certificate vouches for no attestation key. Raises MalformedEvidence, VerificationError.
    """
    path = verify_path(chain, roots, now)
    leaf = x509.load_der_x509_certificate(path.leaf.der)
    _check_purpose(leaf)
    key = check_key(leaf.public_key())
    if public is not None and public_key(_attestation_public(public)) != key:
        raise VerificationError("key", "the certificate is for another key than the public area")
    return BoundKey(
        key=key,
        binding="certificate",
        root_sha256=path.root_sha256,
        not_before=path.not_before,
        not_after=path.not_after,
        seal=_SEAL,
    )


def enrolled_key(public: bytes, names: Collection[bytes]) -> BoundKey:
    """The key of `public` (TPMT_PUBLIC), whose Name is one of those the caller enrolled.

    A Name covers the key's attributes too. The caller put it in `names` after credential
    activation (TPM2_MakeCredential) proved to it that this very key is in a genuine TPM.
    Raises MalformedEvidence, and VerificationError: `key_attributes`, `root`, `key`.
    """
    parsed = _attestation_public(public)
    if parsed.name not in names:
        raise VerificationError("root", f"no key of the Name {parsed.name.hex()} is enrolled")
    return BoundKey(
        key=public_key(parsed),
        binding="enrolled",
        root_sha256=hashlib.sha256(public).hexdigest(),
        not_before=0,
        not_after=ENDLESS,
        seal=_SEAL,
    )
