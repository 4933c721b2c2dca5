"""Registrations as encoded: hints point at what the keyset says, or there are none."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import attested
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attestation.canonical import jcs, loads_strict
from attestation.errors import MalformedEvidence
from attestation.keyset import KeyEntry, Keyset, TlsKey
from attestation.onchain.errors import NotProvable
from attestation.onchain.policy import measurement_id, report_body
from attestation.onchain.quote import compact_quote
from attestation.onchain.registration import KeysetHints, Registration, registration_nonce
from attestation.statement import report_data

SIGNER = "0x" + "a1b2c3d4e5" * 4
REGISTRY = "0x" + "5F" * 20
POLICY = "0x" + "6e" * 20
HASH = b"\x0b" * 32
KINDS = ("sgx-v3", "tdx-v4", "tdx-v5", "tdx-v5-td15")
# What an operator who wants to be misread would write.
PIECES = (
    '],"not_after":', "9999999999", ',"receipt_signing_keys":[', '{"algo":"eip712-secp256k1",',
    '"key_id":"evm-1","public_key":"', "b" * 40, '"}', "\\", '"', "[", "]", "{", "}", ",", ":",
    '{"e2ee_public_keys":[', "\u2028", "\u0000", "é", "\U0001f600",
)  # fmt: skip
hostile = st.one_of(
    st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
)
evm = st.builds(
    KeyEntry,
    st.just("evm-1"),
    st.just("eip712-secp256k1"),
    st.binary(min_size=20, max_size=20).map(bytes.hex),
)
other = st.builds(KeyEntry, hostile, st.sampled_from(["ed25519", "eip712-secp256k1"]), hostile)


@st.composite
def keysets(draw: st.DrawFn) -> Keyset:
    """Any strings, lists in any order, with or without a key for contracts."""
    receipt = draw(st.lists(other, max_size=2))
    receipt += draw(st.lists(evm, max_size=1))
    try:
        return Keyset.build(
            subject=draw(st.none() | hostile),
            not_after=draw(st.integers(0, 10**11) | st.integers(10**9, 10**10 - 1)),
            receipt_signing_keys=tuple(draw(st.permutations(receipt))),
            e2ee_public_keys=tuple(draw(st.lists(other, max_size=2))),
            tls_public_keys=tuple(
                TlsKey("c0" * 32, d) for d in draw(st.lists(st.none() | hostile, max_size=2))
            ),
        )
    except MalformedEvidence:
        return attested.keyset()


@given(keysets())
def test_hints_point_at_what_the_keyset_says(keys: Keyset) -> None:
    text = jcs(keys.document)
    evm_key = keys.receipt_key("evm-1")
    try:
        hints = KeysetHints.find(text)
    except NotProvable as e:
        assert e.field.startswith("keyset")
        return
    assert evm_key is not None
    assert (hints.signer, hints.not_after) == ("0x" + evm_key.public_key, keys.not_after)
    assert text[hints.not_after_at :].startswith(f'],"not_after":{keys.not_after},'.encode())
    assert json.loads(text[hints.key_at : hints.key_at + 100]) == evm_key.to_json()
    packed = hints.packed
    assert packed >> 208 == hints.not_after_at
    assert packed >> 160 & (1 << 48) - 1 == hints.key_at
    assert f"0x{packed & (1 << 160) - 1:040x}" == hints.signer


@given(evm, hostile.filter(lambda t: "[" not in t and "]" not in t), hostile)
def test_no_subject_or_domain_keeps_a_node_out(key: KeyEntry, key_id: str, text: str) -> None:
    """Only brackets in the ids of the keys before the EVM key do."""
    keys = attested.keyset(
        subject=text,
        receipt_signing_keys=(KeyEntry(key_id, "ed25519", "07" * 32), key)
        if key_id != "evm-1"
        else (key,),
        tls_public_keys=(TlsKey("c0" * 32, text),),
    )
    if int(key.public_key, 16) == 0:
        return
    assert KeysetHints.find(jcs(keys.document)).signer == "0x" + key.public_key


@given(st.binary(max_size=300))
@example(b"")
@example(b'{"e2ee_public_keys":[')
@example(b'{"e2ee_public_keys":[],"not_after":1780000000,"receipt_signing_keys":[')
def test_any_bytes_have_hints_or_none(text: bytes) -> None:
    with pytest.raises(NotProvable):
        KeysetHints.find(text)


@given(st.data())
def test_nested_documents_are_read_as_json_reads_them(data: st.DataObject) -> None:
    """Members and nesting that no keyset has either: what is found is at the top, or nothing is."""
    inner = {
        "a": [],
        "not_after": 9_999_999_999,
        "receipt_signing_keys": [
            {"algo": "eip712-secp256k1", "key_id": "evm-1", "public_key": "b" * 40}
        ],
    }
    names = st.sampled_from(["a", "e2ee_public_keys", "not_after", "nz", "receipt_signing_keys",
                             "rz", "subject", "zz"])  # fmt: skip
    values = st.sampled_from(
        [inner, [inner], [], [[]], 1_780_000_000, inner["receipt_signing_keys"],
         [{"k": inner["receipt_signing_keys"]}], [{"k": inner["receipt_signing_keys"][0]}],
         [1, *inner["receipt_signing_keys"]], "]"]
    )  # fmt: skip
    document: dict[str, Any] = data.draw(st.dictionaries(names, values, min_size=3))
    text = jcs(document)
    try:
        hints = KeysetHints.find(text)
    except NotProvable:
        return
    read = loads_strict(text)
    assert read["not_after"] == hints.not_after
    assert {
        "algo": "eip712-secp256k1", "key_id": "evm-1", "public_key": hints.signer[2:]
    } in read["receipt_signing_keys"]  # fmt: skip


@given(
    st.integers(0, 2**256 - 1), st.binary(min_size=20, max_size=20), st.integers(0, 2**256 - 1),
    st.binary(min_size=32, max_size=32),
)  # fmt: skip
def test_a_nonce_binds_everything_it_is_made_of(
    chain_id: int, registry: bytes, number: int, block_hash: bytes
) -> None:
    nonce = registration_nonce(chain_id, "0x" + registry.hex(), number, block_hash)
    packed = chain_id.to_bytes(32, "big") + registry + number.to_bytes(32, "big") + block_hash
    assert nonce == hashlib.sha256(b"adyton.register.v1" + packed).hexdigest()


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("chain_id", (-1, REGISTRY, 1, HASH)),
        ("chain_id", (2**256, REGISTRY, 1, HASH)),
        ("block_number", (1, REGISTRY, 2**256, HASH)),
        ("registry", (1, REGISTRY[2:], 1, HASH)),
        ("registry", (1, REGISTRY + "00", 1, HASH)),
        ("block_hash", (1, REGISTRY, 1, HASH[1:])),
    ],
)
def test_a_nonce_is_of_whole_words(field: str, arguments: tuple[int, str, int, bytes]) -> None:
    with pytest.raises(NotProvable) as e:
        registration_nonce(*arguments)
    assert e.value.field == field


def build(
    kind: str = "tdx-v4",
    *,
    keys: Keyset | None = None,
    quoted: Keyset | None = None,
    registry: str = REGISTRY,
    data: bytes | None = None,
    now: int = attested.NOW,
    **odd: Any,
) -> Registration:
    keys = keys or attested.keyset(
        receipt_signing_keys=(KeyEntry("evm-1", "eip712-secp256k1", SIGNER[2:]),)
    )
    nonce = registration_nonce(31337, REGISTRY, 7, HASH)
    due = report_data((quoted or keys).digest, nonce) if data is None else data
    arguments: dict[str, Any] = {
        "quote": compact_quote(attested.quote(kind, report_data=due)),
        "platform": b"\x01",
        "keyset": keys,
        "chain_id": 31337,
        "registry": registry,
        "block_number": 7,
        "block_hash": HASH,
        "now": now,
        **odd,
    }
    return Registration.build(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_a_registration_has_what_register_takes(kind: str) -> None:
    made = build(kind)
    assert made.signer == SIGNER
    assert made.not_after == attested.NOW + 86400
    assert made.measurement == measurement_id(report_body(made.quote))
    assert made.arguments(POLICY) == (
        made.quote, b"\x01", made.keyset, made.hints.packed, 7, POLICY
    )  # fmt: skip
    assert Keyset.from_json(loads_strict(made.keyset)).digest == (
        "sha256:" + hashlib.sha256(made.keyset).hexdigest()
    )


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        ("report_data", {"quoted": attested.keyset(subject="another")}),
        ("report_data", {"registry": "0x" + "5E" * 20}),
        ("report_data", {"chain_id": 1}),
        ("report_data", {"block_number": 8}),
        ("report_data", {"block_hash": bytes(32)}),
        ("report_data", {"data": bytes(64)}),
        ("keyset.not_after", {"now": attested.NOW + 86400}),
        ("keyset.receipt_signing_keys", {"keys": attested.keyset()}),
        ("quote", {"quote": b"\x04\x00" + bytes(1000)}),
        ("quote.version", {"quote": b"\x06\x00" + bytes(2000)}),
        ("quote.version", {"quote": b""}),
        ("block_hash", {"block_hash": b""}),
    ],
)
def test_what_the_contract_would_refuse_is_refused_here(field: str, odd: dict[str, Any]) -> None:
    with pytest.raises(NotProvable) as e:
        build(**odd)
    assert e.value.field == field


@pytest.mark.parametrize("policy", ["", "0x" + "00" * 20, "6e" * 20, POLICY + "00", "0x6g" * 10])
def test_no_registration_without_a_policy(policy: str) -> None:
    with pytest.raises(NotProvable) as e:
        build().calldata(policy)
    assert e.value.field == "policy"


@given(st.sampled_from(KINDS), st.data())
def test_another_measured_bit_is_another_id_and_no_other_bit_is(
    kind: str, data: st.DataObject
) -> None:
    body = report_body(build(kind).quote)
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    if kind == "sgx-v3":
        measured = 16 <= bit // 8 < 320
    else:
        measured = 120 <= bit // 8 < 520 or 600 <= bit // 8 < 648
    assert (measurement_id(attested.flip(body, bit)) != measurement_id(body)) == measured


@given(st.integers(0, 900).filter(lambda n: n not in (384, 584, 648)))
def test_other_sizes_have_no_id(size: int) -> None:
    with pytest.raises(NotProvable):
        measurement_id(bytes(size))
