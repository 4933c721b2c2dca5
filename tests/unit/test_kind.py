"""Evidence is told by its content, and a guess never costs more than a parser's refusal."""

from __future__ import annotations

import attested
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.evidence.kind import EvidenceKind, kind_of

SNP = (3).to_bytes(4, "little").ljust(0x34, b"\0") + (1).to_bytes(4, "little")
TCG = bytes(4) + (3).to_bytes(4, "little") + bytes(24) + b"Spec ID Event03\0"
SAMPLES = {
    "snp": (SNP.ljust(1184, b"\0"), EvidenceKind.SEV_SNP),
    "nitro": (b"\x84\x44\xa1\x01\x38\x22", EvidenceKind.NITRO),
    "nitro-tagged": (b"\xd2\x84\x44\xa1\x01\x38\x22", EvidenceKind.NITRO),
    "tpm": (b"\xffTCG\x80\x18\x00", EvidenceKind.TPM),
    "tpm-sized": (b"\x00\x91\xffTCG\x80\x18\x00", EvidenceKind.TPM),
    "spdm": (b"\x11\xe0\x01\xff" + bytes(40), EvidenceKind.NVIDIA),
    "hcl": (b"HCLA\x01\x00\x00\x00", EvidenceKind.HCL),
    "tcg-log": (TCG, EvidenceKind.EVENT_LOG),
    "json-log": (b'[{"imr": 0, "event_type": 1}]', EvidenceKind.EVENT_LOG),
    "rim": (b'<?xml version="1.0"?>\n<SoftwareIdentity xmlns="x">', EvidenceKind.NVIDIA_RIM),
    "rim-prefixed": (b'<swid:SoftwareIdentity xmlns:swid="x">', EvidenceKind.NVIDIA_RIM),
    "jwt": (b"eyJhbGciOiJFUzM4NCJ9.e30.c2ln", EvidenceKind.NVIDIA_EAT),
    "detached-eat": (b'[["JWT", "eyJ"], {}]', EvidenceKind.NVIDIA_EAT),
    "pem": (b"-----BEGIN CERTIFICATE-----\n", EvidenceKind.RATLS),
    "der": (b"\x30\x82\x00\x02\x05\x00", EvidenceKind.RATLS),
    "object": (b'  {"quote": ""}', EvidenceKind.JSON),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_each_kind_is_told_by_its_first_bytes(name: str) -> None:
    data, kind = SAMPLES[name]
    assert kind_of(data) is kind


@pytest.mark.parametrize("kind", attested.KINDS)
def test_quotes_are_told_apart_by_their_tee_type(kind: str) -> None:
    assert kind_of(attested.quote(kind)) == kind.partition("-")[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"quote",
        SNP,
        SNP.replace(b"\x03", b"\x09", 1).ljust(1184, b"\0"),
        b"\x04\x00\x02\x00\x82\x00\x00\x00".ljust(700, b"\0"),
        b"\x09\x00\x02\x00\x81\x00\x00\x00".ljust(700, b"\0"),
        b"\x04\x00\x99\x00\x81\x00\x00\x00".ljust(700, b"\0"),
        b"<html>",
        b"\x30\x82\x00\x02\x05\x00\x00",
    ],
)
def test_what_is_no_known_kind_is_none(data: bytes) -> None:
    assert kind_of(data) is None


@given(st.binary(max_size=1300))
def test_any_bytes_have_a_kind_or_none(data: bytes) -> None:
    kind = kind_of(data)
    assert kind is None or kind in EvidenceKind
