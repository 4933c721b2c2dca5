"""Collateral on disk: whole files, never trusted, never older than what was seen before.

One file for each item, and one that remembers the newest versions. Every file is written
beside its place, synced and renamed, so that a crash leaves the old or the new one. Reading
checks everything again under the caller's roots; what does not hold is as good as absent.
Folders are 0700 and files 0600: there is nothing secret in them, but who can write there
can hide revocations until the old documents expire.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from attestation.canonical import loads_strict
from attestation.collateral.check import Checked, check_item
from attestation.collateral.item import Item, Key
from attestation.collateral.seen import Seen
from attestation.errors import CollateralError, MalformedEvidence

FORMAT: Final = "adyton-collateral-item/1"
MAX_ITEMS: Final = 512
MAX_BYTES: Final = 32 << 20
_MAX_FILE: Final = 4 << 20
_LOCK_WAIT_S: Final = 10.0
_LOCK_POLL_S: Final = 0.02
_OTHERS_WRITE: Final = 0o022


@dataclass(frozen=True, slots=True)
class Kept:
    """An item of the cache that may be used now, and when it was fetched (Unix seconds)."""

    checked: Checked
    fetched_at: int


class Cache:
    """The cache in `folder`, shared by any number of processes of one user."""

    def __init__(self, folder: Path) -> None:
        """Makes `folder` where it is missing. Raises CollateralError if it cannot be used."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except OSError as e:
            raise CollateralError(f"cache: {folder}: {e.strerror}") from None
        if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
            raise CollateralError(f"cache: {folder}: others may write to it")

    def load(self, key: Key, roots: Sequence[bytes], now: int) -> Kept:
        """The item of this key, checked again. Raises CollateralError saying why there is none."""
        document = self._read(self._path(key), FORMAT)
        fetched_at, item = document.get("fetched_at"), Item.from_json(document.get("item"))
        if type(fetched_at) is not int or item.key != key:
            raise CollateralError(f"{key}: the cached file is of something else")
        checked = check_item(item, roots, now)
        self._seen().check(checked, now)
        return Kept(checked, fetched_at)

    def store(self, checked: Checked, now: int) -> Kept:
        """Keep the item, unless a newer one was seen.

        Its version is remembered before it is written: after a crash in between, the old
        file is refused and fetched again. Raises CollateralRolledBack, CollateralError.
        """
        item = checked.item
        text = json.dumps({"format": FORMAT, "fetched_at": now, "item": item.to_json()}).encode()
        if len(text) > _MAX_FILE:
            raise CollateralError(f"{item.key}: too large for the cache")
        with self._locked():
            seen = self._seen()
            seen.check(checked, now)
            if seen.remember(checked):
                self._write(self._folder / "seen.json", json.dumps(seen.to_json()).encode())
            self._write(self._path(item.key), text)
            self._make_room()
        return Kept(checked, now)

    # --- files -------------------------------------------------------------------------

    def _path(self, key: Key) -> Path:
        return self._folder / f"item_{str(key).replace('/', '_')}.json"

    def _seen(self) -> Seen:
        path = self._folder / "seen.json"
        if not path.exists():
            return Seen()
        try:
            return Seen.from_json(self._read(path, None))
        except CollateralError as e:
            # Starting afresh would forget what must not come back: that takes a person.
            raise CollateralError(f"cache: {path} is damaged ({e}); remove it to go on") from None

    def _read(self, path: Path, form: str | None) -> dict[str, Any]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                data = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            raise CollateralError("nothing is cached") from None
        except OSError as e:
            raise CollateralError(f"{path.name}: {e.strerror}") from None
        if len(data) > _MAX_FILE:
            raise CollateralError(f"{path.name}: longer than {_MAX_FILE} bytes")
        try:
            document = loads_strict(data, path.name)
        except MalformedEvidence as e:
            raise CollateralError(str(e)) from None
        if not isinstance(document, dict) or (form and document.get("format") != form):
            raise CollateralError(f"{path.name}: not {form or 'a JSON object'}")
        return document

    def _write(self, path: Path, data: bytes) -> None:
        """`path` holds `data` whole and durably. Raises CollateralError."""
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            self._sync_folder()
        except OSError as e:
            raise CollateralError(f"cache: {path}: {e.strerror}") from None

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _make_room(self) -> None:
        """Forget the items fetched longest ago, beyond what the cache may hold."""
        files = []
        for path in self._folder.glob("item_*.json"):
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                files.append((found.st_mtime_ns, found.st_size, path))
        total = 0
        for count, (_, size, path) in enumerate(sorted(files, reverse=True), 1):
            total += size
            if count > MAX_ITEMS or total > MAX_BYTES:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No other process changes the cache. Raises CollateralError if one holds it for long."""
        try:
            lock = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise CollateralError(f"cache: {self._folder}: {e.strerror}") from None
        try:
            deadline = time.monotonic() + _LOCK_WAIT_S
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise CollateralError(f"cache: {self._folder}: another process holds it")
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(lock)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
