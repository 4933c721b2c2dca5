"""The evidence extension means one thing, and what does not is refused by name."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import pytest
from ratls_peers import ec_key, issued, spki_of

from attestation.errors import MalformedEvidence, VerificationError
from attestation.ratls import Claims, PubkeyHash, TaggedEvidence
from attestation.ratls.extension import EVIDENCE_OID, LEGACY_OID, legacy_report_data

SPKI = spki_of(ec_key(1))
HASH = {i: hashlib.new(n, SPKI).digest() for i, n in ((1, "sha256"), (7, "sha384"), (8, "sha512"))}


def claims(**members: Any) -> bytes:
    """A claims map with a good pubkey-hash unless `pubkey_hash` says otherwise."""
    entry = members.pop("pubkey_hash", cbor2.dumps([1, HASH[1]]))
    first = {} if entry is None else {"pubkey-hash": entry}
    return cbor2.dumps({**first, **members})


def evidence(*items: Any, tag: int = 60000) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, list(items)))


def test_the_bytes_are_those_of_the_specification() -> None:
    """Written by hand: tag 60000, array of two, map of one text to bytes, array [1, hash]."""
    entry = bytes.fromhex("82015820") + HASH[1]
    raw = b"\xa1\x6bpubkey-hash\x58\x24" + entry
    built = Claims.build(SPKI)
    assert built.raw == raw
    assert built.report_data == hashlib.sha256(raw).digest() + bytes(32)
    written = TaggedEvidence(60000, b"q" * 5000, built).write()
    assert written == b"\xd9\xea\x60\x82\x59\x13\x88" + b"q" * 5000 + b"\x58\x33" + raw
    assert TaggedEvidence.read(written) == TaggedEvidence(60000, b"q" * 5000, built)


def test_the_legacy_oid_is_gramines_doubly_encoded_one() -> None:
    """Its content octets begin with the tag and length that do not belong there."""
    certificate = issued("sgx").certificate
    content = bytes([0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF8, 0x4D, 0x8A, 0x39, 0x06])
    der = certificate.tbs_certificate_bytes
    assert bytes([0x06, len(content)]) + content in der
    assert [e.oid.dotted_string for e in certificate.extensions].count(LEGACY_OID) == 1
    assert bytes.fromhex("0606678105050409") in der  # Gramine searches for these bytes


def test_report_data_of_the_legacy_extension_is_the_hash_of_the_key() -> None:
    assert legacy_report_data(SPKI) == HASH[1] + bytes(32)


@pytest.mark.parametrize("algorithm", [1, 7, 8])
def test_the_three_hashes_of_the_specification_bind(algorithm: int) -> None:
    entry = cbor2.dumps([algorithm, HASH[algorithm]])
    read = Claims.read(claims(pubkey_hash=entry)).pubkey_hash
    assert read.write() == entry
    read.check(SPKI)
    with pytest.raises(VerificationError) as caught:
        read.check(spki_of(ec_key(2)))
    assert caught.value.step == "pubkey_hash"


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(cbor2.dumps([2, HASH[1][:15]]), id="sha256-truncated-is-no-id-of-ours"),
        pytest.param(cbor2.dumps([0, HASH[1]]), id="reserved-hash-id"),
        pytest.param(cbor2.dumps([-1, HASH[1]]), id="negative-hash-id"),
        pytest.param(cbor2.dumps([True, HASH[1]]), id="true-is-not-one"),
        pytest.param(cbor2.dumps([1.0, HASH[1]]), id="float-hash-id"),
        pytest.param(cbor2.dumps([[1], HASH[1]]), id="unhashable-hash-id"),
        pytest.param(cbor2.dumps([2**70, HASH[1]]), id="bignum-hash-id"),
        pytest.param(cbor2.dumps([7, HASH[1]]), id="hash-of-another-size"),
        pytest.param(cbor2.dumps([1, HASH[1].hex()]), id="hash-as-text"),
        pytest.param(cbor2.dumps([1, b""]), id="empty-hash"),
        pytest.param(cbor2.dumps([1]), id="one-entry"),
        pytest.param(cbor2.dumps([1, HASH[1], b""]), id="three-entries"),
        pytest.param(cbor2.dumps({1: HASH[1]}), id="map"),
        pytest.param(cbor2.dumps(HASH[1]), id="bare-hash"),
        pytest.param(b"", id="empty"),
        pytest.param(cbor2.dumps([1, HASH[1]]) + b"\0", id="trailing"),
        pytest.param(b"\x82\x18\x01\x58\x20" + HASH[1], id="long-form-of-one"),
        pytest.param(b"\x9f\x01\x58\x20" + HASH[1] + b"\xff", id="indefinite-array"),
    ],
)
def test_a_hash_entry_of_another_shape_is_malformed(entry: bytes) -> None:
    with pytest.raises(MalformedEvidence, match="pubkey-hash"):
        Claims.read(claims(pubkey_hash=entry))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(claims(pubkey_hash=None), id="empty-map"),
        pytest.param(claims(pubkey_hash=None, nonce=b"n"), id="without-pubkey-hash"),
        pytest.param(claims(nonce="text"), id="nonce-as-text"),
        pytest.param(claims(nonce=None), id="nonce-null"),
        pytest.param(claims(pubkey_hash="text"), id="pubkey-hash-as-text"),
        pytest.param(cbor2.dumps({b"pubkey-hash": cbor2.dumps([1, HASH[1]])}), id="name-as-bytes"),
        pytest.param(claims(**{"": b""}), id="empty-name"),
        pytest.param(claims(**{"n" * 65: b""}), id="long-name"),
        pytest.param(claims(**{f"c{i}": b"" for i in range(16)}), id="17-claims"),
        pytest.param(claims(x=b"\0" * 4096), id="oversized"),
        pytest.param(cbor2.dumps([claims()]), id="array"),
        pytest.param(b"", id="empty"),
        pytest.param(claims()[:-1], id="truncated"),
        pytest.param(claims() + b"\0", id="trailing"),
        pytest.param(b"\xbf" + claims()[1:] + b"\xff", id="indefinite-map"),
        pytest.param(b"\xa2" + claims()[1:] + claims()[1:], id="duplicate-pubkey-hash"),
        pytest.param(b"\xb8\x01" + claims()[1:], id="long-form-of-the-map-size"),
        pytest.param(
            b"\xa1\x78\x0bpubkey-hash" + claims()[13:], id="long-form-of-the-name's-length"
        ),
        pytest.param(b"\xa1\x61\xff\x41\x00", id="name-not-utf-8"),
    ],
)
def test_claims_of_another_shape_are_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedEvidence, match=r"ratls\.claims"):
        Claims.read(raw)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(evidence(b"q", claims(), tag=60001), id="tdx-report-tag"),
        pytest.param(evidence(b"q", claims(), tag=60002), id="local-report-tag"),
        pytest.param(evidence(b"q", claims(), tag=0), id="tag-with-a-meaning-of-its-own"),
        pytest.param(cbor2.dumps([b"q", claims()]), id="untagged"),
        pytest.param(cbor2.dumps(cbor2.CBORTag(60000, b"q")), id="tagged-bytes"),
        pytest.param(evidence(b"q"), id="without-claims"),
        pytest.param(evidence(b"q", claims(), b""), id="three-items"),
        pytest.param(evidence("q", claims()), id="quote-as-text"),
        pytest.param(evidence(b"q", {"pubkey-hash": b""}), id="claims-not-in-bytes"),
        pytest.param(evidence(b"\0" * ((32 << 10) + 1), claims()), id="oversized-quote"),
        pytest.param(evidence(b"q", claims()) + b"\0", id="trailing"),
        pytest.param(evidence(b"q", claims()) * 2, id="doubled"),
        pytest.param(evidence(b"q", claims())[:-1], id="truncated"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xda\x00\x00\xea\x60" + evidence(b"q", claims())[3:], id="long-form-tag"),
        pytest.param(b"\xd9\xea\x60\x9f\x41q\x41q\xff", id="indefinite-array"),
        pytest.param(b"\xd9\xea\x60\x82\x5f\x41q\xff\x41q", id="indefinite-bytes"),
        pytest.param(b"\xd9\xea\x60" * 3 + b"\x80", id="tag-on-tag"),
        pytest.param(b"\x81" * 100_000, id="nested-without-end"),
        pytest.param(b"\xd9\xea\x60\x82\x5b" + b"\x7f" * 8, id="length-beyond-memory"),
        pytest.param(b"\xd9\xea\x60\x9b" + b"\x7f" * 8, id="count-beyond-memory"),
        pytest.param(b"\xd9\xea\x60\xd8\x1c\x82\xd8\x1d\x00\x40", id="shared-reference-cycle"),
        pytest.param(b"\0" * ((128 << 10) + 1), id="oversized"),
        pytest.param(cbor2.dumps(cbor2.CBORTag(36, "mime")), id="tag-that-is-read-but-not-written"),
    ],
)
def test_evidence_of_another_shape_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidence, match="ratls"):
        TaggedEvidence.read(data)


def test_claims_nobody_knows_are_kept_and_ignored() -> None:
    read = Claims.read(claims(nonce=b"n" * 32, key_0=b"value_0\0"))
    assert read.nonce == b"n" * 32
    assert dict(read.others) == {"key_0": b"value_0\0"}
    assert read.custody is None


def test_custody_and_nonce_stand_in_what_the_evidence_is_over() -> None:
    built = Claims.build(SPKI, nonce=b"fresh", custody="sealed")
    assert (built.nonce, built.custody) == (b"fresh", "sealed")
    assert built.report_data != Claims.build(SPKI, nonce=b"stale", custody="sealed").report_data
    assert built.report_data != Claims.build(SPKI, nonce=b"fresh", custody="other").report_data
    assert built.pubkey_hash == PubkeyHash.of(SPKI)
    assert EVIDENCE_OID == "2.23.133.5.4.9"
