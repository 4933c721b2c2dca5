"""The attestation statement and the report data it becomes. Spec: ACI section 3.2."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from attestation.errors import MalformedEvidence

PURPOSE: Final = "aci.report_data.v1"
_NONCE: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def check_nonce(nonce: str) -> str:
    """`nonce` itself, when it is exactly 64 lowercase hex characters."""
    if not _NONCE.fullmatch(nonce):
        raise MalformedEvidence("nonce", "must be exactly 64 lowercase hex characters")
    return nonce


def statement(keyset_digest: str, nonce: str | None) -> bytes:
    """The statement's exact bytes; a null nonce proves binding but no freshness."""
    if not _DIGEST.fullmatch(keyset_digest):
        raise MalformedEvidence("keyset_digest", "must be sha256:<64 lowercase hex>")
    quoted = "null" if nonce is None else f'"{check_nonce(nonce)}"'
    return (f'{{"keyset_digest":"{keyset_digest}","nonce":{quoted},"purpose":"{PURPOSE}"}}').encode(
        "ascii"
    )


def report_data(keyset_digest: str, nonce: str | None) -> bytes:
    """The 64 bytes a quote must carry: SHA-256 of the statement, then 32 zero bytes."""
    return hashlib.sha256(statement(keyset_digest, nonce)).digest() + bytes(32)
