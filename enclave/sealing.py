"""Files that only this measurement on this platform can read or have written.

A sealed file is an age file (age-encryption.org/v1) to an X25519 identity derived by HKDF
from the issuer's sealing key. Inside stand a version, the purpose and a MAC under another
key of the same origin: age alone proves who can read, not who wrote. What sealing cannot
see is an old file put back in place of a newer one.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from hashlib import sha256
from pathlib import Path
from typing import Final

import pyrage
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from enclave.errors import SealingError

MAX_SEALED_BYTES: Final = 16 << 20
_KEY_BYTES: Final = 32
_VERSION: Final = b"adyton-sealed/1\n"
_MAC_BYTES: Final = 32
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class Sealer:
    """Seals to, and unseals from, one 32-byte sealing key. Holds secrets: never printed."""

    __slots__ = ("_identity", "_mac_key")

    def __init__(self, sealing_key: bytes) -> None:
        if len(sealing_key) != _KEY_BYTES:
            raise SealingError(f"a sealing key has {_KEY_BYTES} bytes, not {len(sealing_key)}")
        scalar = _derive(sealing_key, b"age x25519")
        self._identity = pyrage.x25519.Identity.from_str(_bech32("age-secret-key-", scalar))
        self._mac_key = _derive(sealing_key, b"mac")

    def __repr__(self) -> str:
        return "Sealer()"

    def seal(self, purpose: str, data: bytes) -> bytes:
        """The age file that `unseal` opens for the same purpose."""
        head = _head(purpose)
        inner = head + self._mac(head, data) + data
        sealed: bytes = pyrage.encrypt(inner, [self._identity.to_public()])
        return sealed

    def unseal(self, purpose: str, sealed: bytes) -> bytes:
        """What was sealed for `purpose`. Raises SealingError on anything else.

        A file of another measurement, one that was changed and one that is no age file at
        all cannot be told apart.
        """
        if len(sealed) > MAX_SEALED_BYTES:
            raise SealingError(f"sealed data exceeds {MAX_SEALED_BYTES} bytes")
        try:
            inner: bytes = pyrage.decrypt(sealed, [self._identity])
        except pyrage.DecryptError:
            raise SealingError(
                "sealed by another measurement or platform, or changed since"
            ) from None
        head = _head(purpose)
        if not inner.startswith(head):
            raise SealingError(f"not sealed for {purpose} by a version this one can read")
        mac = inner[len(head) : len(head) + _MAC_BYTES]
        data = inner[len(head) + _MAC_BYTES :]
        if not hmac.compare_digest(mac, self._mac(head, data)):
            raise SealingError("encrypted to this node but not written by it")
        return data

    def write(self, path: Path, purpose: str, data: bytes) -> None:
        """`path` holds `data` sealed, durably; a crash leaves the old file or the new one."""
        write_durably(path, self.seal(purpose, data))

    def read(self, path: Path, purpose: str) -> bytes:
        """What `write` wrote. Raises SealingError, also where the file cannot be read."""
        return self.unseal(purpose, read_sealed(path))

    def _mac(self, head: bytes, data: bytes) -> bytes:
        return hmac.digest(self._mac_key, head + data, sha256)


def read_sealed(path: Path) -> bytes:
    """The sealed bytes at `path`, unopened. Raises SealingError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_SEALED_BYTES + 1)
    except OSError as e:
        raise SealingError(f"{path}: {e.strerror}") from e


def write_durably(path: Path, data: bytes) -> None:
    """`path` holds `data`, mode 0600, on disk; until then it holds what it held before.

    One writer at a time for each path. Raises SealingError.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # What a killed predecessor left is not reused: it may be somebody's hard link.
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
        sync_directory(path.parent)
    except OSError as e:
        raise SealingError(f"{path}: {e.strerror}") from e


def sync_directory(directory: Path) -> None:
    """The names in `directory` are on disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _head(purpose: str) -> bytes:
    if "\n" in purpose or not purpose.isascii():
        raise SealingError(f"purpose {purpose!r} is not one ASCII line")
    return _VERSION + purpose.encode("ascii") + b"\n"


def _derive(key: bytes, use: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=None, info=b"adyton sealing v1 " + use).derive(key)


def _bech32(prefix: str, data: bytes) -> str:
    """`data` under `prefix`, upper case, as age writes secret keys. Spec: BIP-173.

    pyrage takes identities as text only.
    """
    bits = len(data) * 8
    padded = int.from_bytes(data, "big") << (-bits % 5)
    count = (bits + 4) // 5
    digits = [padded >> 5 * (count - 1 - i) & 31 for i in range(count)]
    checked = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + digits
    checksum = 1
    for digit in [*checked, 0, 0, 0, 0, 0, 0]:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ digit
        for i, value in enumerate(_BECH32_GENERATOR):
            checksum ^= value if top >> i & 1 else 0
    checksum ^= 1
    digits += [checksum >> 5 * (5 - i) & 31 for i in range(6)]
    return f"{prefix}1{''.join(_BECH32[d] for d in digits)}".upper()
