"""Batches and checkpoints as they are signed, and the trees under them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from evm_receipts import KEY, NOW, SIGNER, evm_receipt, word

from attestation.errors import MalformedEvidence, VerificationError
from attestation.onchain import merkle
from attestation.onchain.batch import MAX_RECEIPTS, LogCheckpoint, ReceiptBatch, verify_batch
from attestation.onchain.errors import NotProvable


class TestBatch:
    RECEIPTS = tuple(evm_receipt(context=word(str(i)), served_at=NOW + i) for i in range(5))

    def test_holds(self) -> None:
        batch, leaves = ReceiptBatch.of(self.RECEIPTS)
        assert leaves == [r.struct_hash for r in self.RECEIPTS]
        assert (batch.served_from, batch.served_until) == (NOW, NOW + 4)
        assert verify_batch(batch, self.RECEIPTS, batch.sign(KEY)) == SIGNER

    @pytest.mark.parametrize(
        "change", [{"count": 6}, {"root": bytes(32)}, {"served_from": NOW + 1}, {"served_until": 0}]
    )
    def test_of_other_receipts_is_refused(self, change: dict[str, Any]) -> None:
        batch = replace(ReceiptBatch.of(self.RECEIPTS)[0], **change)
        with pytest.raises(VerificationError, match="batch"):
            verify_batch(batch, self.RECEIPTS, batch.sign(KEY))

    def test_order_is_part_of_it(self) -> None:
        batch, _ = ReceiptBatch.of(self.RECEIPTS)
        with pytest.raises(VerificationError, match="batch"):
            verify_batch(batch, self.RECEIPTS[::-1], batch.sign(KEY))

    @pytest.mark.parametrize("count", [0, MAX_RECEIPTS + 1])
    def test_none_or_too_many_are_no_batch(self, count: int) -> None:
        with pytest.raises(NotProvable, match="batch"):
            ReceiptBatch.of([evm_receipt()] * count)

    def test_a_receipt_twice_is_no_batch(self) -> None:
        with pytest.raises(NotProvable, match="twice"):
            ReceiptBatch.of([*self.RECEIPTS, self.RECEIPTS[0]])

    @pytest.mark.parametrize(
        "batch",
        [
            ReceiptBatch(b"", 1, 0, 0),
            ReceiptBatch(bytes(32), -1, 0, 0),
            ReceiptBatch(bytes(32), 1, 0, 1 << 64),
            LogCheckpoint(b"", 1, bytes(32), 0),
            LogCheckpoint(bytes(32), 1 << 64, bytes(32), 0),
        ],
    )
    def test_what_does_not_fit_the_type_is_malformed(self, batch: Any) -> None:
        with pytest.raises(MalformedEvidence):
            _ = batch.digest

    def test_wallets_hash_batches_and_checkpoints_the_same(self) -> None:
        batch, _ = ReceiptBatch.of(self.RECEIPTS)
        point = LogCheckpoint.of("node.example/log", [word("entry")], NOW)
        for struct, members in (
            (batch, "root:bytes32 count:uint64 servedFrom:uint64 servedUntil:uint64"),
            (point, "origin:bytes32 size:uint64 root:bytes32 time:uint64"),
        ):
            named = [member.split(":") for member in members.split()]
            values = [getattr(struct, f) for f in type(struct).__slots__]
            kind = type(struct).__name__
            message = encode_typed_data(
                full_message={
                    **evm_receipt().typed_data(),
                    "types": {
                        "EIP712Domain": evm_receipt().typed_data()["types"]["EIP712Domain"],
                        kind: [{"name": n, "type": t} for n, t in named],
                    },
                    "primaryType": kind,
                    "message": dict(zip([n for n, _ in named], values, strict=True)),
                }
            )
            assert message.body == struct.struct_hash


class TestMerkle:
    def test_roots_of_rfc_6962s_reference_tree(self) -> None:
        """Source: the test vectors of Certificate Transparency's reference implementation."""
        leaves = [
            bytes.fromhex(leaf)
            for leaf in (
                "",
                "00",
                "10",
                "2021",
                "3031",
                "40414243",
                "5051525354555657",
                "606162636465666768696a6b6c6d6e6f",
            )
        ]
        roots = {
            0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        }
        for size, due in roots.items():
            assert merkle.root(leaves[:size], merkle.sha256).hex() == due

    @pytest.mark.parametrize("index", [-1, 3])
    def test_no_proof_for_a_leaf_that_is_not_there(self, index: int) -> None:
        with pytest.raises(NotProvable, match="index"):
            merkle.inclusion_proof([b"a", b"b", b"c"], index, merkle.sha256)

    @pytest.mark.parametrize("earlier", [0, 3, 4])
    def test_no_proof_from_a_size_that_is_not_smaller(self, earlier: int) -> None:
        with pytest.raises(NotProvable, match="earlier"):
            merkle.consistency_proof([b"a", b"b", b"c"], earlier, merkle.sha256)

    @pytest.mark.parametrize("index, size", [(3, 3), (-1, 3), (0, 0)])
    def test_no_leaf_there(self, index: int, size: int) -> None:
        with pytest.raises(VerificationError, match="there is no leaf"):
            merkle.root_of(b"a", index, size, [], merkle.sha256)

    @pytest.mark.parametrize("proof", [[bytes(31)], [bytes(32)] * 65])
    def test_a_proof_is_bounded(self, proof: list[bytes]) -> None:
        with pytest.raises(VerificationError, match="at most"):
            merkle.root_of(b"a", 0, 2, proof, merkle.sha256)
