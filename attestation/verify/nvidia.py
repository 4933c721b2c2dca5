"""Verification of NVIDIA GPU and NVSwitch evidence.

The device signs the verifier's request together with its own answer, with a key certified
up to NVIDIA's device root. What it runs is judged by comparing its measurements with
reference values NVIDIA signed. docs/spec/evidence-nvidia.md lists the steps.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from attestation.errors import VerificationError
from attestation.evidence.nvidia import NvidiaEvidence
from attestation.evidence.spdm import ALL_MEASUREMENTS, GENERATE_SIGNATURE, NONCE_BYTES
from attestation.verify.model import _SEAL
from attestation.verify.nvidia_device import Device, read_device
from attestation.verify.nvidia_gpu import RimKind, RimMatch, VerifiedGpu
from attestation.verify.nvidia_path import check_windows
from attestation.verify.nvidia_revocation import check_revocation
from attestation.verify.nvidia_rim import VerifiedRim
from attestation.x509 import Window

_HALF: Final = 48
_DIGEST: Final = 48
_SLOT_MASK: Final = 0x0F
_NVDEC0_INDEX: Final = 35


def _check_kind(evidence: NvidiaEvidence, device: Device) -> None:
    if evidence.is_switch != device.is_switch:
        raise VerificationError("kind", f"the evidence is not that of a {device.product}")


def _check_signature(evidence: NvidiaEvidence, device: Device) -> None:
    raw = evidence.transcript.response.signature
    r, s = (int.from_bytes(raw[at : at + _HALF], "big") for at in (0, _HALF))
    try:
        device.path.leaf.key.verify(
            utils.encode_dss_signature(r, s),
            evidence.transcript.signed,
            ec.ECDSA(hashes.SHA384()),
        )
    except InvalidSignature:
        raise VerificationError("signature", "the device did not sign this exchange") from None


def _check_request(evidence: NvidiaEvidence) -> None:
    """The request asked for everything, signed, and the answer is to this request."""
    request, response = evidence.transcript.request, evidence.transcript.response
    if not request.attributes & GENERATE_SIGNATURE or request.operation != ALL_MEASUREMENTS:
        raise VerificationError("request", "not a request for all measurements, signed")
    if request.slot_id != response.param2 & _SLOT_MASK:
        raise VerificationError("response", "the answer is from another certificate slot")


def _check_nonce(evidence: NvidiaEvidence, nonce: bytes | None) -> None:
    if nonce is None:
        return
    if len(nonce) != NONCE_BYTES:
        raise VerificationError("nonce", f"{len(nonce)} bytes can be no device's nonce")
    if not hmac.compare_digest(nonce, evidence.transcript.request.nonce):
        raise VerificationError("nonce", "the evidence was made for another nonce")


def _check_fwid(evidence: NvidiaEvidence, device: Device) -> None:
    stated = evidence.facts.fwid
    if stated is not None and stated != device.fwid:
        raise VerificationError("fwid", "the firmware is not the one its key was made for")


def _measurements(evidence: NvidiaEvidence) -> Mapping[int, bytes]:
    """The measurements from 0, without a gap, each a SHA-384 digest."""
    blocks = evidence.transcript.response.blocks
    if not blocks or [b.index for b in blocks] != list(range(1, len(blocks) + 1)):
        raise VerificationError("measurements", "they are not numbered from 1 without a gap")
    if any(len(b.value) != _DIGEST for b in blocks):
        raise VerificationError("measurements", "one is not a SHA-384 digest")
    return {b.index - 1: b.value for b in blocks}


def _rim_kind(evidence: NvidiaEvidence, device: Device, rim: VerifiedRim) -> RimKind:
    """Which part of this very device the reference values are for."""
    products = {device.product, evidence.facts.chip or device.product}
    if rim.rim.product.replace("_", "") not in {p.replace("_", "") for p in products}:
        raise VerificationError("rim_product", f"values for {rim.rim.product[:32]}")
    if rim.rim.edition != ("SWITCH" if device.is_switch else "GPU"):
        raise VerificationError("rim_product", f"values for a {rim.rim.edition[:32]}")
    if rim.rim.version.upper() == evidence.facts.vbios_version:
        return "vbios"
    if rim.rim.version == evidence.facts.driver_version:
        return "driver"
    raise VerificationError("rim_version", f"values for version {rim.rim.version[:32]}")


def _compare(
    evidence: NvidiaEvidence, kind: RimKind, rim: VerifiedRim, measured: Mapping[int, bytes]
) -> RimMatch:
    """The device gave one of the accepted values of every active measurement."""
    # A GPU whose NVDEC0 unit is fused off leaves measurement 35 undefined.
    skipped = {_NVDEC0_INDEX} if evidence.facts.nvdec0 is False else set()
    active = {i: m for i, m in rim.rim.measurements.items() if m.active and i not in skipped}
    wrong = sorted(i for i, m in active.items() if measured.get(i) not in m.values)
    if wrong:
        raise VerificationError(
            "rim_measurements", f"{kind} measurements {wrong[:8]} are not NVIDIA's"
        )
    if not active:
        raise VerificationError("rim_measurements", f"the {kind} file compares nothing")
    return RimMatch(kind, rim.rim.version, rim.sha256, tuple(sorted(active)))


def _check_rims(
    evidence: NvidiaEvidence,
    device: Device,
    rims: Sequence[VerifiedRim],
    measured: Mapping[int, bytes],
) -> tuple[RimMatch, ...]:
    matches: list[RimMatch] = []
    seen: set[int] = set()
    for rim in rims:
        kind = _rim_kind(evidence, device, rim)
        if kind in {m.kind for m in matches}:
            raise VerificationError("rim_conflict", f"two files of {kind} values")
        indexes = {i for i, m in rim.rim.measurements.items() if m.active}
        if indexes & seen:
            raise VerificationError(
                "rim_conflict", f"two files say what {sorted(indexes & seen)[:8]} are"
            )
        seen |= indexes
        matches.append(_compare(evidence, kind, rim, measured))
    return tuple(matches)


def verify_gpu(
    evidence: bytes,
    cert_chain: bytes,
    roots: Sequence[bytes],
    now: int,
    *,
    nonce: bytes | None,
    rims: Sequence[VerifiedRim] = (),
    revocation: Sequence[bytes] = (),
) -> VerifiedGpu:
    """The device's evidence is authentic at `now` (Unix seconds) under one of `roots` (DER).

    `cert_chain` is PEM, leaf first. `nonce` is the 32 bytes the caller chose (`gpu_nonce`);
    None must be said aloud, and the result carries it. `rims` are the reference values to
    compare with, `revocation` OCSP responses or CRLs (DER). Pure. Raises MalformedEvidence,
    CollateralError, or VerificationError naming the first step that failed. Without `rims`
    nothing is known about what the device runs: the policy decides whether that will do.
    """
    parsed = NvidiaEvidence.read(evidence)
    device = read_device(cert_chain, tuple(roots))
    check_windows(device.path.windows, now)
    _check_kind(parsed, device)
    _check_signature(parsed, device)
    _check_request(parsed)
    _check_nonce(parsed, nonce)
    measured = _measurements(parsed)
    _check_fwid(parsed, device)
    rim_windows = [
        Window(f"rim {r.rim.version}", r.endorsements_not_before, r.endorsements_not_after)
        for r in rims
    ]
    check_windows(rim_windows, now)
    matches = _check_rims(parsed, device, rims, measured)
    revoked = check_revocation(device.path, revocation, now)
    windows = (*device.path.windows, *rim_windows, *revoked.windows)
    links = device.path.links
    # No authority answers for the leaf: the device itself issues it, anew for new firmware.
    covered = revoked.good | revoked.held >= set(range(1, len(links) - 1))
    return VerifiedGpu(
        evidence=parsed,
        kind="nvidia-switch" if device.is_switch else "nvidia-gpu",
        architecture=device.architecture,
        device_id=device.device_id,
        serial=device.serial,
        ueid=device.ueid,
        hwmodel=device.hwmodel,
        verified_at=now,
        endorsements_not_before=max(w.not_before for w in windows),
        endorsements_not_after=min(w.not_after for w in windows),
        root_sha256=device.path.root_sha256,
        nonce_checked=nonce is not None,
        measurements=MappingProxyType({i: v.hex() for i, v in measured.items()}),
        rims=matches,
        revocation_checked=covered and all(r.revocation_checked for r in rims),
        held=(
            *(f"{links[i].certificate.serial:x}" for i in sorted(revoked.held)),
            *(serial for r in rims for serial in r.held),
        ),
        seal=_SEAL,
    )
