"""Seats and platforms as a client chooses them: the cheapest that the registry takes now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from attestation.onchain.abi import checksummed
from attestation.onchain.artifacts import artifact
from attestation.onchain.client import SEATS, RegistryClient
from attestation.onchain.faults import ChainError, ContractRefused
from attestation.onchain.rpc import Block
from attestation.onchain.sender import Mined

NOW = 1_780_000_000
REGISTRY, POLICY, VERIFIER = ("0x" + digit * 40 for digit in "123")
SIGNER = "0x" + "a" * 40


@dataclass
class FakeRpc:
    """A chain that answers what the test says, and remembers what it was asked."""

    seats: list[tuple[str, int]] = field(default_factory=list)
    leaf_until: int = 0

    def block(self) -> Block:
        return Block(7, bytes(32), NOW, 1)

    def read(self, contract: str, to: str, function: str, *arguments: Any) -> Any:
        assert to == (VERIFIER if contract == "QuoteVerifier" else REGISTRY)
        match function:
            case "seatedNodes":
                assert arguments == (POLICY,)
                return tuple({"signer": s, "expiry": e} for s, e in self.seats)
            case "quotes":
                return VERIFIER
            case "platformNotAfter":
                assert arguments == (b"\x09" * 32, 5)
                return self.leaf_until
        raise AssertionError(function)


@dataclass
class FakeSender:
    """Mines what it is given, after refusing as often as `refusals` says."""

    rpc: FakeRpc
    refusals: list[str] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    def send(self, to: str, data: bytes) -> Mined:
        assert to == REGISTRY
        self.sent.append(data)
        if self.refusals:
            self.rpc.seats.append((address(len(self.sent)), NOW + 9))  # who was first
            raise ContractRefused(self.refusals.pop(0))
        return Mined("0x11", 8, bytes(32), 1, None)


def address(number: int) -> str:
    return "0x" + number.to_bytes(20, "big").hex()


def client(*seats: tuple[str, int], refusals: tuple[str, ...] = ()) -> tuple[Any, FakeSender]:
    rpc = FakeRpc(list(seats))
    sender = FakeSender(rpc, list(refusals))
    return RegistryClient(rpc, REGISTRY, sender), sender  # type: ignore[arg-type]


def asked_for(sender: FakeSender) -> list[int]:
    """The numbers of the seats that were asked for, all of them for SIGNER."""
    take = artifact("NodeRegistry").interface
    numbers = [int.from_bytes(data[-32:], "big") for data in sender.sent]
    assert sender.sent == [take.call("takeSeat", SIGNER, POLICY, n) for n in numbers]
    return numbers


def test_the_first_seat_is_taken_and_then_the_next() -> None:
    for taken in (0, 3):
        registry, sender = client(*[(address(n), NOW + 1) for n in range(taken)])
        assert registry.take_seat(SIGNER, POLICY) is not None
        assert asked_for(sender) == [taken]


def test_an_expired_nodes_seat_comes_before_a_new_one() -> None:
    """A record counts until before its expiry."""
    registry, sender = client((address(1), NOW + 1), (address(2), NOW), (address(3), NOW - 1))
    registry.take_seat(SIGNER, POLICY)
    assert asked_for(sender) == [1]


def test_where_nodes_that_count_have_all_nothing_is_sent() -> None:
    registry, sender = client(*[(address(n), NOW + 1) for n in range(SEATS)])
    assert registry.take_seat(SIGNER, POLICY) is None and sender.sent == []


def test_the_last_seat_is_given_and_one_that_expired_among_all() -> None:
    registry, sender = client(*[(address(n), NOW + 1) for n in range(SEATS - 1)])
    registry.take_seat(SIGNER, POLICY)
    assert asked_for(sender) == [SEATS - 1]
    registry, sender = client(*[(address(n), NOW + (n != 77)) for n in range(SEATS)])
    registry.take_seat(SIGNER, POLICY)
    assert asked_for(sender) == [77]


@pytest.mark.parametrize("refusal", ["SeatTaken", "NoSuchSeat"])
def test_whoever_comes_second_asks_for_another(refusal: str) -> None:
    registry, sender = client(refusals=(refusal, refusal))
    assert registry.take_seat(SIGNER, POLICY) is not None
    assert asked_for(sender) == [0, 1, 2]


def test_it_is_not_tried_for_ever() -> None:
    registry, sender = client(refusals=("SeatTaken",) * 9)
    with pytest.raises(ContractRefused, match="SeatTaken"):
        registry.take_seat(SIGNER, POLICY)
    assert len(sender.sent) == 4


@pytest.mark.parametrize("refusal", ["AlreadySeated", "NodeUnknown", "EpochEnded", "NodeExpired"])
def test_what_another_seat_would_not_mend_is_told(refusal: str) -> None:
    registry, sender = client(refusals=(refusal,))
    with pytest.raises(ContractRefused, match=refusal):
        registry.take_seat(SIGNER, POLICY)
    assert len(sender.sent) == 1


def test_who_is_seated() -> None:
    registry, _ = client((SIGNER, NOW + 1))
    assert registry.is_seated(SIGNER, POLICY) and registry.is_seated(checksummed(SIGNER), POLICY)
    assert not registry.is_seated(address(1), POLICY)


def test_without_an_account_nothing_is_sent() -> None:
    registry = RegistryClient(FakeRpc(), REGISTRY)  # type: ignore[arg-type]
    with pytest.raises(ChainError, match="account"):
        registry.take_seat(SIGNER, POLICY)


@dataclass
class FakeProof:
    """A proof whose forms are told apart by their names."""

    platform: bytes = b"remembered"
    passing_platform: bytes = b"in passing"
    registered_platform: bytes = b"known"

    @property
    def leaf(self) -> Any:
        return type("Leaf", (), {"issuer_id": b"\x09" * 32, "serial": 5})


@pytest.mark.parametrize(
    ("until", "once", "form"),
    [
        (0, False, b"remembered"),
        (0, True, b"in passing"),
        (NOW, False, b"known"),
        (NOW, True, b"known"),
        (NOW - 1, False, b"remembered"),
    ],
)
def test_the_platform_goes_in_its_cheapest_form(until: int, once: bool, form: bytes) -> None:
    registry, _ = client()
    registry.rpc.leaf_until = until
    assert registry.platform_of(FakeProof(), once=once) == form
