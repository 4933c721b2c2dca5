"""Receipts in batches, and logs that may only grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from chain import Chain, Contract
from evm_receipts import (
    DAY,
    EXPIRY,
    KEY,
    NOW,
    SIGNER,
    STRANGER,
    evm_receipt,
    policies,
    registered,
    word,
)

from attestation.onchain import merkle
from attestation.onchain.batch import LogCheckpoint, ReceiptBatch
from attestation.onchain.receipt import compact, keccak

RECEIPTS = [evm_receipt(context=word(f"question {i}"), served_at=NOW + 60 + i) for i in range(64)]
ENTRIES = [word(f"entry {i}") for i in range(70)]
NAME = "node.example/log"


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(timestamp=NOW) as chain:
        yield chain


@pytest.fixture(scope="module")
def verifier(chain: Chain) -> Contract:
    return registered(chain)


@pytest.fixture(scope="module")
def policy(chain: Chain) -> str:
    return policies(chain)[0]


def batch_args(
    batch: ReceiptBatch, leaves: Sequence[bytes], policy: str, key: bytes = KEY
) -> tuple[Any, ...]:
    span = batch.served_from, batch.served_until
    return leaves, *span, *compact(batch.sign(key)), policy


class TestBatch:
    @pytest.mark.parametrize("count", [1, 2, 3, 5, 64])
    def test_a_batch_is_the_nodes(
        self, chain: Chain, verifier: Contract, policy: str, count: int
    ) -> None:
        args = batch_args(*ReceiptBatch.of(RECEIPTS[:count]), policy)
        assert chain.call(verifier, "verifyBatch", *args) == SIGNER

    def test_roots_of_all_sizes_are_those_of_rfc_9162(
        self, chain: Chain, verifier: Contract
    ) -> None:
        for size in range(1, 71):
            due = merkle.root(ENTRIES[:size], keccak)
            assert chain.call(verifier, "batchRoot", ENTRIES[:size]) == due

    def test_leaf_changed(self, chain: Chain, verifier: Contract, policy: str) -> None:
        for at in 0, 31, 63:
            batch, leaves = ReceiptBatch.of(RECEIPTS)
            leaves[at] = evm_receipt(context=word("another")).struct_hash
            with chain.refused("NodeUnknown"):
                chain.call(verifier, "verifyBatch", *batch_args(batch, leaves, policy))

    def test_leaves_reordered(self, chain: Chain, verifier: Contract, policy: str) -> None:
        batch, leaves = ReceiptBatch.of(RECEIPTS[:7])
        with chain.refused("NodeUnknown"):
            chain.call(verifier, "verifyBatch", *batch_args(batch, leaves[::-1], policy))

    @pytest.mark.parametrize("count", [3, 5, 6, 7])
    def test_leaf_duplicated(
        self, chain: Chain, verifier: Contract, policy: str, count: int
    ) -> None:
        """Where odd levels repeat their last node, n leaves and n + 1 have one root. Not here."""
        batch, leaves = ReceiptBatch.of(RECEIPTS[:count])
        assert chain.call(verifier, "batchRoot", [*leaves, leaves[-1]]) != batch.root
        with chain.refused("NodeUnknown"):
            repeated = [*leaves, leaves[-1]]
            chain.call(verifier, "verifyBatch", *batch_args(batch, repeated, policy))

    def test_wrong_count(self, chain: Chain, verifier: Contract, policy: str) -> None:
        batch, leaves = ReceiptBatch.of(RECEIPTS[:8])
        claims_more = ReceiptBatch(batch.root, 9, batch.served_from, batch.served_until)
        for wrong in (
            batch_args(batch, leaves[:-1], policy),
            batch_args(claims_more, leaves, policy),
        ):
            with chain.refused("NodeUnknown"):
                chain.call(verifier, "verifyBatch", *wrong)

    def test_nodes_do_not_pass_for_leaves(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        batch, leaves = ReceiptBatch.of(RECEIPTS[:4])
        hashed = [merkle.leaf_hash(leaf, keccak) for leaf in leaves]
        inner = [merkle.node_hash(hashed[i], hashed[i + 1], keccak) for i in (0, 2)]
        for shorter in inner, hashed, [batch.root]:
            assert chain.call(verifier, "batchRoot", shorter) != batch.root
            with chain.refused("NodeUnknown"):
                chain.call(verifier, "verifyBatch", *batch_args(batch, shorter, policy))

    def test_batch_of_nothing(self, chain: Chain, verifier: Contract, policy: str) -> None:
        nothing = ReceiptBatch(merkle.root([], keccak), 0, NOW, NOW)
        with chain.refused("EmptyBatch"):
            chain.call(verifier, "verifyBatch", *batch_args(nothing, [], policy))

    @pytest.mark.parametrize(
        "served_from, served_until, error",
        [
            (NOW + 120, NOW + 60, "BatchSpanInverted"),
            (NOW - DAY, NOW + 60, "ServedBeforeRegistration"),
            (NOW + 60, NOW + 400 * DAY, "ServedInFuture"),
        ],
    )
    def test_span_outside_the_registration(
        self,
        chain: Chain,
        verifier: Contract,
        policy: str,
        served_from: int,
        served_until: int,
        error: str,
    ) -> None:
        batch, leaves = ReceiptBatch.of(RECEIPTS[:2])
        other = ReceiptBatch(batch.root, 2, served_from, served_until)
        with chain.refused(error):
            chain.call(verifier, "verifyBatch", *batch_args(other, leaves, policy))

    def test_span_that_ends_after_the_registration(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        batch, leaves = ReceiptBatch.of(RECEIPTS[:2])
        other = ReceiptBatch(batch.root, 2, NOW + 60, EXPIRY)
        with chain.undone():
            chain.at(EXPIRY + DAY)
            with chain.refused("NodeExpiredWhenServed"):
                chain.call(verifier, "verifyBatch", *batch_args(other, leaves, policy))

    def test_unregistered_signer_and_ended_epoch(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        made = ReceiptBatch.of(RECEIPTS[:2])
        with chain.refused("NodeUnknown"):
            chain.call(verifier, "verifyBatch", *batch_args(*made, policy, STRANGER))
        with chain.undone():
            chain.send(verifier, "endEpoch", sender=policy)
            with chain.refused("EpochEnded"):
                chain.call(verifier, "verifyBatch", *batch_args(*made, policy))

    def test_gas_of_each_of_64(self, chain: Chain, verifier: Contract, policy: str) -> None:
        with chain.undone():
            args = batch_args(*ReceiptBatch.of(RECEIPTS), policy)
            assert chain.send(verifier, "verifyBatch", *args)["gas"] <= 64 * 1_750


def checkpoint(size: int, time: int | None = None, name: str = NAME) -> LogCheckpoint:
    return LogCheckpoint.of(name, ENTRIES[:size], NOW + 100 + size if time is None else time)


def commit_args(
    made: LogCheckpoint, policy: str, earlier: bytes = bytes(32), proof: Sequence[bytes] = ()
) -> tuple[Any, ...]:
    return made.values, *compact(made.sign(KEY)), policy, earlier, proof


def next_args(before: LogCheckpoint, after: LogCheckpoint, policy: str) -> tuple[Any, ...]:
    proof = merkle.consistency_proof(ENTRIES[: after.size], before.size, merkle.sha256)
    return commit_args(after, policy, before.root, proof)


def logged_args(made: LogCheckpoint, index: int, policy: str) -> list[Any]:
    proof = merkle.inclusion_proof(ENTRIES[: made.size], index, merkle.sha256)
    where = [SIGNER, policy, made.origin, made.size, made.time]
    return [*where, ENTRIES[index], index, proof]


class TestLog:
    def test_every_growth_of_a_log_is_followed(self, chain: Chain, verifier: Contract) -> None:
        for earlier in range(1, 20):
            for size in range(earlier + 1, 21):
                roots = [merkle.root(ENTRIES[:n], merkle.sha256) for n in (earlier, size)]
                proof = merkle.consistency_proof(ENTRIES[:size], earlier, merkle.sha256)
                args = earlier, roots[0], size, roots[1], proof
                chain.call(verifier, "requireConsistent", *args)

    def test_every_entry_of_a_log_is_found(self, chain: Chain, verifier: Contract) -> None:
        for size in 1, 2, 3, 6, 7, 8, 13:
            due = merkle.root(ENTRIES[:size], merkle.sha256)
            for index in range(size):
                proof = merkle.inclusion_proof(ENTRIES[:size], index, merkle.sha256)
                args = ENTRIES[index], index, size, proof
                assert chain.call(verifier, "logRoot", *args) == due

    def test_an_entry_is_shown_in_any_checkpoint_committed(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        first, second = checkpoint(5), checkpoint(13)
        with chain.undone():
            chain.send(verifier, "commitCheckpoint", *commit_args(first, policy))
            chain.send(verifier, "commitCheckpoint", *next_args(first, second, policy))
            assert chain.call(verifier, "lastCheckpoint", SIGNER, policy) == (13, second.time)
            for made, index in (first, 0), (first, 4), (second, 4), (second, 12):
                chain.call(verifier, "requireLogged", *logged_args(made, index, policy))

    def test_checkpoint_rollback(self, chain: Chain, verifier: Contract, policy: str) -> None:
        first, second = checkpoint(5), checkpoint(13)
        with chain.undone():
            chain.send(verifier, "commitCheckpoint", *commit_args(first, policy))
            chain.send(verifier, "commitCheckpoint", *next_args(first, second, policy))
            for again in first, checkpoint(12), second, checkpoint(13, time=NOW + 1000):
                with chain.refused("CheckpointNotNewer"):
                    args = commit_args(again, policy, second.root, ENTRIES[:1])
                    chain.send(verifier, "commitCheckpoint", *args)

    def test_log_rewritten(self, chain: Chain, verifier: Contract, policy: str) -> None:
        """The same size as an honest successor, one early entry replaced."""
        forged = [word("forged"), *ENTRIES[1:13]]
        for size in 4, 5:
            first = checkpoint(size)
            after = LogCheckpoint.of(NAME, forged, NOW + 500)
            own = merkle.consistency_proof(forged, size, merkle.sha256)
            honest = merkle.consistency_proof(ENTRIES[:13], size, merkle.sha256)
            with chain.undone():
                chain.send(verifier, "commitCheckpoint", *commit_args(first, policy))
                with chain.refused("WrongRoot" if size == 4 else "LogRewritten"):
                    args = commit_args(after, policy, first.root, own)
                    chain.send(verifier, "commitCheckpoint", *args)
                with chain.refused("WrongRoot"):
                    args = commit_args(after, policy, first.root, honest)
                    chain.send(verifier, "commitCheckpoint", *args)

    def test_another_earlier_root_than_the_one_committed(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        forged = [word("forged"), *ENTRIES[1:13]]
        proof = merkle.consistency_proof(forged, 5, merkle.sha256)
        after = LogCheckpoint.of(NAME, forged, NOW + 500)
        with chain.undone():
            chain.send(verifier, "commitCheckpoint", *commit_args(checkpoint(5), policy))
            with chain.refused("EarlierCheckpointMismatch"):
                earlier = merkle.root(forged[:5], merkle.sha256)
                chain.send(
                    verifier, "commitCheckpoint", *commit_args(after, policy, earlier, proof)
                )

    def test_another_log_in_its_place(self, chain: Chain, verifier: Contract, policy: str) -> None:
        first, other = checkpoint(5), checkpoint(13, name="another.example/log")
        with chain.undone():
            chain.send(verifier, "commitCheckpoint", *commit_args(first, policy))
            with chain.refused("EarlierCheckpointMismatch"):
                chain.send(verifier, "commitCheckpoint", *next_args(first, other, policy))

    def test_first_checkpoint_continues_nothing(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        for earlier, proof in (word("root"), []), (bytes(32), [word("proof")]):
            with chain.refused("EarlierCheckpointMismatch"):
                args = commit_args(checkpoint(5), policy, earlier, proof)
                chain.send(verifier, "commitCheckpoint", *args)

    def test_empty_log(self, chain: Chain, verifier: Contract, policy: str) -> None:
        with chain.refused("CheckpointNotNewer"):
            chain.send(verifier, "commitCheckpoint", *commit_args(checkpoint(0), policy))

    def test_clock_that_went_backwards(self, chain: Chain, verifier: Contract, policy: str) -> None:
        first, second = checkpoint(5), checkpoint(13, time=NOW + 104)
        with chain.undone():
            chain.send(verifier, "commitCheckpoint", *commit_args(first, policy))
            with chain.refused("CheckpointOlder"):
                chain.send(verifier, "commitCheckpoint", *next_args(first, second, policy))

    @pytest.mark.parametrize("earlier", [4, 5])
    def test_consistency_proof_too_short_or_too_long(
        self, chain: Chain, verifier: Contract, policy: str, earlier: int
    ) -> None:
        first, second = checkpoint(earlier), checkpoint(13)
        *head, proof = next_args(first, second, policy)
        wrong = [
            ([], "ProofTooShort"),
            (proof[:-1], "ProofTooShort"),
            ([*proof, word("more")], "ProofTooLong"),
        ]
        with chain.undone():
            chain.send(verifier, "commitCheckpoint", *commit_args(first, policy))
            for bad, error in wrong:
                with chain.refused(error):
                    chain.send(verifier, "commitCheckpoint", *head, bad)

    def test_checkpoint_of_nobody_or_of_no_time_registered(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        made = checkpoint(5)
        none: list[bytes] = []
        stranger = made.values, *compact(made.sign(STRANGER)), policy, bytes(32), none
        with chain.refused("NodeUnknown"):
            chain.send(verifier, "commitCheckpoint", *stranger)
        for time, error in (
            (NOW - DAY, "ServedBeforeRegistration"),
            (NOW + 400 * DAY, "ServedInFuture"),
        ):
            with chain.refused(error):
                chain.send(verifier, "commitCheckpoint", *commit_args(checkpoint(5, time), policy))

    def test_ended_epoch(self, chain: Chain, verifier: Contract, policy: str) -> None:
        made = checkpoint(5)
        with chain.undone():
            chain.send(verifier, "commitCheckpoint", *commit_args(made, policy))
            chain.send(verifier, "endEpoch", sender=policy)
            with chain.refused("EpochEnded"):
                chain.call(verifier, "requireLogged", *logged_args(made, 1, policy))
            with chain.refused("EpochEnded"):
                args = next_args(made, checkpoint(6), policy)
                chain.send(verifier, "commitCheckpoint", *args)


class TestInclusion:
    """What is wrong with a proof against a checkpoint of 13 entries, index 6."""

    @pytest.fixture
    def committed(self, chain: Chain, verifier: Contract, policy: str) -> Iterator[list[Any]]:
        made = checkpoint(13)
        with chain.undone():
            chain.send(verifier, "commitCheckpoint", *commit_args(made, policy))
            yield logged_args(made, 6, policy)

    @pytest.mark.parametrize(
        "at, value, error",
        [
            (0, "0x" + "11" * 20, "NotLogged"),
            (1, "0x" + "22" * 20, "NotLogged"),
            (2, word("another origin"), "NotLogged"),
            (3, 14, "NotLogged"),
            (3, 6, "IndexBeyondTree"),
            (3, 2**64 - 1, "ProofTooShort"),
            (4, NOW, "NotLogged"),
            (5, word("another entry"), "NotLogged"),
            (6, 7, "NotLogged"),
            (6, 0, "NotLogged"),
            (6, 12, "ProofTooLong"),
            (6, 13, "IndexBeyondTree"),
        ],
        ids=[
            "signer",
            "policy",
            "origin",
            "size",
            "size below index",
            "size of another height",
            "time",
            "entry",
            "wrong index",
            "index zero",
            "index on the short side",
            "index beyond",
        ],
    )
    def test_wrong_argument(
        self,
        chain: Chain,
        verifier: Contract,
        committed: list[Any],
        at: int,
        value: Any,
        error: str,
    ) -> None:
        wrong = [*committed]
        wrong[at] = value
        with chain.refused(error):
            chain.call(verifier, "requireLogged", *wrong)

    def test_proof_too_long_too_short_or_changed(
        self, chain: Chain, verifier: Contract, committed: list[Any]
    ) -> None:
        chain.call(verifier, "requireLogged", *committed)
        *head, proof = committed
        for bad, error in (
            ([*proof, word("more")], "ProofTooLong"),
            (proof[:-1], "ProofTooShort"),
            ([], "ProofTooShort"),
            ([proof[1], proof[0], *proof[2:]], "NotLogged"),
            ([word("other"), *proof[1:]], "NotLogged"),
        ):
            with chain.refused(error):
                chain.call(verifier, "requireLogged", *head, bad)

    def test_a_node_does_not_pass_for_an_entry(self, chain: Chain, verifier: Contract) -> None:
        """The parent of entries 6 and 7 of 8, as the last entry of 4: no root is the same."""
        parent = [merkle.leaf_hash(e, merkle.sha256) for e in ENTRIES[6:8]]
        node = merkle.node_hash(parent[0], parent[1], merkle.sha256)
        proof = merkle.inclusion_proof(ENTRIES[:8], 6, merkle.sha256)[1:]
        due = merkle.root(ENTRIES[:8], merkle.sha256)
        for entry in node, b"".join(parent)[:32]:
            assert chain.call(verifier, "logRoot", entry, 3, 4, proof) != due
