"""Any receipt, batch or log: what one side makes the other takes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from evm_receipts import KEY, SIGNER, evm_receipt
from hypothesis import assume, given
from hypothesis import strategies as st

from attestation.errors import AttestationError, VerificationError
from attestation.onchain import merkle
from attestation.onchain.batch import ReceiptBatch, verify_batch
from attestation.onchain.receipt import (
    EvmReceipt,
    address_of,
    commitment,
    compact,
    recover,
    sign,
)

WORDS = st.binary(min_size=32, max_size=32)
RECEIPTS = st.builds(
    EvmReceipt,
    **{name: WORDS for name in EvmReceipt.__slots__ if name != "served_at"},
    served_at=st.integers(0, 2**64 - 1),
)
KEYS = st.integers(1, 2**255).map(lambda n: n.to_bytes(32, "big"))
LEAVES = st.lists(st.binary(max_size=40), min_size=1, max_size=40)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["context", "servedAt", "event_log", "x"]), inner)
    ),
    max_leaves=12,
)


@given(RECEIPTS)
def test_json_and_back_is_the_same_receipt(receipt: EvmReceipt) -> None:
    assert EvmReceipt.from_json(receipt.to_json()) == receipt


@given(RECEIPTS, KEYS)
def test_whoever_signs_is_recovered(receipt: EvmReceipt, key: bytes) -> None:
    signature = sign(receipt, key)
    r, vs = compact(signature)
    assert len(signature) == 65 and len(r) == len(vs) == 32
    assert recover(receipt, signature) == address_of(key)


@given(RECEIPTS, RECEIPTS)
def test_two_receipts_have_two_hashes(one: EvmReceipt, other: EvmReceipt) -> None:
    assert (one == other) == (one.struct_hash == other.struct_hash)


@given(st.integers(0, 65 * 8 - 1))
def test_a_flipped_bit_is_not_the_nodes_signature(bit: int) -> None:
    damaged = bytearray(sign(evm_receipt(), KEY))
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        assert recover(evm_receipt(), bytes(damaged)) != SIGNER
    except VerificationError as error:
        assert error.step == "signature"


@given(st.binary(max_size=70) | st.binary(min_size=65, max_size=65))
def test_bytes_recover_to_an_address_or_are_refused(data: bytes) -> None:
    try:
        found = recover(evm_receipt(), data)
    except VerificationError:
        return
    assert len(found) == 42 and found != SIGNER


@given(JSON)
def test_any_json_is_a_receipt_or_our_error(obj: Any) -> None:
    for read in EvmReceipt.from_json, EvmReceipt.from_document:
        if read == EvmReceipt.from_document and not isinstance(obj, dict):
            continue
        with pytest.raises(AttestationError):
            read(obj)


@given(WORDS, WORDS, WORDS, WORDS)
def test_a_commitment_opens_one_way(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    assert (commitment(a, b) == commitment(c, d)) == ((a, b) == (c, d))


@given(st.lists(RECEIPTS, min_size=1, max_size=9, unique=True), st.data())
def test_a_batch_is_of_its_receipts_only(receipts: list[EvmReceipt], data: st.DataObject) -> None:
    batch, _ = ReceiptBatch.of(receipts)
    signature = batch.sign(KEY)
    assert verify_batch(batch, receipts, signature) == SIGNER
    other = data.draw(st.permutations(receipts))
    shorter = receipts[: data.draw(st.integers(1, len(receipts)))]
    for changed in other, shorter:
        assume(changed != receipts)
        with pytest.raises(VerificationError):
            verify_batch(batch, changed, signature)


@given(LEAVES, st.data())
def test_every_leaf_is_proved_and_only_there(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle.inclusion_proof(leaves, index, merkle.sha256)
    due = merkle.root(leaves, merkle.sha256)
    args = leaves[index], index, len(leaves)
    assert merkle.root_of(*args, proof, merkle.sha256) == due
    with pytest.raises(VerificationError, match="too long"):
        merkle.root_of(*args, [*proof, bytes(32)], merkle.sha256)
    if proof:
        with pytest.raises(VerificationError, match="too short"):
            merkle.root_of(*args, proof[:-1], merkle.sha256)
        assert merkle.root_of(leaves[index] + b"x", *args[1:], proof, merkle.sha256) != due


@given(LEAVES, st.data())
def test_every_growth_is_proved_and_no_rewriting(leaves: list[bytes], data: st.DataObject) -> None:
    assume(len(leaves) > 1)
    earlier = data.draw(st.integers(1, len(leaves) - 1))
    proof = merkle.consistency_proof(leaves, earlier, merkle.sha256)
    before = earlier, merkle.root(leaves[:earlier], merkle.sha256)
    after = len(leaves), merkle.root(leaves, merkle.sha256)
    merkle.verify_consistency(before, after, proof, merkle.sha256)
    for wrong in (
        ((earlier, bytes(32)), after, proof),
        (before, (after[0], bytes(32)), proof),
        (before, after, proof[:-1]),
        (before, after, [*proof, bytes(32)]),
        ((after[0], before[1]), after, proof),
    ):
        with pytest.raises(VerificationError, match="consistency"):
            merkle.verify_consistency(*wrong, merkle.sha256)
