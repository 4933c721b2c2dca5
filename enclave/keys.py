"""The node's keys: made here, kept here, and named to the world by the attested keyset.

Two kinds of custody. `generated`: the keys live in memory and die with the process,
because the platform gives no sealing key. `sealed`: they are kept in `keys.age`, which only
this measurement on this platform can open, and survive a restart.

Each key has one role: Ed25519 signs receipts, secp256k1 the same receipts as contracts read
them, and P-256 is TLS's.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from attestation.canonical import jcs, loads_strict
from attestation.errors import MalformedEvidence
from attestation.issuers.base import Issuer
from attestation.keyset import ED25519, KeyEntry, Keyset, TlsKey
from attestation.onchain.errors import NotProvable
from attestation.onchain.receipt import EvmReceipt, address_of, key_entry, sign
from attestation.receipts import sign_receipt
from enclave import tls
from enclave.errors import EnclaveError, SealingError
from enclave.ratls import issue_certificate
from enclave.sealing import Sealer, read_sealed, sync_directory, write_durably

RECEIPT_KEY_ID: Final = "receipt-1"
EVM_KEY_ID: Final = "evm-1"
KEYS_FILE: Final = "keys.age"
KEYSETS_DIRECTORY: Final = "keysets"
_PURPOSE: Final = "adyton.node-keys.v1"
_RENEW_BELOW: Final = 0.2
_MIN_LIFETIME_S: Final = 60

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class NodeKeys:
    """One generation of keys with the keyset that lists them. Holds secrets: never printed.

    `not_before` is when they were made and `keyset.not_after` when they end, Unix seconds.
    `warnings` are sentences a person must be shown.
    """

    keyset: Keyset
    custody: str
    generation: int
    not_before: int
    names: tuple[str, ...]
    certificate: x509.Certificate
    warnings: tuple[str, ...]
    _receipt_key: Ed25519PrivateKey
    _evm_key: bytes
    _tls_key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return (
            f"NodeKeys(keyset_digest={self.keyset.digest!r}, custody={self.custody!r}, "
            f"generation={self.generation})"
        )

    def __reduce__(self) -> str:
        raise TypeError("NodeKeys holds private keys and is not pickled")

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    def sign_receipt(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """`payload` as a signed receipt of this keyset."""
        return sign_receipt(payload, RECEIPT_KEY_ID, self._receipt_key)

    @property
    def evm_address(self) -> str:
        """0x and 40 lowercase hex: whose signature a contract finds under EVM receipts."""
        return address_of(self._evm_key)

    def sign_evm(self, receipt: EvmReceipt) -> bytes:
        """r || s || v, 65 bytes, low-s, the same whenever it is made (RFC 6979)."""
        return sign(receipt, self._evm_key)

    @property
    def tls_identity(self) -> tls.TlsIdentity:
        """The TLS key with its certificate, for channels between nodes."""
        return tls.TlsIdentity(self._tls_key, self.certificate)

    def tls_context(self) -> ssl.SSLContext:
        """A server context that presents `certificate`."""
        return tls.server_context(self._tls_key, self.certificate)

    def attested(self, issuer: Issuer, now: int) -> NodeKeys:
        """The same keys under a certificate that carries evidence, issued now.

        Raises IssuerError, or EnclaveError where this evidence has no place in certificates.
        """
        certificate = issue_certificate(
            issuer,
            self._tls_key,
            names=self.names,
            now=now,
            not_after=self.keyset.not_after,
            simulated=issuer.simulated,
            custody=self.custody,
        )
        return replace(self, certificate=certificate)

    def renewal_due(self, now: int) -> bool:
        """True when less than a fifth of the lifetime is left, or the clock is before it."""
        lifetime = self.keyset.not_after - self.not_before
        left = self.keyset.not_after - now
        return left <= lifetime * _RENEW_BELOW or now < self.not_before - tls.BACKDATE_S

    def serves(self, names: tuple[str, ...], subject: str | None) -> bool:
        return self.names == names and self.keyset.subject == subject


def generate(
    *,
    names: tuple[str, ...],
    subject: str | None,
    lifetime_s: int,
    now: int,
    simulated: bool,
    custody: str = "generated",
    generation: int = 1,
) -> NodeKeys:
    """New keys, in memory only. Raises EnclaveError on a lifetime that makes no sense."""
    if lifetime_s < _MIN_LIFETIME_S:
        raise EnclaveError(f"a keyset lives at least {_MIN_LIFETIME_S} s, not {lifetime_s}")
    receipt_key = Ed25519PrivateKey.generate()
    evm_key = _secret_scalar()
    tls_key = ec.generate_private_key(ec.SECP256R1())
    not_after = now + lifetime_s
    return NodeKeys(
        keyset=_keyset(receipt_key, evm_key, tls_key, subject, not_after),
        custody=custody,
        generation=generation,
        not_before=now,
        names=names,
        certificate=tls.self_signed(
            tls_key, names=names, now=now, not_after=not_after, simulated=simulated
        ),
        warnings=(),
        _receipt_key=receipt_key,
        _evm_key=evm_key,
        _tls_key=tls_key,
    )


def _secret_scalar() -> bytes:
    """A new secp256k1 private key, 32 bytes big endian."""
    numbers = ec.generate_private_key(ec.SECP256K1()).private_numbers()
    return numbers.private_value.to_bytes(32, "big")


def _keyset(
    receipt_key: Ed25519PrivateKey,
    evm_key: bytes,
    tls_key: ec.EllipticCurvePrivateKey,
    subject: str | None,
    not_after: int,
) -> Keyset:
    public = receipt_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return Keyset.build(
        subject=subject,
        not_after=not_after,
        receipt_signing_keys=(
            KeyEntry(RECEIPT_KEY_ID, ED25519, public.hex()),
            key_entry(address_of(evm_key), EVM_KEY_ID),
        ),
        tls_public_keys=(TlsKey(tls.spki_sha256(tls_key)),),
    )


def load_or_create(
    state_dir: Path,
    issuer: Issuer,
    *,
    hostnames: Iterable[str],
    subject: str | None = None,
    lifetime_s: int,
    now: int,
    renew: bool = False,
    attest: bool = False,
) -> NodeKeys:
    """The node's keys: those sealed in `state_dir` while they still serve, else new ones.

    They still serve while more than a fifth of their lifetime is left, and no more than
    `lifetime_s`, for the same names and subject; `renew` replaces them all the same. A
    sealed file that cannot be opened or read, one that lacks a key this version needs
    included, is moved aside, never overwritten, and the result's `warnings` say so: an
    upgrade (another measurement) and tampering look the same from here. `attest` puts fresh
    evidence into the certificate, also of keys that are kept: new keys are stored only once
    there is some. Every keyset document stays in `keysets/<digest>.json`, so that old
    receipts can be checked. Raises EnclaveError (SealingError where the directory fails us)
    and IssuerError.
    """
    names = tls.subject_names(hostnames)
    sealing_key = issuer.sealing_key()
    sealer = None if sealing_key is None else Sealer(sealing_key)
    with _locked(state_dir):
        previous, warnings = _previous(state_dir / KEYS_FILE, sealer)
        if (
            previous is not None
            and not renew
            and previous.serves(names, subject)
            and not previous.renewal_due(now)
            and previous.keyset.not_after <= now + lifetime_s + tls.BACKDATE_S
        ):
            return previous.attested(issuer, now) if attest else previous
        keys = generate(
            names=names,
            subject=subject,
            lifetime_s=lifetime_s,
            now=now,
            simulated=issuer.simulated,
            custody="generated" if sealer is None else "sealed",
            generation=1 if previous is None else previous.generation + 1,
        )
        if attest:
            keys = keys.attested(issuer, now)
        _keep_document(state_dir, keys.keyset)
        if sealer is not None:
            sealer.write(state_dir / KEYS_FILE, _PURPOSE, _dump(keys))
        return replace(keys, warnings=warnings)


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Nobody else changes the keys in `state_dir` meanwhile; the directory exists."""
    try:
        (state_dir / KEYSETS_DIRECTORY).mkdir(parents=True, exist_ok=True)
        lock = (state_dir / ".keys.lock").open("wb")
    except OSError as e:
        raise SealingError(f"{state_dir}: {e.strerror}") from e
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _previous(path: Path, sealer: Sealer | None) -> tuple[NodeKeys | None, tuple[str, ...]]:
    """The sealed keys at `path`, if they can be opened, and what must be said about it."""
    if not path.exists():
        return None, ()
    if sealer is None:
        return None, (f"{path} is left alone: this platform has no sealing key to open it",)
    sealed = read_sealed(path)
    try:
        return _load(sealer.unseal(_PURPOSE, sealed)), ()
    except SealingError as e:
        aside = _move_aside(path)
        return None, (f"{path} could not be opened ({e}); it is now {aside.name}, keys are new",)


def _move_aside(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}.{n}.stale") for n in range(1, 1 << 16))
    try:
        aside = next(p for p in numbered if not p.exists())
        path.rename(aside)
        sync_directory(path.parent)
    except (OSError, StopIteration) as e:
        raise SealingError(f"{path}: cannot be opened and cannot be moved aside") from e
    return aside


def _keep_document(state_dir: Path, keyset: Keyset) -> None:
    name = keyset.digest.removeprefix("sha256:") + ".json"
    write_durably(state_dir / KEYSETS_DIRECTORY / name, jcs(keyset.document))


def _dump(keys: NodeKeys) -> bytes:
    raw = keys._receipt_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    pkcs8 = keys._tls_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return jcs(
        {
            "certificate": keys.certificate.public_bytes(Encoding.DER).hex(),
            "evm_key": keys._evm_key.hex(),
            "generation": keys.generation,
            "keyset": keys.keyset.document,
            "names": list(keys.names),
            "not_before": keys.not_before,
            "receipt_key": raw.hex(),
            "tls_key": pkcs8.hex(),
        }
    )


def _load(data: bytes) -> NodeKeys:
    """What `_dump` wrote. Raises SealingError where this version cannot read it."""
    try:
        document = loads_strict(data, "sealed keys")
        receipt_key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(document["receipt_key"]))
        evm_key = bytes.fromhex(document["evm_key"])
        tls_key = load_der_private_key(bytes.fromhex(document["tls_key"]), None)
        if not isinstance(tls_key, ec.EllipticCurvePrivateKey):
            raise SealingError("sealed keys: the TLS key is of another kind")
        keyset = Keyset.from_json(document["keyset"])
        listed = _keyset(receipt_key, evm_key, tls_key, keyset.subject, keyset.not_after)
        if keyset.digest != listed.digest:
            raise SealingError("sealed keys: the keyset lists other keys")
        return NodeKeys(
            keyset=keyset,
            custody="sealed",
            generation=int(document["generation"]),
            not_before=int(document["not_before"]),
            names=tuple(document["names"]),
            certificate=x509.load_der_x509_certificate(bytes.fromhex(document["certificate"])),
            warnings=(),
            _receipt_key=receipt_key,
            _evm_key=evm_key,
            _tls_key=tls_key,
        )
    except (MalformedEvidence, NotProvable, KeyError, TypeError, ValueError) as e:
        raise SealingError("sealed keys: written by a version this one cannot read") from e
