"""The signatures that lead from a key of dstack's `GetKey` to the KMS that gave it.

The KMS signs the application's secp256k1 key for one application id; the application's key
signs each key derived from it, for one purpose. Neither hop names its signer, so the
application's key is recovered from its own signature and then must be the one the KMS
signed. Hashes are Keccak-256, as on Ethereum.

Spec: Dstack-TEE/dstack, kms `crypto.rs` (`derive_k256_key`, `sign_message`), guest-agent
`rpc_service.rs` (`get_key`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from importlib import import_module
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from attestation.errors import CollateralError, VerificationError
from attestation.evidence.dstack import KeyRelease
from attestation.verify.model import _SEAL

KMS_PREFIX: Final = b"dstack-kms-issued:"
_SECP256K1_KEY_BYTES: Final = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedKey:
    """A key that a trusted KMS gave to one application, for one purpose.

    `public_key` is the key itself; the other two are compressed secp256k1 keys. All hex.
    """

    public_key: str
    purpose: str
    app_id: str
    app_public_key: str
    kms_public_key: str
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a ReleasedKey is made by attestation.verify only")


def _module(name: str) -> Any:
    """An optional library. Its absence is an outage, not a forgery."""
    try:
        return import_module(name)
    except ImportError:
        package = {"Crypto.Hash.keccak": "pycryptodome"}.get(name, name)
        raise CollateralError(
            f"checking KMS signatures needs {package}: install adyton[dstack]"
        ) from None


def _keccak256(data: bytes) -> bytes:
    digest: bytes = _module("Crypto.Hash.keccak").new(digest_bits=256, data=data).digest()
    return digest


def _recover(signature: bytes, digest: bytes) -> bytes:
    """The compressed key that made this signature. Raises VerificationError."""
    try:
        key = _module("coincurve").PublicKey.from_signature_and_message(
            signature, digest, hasher=None
        )
    except ValueError:
        raise VerificationError("key_signature", "no key made this signature") from None
    recovered: bytes = key.format(compressed=True)
    return recovered


def _signed_by(root: bytes, signature: bytes, digest: bytes) -> bool:
    r, s = (int.from_bytes(signature[i : i + 32], "big") for i in (0, 32))
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), root)
        scheme = ec.ECDSA(Prehashed(hashes.SHA256()))  # any hash of 32 bytes: it is done
        key.verify(encode_dss_signature(r, s), digest, scheme)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_key_release(
    release: KeyRelease, app_id: bytes, kms_roots: Sequence[bytes]
) -> ReleasedKey:
    """The key was given to the application `app_id` by a KMS with one of `kms_roots`.

    Roots are compressed secp256k1 keys that the caller trusts. Raises VerificationError
    `key_signature` or `kms_root`, CollateralError where an optional library is missing.
    """
    statement = f"{release.purpose}:{release.public_key.hex()}".encode()
    by_app, by_kms = release.chain
    app_key = _recover(by_app, _keccak256(statement))
    digest = _keccak256(KMS_PREFIX + app_id + app_key)
    root = next(
        (r for r in kms_roots if len(r) == _SECP256K1_KEY_BYTES and _signed_by(r, by_kms, digest)),
        None,
    )
    if root is None:
        raise VerificationError("kms_root", "no trusted KMS signed the application's key")
    return ReleasedKey(
        public_key=release.public_key.hex(),
        purpose=release.purpose,
        app_id=app_id.hex(),
        app_public_key=app_key.hex(),
        kms_public_key=root.hex(),
        seal=_SEAL,
    )
