"""The chain of an SEV-SNP signing key: ARK, then ASK or ASVK, then VCEK or VLEK.

Spec: AMD 57230, certificate definitions. The CAs are RSA-4096 and sign with RSASSA-PSS,
SHA-384, MGF1 with SHA-384 and 48 bytes of salt; the signing key is ECDSA P-384. Nothing here
depends on the time, so a chain that held is remembered; its windows are checked each time.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, VerificationError
from attestation.verify.snp_vek import VekExtensions, VekKind, read_vek_extensions
from attestation.x509 import Window, read_certificate, read_crl

_RSA_BITS: Final = 4096
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_UNDERSTOOD: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})
_KINDS: Final[dict[str, VekKind]] = {"SEV-VCEK": "vcek", "SEV-VLEK": "vlek"}
_CA_NAMES: Final = {"vcek": ("ask", "SEV-{}"), "vlek": ("asvk", "SEV-VLEK-{}")}


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A signing key that a trusted root vouches for, and until when."""

    key: ec.EllipticCurvePublicKey
    vek: VekExtensions
    windows: tuple[Window, ...]
    revocation_checked: bool
    root_sha256: str


@dataclass(frozen=True, slots=True)
class _Certificate:
    """A certificate all of whose parts are known to parse."""

    name: str
    der: bytes
    parsed: x509.Certificate
    serial: int
    window: Window

    @property
    def is_self_issued(self) -> bool:
        return self.parsed.subject == self.parsed.issuer

    @property
    def common_name(self) -> str:
        names = self.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if len(names) == 1 else ""


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What does not parse is a CollateralError that names the document."""
    try:
        with warnings.catch_warnings():
            # AMD's VCEKs and VLEKs have serial number 0, which cryptography warns of.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            yield
    except CollateralError:
        raise
    except Exception as e:
        # ValueError, UnsupportedAlgorithm and others with no common root, as in x509.py.
        raise CollateralError(f"{name}: cannot be read ({e})") from None


def _read(name: str, der: bytes) -> _Certificate:
    with _reading(name):
        read = read_certificate(name, der)
        parsed = x509.load_der_x509_certificate(der)
        return _Certificate(name, der, parsed, read.serial, read.window)


def _chain(certificate: _Certificate, detail: str) -> VerificationError:
    return VerificationError("chain", f"{certificate.name}: {detail}")


def _is_whole(der: bytes, signature: bytes) -> bool:
    """No bit of the BIT STRING at the end is declared unused, so the encoding is the only one."""
    return der.endswith(b"\0" + signature)


def _check_signed(certificate: _Certificate, issuer: _Certificate) -> None:
    """`issuer`'s RSA-4096 key made this certificate's signature, by the one algorithm allowed."""
    key = issuer.parsed.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
        raise _chain(issuer, f"the key is not RSA-{_RSA_BITS}")
    parsed = certificate.parsed
    try:
        hashed = parsed.signature_hash_algorithm
        if parsed.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS or not isinstance(
            hashed, hashes.SHA384
        ):
            raise _chain(certificate, "not signed with RSASSA-PSS and SHA-384")
        parsed.verify_directly_issued_by(issuer.parsed)
        # Again, with the parameters that must be rather than those the certificate states.
        key.verify(parsed.signature, parsed.tbs_certificate_bytes, _PSS, hashed)
        if not _is_whole(certificate.der, parsed.signature):
            raise _chain(certificate, "the signature is not a whole number of bytes")
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        raise _chain(certificate, f"not signed by {issuer.name}") from None


def _check_extensions(certificate: _Certificate) -> None:
    """X.509 version 3, and no critical extension that nobody here looks at."""
    if certificate.parsed.version != x509.Version.v3:
        raise _chain(certificate, "not X.509 version 3")
    for extension in certificate.parsed.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _chain(certificate, f"critical extension {extension.oid.dotted_string}")


def _constraints(certificate: _Certificate) -> x509.BasicConstraints | None:
    for extension in certificate.parsed.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            return extension.value
    return None


def _usage(certificate: _Certificate) -> x509.KeyUsage | None:
    for extension in certificate.parsed.extensions:
        if isinstance(extension.value, x509.KeyUsage):
            return extension.value
    return None


def _check_ca(certificate: _Certificate, below: int) -> None:
    """A CA that may sign certificates with `below` CAs between it and the leaf."""
    _check_extensions(certificate)
    constraints, usage = _constraints(certificate), _usage(certificate)
    if constraints is None or not constraints.ca:
        raise _chain(certificate, "not a CA")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _chain(certificate, f"path length {constraints.path_length} is exceeded")
    if usage is None or not usage.key_cert_sign:
        raise _chain(certificate, "may not sign certificates")


def _leaf_key(vek: _Certificate) -> ec.EllipticCurvePublicKey:
    """The P-384 key of a certificate that is for signing and is no CA."""
    _check_extensions(vek)
    constraints, usage = _constraints(vek), _usage(vek)
    if constraints is not None and constraints.ca:
        raise _chain(vek, "a CA")
    if usage is not None and not usage.digital_signature:
        raise _chain(vek, "may not sign reports")
    key = vek.parsed.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _chain(vek, "the key is not ECDSA P-384")
    return key


def _issuer(vek: _Certificate, name: str, chain: Sequence[bytes]) -> _Certificate:
    """The one certificate of the chain that claims to have issued the signing key."""
    certificates = {der: _read(name, der) for der in chain}
    found = [
        c
        for c in certificates.values()
        if c.parsed.subject == vek.parsed.issuer and not c.is_self_issued
    ]
    if len(found) != 1:
        raise _chain(vek, f"{len(found)} certificates of the chain are its issuer, expected one")
    return found[0]


def _root(ca: _Certificate, chain: Sequence[bytes], roots: Sequence[bytes]) -> _Certificate:
    """The trusted root that issued `ca`. No root of the chain's own is believed."""
    for der in chain:
        if _read("chain", der).is_self_issued and der not in roots:
            digest = hashlib.sha256(der).hexdigest()
            raise VerificationError("root", f"the chain ends in {digest}, which is not trusted")
    named = [
        r for r in (_read("ark", der) for der in roots) if r.parsed.subject == ca.parsed.issuer
    ]
    if not named:
        raise VerificationError("root", "no trusted root issued the chain")
    for root in named[:-1]:
        # Two roots may share a name, as a simulator's and AMD's do; the signature decides.
        try:
            _check_signed(ca, root)
        except VerificationError:
            continue
        return root
    _check_signed(ca, named[-1])
    return named[-1]


def _check_crl(der: bytes, root: _Certificate, certificates: Sequence[_Certificate]) -> Window:
    """The root signed this list, and nothing of the chain stands in it.

    Serial numbers alone decide, whoever issued the certificate: refusing a homonym is the
    smaller harm.
    """
    crl = read_crl("crl", der)
    usage = _usage(root)
    with _reading("crl"):
        critical = [e.oid.dotted_string for e in crl.parsed.extensions if e.critical]
        algorithm, hashed = crl.parsed.signature_algorithm_oid, crl.parsed.signature_hash_algorithm
        key = root.parsed.public_key()
        signed = isinstance(key, rsa.RSAPublicKey) and crl.parsed.is_signature_valid(key)
        signed = signed and _is_whole(der, crl.parsed.signature)
    if crl.issuer != root.parsed.subject or usage is None or not usage.crl_sign:
        raise VerificationError("crl", "the list is not from the root")
    if algorithm != SignatureAlgorithmOID.RSASSA_PSS or not isinstance(hashed, hashes.SHA384):
        raise VerificationError("crl", "the list is not signed with RSASSA-PSS and SHA-384")
    if not signed:
        raise VerificationError("crl", "the list is not signed by the root")
    if critical:
        raise VerificationError("crl", f"critical extensions {', '.join(critical)}")
    for certificate in certificates:
        if certificate.serial in crl.revoked:
            raise VerificationError("revoked", f"{certificate.name} is revoked")
    return crl.window


def _check_names(product: str, kind: VekKind, ca: _Certificate, root: _Certificate) -> None:
    """CA and root are those of this product and this kind of key, not just any of AMD's."""
    names = ((ca, _CA_NAMES[kind][1].format(product)), (root, f"ARK-{product}"))
    for certificate, expected in names:
        if certificate.common_name != expected:
            raise _chain(certificate, f"is {certificate.common_name[:64]!r}, not {expected}")


@lru_cache(maxsize=64)
def verify_chain(endorsements: SnpEndorsements, roots: tuple[bytes, ...]) -> VerifiedChain:
    """The signing key is one that a root of `roots` vouches for, and is not revoked.

    Whether that is so at a given time, the caller asks of the windows. Raises CollateralError
    where a document cannot be read, VerificationError (steps `chain`, `root`, `crl`,
    `revoked`, `vek_extensions`).
    """
    vek = _read("vek", endorsements.vek)
    kind = _KINDS.get(vek.common_name)
    if kind is None:
        raise _chain(vek, f"{vek.common_name[:64]!r} is neither SEV-VCEK nor SEV-VLEK")
    key = _leaf_key(vek)
    ca = _issuer(vek, _CA_NAMES[kind][0], endorsements.chain)
    _check_ca(ca, below=0)
    root = _root(ca, endorsements.chain, roots)
    _check_ca(root, below=1)
    _check_signed(root, root)
    _check_signed(vek, ca)
    extensions = read_vek_extensions(vek.parsed, kind)
    _check_names(extensions.product, kind, ca, root)
    windows = [c.window for c in (vek, ca, root)]
    if endorsements.crl is not None:
        windows.append(_check_crl(endorsements.crl, root, (vek, ca, root)))
    return VerifiedChain(
        key=key,
        vek=extensions,
        windows=tuple(windows),
        revocation_checked=endorsements.crl is not None,
        root_sha256=hashlib.sha256(root.der).hexdigest(),
    )
