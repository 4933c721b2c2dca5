"""What kind of evidence some bytes are, told from the bytes alone.

A guess chooses a parser, nothing more: each parser then demands its whole format, and no
verifier believes a kind that it was merely told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final

_WHITESPACE: Final = b" \t\r\n"
_SNP_BYTES: Final = 1184
_SNP_VERSIONS: Final = range(2, 6)
_QUOTE_VERSIONS: Final = frozenset({3, 4, 5})
_TEE_TYPES: Final = frozenset({0x00, 0x81})
_KEY_TYPES: Final = frozenset({1, 2, 3})
_TPM_QUOTE: Final = b"\xffTCG\x80\x18"
_SPDM_MEASUREMENTS: Final = (0x10, 0x11, 0x12)
_GET_MEASUREMENTS: Final = 0xE0
_EV_NO_ACTION: Final = (3).to_bytes(4, "little")
_LEGACY_SIGNATURES: Final = (b"Spec ID Event00", b"Spec ID Event02", b"Spec ID Event03")
_HCL_MAGIC: Final = b"HCLA"
_COSE_SIGN1: Final = re.compile(rb"\xd2?\x84[\x40-\x5b]")
_JWT: Final = re.compile(rb"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_RIM_TAG: Final = re.compile(rb"<(?:\w+:)?SoftwareIdentity[\s>]")
_HEAD: Final = 4096


class EvidenceKind(StrEnum):
    """Every kind of evidence, by the name `--evidence-type` takes."""

    SGX = "sgx"
    TDX = "tdx"
    SEV_SNP = "sev-snp"
    NITRO = "nitro"
    TPM = "tpm"
    NVIDIA = "nvidia"
    NVIDIA_RIM = "nvidia-rim"
    NVIDIA_EAT = "nvidia-eat"
    EVENT_LOG = "eventlog"
    RATLS = "ratls"
    HCL = "hcl"
    JSON = "json"


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _dcap(data: bytes) -> EvidenceKind | None:
    if len(data) < 48 or _u16(data, 0) not in _QUOTE_VERSIONS or _u32(data, 4) not in _TEE_TYPES:
        return None
    if _u16(data, 2) not in _KEY_TYPES:
        return None
    return EvidenceKind.TDX if _u32(data, 4) else EvidenceKind.SGX


def _snp(data: bytes) -> EvidenceKind | None:
    right = len(data) >= _SNP_BYTES and _u32(data, 0) in _SNP_VERSIONS and _u32(data, 0x34) == 1
    return EvidenceKind.SEV_SNP if right else None


def _nitro(data: bytes) -> EvidenceKind | None:
    return EvidenceKind.NITRO if _COSE_SIGN1.match(data) else None


def _tpm(data: bytes) -> EvidenceKind | None:
    # Alone, or behind the two-byte size of a TPM2B_ATTEST.
    return EvidenceKind.TPM if _TPM_QUOTE in (data[:6], data[2:8]) else None


def _nvidia(data: bytes) -> EvidenceKind | None:
    right = len(data) > 37 and data[0] in _SPDM_MEASUREMENTS and data[1] == _GET_MEASUREMENTS
    return EvidenceKind.NVIDIA if right else None


def _event_log(data: bytes) -> EvidenceKind | None:
    """A TCG log starts with an event that only names the specification it follows."""
    right = data[4:8] == _EV_NO_ACTION and data[32:47] in _LEGACY_SIGNATURES
    return EvidenceKind.EVENT_LOG if right else None


def _hcl(data: bytes) -> EvidenceKind | None:
    return EvidenceKind.HCL if data.startswith(_HCL_MAGIC) else None


def _text(data: bytes) -> EvidenceKind | None:
    head = data[:_HEAD].lstrip(_WHITESPACE)
    if _JWT.match(head):
        return EvidenceKind.NVIDIA_EAT
    if head.startswith(b"-----BEGIN CERTIFICATE-----"):
        return EvidenceKind.RATLS
    if head.startswith(b"<") and _RIM_TAG.search(head):
        return EvidenceKind.NVIDIA_RIM
    if head.startswith(b"["):
        return EvidenceKind.NVIDIA_EAT if b'"JWT"' in head[:64] else EvidenceKind.EVENT_LOG
    return EvidenceKind.JSON if head.startswith(b"{") else None


def _certificate(data: bytes) -> EvidenceKind | None:
    # A DER SEQUENCE with a two-byte length that is all there is.
    whole = data[:2] == b"\x30\x82" and len(data) == 4 + int.from_bytes(data[2:4], "big")
    return EvidenceKind.RATLS if whole else None


_TELLERS: Final[tuple[Callable[[bytes], EvidenceKind | None], ...]] = (
    _event_log,
    _tpm,
    _hcl,
    _nvidia,
    _snp,
    _dcap,
    _certificate,
    _nitro,
    _text,
)
"""Most distinctive first: the first that answers is right."""


def kind_of(data: bytes) -> EvidenceKind | None:
    """The kind that `data` looks like; None when it looks like nothing known."""
    return next((kind for tell in _TELLERS if (kind := tell(data)) is not None), None)
