"""Seats: a node that has one is checked in one slot, and still revoked everywhere at once."""

from __future__ import annotations

from collections.abc import Iterator

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
    signed,
)

from attestation.onchain.receipt import address_of, compact, sign

RECEIPT = evm_receipt()
OTHER = address_of(STRANGER)


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


@pytest.fixture(autouse=True)
def afresh(chain: Chain, verifier: Contract) -> Iterator[None]:
    with chain.undone():
        yield


def test_a_seat_changes_nothing_but_the_price(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    before = chain.send(verifier, "verifyDigest", *_digest(), policy)["gas"]
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    assert chain.call(verifier, "verifyReceipt", *signed(RECEIPT), policy) == SIGNER
    assert chain.call(verifier, "nodeOf", SIGNER, policy)[2] == EXPIRY
    after = chain.send(verifier, "verifyDigest", *_digest(), policy)["gas"]
    assert before - after > 2_100


def test_ended_epoch_ends_seats_at_once(chain: Chain, verifier: Contract, policy: str) -> None:
    chain.send(verifier, "put", OTHER, policy, EXPIRY)
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    chain.send(verifier, "takeSeat", OTHER, policy, 1)
    chain.send(verifier, "endEpoch", sender=policy)
    assert chain.call(verifier, "seatedNodes", policy) == ()
    for key in KEY, STRANGER:
        with chain.refused("EpochEnded"):
            chain.call(verifier, "verifyReceipt", *signed(RECEIPT, key), policy)
    with chain.refused("EpochEnded"):
        chain.send(verifier, "takeSeat", SIGNER, policy, 0)


def test_registered_again_after_the_epoch_it_has_no_seat(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    chain.send(verifier, "endEpoch", sender=policy)
    chain.at(NOW + 3_600)
    chain.send(verifier, "put", SIGNER, policy, EXPIRY)
    later = evm_receipt(served_at=NOW + 7_200)
    chain.at(NOW + 10_800)
    assert chain.call(verifier, "verifyReceipt", *signed(later), policy) == SIGNER
    chain.send(verifier, "endEpoch", sender=policy)
    with chain.refused("EpochEnded"):
        chain.call(verifier, "verifyReceipt", *signed(later), policy)


def test_a_renewal_keeps_the_seat_and_its_end(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    chain.send(verifier, "put", SIGNER, policy, EXPIRY + DAY)
    assert chain.call(verifier, "nodeOf", SIGNER, policy)[2] == EXPIRY + DAY
    with chain.refused("AlreadySeated"):
        chain.send(verifier, "takeSeat", SIGNER, policy, 1)
    chain.send(verifier, "endEpoch", sender=policy)
    with chain.refused("EpochEnded"):
        chain.call(verifier, "verifyReceipt", *signed(RECEIPT), policy)


def test_a_seat_is_taken_from_an_expired_node_only(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    chain.send(verifier, "put", OTHER, policy, EXPIRY + 9 * DAY)
    with chain.refused("SeatTaken"):
        chain.send(verifier, "takeSeat", OTHER, policy, 0)
    chain.at(EXPIRY)
    chain.send(verifier, "takeSeat", OTHER, policy, 0)
    assert chain.call(verifier, "verifyReceipt", *signed(RECEIPT), policy) == SIGNER
    chain.send(verifier, "endEpoch", sender=policy)
    for key in KEY, STRANGER:
        with chain.refused("EpochEnded"):
            chain.call(verifier, "verifyReceipt", *signed(RECEIPT, key), policy)


def test_an_expired_node_takes_no_seat(chain: Chain, verifier: Contract, policy: str) -> None:
    chain.send(verifier, "put", OTHER, policy, NOW + 3_600)
    chain.at(NOW + 3_600)
    with chain.refused("NodeExpired"):
        chain.send(verifier, "takeSeat", OTHER, policy, 0)


def test_a_node_whose_seat_was_taken_renews_without_one_and_cannot_have_it_back(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    chain.send(verifier, "put", OTHER, policy, EXPIRY + 9 * DAY)
    chain.at(EXPIRY)
    chain.send(verifier, "takeSeat", OTHER, policy, 0)
    chain.send(verifier, "put", SIGNER, policy, EXPIRY + 2 * DAY)
    with chain.refused("SeatTaken"):
        chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    chain.send(verifier, "takeSeat", SIGNER, policy, 1)
    seated = chain.call(verifier, "seatedNodes", policy)
    assert seated == ((OTHER, EXPIRY + 9 * DAY), (SIGNER, EXPIRY + 2 * DAY))
    chain.send(verifier, "endEpoch", sender=policy)
    for key in KEY, STRANGER:
        with chain.refused("EpochEnded"):
            chain.call(verifier, "verifyReceipt", *signed(RECEIPT, key), policy)


def test_a_late_renewal_keeps_a_seat_that_nobody_took(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    chain.at(EXPIRY + DAY)
    chain.send(verifier, "put", SIGNER, policy, EXPIRY + 2 * DAY)
    assert chain.call(verifier, "seatedNodes", policy) == ((SIGNER, EXPIRY + 2 * DAY),)
    with chain.refused("ServedBeforeRegistration"):
        chain.call(verifier, "verifyReceipt", *signed(RECEIPT), policy)


def test_a_seat_is_of_one_policy_and_ends_with_its_epoch_alone(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    other = policies(chain)[1]
    chain.send(verifier, "put", SIGNER, other, EXPIRY)
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    chain.send(verifier, "takeSeat", SIGNER, other, 0)
    chain.send(verifier, "endEpoch", sender=other)
    assert chain.call(verifier, "verifyReceipt", *signed(RECEIPT), policy) == SIGNER
    assert len(chain.call(verifier, "seatedNodes", policy)) == 1
    with chain.refused("EpochEnded"):
        chain.call(verifier, "verifyReceipt", *signed(RECEIPT), other)


def test_seats_leave_the_time_and_block_of_the_epochs_end_alone(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    chain.send(verifier, "endEpoch", sender=policy)
    ended = chain.call(verifier, "epochEndedAt", policy)
    chain.at(NOW + 3_600)
    chain.send(verifier, "put", SIGNER, policy, EXPIRY)
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    assert chain.call(verifier, "epochEndedAt", policy) == ended
    chain.send(verifier, "endEpoch", sender=policy)
    again = int(chain.block["timestamp"], 16)
    assert chain.call(verifier, "epochEndedAt", policy) == again
    assert chain.call(verifier, "seatedNodes", policy) == ()


def test_whoever_had_a_seat_before_the_epoch_takes_one_anew(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    """What is left in the list from earlier epochs belongs to nobody."""
    chain.send(verifier, "put", OTHER, policy, EXPIRY)
    for seat, node in enumerate((SIGNER, OTHER)):
        chain.send(verifier, "takeSeat", node, policy, seat)
    chain.send(verifier, "endEpoch", sender=policy)
    chain.at(NOW + 3_600)
    for node in SIGNER, OTHER:
        chain.send(verifier, "put", node, policy, EXPIRY)
    chain.send(verifier, "takeSeat", OTHER, policy, 0)
    assert chain.call(verifier, "seatedNodes", policy) == ((OTHER, EXPIRY),)
    chain.send(verifier, "takeSeat", SIGNER, policy, 1)
    later = evm_receipt(served_at=NOW + 7_200)
    chain.at(NOW + 10_800)
    chain.send(verifier, "endEpoch", sender=policy)
    for key in KEY, STRANGER:
        with chain.refused("EpochEnded"):
            chain.call(verifier, "verifyReceipt", *signed(later, key), policy)


def test_no_seat_for_nobody_nor_beyond_the_next(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    with chain.refused("NodeUnknown"):
        chain.send(verifier, "takeSeat", OTHER, policy, 0)
    with chain.refused("NoSuchSeat"):
        chain.send(verifier, "takeSeat", SIGNER, policy, 1)


@pytest.mark.parametrize(
    "served_at, error",
    [
        (NOW - 1, "ServedBeforeRegistration"),
        (NOW + 10 * DAY, "ServedInFuture"),
        (NOW + 400 * DAY, "ServedInFuture"),
    ],
)
def test_a_seat_excuses_nothing(
    chain: Chain, verifier: Contract, policy: str, served_at: int, error: str
) -> None:
    chain.send(verifier, "takeSeat", SIGNER, policy, 0)
    with chain.refused(error):
        late = evm_receipt(served_at=served_at)
        chain.call(verifier, "verifyReceipt", *signed(late), policy)
    chain.at(EXPIRY + DAY)
    with chain.refused("NodeExpiredWhenServed"):
        late = evm_receipt(served_at=EXPIRY)
        chain.call(verifier, "verifyReceipt", *signed(late), policy)


def test_all_seats_are_ended_in_one_transaction(
    chain: Chain, verifier: Contract, policy: str
) -> None:
    """Far below what a transaction may use, so no number of nodes keeps a policy from it."""
    seats = 256
    for seat in range(seats):
        node = "0x" + (seat + 1).to_bytes(20, "big").hex()
        chain.send(verifier, "put", node, policy, EXPIRY)
        chain.send(verifier, "takeSeat", node, policy, seat)
    with chain.refused("NoSuchSeat"):
        chain.send(verifier, "takeSeat", SIGNER, policy, seats)
    assert len(set(chain.call(verifier, "seatedNodes", policy))) == seats
    assert chain.send(verifier, "endEpoch", sender=policy)["gas"] < 2_500_000
    assert chain.call(verifier, "seatedNodes", policy) == ()


def _digest() -> tuple[bytes, bytes, bytes]:
    return (RECEIPT.struct_hash, *compact(sign(RECEIPT, KEY)))
