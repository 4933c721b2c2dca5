"""AWS Nitro documents: the chain to AWS's root, the COSE signature, and no debug mode.

Spec: AWS Nitro Enclaves attestation process, section 3.2.3; RFC 9053 section 2.1 (ES384).
docs/spec/evidence-nitro-tpm.md lists the steps.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.errors import VerificationError
from attestation.evidence.nitro import SIGNATURE_BYTES, NitroDocument
from attestation.verify.model import _SEAL, VerifiedReport
from attestation.verify.path import Path, verify_path
from attestation.x509 import Certificate

_IMAGE_PCRS: Final = (0, 1, 2)
"""Enclave image, kernel and boot files, application: AWS zeroes all three in debug mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroReport(VerifiedReport):
    """A Nitro document whose chain and signature held at one moment.

    `nonce_checked` says that the caller's own nonce, not an empty one, was in the document.
    """

    document: NitroDocument
    nonce_checked: bool
    registers: Mapping[str, str] = field(init=False)

    def __post_init__(self, seal: object) -> None:
        super(NitroReport, self).__post_init__(seal)
        registers = {f"pcr{i}": v.hex() for i, v in sorted(self.document.pcrs.items())}
        object.__setattr__(self, "registers", MappingProxyType(registers))

    @property
    def tee(self) -> Literal["nitro"]:
        return "nitro"

    @property
    def debug(self) -> bool:
        """Always False: verification refuses enclaves in debug mode."""
        return any(not any(self.document.pcrs[i]) for i in _IMAGE_PCRS)

    @property
    def report_data(self) -> bytes:
        """The document's `user_data`: 0 to 512 bytes, empty where the enclave gave none."""
        return self.document.user_data or b""

    @property
    def tcb_status(self) -> None:
        """AWS states none: the hypervisor is AWS's to keep up to date."""
        return None

    @property
    def measurement_name(self) -> Literal["pcr0"]:
        return "pcr0"

    @property
    def measurements(self) -> Mapping[str, str]:
        return self.registers

    @property
    def simulated(self) -> bool:
        """Always False: no field of a Nitro document is for saying so."""
        return False

    def facts(self) -> dict[str, Any]:
        document = self.document
        return {
            "module_id": document.module_id,
            "timestamp_ms": document.timestamp_ms,
            "nonce": None if document.nonce is None else document.nonce.hex(),
            "public_key": None if document.public_key is None else document.public_key.hex(),
        }


def _check_image_pcrs(document: NitroDocument) -> None:
    for i in _IMAGE_PCRS:
        if i not in document.pcrs:
            raise VerificationError("pcrs", f"PCR{i} is not stated")
        if not any(document.pcrs[i]):
            raise VerificationError("debug", f"PCR{i} is zero: the enclave runs in debug mode")


def _check_time(document: NitroDocument, path: Path, now: int) -> None:
    """The document was made while its certificate was valid, and not after `now`."""
    made, window = document.timestamp_ms // 1000, path.leaf.window
    if not window.not_before <= made <= window.not_after:
        raise VerificationError("timestamp", f"{made} is outside the signing certificate's time")
    if made > now:
        raise VerificationError("timestamp", f"{made} is after {now}")


def _p384(certificate: Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.key
    if key is None or not isinstance(key.curve, ec.SECP384R1):
        raise VerificationError("chain", f"the key of {certificate.window.name} is not P-384")
    return key


def _check_signature(document: NitroDocument, path: Path) -> None:
    key, *_ = [_p384(certificate) for certificate in path.certificates]
    half = SIGNATURE_BYTES // 2
    r, s = int.from_bytes(document.signature[:half]), int.from_bytes(document.signature[half:])
    try:
        key.verify(encode_dss_signature(r, s), document.signed, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise VerificationError(
            "signature", "the document is not signed by its certificate"
        ) from None


def _check_nonce(document: NitroDocument, nonce: bytes | None) -> None:
    if nonce is None:
        return
    if document.nonce is None or not hmac.compare_digest(nonce, document.nonce):
        raise VerificationError("nonce", "the document is not over this nonce")


def verify_nitro(
    document: bytes, roots: Sequence[bytes], now: int, *, nonce: bytes | None = None
) -> NitroReport:
    """The document is authentic at `now` (Unix seconds) under one of `roots` (DER).

    With `nonce`, the document's nonce is exactly that. Pure: no socket, clock, environment
    or device. Raises MalformedEvidence when the bytes are not a document, VerificationError
    naming the first step that failed. Genuine says nothing about wanted: ask the policy.
    """
    parsed = NitroDocument.read(document)
    root, *intermediates = parsed.cabundle
    path = verify_path((parsed.certificate, *reversed(intermediates), root), roots, now)
    _check_signature(parsed, path)
    _check_time(parsed, path, now)
    _check_image_pcrs(parsed)
    _check_nonce(parsed, nonce)
    return NitroReport(
        document=parsed,
        nonce_checked=bool(nonce),
        verified_at=now,
        endorsements_not_before=path.not_before,
        endorsements_not_after=path.not_after,
        root_sha256=path.root_sha256,
        seal=_SEAL,
    )
