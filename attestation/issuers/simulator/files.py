"""Secrets a simulated machine keeps between starts: made once, private, never replaced."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from attestation.issuers.base import IssuerError


def keep(what: str, path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of `path`, made at first use (mode 0600). Raises IssuerError naming `what`."""
    try:
        if not path.exists():
            _write_new(path, make())
        return path.read_bytes()
    except OSError as e:
        raise IssuerError(f"{what} {path}: {e.strerror}") from e


def _write_new(path: Path, content: bytes) -> None:
    """`path` holds `content` whole, unless somebody else was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
