"""Nitro documents: what is read is what was signed, and one text has one meaning."""

from __future__ import annotations

from typing import Any

import cbor2
import nitro_pki
import pytest
from nitro_pki import ABSENT, PROTECTED, USER_DATA, Hypervisor

from attestation.errors import MalformedEvidence
from attestation.evidence.nitro import NitroDocument

RAW = nitro_pki.document()
PARTS: list[Any] = cbor2.loads(RAW)


def refused(data: bytes) -> MalformedEvidence:
    with pytest.raises(MalformedEvidence) as e:
        NitroDocument.read(data)
    return e.value


def with_member(name: Any, value: Any) -> bytes:
    return Hypervisor(changes={name: value}).document()


def test_fields_are_what_the_hypervisor_wrote() -> None:
    document = NitroDocument.read(RAW)
    assert document.module_id == "i-0123456789abcdef0-enc0123456789abcdef"
    assert document.digest == "SHA384"
    assert document.timestamp_ms == nitro_pki.NOW * 1000 + 578
    assert sorted(document.pcrs) == [0, 1, 2, 4]
    assert document.pcrs[1] == b"\2" * 48
    assert document.cabundle[0] == nitro_pki.root()
    assert (document.public_key, document.user_data) == (None, USER_DATA)
    assert document.nonce == b"chosen by the caller"
    assert not document.tagged


def test_signed_bytes_are_the_original_ones() -> None:
    document = NitroDocument.read(RAW)
    assert document.payload == PARTS[2]
    assert document.signed == cbor2.dumps(["Signature1", PROTECTED, b"", PARTS[2]])


def test_tagged_and_untagged_are_both_read_and_written_back() -> None:
    assert NitroDocument.read(RAW).write() == RAW
    tagged = NitroDocument.read(b"\xd2" + RAW)
    assert tagged.tagged
    assert tagged.write() == b"\xd2" + RAW


@pytest.mark.parametrize("prefix", [b"\xd8\x12", b"\xd2\xd2", b"\xd8\x62", b"\xd9\xd9\xf7"])
def test_other_tags_around_the_envelope_are_refused(prefix: bytes) -> None:
    assert refused(prefix + RAW).field == "nitro.cose"


def test_newer_hypervisors_leave_the_length_of_the_payload_open() -> None:
    payload = b"\xbf" + PARTS[2][1:] + b"\xff"
    document = NitroDocument.read(nitro_pki.sign(payload))
    assert document.payload == payload
    assert document.user_data == USER_DATA


def test_fields_the_enclave_gave_nothing_for_may_be_null_or_absent() -> None:
    for value in (None, ABSENT):
        changes = dict.fromkeys(("public_key", "user_data", "nonce"), value)
        document = NitroDocument.read(Hypervisor(changes=changes).document())
        assert (document.public_key, document.user_data, document.nonce) == (None, None, None)


@pytest.mark.parametrize(
    "envelope",
    [
        b"\x9f" + RAW[1:] + b"\xff",
        b"\x98\x04" + RAW[1:],
        b"\x84\x58\x04" + RAW[2:],
        RAW + b"\0",
        RAW.replace(b"\xa0\x59", b"\xbf\xff\x59", 1),
    ],
    ids=["open-length", "long-count", "long-length", "trailing", "open-map"],
)
def test_an_envelope_has_one_encoding(envelope: bytes) -> None:
    assert refused(envelope).field == "nitro.cose"


@pytest.mark.parametrize(
    ("index", "value", "field"),
    [
        (0, cbor2.dumps({1: -36}), "cose.protected"),
        (0, cbor2.dumps({1: -35, 2: []}), "cose.protected"),
        (0, b"", "cose.protected"),
        (0, {1: -35}, "cose.protected"),
        (1, {1: -35}, "cose.unprotected"),
        (1, [], "cose.unprotected"),
        (2, None, "cose.payload"),
        (2, b"", "cose.payload"),
        (2, bytes(16385), "cose.payload"),
        (3, bytes(95), "cose.signature"),
        (3, bytes(97), "cose.signature"),
        (3, "x" * 96, "cose.signature"),
    ],
)
def test_envelope_is_es384_and_nothing_else(index: int, value: Any, field: str) -> None:
    parts = list(PARTS)
    parts[index] = value
    assert refused(cbor2.dumps(parts)).field == f"nitro.{field}"


@pytest.mark.parametrize("value", [{}, [], 1, PARTS[:3], [*PARTS, 1], None])
def test_what_is_not_an_array_of_four_is_refused(value: Any) -> None:
    assert refused(cbor2.dumps(value)).field == "nitro.cose"


def test_oversized_documents_are_refused_before_they_are_decoded() -> None:
    assert refused(b"\x9f" * 20_000).field == "nitro.document"


def test_nesting_is_bounded() -> None:
    assert "depth" in refused(b"\x81" * 5000).detail
    assert refused(nitro_pki.sign(b"\xa1\x61a" * 40 + b"\0")).field == "nitro.payload"


def test_duplicate_keys_cannot_show_two_readers_two_documents() -> None:
    again = cbor2.dumps("user_data") + cbor2.dumps(b"something else")
    payload = b"\xbf" + PARTS[2][1:] + again + b"\xff"
    assert "Duplicate" in refused(nitro_pki.sign(payload)).detail


@pytest.mark.parametrize("tag", [0, 1, 2, 4, 18, 24, 25, 28, 35, 55799])
def test_tags_inside_the_payload_are_refused(tag: int) -> None:
    error = refused(with_member("user_data", cbor2.CBORTag(tag, b"1")))
    assert error.field == "nitro.payload"


def test_payload_ends_with_its_map() -> None:
    assert refused(nitro_pki.sign(PARTS[2] + b"\0")).detail == "1 bytes left over"


@pytest.mark.parametrize("value", [[], b"", 1, "payload"])
def test_payload_that_is_no_map_is_refused(value: Any) -> None:
    assert refused(nitro_pki.sign(cbor2.dumps(value))).field == "nitro.payload"


@pytest.mark.parametrize("name", ["nitrotpm_pcrs", "", 1, (1, 2)])
def test_unknown_fields_are_refused(name: Any) -> None:
    assert "unknown field" in refused(with_member(name, 1)).detail


@pytest.mark.parametrize(
    "name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"]
)
def test_mandatory_fields_are_neither_absent_nor_null(name: str) -> None:
    assert refused(with_member(name, ABSENT)).field == f"nitro.{name}"
    assert refused(with_member(name, None)).field == f"nitro.{name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("module_id", ""),
        ("module_id", "x" * 257),
        ("module_id", b"i-0"),
        ("digest", "SHA256"),
        ("digest", b"SHA384"),
        ("timestamp", 0),
        ("timestamp", -1),
        ("timestamp", True),
        ("timestamp", 1.5e12),
        ("timestamp", 2**63),
        ("pcrs", {}),
        ("pcrs", []),
        ("pcrs", {32: bytes(48)}),
        ("pcrs", {-1: bytes(48)}),
        ("pcrs", {True: bytes(48)}),
        ("pcrs", {"0": bytes(48)}),
        ("pcrs", dict.fromkeys(range(33), bytes(48))),
        ("certificate", b""),
        ("certificate", bytes(1025)),
        ("certificate", "x"),
        ("cabundle", []),
        ("cabundle", {}),
        ("cabundle", [b"x"] * 9),
        ("public_key", b""),
        ("public_key", bytes(1025)),
        ("user_data", bytes(513)),
        ("user_data", "text"),
        ("nonce", bytes(513)),
        ("nonce", 0),
    ],
)
def test_every_field_is_held_to_its_type_and_size(name: str, value: Any) -> None:
    assert refused(with_member(name, value)).field == f"nitro.{name}"


@pytest.mark.parametrize("value", [b"", bytes(47), bytes(65), "0" * 48, None])
def test_registers_are_as_long_as_a_digest(value: Any) -> None:
    assert refused(with_member("pcrs", {0: value})).field == "nitro.pcrs.0"


@pytest.mark.parametrize("value", [b"", bytes(1025), "x"])
def test_every_certificate_of_the_bundle_is_bounded(value: Any) -> None:
    assert refused(with_member("cabundle", [b"x", value])).field == "nitro.cabundle.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("public_key", bytes(1024)),
        ("user_data", b""),
        ("user_data", bytes(512)),
        ("nonce", b""),
        ("nonce", bytes(512)),
    ],
)
def test_sizes_at_the_limit_are_read(name: str, value: bytes) -> None:
    assert getattr(NitroDocument.read(with_member(name, value)), name) == value
