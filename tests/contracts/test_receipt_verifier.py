"""One receipt on a chain: whose it is, when it counts, that it counts once, what it opens to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from chain import Chain, Contract, Refused
from eth_account.messages import encode_typed_data
from evm_receipts import (
    DAY,
    EXPIRY,
    KEY,
    NOW,
    RESPONSE,
    SALT,
    SIGNER,
    STRANGER,
    evm_receipt,
    key_whose_s_is,
    policies,
    registered,
    signature_with,
    signed,
    vs,
    word,
)

from attestation.onchain.batch import ReceiptBatch
from attestation.onchain.receipt import (
    ORDER,
    EvmReceipt,
    address_of,
    commitment,
    compact,
    sign,
)

RECEIPT = evm_receipt()
LATER = evm_receipt(served_at=NOW + 2 * 3600)


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


def put(chain: Chain, verifier: Contract, key: bytes, policy: str, expiry: int = EXPIRY) -> None:
    chain.send(verifier, "put", address_of(key), policy, expiry)
    chain.at(NOW + 3 * 3600)


def test_a_registered_nodes_receipt_is_its_own(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    assert chain.call(verifier, "verifyReceipt", *signed(RECEIPT), policy) == SIGNER
    r_vs = compact(sign(RECEIPT, KEY))
    assert chain.call(verifier, "verifyDigest", RECEIPT.struct_hash, *r_vs, policy) == SIGNER


def test_contract_and_wallets_hash_a_receipt_alike(chain: Chain, verifier: Contract) -> None:
    hashed = chain.call(verifier, "structHash", RECEIPT.values)
    typed = encode_typed_data(full_message=RECEIPT.typed_data())
    assert hashed == RECEIPT.struct_hash == typed.body


@pytest.mark.parametrize("name", [f.name for f in fields(EvmReceipt)])
def test_any_word_changed_is_somebody_elses_receipt(
    chain: Chain, verifier: Contract, policy: str, name: str
) -> None:
    was = getattr(RECEIPT, name)
    now: Any = was + 1 if isinstance(was, int) else was[:-1] + bytes([was[-1] ^ 1])
    changed = replace(RECEIPT, **{name: now})
    with chain.refused("NodeUnknown"):
        chain.call(verifier, "verifyReceipt", changed.values, *compact(sign(RECEIPT, KEY)), policy)


def test_bits_beside_the_time_are_refused(chain: Chain, verifier: Contract, policy: str) -> None:
    data = verifier.data("verifyReceipt", *signed(RECEIPT), policy)
    at = 2 + 8 + 7 * 64
    dirty = data[:at] + "01" + data[at + 2 :]
    with pytest.raises((Refused, RuntimeError)):
        chain.rpc("eth_call", {"to": verifier.address, "data": dirty}, "latest")


class TestSignature:
    def test_high_s_is_refused(self, chain: Chain, verifier: Contract, policy: str) -> None:
        """Between half the order and 2**255 a high s fits into vs without touching the parity."""
        digest, low = LATER.digest, ORDER // 2
        key, r, parity = key_whose_s_is(digest, low)
        with chain.undone():
            put(chain, verifier, key, policy)
            args = LATER.values, r.to_bytes(32, "big")
            assert chain.call(
                verifier, "verifyReceipt", *args, vs(low, parity), policy
            ) == address_of(key)
            with chain.refused("HighS"):
                chain.call(verifier, "verifyReceipt", *args, vs(ORDER - low, 1 - parity), policy)

    def test_the_twin_of_an_ordinary_signature_does_not_fit_into_two_words(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        r, word_ = compact(sign(RECEIPT, KEY))
        s = int.from_bytes(word_, "big") & (1 << 255) - 1
        twin = (ORDER - s).to_bytes(32, "big")
        with pytest.raises(Refused) as refused:
            chain.call(verifier, "verifyReceipt", RECEIPT.values, r, twin, policy)
        assert refused.value.name in {"HighS", "NodeUnknown", "BadSignature"}

    def test_the_twin_does_not_consume_twice(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        low = ORDER // 2
        key, r, parity = key_whose_s_is(LATER.digest, low)
        args = LATER.values, r.to_bytes(32, "big")
        with chain.undone():
            put(chain, verifier, key, policy)
            rest = policy, LATER.context
            chain.send(verifier, "consume", *args, vs(low, parity), *rest)
            with chain.refused("HighS"):
                chain.send(verifier, "consume", *args, vs(ORDER - low, 1 - parity), *rest)

    def test_another_signature_of_the_same_receipt_does_not_consume_twice(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        r, s, parity = signature_with(RECEIPT.digest, KEY, nonce=12345)
        if s > ORDER // 2:
            s, parity = ORDER - s, 1 - parity
        with chain.undone():
            chain.send(verifier, "consume", *signed(RECEIPT), policy, RECEIPT.context)
            other = r.to_bytes(32, "big"), vs(s, parity)
            assert chain.call(verifier, "verifyReceipt", RECEIPT.values, *other, policy) == SIGNER
            with chain.refused("AlreadyConsumed"):
                chain.send(verifier, "consume", RECEIPT.values, *other, policy, RECEIPT.context)

    @pytest.mark.parametrize(
        "r, s",
        [(0, 1), (1, 0), (ORDER, 1), (2**256 - 1, 1), (5, 1)],
        ids=["r zero", "s zero", "r is the order", "r beyond the field", "no such point"],
    )
    def test_recovery_to_the_zero_address_is_refused(
        self, chain: Chain, verifier: Contract, policy: str, r: int, s: int
    ) -> None:
        """Even where somebody managed to register the zero address."""
        with chain.undone():
            chain.send(verifier, "put", "0x" + "00" * 20, policy, EXPIRY)
            with chain.refused("BadSignature"):
                chain.call(
                    verifier,
                    "verifyReceipt",
                    RECEIPT.values,
                    r.to_bytes(32, "big"),
                    s.to_bytes(32, "big"),
                    policy,
                )

    def test_the_other_parity_is_somebody_else(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        r, word_ = compact(sign(RECEIPT, KEY))
        other = bytes([word_[0] ^ 0x80]) + word_[1:]
        with chain.refused("NodeUnknown"):
            chain.call(verifier, "verifyReceipt", RECEIPT.values, r, other, policy)


class TestTime:
    def test_unregistered_signer(self, chain: Chain, verifier: Contract, policy: str) -> None:
        with chain.refused("NodeUnknown"):
            chain.call(verifier, "verifyReceipt", *signed(RECEIPT, STRANGER), policy)

    def test_wrong_policy(self, chain: Chain, verifier: Contract) -> None:
        with chain.refused("NodeUnknown"):
            chain.call(verifier, "verifyReceipt", *signed(RECEIPT), policies(chain)[1])

    def test_served_before_registration(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        with chain.refused("ServedBeforeRegistration"):
            chain.call(verifier, "verifyReceipt", *signed(evm_receipt(served_at=NOW - 1)), policy)

    def test_served_in_the_future(self, chain: Chain, verifier: Contract, policy: str) -> None:
        ahead = evm_receipt(served_at=NOW + 400 * DAY)
        with chain.refused("ServedInFuture"):
            chain.call(verifier, "verifyReceipt", *signed(ahead), policy)

    def test_expired_when_served(self, chain: Chain, verifier: Contract, policy: str) -> None:
        with chain.undone():
            chain.at(EXPIRY + DAY)
            for served_at in EXPIRY, EXPIRY + 1:
                with chain.refused("NodeExpiredWhenServed"):
                    late = evm_receipt(served_at=served_at)
                    chain.call(verifier, "verifyReceipt", *signed(late), policy)

    def test_a_node_expired_since_still_vouches_for_what_it_served(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        with chain.undone():
            chain.at(EXPIRY + DAY)
            last = evm_receipt(served_at=EXPIRY - 1)
            assert chain.call(verifier, "verifyReceipt", *signed(last), policy) == SIGNER

    def test_the_digest_form_wants_the_node_live_now(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        with chain.undone():
            chain.at(EXPIRY + DAY)
            args = RECEIPT.struct_hash, *compact(sign(RECEIPT, KEY)), policy
            with chain.refused("NodeExpiredWhenServed"):
                chain.call(verifier, "verifyDigest", *args)

    def test_the_digest_form_does_not_say_that_it_is_a_receipts(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        """Why callers must hash for themselves: any struct of the domain passes."""
        batch, _ = ReceiptBatch.of([RECEIPT])
        args = batch.struct_hash, *compact(batch.sign(KEY)), policy
        assert chain.call(verifier, "verifyDigest", *args) == SIGNER

    @pytest.mark.parametrize("form", ["verifyReceipt", "verifyDigest", "consume"])
    def test_ended_epoch(self, chain: Chain, verifier: Contract, policy: str, form: str) -> None:
        values, *r_vs = signed(RECEIPT)
        first = RECEIPT.struct_hash if form == "verifyDigest" else values
        rest = [RECEIPT.context] if form == "consume" else []
        with chain.undone():
            chain.send(verifier, "endEpoch", sender=policy)
            with chain.refused("EpochEnded"):
                chain.call(verifier, form, first, *r_vs, policy, *rest)

    def test_another_policys_epoch_is_no_business_of_ours(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        with chain.undone():
            chain.send(verifier, "endEpoch", sender=policies(chain)[1])
            assert chain.call(verifier, "verifyReceipt", *signed(RECEIPT), policy) == SIGNER


class TestSingleUse:
    def test_wrong_context(self, chain: Chain, verifier: Contract, policy: str) -> None:
        with chain.refused("WrongContext"):
            chain.send(verifier, "consume", *signed(RECEIPT), policy, word("another question"))

    def test_consumed_twice(self, chain: Chain, verifier: Contract, policy: str) -> None:
        args = *signed(RECEIPT), policy, RECEIPT.context
        with chain.undone():
            assert not chain.call(verifier, "consumed", chain.account, RECEIPT.struct_hash)
            chain.send(verifier, "consume", *args)
            assert chain.call(verifier, "consumed", chain.account, RECEIPT.struct_hash)
            with chain.refused("AlreadyConsumed"):
                chain.send(verifier, "consume", *args)

    def test_nobody_uses_up_anothers_receipt(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        args = *signed(RECEIPT), policy, RECEIPT.context
        with chain.undone():
            chain.send(verifier, "consume", *args, sender=policies(chain)[1])
            chain.send(verifier, "consume", *args)

    def test_what_does_not_count_is_not_consumed(
        self, chain: Chain, verifier: Contract, policy: str
    ) -> None:
        with chain.refused("NodeUnknown"):
            chain.send(verifier, "consume", *signed(RECEIPT, STRANGER), policy, RECEIPT.context)
        assert not chain.call(verifier, "consumed", chain.account, RECEIPT.struct_hash)


class TestOpening:
    def test_the_answer_opens(self, chain: Chain, verifier: Contract) -> None:
        chain.call(verifier, "requireOpens", RECEIPT.response_hash, SALT, RESPONSE)

    @pytest.mark.parametrize(
        "body", [b"", RESPONSE[:-1], RESPONSE + b" ", RESPONSE.replace(b"Yes", b"No.")]
    )
    def test_a_changed_answer_reverts_on_opening(
        self, chain: Chain, verifier: Contract, body: bytes
    ) -> None:
        with chain.refused("CommitmentMismatch"):
            chain.call(verifier, "requireOpens", RECEIPT.response_hash, SALT, body)

    def test_wrong_salt(self, chain: Chain, verifier: Contract) -> None:
        with chain.refused("CommitmentMismatch"):
            chain.call(verifier, "requireOpens", RECEIPT.response_hash, bytes(32), RESPONSE)

    def test_an_exchange_meant_to_be_public_has_the_zero_salt(
        self, chain: Chain, verifier: Contract
    ) -> None:
        public = commitment(bytes(32), word(RESPONSE.decode()))
        chain.call(verifier, "requireOpens", public, bytes(32), RESPONSE)


class TestGas:
    """Whole transactions and calls, everything cold. The registry, which has fewer functions than
    this harness, takes a little less: contracts/gas.json."""

    @pytest.mark.parametrize(("seated", "budget"), [(True, 6_500), (False, 8_900)])
    def test_inside_a_call(
        self, chain: Chain, verifier: Contract, policy: str, seated: bool, budget: int
    ) -> None:
        with chain.undone():
            if seated:
                chain.send(verifier, "takeSeat", SIGNER, policy, 0)
            caller = chain.deploy("ReceiptCaller", verifier.address)
            tx = chain.send(caller, "check", *signed(RECEIPT), policy)
            trace = chain.rpc(
                "debug_traceTransaction", tx["transactionHash"], {"tracer": "callTracer"}
            )
            (inner,) = trace["calls"]
            assert inner["to"].lower() == verifier.address.lower()
            assert int(inner["gasUsed"], 16) <= budget

    @pytest.mark.parametrize(
        ("seated", "whole", "digest"), [(True, 34_000, 29_050), (False, 35_000, 31_400)]
    )
    def test_as_its_own_transaction(
        self,
        chain: Chain,
        verifier: Contract,
        policy: str,
        seated: bool,
        whole: int,
        digest: int,
    ) -> None:
        with chain.undone():
            if seated:
                chain.send(verifier, "takeSeat", SIGNER, policy, 0)
            tx = chain.send(verifier, "verifyReceipt", *signed(RECEIPT), policy)
            assert tx["gas"] <= whole
            r_vs = compact(sign(RECEIPT, KEY))
            tx = chain.send(verifier, "verifyDigest", RECEIPT.struct_hash, *r_vs, policy)
            assert tx["gas"] <= digest
