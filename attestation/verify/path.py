"""One certificate chain, in the order it was given, to one trusted root.

Path validation is cryptography's (RFC 5280: names, signatures, basic constraints, path
length, critical extensions). Around it stand what it leaves open: the caller's exact order,
every window at the given moment with an error that says which, and what the leaf is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
)
from cryptography.x509.verification import (
    VerificationError as PathError,
)

from attestation.errors import CollateralError, VerificationError
from attestation.x509 import Certificate, read_certificate

MAX_CHAIN: Final = 8
"""Certificates from leaf to root, both included."""


def _issues(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.key_cert_sign:
        raise ValueError("an issuer's key is not for signing certificates")


def _signs(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is None or not usage.digital_signature or usage.key_cert_sign:
        raise ValueError("the leaf's key is not for digital signatures only")


def _ends(
    _policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("the leaf is a CA")


_ISSUERS: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.CRITICAL, None)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _issues)
)
_LEAF: Final = (
    ExtensionPolicy.permit_all()
    .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _ends)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs)
)


@dataclass(frozen=True, slots=True)
class Path:
    """A chain that held: its certificates, leaf first and root last, and when all are valid."""

    certificates: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        return self.certificates[0]

    @property
    def root_sha256(self) -> str:
        return hashlib.sha256(self.certificates[-1].der).hexdigest()

    @property
    def not_before(self) -> int:
        return max(c.window.not_before for c in self.certificates)

    @property
    def not_after(self) -> int:
        return min(c.window.not_after for c in self.certificates)


def _read(chain: Sequence[bytes]) -> tuple[Certificate, ...]:
    if not 1 < len(chain) <= MAX_CHAIN:
        raise VerificationError("chain", f"{len(chain)} certificates, expected 2 to {MAX_CHAIN}")
    try:
        return tuple(read_certificate(f"certificate {i}", der) for i, der in enumerate(chain))
    except CollateralError as e:
        raise VerificationError("chain", str(e)) from None


def _check_windows(certificates: Sequence[Certificate], now: int) -> None:
    for window in (c.window for c in certificates):
        if now < window.not_before:
            raise VerificationError("not_yet_valid", f"{window.name} is from {window.not_before}")
        if now > window.not_after:
            raise VerificationError("expired", f"{window.name} expired at {window.not_after}")


def _parsed(certificate: Certificate) -> x509.Certificate:
    """The certificate, in its one encoding: its last BIT STRING declares no bit unused.

    That count is signed by nobody and read by nobody, so it could be anything.
    """
    parsed = x509.load_der_x509_certificate(certificate.der)
    if not certificate.der.endswith(b"\0" + parsed.signature):
        raise VerificationError("chain", f"{certificate.window.name}: signature has unused bits")
    return parsed


def verify_path(chain: Sequence[bytes], roots: Sequence[bytes], now: int) -> Path:
    """`chain` (DER, leaf first, root last) holds at `now`; its last is one of `roots`.

    The leaf's key is for digital signatures and its certificate no CA's. Raises
    VerificationError: `root`, `expired`, `not_yet_valid`, or `chain` for everything else.
    """
    certificates = _read(chain)
    root = certificates[-1].der
    if root not in roots:
        ends = hashlib.sha256(root).hexdigest()
        raise VerificationError("root", f"the chain ends in {ends}, which is not trusted")
    _check_windows(certificates, now)
    leaf, *issuers = [_parsed(c) for c in certificates]
    verifier = (
        PolicyBuilder()
        .store(Store([issuers[-1]]))
        .time(datetime.fromtimestamp(now, UTC))
        .max_chain_depth(MAX_CHAIN)
        .extension_policies(ca_policy=_ISSUERS, ee_policy=_LEAF)
        .build_client_verifier()
    )
    try:
        found = verifier.verify(leaf, issuers[:-1]).chain
    except PathError as e:
        raise VerificationError("chain", f"does not verify ({str(e)[:200]})") from None
    if found != [leaf, *issuers]:
        raise VerificationError("chain", "its certificates are not in the order they sign")
    return Path(certificates)
