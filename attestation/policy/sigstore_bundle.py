"""Sigstore bundles over reference values: who signed, vouched for by whom, and logged where.

Verification is sigstore-python's, without network: certificate, transparency log and time
come from the bundle, and their roots from a file or from the installed package. It is
imported only when a policy names a bundle. Spec: Sigstore, "Client specification".
"""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, Final

from sigstore.errors import Error as SigstoreError
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity

from attestation.errors import MalformedEvidence, VerificationError

_STORE: Final = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
# What sigstore-python lets through on bytes that are no bundle or no trusted root.
_UNREADABLE: Final = (SigstoreError, ValueError, TypeError, LookupError, AttributeError)


def verify_bundle(
    data: bytes, bundle: bytes, *, identity: str, issuer: str, trusted_root: bytes | None
) -> None:
    """`data` was signed by `identity`, as `issuer` saw it, and the signature was logged.

    Raises MalformedEvidence where bundle or root cannot be read, and VerificationError with
    step `reference_values.sigstore`.
    """
    try:
        parsed = Bundle.from_json(bundle)
    except _UNREADABLE as e:
        raise _malformed("bundle", e) from None
    verifier = _verifier(trusted_root)
    try:
        verifier.verify_artifact(data, parsed, Identity(identity=identity, issuer=issuer))
    except _UNREADABLE as e:
        raise VerificationError("reference_values.sigstore", str(e)[:300]) from None


def _verifier(trusted_root: bytes | None) -> Any:
    """A verifier under these roots. The package's own are read where it keeps them, not from
    the user's cache, which anything else could have written to."""
    if trusted_root is None:
        place = resources.files("sigstore._store") / _STORE / "trusted_root.json"
        trusted_root = place.read_bytes()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trusted_root.json"
            path.write_bytes(trusted_root)
            return Verifier(trusted_root=TrustedRoot.from_file(str(path)))
    except _UNREADABLE as e:
        raise _malformed("trusted_root", e) from None


def _malformed(field: str, error: Exception) -> MalformedEvidence:
    return MalformedEvidence(f"policy.reference_values.sigstore.{field}", str(error)[:200])
