"""Certificate paths as NVIDIA builds them: P-384 with SHA-384 from leaf to root.

One set of rules serves the device chains, the signers of reference values and, with RSA
authorities allowed, the keys of the attestation service: every certificate is signed by the
next, everything above the leaf is a CA that may sign certificates within its path length,
and the end is a trusted root. The signers of reference values have dates before 2050 as
GeneralizedTime, which `verify.path`, standing on cryptography's validator, rightly refuses;
so the rules are applied here one by one. Spec: RFC 5280 section 6.1, without names of hosts
and without policies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestation.errors import CollateralError, VerificationError
from attestation.x509 import Certificate, Window, read_certificate

MAX_PATH: Final = 8
_MIN_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class Link:
    """One certificate: what path checks need, and the parsed form for everything else."""

    certificate: Certificate
    parsed: x509.Certificate

    @classmethod
    def read(cls, name: str, der: bytes) -> Link:
        """The certificate that `der` is. Raises CollateralError naming it."""
        certificate = read_certificate(name, der)
        return cls(certificate, x509.load_der_x509_certificate(der))

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The subject's key; `verify_path` has shown that it is on P-384."""
        if self.certificate.key is None:
            raise VerificationError("chain", "a key is not an elliptic-curve key")
        return self.certificate.key

    def key_usage(self, name: str) -> bool:
        """True when the certificate allows this use of its key (`cryptography`'s name)."""
        try:
            usage = self.parsed.extensions.get_extension_for_class(x509.KeyUsage)
        except x509.ExtensionNotFound:
            return False
        return bool(getattr(usage.value, name))


@dataclass(frozen=True, slots=True)
class Path:
    """A verified path, leaf first, the root last; nothing was said about time yet."""

    links: tuple[Link, ...]

    @property
    def leaf(self) -> Link:
        return self.links[0]

    @property
    def root_sha256(self) -> str:
        return hashlib.sha256(self.links[-1].certificate.der).hexdigest()

    @property
    def windows(self) -> tuple[Window, ...]:
        return tuple(link.certificate.window for link in self.links)


def check_windows(windows: Iterable[Window], now: int) -> None:
    """Everything may be used at `now`. Raises VerificationError naming the first that may not."""
    for w in windows:
        if now < w.not_before:
            raise VerificationError("not_yet_valid", f"{w.name} is valid from {w.not_before}")
        if now > w.not_after:
            raise VerificationError("expired", f"{w.name} expired at {w.not_after}")


def is_issued_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    """True when `parent` is the issuer named and its key made the signature."""
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _check_algorithm(link: Link, allow_rsa: bool) -> None:
    name, key = link.certificate.window.name, link.parsed.public_key()
    strong = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    if allow_rsa and isinstance(key, rsa.RSAPublicKey):
        strong = key.key_size >= _MIN_RSA_BITS
    if not strong:
        raise VerificationError("chain", f"{name}: key is not on P-384")
    digests = (hashes.SHA256, hashes.SHA384) if allow_rsa else (hashes.SHA384,)
    try:
        digest = link.parsed.signature_hash_algorithm
    except UnsupportedAlgorithm:
        digest = None
    if not isinstance(digest, digests):
        raise VerificationError("chain", f"{name}: not signed with SHA-384")


def _path_length(link: Link) -> int | None:
    # Only called for a CA, which has the extension.
    extension = link.parsed.extensions.get_extension_for_class(x509.BasicConstraints)
    return extension.value.path_length


def _check_authority(link: Link, below: int) -> None:
    """`below` intermediate authorities stand between this one and the leaf."""
    name = link.certificate.window.name
    if not link.certificate.is_ca or not link.key_usage("key_cert_sign"):
        raise VerificationError("chain", f"{name} may not issue certificates")
    limit = _path_length(link)
    if limit is not None and below > limit:
        raise VerificationError("chain", f"{name} may not stand above {below} authorities")


def _with_root(links: tuple[Link, ...], roots: Sequence[bytes]) -> tuple[Link, ...]:
    """These certificates up to a trusted root, which they may or may not contain."""
    for i, link in enumerate(links):
        if link.certificate.der in roots:
            if i + 1 < len(links):
                raise VerificationError("chain", "certificates follow the root")
            return links
    for der in roots:
        root = Link.read("root", der)
        if is_issued_by(links[-1].parsed, root.parsed):
            return (*links, root)
    end = hashlib.sha256(links[-1].certificate.der).hexdigest()
    raise VerificationError("root", f"the chain ends in {end}, which is not trusted")


def verify_path(
    name: str, certificates: Sequence[bytes], roots: Sequence[bytes], *, allow_rsa: bool = False
) -> Path:
    """These certificates (DER, leaf first) lead to one of `roots` by signatures alone.

    Windows are the caller's to check, so that a path can be kept. `allow_rsa` also takes
    authorities with RSA keys and SHA-256, as NVIDIA's online service has. Raises CollateralError
    when a certificate cannot be read, VerificationError with step `chain` or `root`.
    """
    if not 0 < len(certificates) <= MAX_PATH:
        raise CollateralError(f"{name}: {len(certificates)} certificates, not 1 to {MAX_PATH}")
    given = tuple(Link.read(f"{name}[{i}]", der) for i, der in enumerate(certificates))
    links = _with_root(given, roots)
    if len(links) < 2:
        raise VerificationError("chain", f"{name} is a root alone")
    for i, link in enumerate(links):
        _check_algorithm(link, allow_rsa)
        if i > 0:
            _check_authority(link, i - 1)
    for i, (child, parent) in enumerate(pairwise(links)):
        if not is_issued_by(child.parsed, parent.parsed):
            raise VerificationError("chain", f"{name}[{i}] is not signed by the next certificate")
    if links[0].certificate.is_ca or not links[0].key_usage("digital_signature"):
        raise VerificationError("chain", f"{name}[0] is not a signing certificate")
    return Path(links)
