"""Contracts that act on answers: the example that pays for them, and the ERC-8274 adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from chain import Chain, Contract
from eth_abi.abi import encode
from evm_receipts import (
    DAY,
    EXPIRY,
    KEY,
    MODEL,
    NOW,
    REQUEST,
    RESPONSE,
    SALT,
    STRANGER,
    evm_receipt,
    policies,
    registered,
    signed,
    word,
)

from attestation.onchain.receipt import EvmReceipt, address_of, commitment, compact, keccak, sign

PRICE = 10**18
DEADLINE = NOW + 10 * DAY


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


@pytest.fixture(scope="module")
def paid(chain: Chain, verifier: Contract, policy: str) -> Contract:
    return chain.deploy("PaidAnswer", verifier.address, policy)


@pytest.fixture(scope="module")
def adapter(chain: Chain, verifier: Contract, policy: str) -> Contract:
    return chain.deploy("ReceiptProofAdapter", verifier.address, policy)


@pytest.fixture(autouse=True)
def afresh(chain: Chain, paid: Contract, adapter: Contract) -> Iterator[None]:
    with chain.undone():
        yield


def provider(chain: Chain) -> str:
    address: str = chain.rpc("eth_accounts")[4]
    return address


def balance(chain: Chain, address: str) -> int:
    return int(chain.rpc("eth_getBalance", address, "latest"), 16)


def ask(chain: Chain, paid: Contract, to: str, asker: str | None = None) -> bytes:
    question = REQUEST, MODEL, to, DEADLINE
    receipt = chain.send(paid, "ask", *question, sender=asker, value=PRICE)
    return bytes.fromhex(receipt["logs"][0]["topics"][1][2:])


def answered(question: bytes, key: bytes = KEY, **changes: Any) -> tuple[Any, ...]:
    receipt = evm_receipt(**{"context": question, **changes})
    return *signed(receipt, key), question, SALT, RESPONSE


class TestPaidAnswer:
    def test_a_genuine_answer_is_paid_for(self, chain: Chain, paid: Contract) -> None:
        question = ask(chain, paid, provider(chain))
        before = balance(chain, provider(chain))
        chain.send(paid, "answer", *answered(question))
        assert balance(chain, provider(chain)) == before + PRICE
        assert balance(chain, paid.address) == 0

    def test_a_changed_answer_reverts_on_opening(self, chain: Chain, paid: Contract) -> None:
        question = ask(chain, paid, provider(chain))
        *head, _ = answered(question)
        with chain.refused("CommitmentMismatch"):
            chain.send(paid, "answer", *head, RESPONSE.replace(b"Yes", b"No."))

    def test_wrong_salt(self, chain: Chain, paid: Contract) -> None:
        question = ask(chain, paid, provider(chain))
        *head, _, body = answered(question)
        with chain.refused("CommitmentMismatch"):
            chain.send(paid, "answer", *head, bytes(32), body)

    def test_an_answer_to_other_words(self, chain: Chain, paid: Contract) -> None:
        question = ask(chain, paid, provider(chain))
        easier = commitment(SALT, hashlib.sha256(b"an easier question").digest())
        with chain.refused("CommitmentMismatch"):
            chain.send(paid, "answer", *answered(question, request_hash=easier))

    def test_an_answer_to_another_question(self, chain: Chain, paid: Contract) -> None:
        """The same words asked twice are two questions, each with an answer of its own."""
        first, second = (ask(chain, paid, provider(chain)) for _ in range(2))
        assert first != second
        values, r, vs, _, salt, body = answered(first)
        with chain.refused("WrongContext"):
            chain.send(paid, "answer", values, r, vs, second, salt, body)

    @pytest.mark.parametrize(
        "changes", [{"model_digest": word("cheaper")}, {"adapter_digest": word("tuned to agree")}]
    )
    def test_another_model(self, chain: Chain, paid: Contract, changes: dict[str, bytes]) -> None:
        question = ask(chain, paid, provider(chain))
        with chain.refused("WrongModel"):
            chain.send(paid, "answer", *answered(question, **changes))

    def test_a_node_nobody_registered(self, chain: Chain, paid: Contract) -> None:
        question = ask(chain, paid, provider(chain))
        with chain.refused("NodeUnknown"):
            chain.send(paid, "answer", *answered(question, key=STRANGER))

    def test_a_node_registered_under_a_policy_of_its_own(
        self, chain: Chain, verifier: Contract, paid: Contract
    ) -> None:
        chain.send(verifier, "put", address_of(STRANGER), policies(chain)[1], EXPIRY)
        question = ask(chain, paid, provider(chain))
        with chain.refused("NodeUnknown"):
            chain.send(paid, "answer", *answered(question, key=STRANGER))

    def test_revoked_between_question_and_answer(
        self, chain: Chain, verifier: Contract, paid: Contract, policy: str
    ) -> None:
        question = ask(chain, paid, provider(chain))
        chain.send(verifier, "endEpoch", sender=policy)
        with chain.refused("EpochEnded"):
            chain.send(paid, "answer", *answered(question))

    def test_paid_once(self, chain: Chain, paid: Contract) -> None:
        question, _ = (ask(chain, paid, provider(chain)) for _ in range(2))
        chain.send(paid, "answer", *answered(question))
        with chain.refused("NoSuchQuestion"):
            chain.send(paid, "answer", *answered(question))

    def test_whoever_copies_an_answer_pays_the_same_provider(
        self, chain: Chain, paid: Contract
    ) -> None:
        question = ask(chain, paid, provider(chain))
        before = balance(chain, provider(chain))
        chain.send(paid, "answer", *answered(question), sender=policies(chain)[2])
        assert balance(chain, provider(chain)) == before + PRICE

    def test_refund_after_the_deadline_and_not_before(self, chain: Chain, paid: Contract) -> None:
        asker = policies(chain)[3]
        question = ask(chain, paid, provider(chain), asker)
        before = balance(chain, asker)
        with chain.refused("DeadlineAhead"):
            chain.send(paid, "refund", question)
        chain.at(DEADLINE + 1)
        with chain.refused("DeadlinePassed"):
            chain.send(paid, "answer", *answered(question))
        chain.send(paid, "refund", question)
        assert balance(chain, asker) == before + PRICE
        with chain.refused("NoSuchQuestion"):
            chain.send(paid, "refund", question)

    def test_question_whose_deadline_is_over(self, chain: Chain, paid: Contract) -> None:
        with chain.refused("DeadlinePassed"):
            chain.send(paid, "ask", REQUEST, MODEL, provider(chain), NOW)

    def test_provider_that_takes_no_money(
        self, chain: Chain, verifier: Contract, paid: Contract
    ) -> None:
        question = ask(chain, paid, verifier.address)
        with chain.refused("PaymentFailed"):
            chain.send(paid, "answer", *answered(question))


class TestReentrant:
    def test_reentrant_provider_is_paid_once(self, chain: Chain, paid: Contract) -> None:
        greedy = chain.deploy("Reentrant", paid.address)
        question = ask(chain, paid, greedy.address)
        ask(chain, paid, provider(chain))  # money of others, to steal
        again = bytes.fromhex(paid.data("answer", *answered(question))[2:])
        chain.send(greedy, "arm", again)
        chain.send(paid, "answer", *answered(question))
        assert chain.call(greedy, "payments") == 1
        assert not chain.call(greedy, "succeeded")
        assert balance(chain, greedy.address) == balance(chain, paid.address) == PRICE

    def test_reentrant_asker_is_refunded_once(self, chain: Chain, paid: Contract) -> None:
        greedy = chain.deploy("Reentrant", paid.address)
        call = bytes.fromhex(paid.data("ask", REQUEST, MODEL, provider(chain), DEADLINE)[2:])
        receipt = chain.send(greedy, "ask", call, value=PRICE)
        question = bytes.fromhex(receipt["logs"][0]["topics"][1][2:])
        ask(chain, paid, provider(chain))
        chain.send(greedy, "arm", bytes.fromhex(paid.data("refund", question)[2:]))
        chain.at(DEADLINE + 1)
        chain.send(paid, "refund", question)
        assert chain.call(greedy, "payments") == 1
        assert not chain.call(greedy, "succeeded")
        assert balance(chain, greedy.address) == balance(chain, paid.address) == PRICE


class TestAdapter:
    def args(self, receipt: EvmReceipt, key: bytes = KEY) -> list[Any]:
        metadata = encode(["bytes32", "bytes32"], [receipt.model_digest, receipt.adapter_digest])
        proof = encode(
            ["bytes32", "bytes32", "bytes32", "uint64", "bytes32", "bytes32"],
            [
                receipt.keyset_digest,
                receipt.receipt_hash,
                receipt.context,
                receipt.served_at,
                *compact(sign(receipt, key)),
            ],
        )
        return [receipt.request_hash, receipt.response_hash, metadata, proof]

    def test_true_for_a_receipt(self, chain: Chain, adapter: Contract) -> None:
        assert chain.call(adapter, "verify", *self.args(evm_receipt())) is True

    def test_metadata_that_lies(self, chain: Chain, adapter: Contract) -> None:
        args = self.args(evm_receipt())
        for lie in (word("a better model"), bytes(32)), (MODEL, word("an adapter")):
            args[2] = encode(["bytes32", "bytes32"], lie)
            with chain.refused("NodeUnknown"):
                chain.call(adapter, "verify", *args)

    @pytest.mark.parametrize("length", [0, 32, 63, 65, 96])
    def test_metadata_of_another_length(self, chain: Chain, adapter: Contract, length: int) -> None:
        """No room for a policy, or anything else that a caller would like to choose."""
        args = self.args(evm_receipt())
        args[2] = (args[2] + bytes(64))[:length]
        with chain.refused("MetadataLength"):
            chain.call(adapter, "verify", *args)

    @pytest.mark.parametrize("length", [0, 191, 193, 224])
    def test_proof_of_another_length(self, chain: Chain, adapter: Contract, length: int) -> None:
        args = self.args(evm_receipt())
        args[3] = (args[3] + bytes(64))[:length]
        with chain.refused("ProofLength"):
            chain.call(adapter, "verify", *args)

    @pytest.mark.parametrize("at", [0, 1])
    def test_another_input_or_output(self, chain: Chain, adapter: Contract, at: int) -> None:
        args = self.args(evm_receipt())
        args[at] = word("another")
        with chain.refused("NodeUnknown"):
            chain.call(adapter, "verify", *args)

    def test_never_false(self, chain: Chain, adapter: Contract) -> None:
        with chain.refused("NodeUnknown"):
            chain.call(adapter, "verify", *self.args(evm_receipt(), STRANGER))
        with chain.refused("ServedBeforeRegistration"):
            chain.call(adapter, "verify", *self.args(evm_receipt(served_at=NOW - DAY)))

    def test_says_what_it_is(
        self, chain: Chain, verifier: Contract, adapter: Contract, policy: str
    ) -> None:
        assert chain.call(adapter, "proofSystem") == "tee/adyton"
        salt = keccak(
            encode(
                ["uint256", "address", "address"],
                [int(chain.rpc("eth_chainId"), 16), verifier.address, policy],
            )
        )
        assert chain.call(adapter, "proofProfile") == keccak(b"tee/adyton" + salt)
        named = ("verify(bytes32,bytes32,bytes,bytes)", "proofSystem()", "proofProfile()")
        interface = 0
        for signature in named:
            interface ^= int.from_bytes(keccak(signature.encode())[:4], "big")
        supported = (interface.to_bytes(4, "big"), True), (bytes.fromhex("01ffc9a7"), True)
        for id_, due in (*supported, (b"\xff" * 4, False)):
            assert chain.call(adapter, "supportsInterface", id_) is due
