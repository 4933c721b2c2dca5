"""TPM structures: read as the specification lays them out, and written back alike."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import tpm_device
from cryptography.hazmat.primitives.asymmetric import ec
from tpm_device import NONCE, PCRS, public_area, quoted, rsa_ak, signed

from attestation.errors import MalformedEvidence
from attestation.evidence.tpm import ClockInfo, PcrSelection, TpmQuote, TpmSignature
from attestation.evidence.tpm_public import DECRYPT, RESTRICTED, SIGN, TpmPublic

RAW = quoted().write()


def refused(data: bytes, kind: type[TpmQuote | TpmSignature | TpmPublic] = TpmQuote) -> str:
    with pytest.raises(MalformedEvidence) as e:
        kind.read(data)
    return e.value.field


def at(offset: int, value: bytes, raw: bytes = RAW) -> bytes:
    return raw[:offset] + value + raw[offset + len(value) :]


def test_fields_stand_where_the_specification_puts_them() -> None:
    raw = bytes.fromhex(
        "ff544347 8018"  # TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE
        "0006 000b01020304"  # qualifiedSigner
        "0003 616263"  # extraData
        "0000000000000105 00000010 00000002 01"  # clock, resets, restarts, safe
        "1122334455667788"  # firmwareVersion
        "00000001 000b 03 070080"  # one bank, SHA-256: registers 0, 1, 2 and 23
        "0004 0a0b0c0d"  # pcrDigest
    )
    quote = TpmQuote.read(raw)
    assert quote.qualified_signer == bytes.fromhex("000b01020304")
    assert quote.extra_data == b"abc"
    assert quote.clock_info == ClockInfo(0x105, 16, 2, safe=True)
    assert quote.firmware_version == 0x1122334455667788
    assert quote.attested.pcr_select == (PcrSelection(0x000B, bytes.fromhex("070080")),)
    assert quote.attested.pcr_select[0].indices == (0, 1, 2, 23)
    assert quote.attested.pcr_digest == bytes.fromhex("0a0b0c0d")
    assert quote.write() == quote.signed == raw


def test_fields_are_what_the_tpm_wrote() -> None:
    quote = TpmQuote.read(RAW)
    assert quote == quoted()
    assert quote.extra_data == NONCE
    assert quote.attested.pcr_select[0].indices == tuple(sorted(PCRS))


@pytest.mark.parametrize(
    ("size", "indices"), [(1, (0, 7)), (2, (0, 8, 15)), (3, (23,)), (4, (31,)), (3, ())]
)
def test_selection_is_a_bit_for_each_register(size: int, indices: tuple[int, ...]) -> None:
    selection = PcrSelection(0x000B, tpm_device.select(indices, size))
    raw = quoted(pcr_select=(selection,)).write()
    assert TpmQuote.read(raw).attested.pcr_select[0].indices == indices


def test_what_no_tpm_made_is_refused() -> None:
    assert refused(at(0, b"\0TCG")) == "tpm.magic"


@pytest.mark.parametrize("kind", ["8017", "8014", "8019", "801a", "0000"])
def test_other_attestations_than_quotes_are_refused(kind: str) -> None:
    assert refused(at(4, bytes.fromhex(kind))) == "tpm.type"


def test_declared_sizes_have_ceilings() -> None:
    assert refused(at(6, b"\0\x43")) == "tpm.qualified_signer"
    assert refused(at(42, b"\xff\xff")) == "tpm.extra_data"
    assert refused(quoted(pcr_digest=bytes(65)).write()) == "tpm.pcr_digest"
    assert refused(quoted(pcr_select=(PcrSelection(11, b"\1"),) * 17).write()) == (
        "tpm.pcr_select.count"
    )


@pytest.mark.parametrize("select", [b"", bytes(5)])
def test_selections_have_one_to_four_bytes(select: bytes) -> None:
    raw = quoted(pcr_select=(PcrSelection(0x000B, select),)).write()
    assert refused(raw) == "tpm.sizeof_select"


def test_yes_and_no_have_one_encoding_each() -> None:
    offset = RAW.index(bytes.fromhex("0000000700000002")) + 8
    assert refused(at(offset, b"\2")) == "tpm.safe"


def test_nothing_follows() -> None:
    assert refused(RAW + b"\0") == "tpm.trailing"
    assert refused(signed(RAW).write() + b"\0", TpmSignature) == "tpm_signature.trailing"
    assert refused(public_area().write() + b"\0", TpmPublic) == "tpm_public.trailing"


@pytest.mark.parametrize("signature", [signed(RAW), signed(RAW, rsa_ak()), signed(RAW, pss=True)])
def test_signatures_are_read_and_written_back(signature: TpmSignature) -> None:
    assert TpmSignature.read(signature.write()) == signature


@pytest.mark.parametrize("algorithm", ["0000", "0005", "0010", "001a", "001c"])
def test_other_signature_schemes_are_refused(algorithm: str) -> None:
    raw = bytes.fromhex(algorithm) + signed(RAW).write()[2:]
    assert refused(raw, TpmSignature) == "tpm_signature.sig_alg"


def test_signature_parts_have_ceilings() -> None:
    assert refused(TpmSignature(0x14, 11, (bytes(513),)).write(), TpmSignature) == (
        "tpm_signature.sig"
    )
    assert refused(TpmSignature(0x18, 11, (b"", bytes(67))).write(), TpmSignature) == (
        "tpm_signature.signature_s"
    )


@pytest.mark.parametrize("raw", [b"", bytes(513)])
def test_bare_signatures_are_bounded(raw: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        TpmSignature.rsassa_sha256(raw)


@pytest.mark.parametrize(
    "public",
    [
        public_area(),
        public_area(tpm_device.ak(ec.SECP521R1)),
        public_area(rsa_ak()),
        public_area(rsa_ak(), scheme=b"\0\x10", symmetric=bytes.fromhex("000600800043")),
        public_area(rsa_ak(), scheme=b"\0\x15"),
        public_area(scheme=bytes.fromhex("001a000b0001"), kdf=bytes.fromhex("0020000b")),
        public_area(auth_policy=bytes(64)),
    ],
    ids=["p256", "p521", "rsa", "storage", "rsaes", "ecdaa", "policy"],
)
def test_public_areas_are_read_and_written_back(public: TpmPublic) -> None:
    assert TpmPublic.read(public.write()) == public


def test_a_name_is_the_digest_of_the_public_area() -> None:
    public = public_area(rsa_ak())
    assert public.name == b"\0\x0b" + hashlib.sha256(public.write()).digest()
    other = replace(public, name_alg=0x000C)
    assert other.name == b"\0\x0c" + hashlib.sha384(other.write()).digest()


@pytest.mark.parametrize("kind", ["0008", "0025", "0000"])
def test_keys_that_are_neither_rsa_nor_ecc_are_refused(kind: str) -> None:
    raw = bytes.fromhex(kind) + public_area().write()[2:]
    assert refused(raw, TpmPublic) == "tpm_public.type"


def test_unknown_name_algorithms_are_refused() -> None:
    raw = public_area().write()
    assert refused(raw[:2] + b"\0\x12" + raw[4:], TpmPublic) == "tpm_public.name_alg"


@pytest.mark.parametrize("lacking", [1 << 1, 1 << 4, 1 << 5, RESTRICTED, SIGN])
def test_attestation_keys_are_restricted_signing_keys_that_cannot_leave(lacking: int) -> None:
    attributes = tpm_device.ATTESTATION_KEY
    assert public_area().is_attestation_key
    assert public_area(attributes=attributes | 1 << 6).is_attestation_key
    assert not public_area(attributes=attributes & ~lacking).is_attestation_key
    assert not public_area(attributes=attributes | DECRYPT).is_attestation_key
