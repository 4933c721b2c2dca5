"""Signed reference values: which measurements NVIDIA's own firmware and driver give.

The file's certificates lead to NVIDIA's root by our own path checks; the signature over the
whole file is then checked with the leaf's key by signxml, and only the element signxml says
was signed is read. So neither a foreign key in the file nor an element moved around the
signature (XML signature wrapping) gets a value in. Spec: W3C XML Signature 1.1; TCG RIM.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from attestation.errors import CollateralError, VerificationError
from attestation.evidence.rim import Element, Rim, parse_xml, strict_parser
from attestation.verify.model import _SEAL
from attestation.verify.nvidia_device import device_info
from attestation.verify.nvidia_path import Path, check_windows, verify_path
from attestation.verify.nvidia_revocation import check_revocation

_DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
# Every algorithm a signed file names, in document order. Nothing else is ever computed.
_ALGORITHMS: Final = [
    _C14N,
    "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384",
    "http://www.w3.org/2000/09/xmldsig#enveloped-signature",
    _C14N,
    "http://www.w3.org/2001/04/xmldsig-more#sha384",
]
_MAX_CERTIFICATES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRim:
    """Reference values that NVIDIA signed, good at one moment; made by `verify_rim` only.

    Times are Unix seconds. `revocation_checked` says that some document covered every
    certificate below the root; `held` lists the serial numbers of those on hold, hex.
    """

    rim: Rim
    sha256: str
    verified_at: int
    endorsements_not_before: int
    endorsements_not_after: int
    root_sha256: str
    revocation_checked: bool
    held: tuple[str, ...]
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedRim is made by attestation.verify only")


def _certificates(signature: Element) -> list[bytes]:
    texts = [e.text or "" for e in signature.iter(f"{_DS}X509Certificate")]
    if not 0 < len(texts) <= _MAX_CERTIFICATES:
        raise CollateralError(f"rim: {len(texts)} certificates, not 1 to {_MAX_CERTIFICATES}")
    try:
        return [base64.b64decode("".join(t.split()), validate=True) for t in texts]
    except ValueError:
        raise CollateralError("rim: a certificate is not base64") from None


def _signature(root: Element) -> Element:
    """The one signature, a child of the root, over the whole file, by the known algorithms."""
    found = list(root.iter(f"{_DS}Signature"))
    if len(found) != 1 or found[0].getparent() is not root:
        raise VerificationError("rim_signature", "not exactly one signature right below the root")
    references = [e.get("URI") for e in found[0].iter(f"{_DS}Reference")]
    if references != [""]:
        raise VerificationError("rim_signature", "the signature is not over the whole file")
    algorithms = [e.get("Algorithm") for e in found[0].iter() if e.get("Algorithm") is not None]
    if algorithms != _ALGORITHMS:
        raise VerificationError("rim_signature", f"algorithms are not NVIDIA's: {algorithms[:8]}")
    return found[0]


def _signxml() -> Any:
    try:
        import signxml
    except ImportError:
        raise CollateralError("rim: verifying one needs signxml: install adyton[gpu]") from None
    return signxml


def _signed_element(xml: bytes, path: Path) -> Element:
    """What the key of the path's leaf has signed in this file. Raises VerificationError."""
    signxml = _signxml()
    from lxml.etree import LxmlError  # type: ignore[import-untyped]

    leaf = path.leaf
    config = signxml.SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=frozenset({signxml.SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({signxml.DigestAlgorithm.SHA384}),
        # signxml would ask the clock. Validity is checked by us, at the caller's time.
        verification_time=datetime.fromtimestamp(leaf.certificate.window.not_before, UTC),
    )
    try:
        result = signxml.XMLVerifier().verify(
            xml, x509_cert=leaf.parsed, parser=strict_parser(), expect_config=config
        )
    except (signxml.exceptions.SignXMLException, LxmlError, ValueError) as e:
        raise VerificationError("rim_signature", str(e)[:200]) from None
    # The very bytes under the signature, read anew: neither the tree nor what it became.
    return parse_xml(result.signed_data)


@lru_cache(maxsize=64)
def _read_signed(xml: bytes, roots: tuple[bytes, ...]) -> tuple[Rim, Path]:
    """The values and the path of their signer; windows are the caller's to check."""
    signature = _signature(parse_xml(xml))
    path = verify_path("rim_chain", _certificates(signature), roots)
    if device_info(path.leaf.parsed) is not None:
        # One set of roots may hold both hierarchies: a device vouches for no firmware.
        raise VerificationError("rim_signer", "the signer is a device")
    return Rim.of(_signed_element(xml, path)), path


def verify_rim(
    xml: bytes, roots: Sequence[bytes], now: int, *, revocation: Sequence[bytes] = ()
) -> VerifiedRim:
    """These reference values are signed, at `now`, by a signer under one of `roots` (DER).

    `revocation` are OCSP responses or CRLs (DER) about the signer's chain. Raises
    CollateralError when something cannot be read, or lxml or signxml is not installed;
    VerificationError with step `root`, `chain`, `rim_signer`, `rim_signature`, `expired`,
    `not_yet_valid`, `revoked` or `revocation`.
    """
    rim, path = _read_signed(xml, tuple(roots))
    check_windows(path.windows, now)
    revoked = check_revocation(path, revocation, now)
    windows = (*path.windows, *revoked.windows)
    return VerifiedRim(
        rim=rim,
        sha256=hashlib.sha256(xml).hexdigest(),
        verified_at=now,
        endorsements_not_before=max(w.not_before for w in windows),
        endorsements_not_after=min(w.not_after for w in windows),
        root_sha256=path.root_sha256,
        revocation_checked=revoked.good | revoked.held >= set(range(len(path.links) - 1)),
        held=tuple(f"{path.links[i].certificate.serial:x}" for i in sorted(revoked.held)),
        seal=_SEAL,
    )
