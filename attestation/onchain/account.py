"""An account that signs transactions, and the file its key is in.

A file holds 64 hex digits, or an encrypted keystore (Web3 Secret Storage, version 3). It
must be readable by its owner alone. Neither key nor password is ever shown or logged.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Self

from attestation.onchain.abi import checksummed
from attestation.onchain.faults import AccountError

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

MAX_FILE_BYTES: Final = 1 << 14
_HEX_KEY: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
_locks: dict[str, Lock] = {}
_locks_guard: Final = Lock()


class Account:
    """A key in memory. `address` is its account's, checksummed."""

    def __init__(self, key: bytes, *, file: Path | None = None) -> None:
        try:
            self._local: LocalAccount = _accounts().from_key(key)
        except ValueError:
            raise AccountError("not a secp256k1 private key") from None
        self.address = checksummed(self._local.address)
        self._file = file

    def __repr__(self) -> str:
        return f"Account({self.address})"

    @classmethod
    def load(cls, path: Path, password: Callable[[], str] | None = None) -> Self:
        """Read a key file; `password` is asked for when it is a keystore.

        Raises AccountError, also when others than the owner may read the file.
        """
        text = _private_text(path)
        found = _HEX_KEY.fullmatch(text.strip())
        if found is not None:
            return cls(bytes.fromhex(found[1]), file=path)
        return cls(_opened(path, text, password), file=path)

    def sign(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """The signed bytes of a typed transaction, and their hash (0x, lowercase)."""
        signed = self._local.sign_transaction(dict(transaction))
        return bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex()

    @contextmanager
    def sole_use(self) -> Generator[None]:
        """Nobody else sends with this key meanwhile: no thread here, and no other process
        that reads the key from the same file on this machine."""
        with _locks_guard:
            lock = _locks.setdefault(self.address, Lock())
        with lock, _file_locked(self._file):
            yield


def _accounts() -> Any:
    """eth-account's entry point, loaded without what comes along raising the recursion limit.

    py_ecc raises it so far that deeply nested JSON from an RPC node would overrun the stack.
    """
    limit = sys.getrecursionlimit()
    try:
        from eth_account import Account as Accounts
    finally:
        sys.setrecursionlimit(limit)
    return Accounts


def _private_text(path: Path) -> str:
    try:
        with path.open("rb") as f:
            mode = os.fstat(f.fileno()).st_mode
            data = f.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise AccountError(f"key file {path}: {e.strerror or e}") from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise AccountError(f"key file {path}: others may read it; chmod 600 it, or change the key")
    try:
        return data[:MAX_FILE_BYTES].decode("ascii")
    except UnicodeDecodeError:
        raise AccountError(f"key file {path}: neither 64 hex digits nor a keystore") from None


def _opened(path: Path, text: str, password: Callable[[], str] | None) -> bytes:
    try:
        keystore = json.loads(text)
    except ValueError:
        keystore = None
    if not isinstance(keystore, dict) or not keystore.keys() & {"crypto", "Crypto"}:
        raise AccountError(f"key file {path}: neither 64 hex digits nor a keystore")
    if password is None:
        raise AccountError(f"key file {path}: is encrypted, and no password was given")
    try:
        return bytes(_accounts().decrypt(keystore, password()))
    except ValueError:
        # The cause may quote what it choked on, so it stays here.
        raise AccountError(f"key file {path}: the password does not open it") from None
    except (KeyError, TypeError, NotImplementedError):  # the last for versions it does not know
        raise AccountError(f"key file {path}: not a keystore of version 3") from None


@contextmanager
def _file_locked(path: Path | None) -> Generator[None]:
    """Hold an advisory lock on the key file, where the system has such locks."""
    if path is None or os.name != "posix":
        yield
        return
    import fcntl

    with path.open("rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
