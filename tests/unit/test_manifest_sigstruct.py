"""SIGSTRUCT: byte for byte what Gramine's signer writes, and nothing that EINIT would refuse."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import date

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from manifest_inputs import TINY_MANIFEST, libpal, signing_key

from attestation.errors import MalformedEvidence, VerificationError
from attestation.manifest.measure import measure, parse_manifest
from attestation.manifest.sigstruct import (
    SIGSTRUCT_BYTES,
    Sigstruct,
    parse_date,
    sign_sigstruct,
    unsigned_sigstruct,
    verify_sigstruct,
)

DAY = date(2026, 11, 22)
FEATURES = b"""\
cpu_features.avx512 = "required"
cpu_features.pkru = "required"
cpu_features.amx = "disabled"
debug = true
"""


def unsigned(manifest: bytes = TINY_MANIFEST) -> Sigstruct:
    mr_enclave = measure(manifest, libpal()).mr_enclave
    return unsigned_sigstruct(parse_manifest(manifest), mr_enclave, DAY)


SIGNED = sign_sigstruct(unsigned(), signing_key())

GOLDENS = {
    "tiny": (TINY_MANIFEST, "a2af32b68acf98b00bbdee35bbf0b5b4e5413989d6406d072d9b6cfaa451a138"),
    "features": (
        TINY_MANIFEST + FEATURES,
        "69f12f202e9aefa5b348e75e275e6892515869722c341997f0ef42070d0f3598",
    ),
    "defaults": (b"", "d4ae1cea43ef389245426801efbf9a7459ceaf244da3cffedbb9eb518fada269"),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_signatures_stay_what_they_were(name: str) -> None:
    """SHA-256 of what Gramine 1.9's own signer wrote for the same inputs, date and key."""
    manifest, expected = GOLDENS[name]
    data = sign_sigstruct(unsigned(manifest), signing_key()).write()
    assert len(data) == SIGSTRUCT_BYTES
    assert hashlib.sha256(data).hexdigest() == expected


def test_fields_stand_where_the_sdm_puts_them() -> None:
    data = SIGNED.write()
    assert data[0:16].hex() == "06000000e10000000000010000000000"
    assert data[20:24] == bytes((0x22, 0x11, 0x26, 0x20))
    assert data[24:40].hex() == "01010000600000006000000001000000"
    assert int.from_bytes(data[128:512], "little") == signing_key().public_key().public_numbers().n
    assert data[512:516] == b"\x03\0\0\0"
    assert data[900:904] == b"\x01\0\0\0"  # EXINFO
    assert data[928:936] == b"\x04" + bytes(7)  # 64-bit, not debug
    assert data[936:944] == b"\x03" + bytes(7)
    assert data[960:992].hex() == measure(TINY_MANIFEST, libpal()).mr_enclave
    assert data[1024:1028] == b"\x07\0\x03\0"


def test_the_signer_is_named_by_the_modulus() -> None:
    assert SIGNED.mr_signer == hashlib.sha256(SIGNED.write()[128:512]).hexdigest()


def test_a_debug_enclave_says_so() -> None:
    assert unsigned(TINY_MANIFEST + FEATURES).debug
    assert not SIGNED.debug


def test_what_was_written_is_read_and_verifies() -> None:
    read = Sigstruct.read(SIGNED.write())
    assert read == SIGNED
    verify_sigstruct(read)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"isv_svn": 4}, "signature"),
        ({"enclave_hash": bytes(32)}, "signature"),
        ({"date": bytes(4)}, "signature"),
        ({"isv_family_id": b"x" * 16}, "signature"),
        ({"exponent": 65537}, "exponent"),
        ({"modulus": bytes(384)}, "modulus"),
        ({"modulus": b"\0" + b"\xff" * 383}, "modulus"),
        ({"signature": bytes(384)}, "signature"),
        ({"signature": b"\xff" * 384}, "signature"),
        ({"q1": bytes(384)}, "quotients"),
        ({"q2": bytes(384)}, "quotients"),
    ],
)
def test_a_changed_structure_is_refused(change: dict[str, object], step: str) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_sigstruct(replace(SIGNED, **change))  # type: ignore[arg-type]
    assert caught.value.step == step


@pytest.mark.parametrize(("bits", "exponent"), [(3072, 65537), (2048, 3)])
def test_keys_that_sgx_does_not_take_are_refused(bits: int, exponent: int) -> None:
    key = rsa.generate_private_key(public_exponent=exponent, key_size=bits)
    with pytest.raises(MalformedEvidence, match="RSA-3072"):
        sign_sigstruct(unsigned(), key)


@pytest.mark.parametrize("at", [0, 24, 44, 127, 910, 992, 1028])
def test_constants_and_reserved_bytes_are_checked(at: int) -> None:
    data = bytearray(SIGNED.write())
    data[at] ^= 0x80
    with pytest.raises(MalformedEvidence, match="sigstruct"):
        Sigstruct.read(bytes(data))


@pytest.mark.parametrize("size", [0, 16, 128, 900, SIGSTRUCT_BYTES - 1, SIGSTRUCT_BYTES + 1])
def test_another_length_is_refused(size: int) -> None:
    with pytest.raises(MalformedEvidence):
        Sigstruct.read(SIGNED.write().ljust(size, b"\0")[:size])


@pytest.mark.parametrize(
    "text", ["today", "2026-1-1", "2026-02-30", "", "2026-11-22 ", "٢٠٢٦-01-01"]
)
def test_dates_are_given_and_exist(text: str) -> None:
    with pytest.raises(MalformedEvidence, match="date"):
        parse_date(text)


def test_a_date_is_read_as_written() -> None:
    assert parse_date("2026-11-22") == DAY


@pytest.mark.parametrize(
    "line",
    [
        "isvsvn = 65536",
        "isvsvn = -1",
        "isvprodid = true",
        'isvprodid = "7"',
        'cpu_features.avx = "maybe"',
        'cpu_features.pkru = "unspecified"',
        "cpu_features = 1",
    ],
)
def test_options_without_meaning_are_refused(line: str) -> None:
    with pytest.raises(MalformedEvidence, match=r"manifest\.sgx|manifest\.cpu"):
        unsigned_sigstruct(parse_manifest(f"[sgx]\n{line}\n".encode()), "00" * 32, DAY)


@pytest.mark.parametrize(
    ("line", "xfrm", "mask"),
    [
        ("", 0x3, 0xFFFFFFFFFFF9FF1B),
        ('cpu_features.avx = "required"', 0x7, 0xFFFFFFFFFFF9FF1F),
        ('cpu_features.avx512 = "disabled"', 0x3, 0xFFFFFFFFFFF9FFFF),
        ('cpu_features.pkru = "required"', 0x203, 0xFFFFFFFFFFF9FF1B),
    ],
)
def test_cpu_features_become_bits(line: str, xfrm: int, mask: int) -> None:
    made = unsigned_sigstruct(parse_manifest(f"[sgx]\n{line}\n".encode()), "00" * 32, DAY)
    assert (made.attribute_xfrm, made.attribute_xfrm_mask) == (xfrm, mask)
