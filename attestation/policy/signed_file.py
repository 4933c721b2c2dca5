"""Reads the reference values a policy names, and believes them only as far as it says.

The one part of policy that opens files: at loading, never at evaluation. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attestation.errors import MalformedEvidence, VerificationError
from attestation.policy.reference import MAX_FILE, Release, select, verify_reference

_FIELD: Final = "policy.reference_values"


def load_references(section: Mapping[str, Any], base: Path | None) -> tuple[Release, ...]:
    """The releases that the section accepts. Relative names are from `base`.

    Raises MalformedEvidence where a file cannot be read or is no such file, and
    VerificationError where it is not signed as the section demands; never gives less than
    was asked for.
    """
    data = _read(section["file"], base, "file")
    keys = [bytes.fromhex(text) for text in section["public_keys"]]
    releases = verify_reference(data, keys)
    if (sigstore := section.get("sigstore")) is not None:
        _verify_sigstore(data, sigstore, base)
    return select(releases, section.get("releases"))


def _read(name: str, base: Path | None, field: str) -> bytes:
    path = Path(name)
    if not path.is_absolute():
        if base is None:
            raise MalformedEvidence(f"{_FIELD}.{field}", f"{name}: relative to no policy file")
        path = base / path
    try:
        with path.open("rb") as f:
            return f.read(MAX_FILE + 1)
    except (OSError, ValueError) as e:
        raise MalformedEvidence(f"{_FIELD}.{field}", f"{path}: {e}") from None


def _verify_sigstore(data: bytes, section: Mapping[str, Any], base: Path | None) -> None:
    """The file is the artifact of a Sigstore bundle by exactly this identity and issuer.

    Offline: the bundle carries the log's proof, and the roots are those in `trusted_root`,
    or the ones the sigstore package came with.
    """
    bundle = _read(section["bundle"], base, "sigstore.bundle")
    root = section.get("trusted_root")
    trusted_root = None if root is None else _read(root, base, "sigstore.trusted_root")
    try:
        from attestation.policy.sigstore_bundle import verify_bundle
    except ImportError:
        raise VerificationError(
            "reference_values.sigstore", "the sigstore package is missing: adyton[sigstore]"
        ) from None
    verify_bundle(
        data,
        bundle,
        identity=section["identity"],
        issuer=section["issuer"],
        trusted_root=trusted_root,
    )
