"""What is read from files of others: total, exact, and refused with our errors alone."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifest_inputs import TINY_MANIFEST, libpal, signing_key

from attestation.errors import AttestationError, MalformedEvidence, VerificationError
from attestation.manifest.elf import read_program
from attestation.manifest.measure import measure, parse_manifest
from attestation.manifest.sigstruct import (
    SIGSTRUCT_BYTES,
    Sigstruct,
    parse_date,
    sign_sigstruct,
    unsigned_sigstruct,
    verify_sigstruct,
)

PAL = libpal()
WHOLE = measure(TINY_MANIFEST, PAL).mr_enclave
SIGNED = sign_sigstruct(
    unsigned_sigstruct(
        parse_manifest(TINY_MANIFEST),
        measure(TINY_MANIFEST, PAL).mr_enclave,
        parse_date("2026-11-22"),
    ),
    signing_key(),
).write()


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_sigstruct_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidence):
        assert Sigstruct.read(data).write() == data


@given(cut=st.integers(0, SIGSTRUCT_BYTES - 1))
def test_a_cut_sigstruct_is_malformed(cut: int) -> None:
    with pytest.raises(MalformedEvidence):
        Sigstruct.read(SIGNED[:cut])


@given(bit=st.integers(0, SIGSTRUCT_BYTES * 8 - 1))
def test_no_bit_of_a_sigstruct_can_change(bit: int) -> None:
    changed = bytearray(SIGNED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedEvidence, VerificationError)):
        verify_sigstruct(Sigstruct.read(bytes(changed)))


@given(at=st.integers(0, 300), value=st.integers(0, 255))
def test_a_changed_header_of_a_library_is_read_or_malformed(at: int, value: int) -> None:
    changed = bytearray(PAL)
    changed[at] = value
    with contextlib.suppress(MalformedEvidence):
        measure(TINY_MANIFEST, bytes(changed))


@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_program_or_malformed(data: bytes) -> None:
    for prefix in (b"", b"\x7fELF\x02\x01\x01"):
        with contextlib.suppress(MalformedEvidence):
            read_program(prefix + data, "library")


@given(cut=st.integers(0, len(PAL) - 1))
def test_a_cut_library_never_measures_as_the_whole(cut: int) -> None:
    with contextlib.suppress(AttestationError):
        assert measure(TINY_MANIFEST, PAL[:cut]).mr_enclave != WHOLE


@given(text=st.text(max_size=200))
def test_any_text_is_a_manifest_or_malformed(text: str) -> None:
    with contextlib.suppress(MalformedEvidence):
        parse_manifest(text.encode("utf-8", "surrogatepass"))
