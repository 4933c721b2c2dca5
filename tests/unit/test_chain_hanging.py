"""What was given up waiting for is replaced by the next transaction, not paid for beside it."""

from __future__ import annotations

import pytest
from fake_chain import TARGET, FakeChain

from attestation.onchain.faults import FeeTooHigh, SendUncertain
from attestation.onchain.sender import GWEI


def test_tried_again_and_again_it_is_paid_for_once() -> None:
    chain = FakeChain(hold=True)
    sender = chain.sender(timeout_s=5.0)
    for _ in range(4):
        with pytest.raises(SendUncertain):
            sender.send(TARGET, b"\x01")
    chain.hold = False
    mined = sender.send(TARGET, b"\x01")
    assert {seen["nonce"] for seen in chain.seen.values()} == {0}
    assert len(chain.seen) == 5 and chain.mined() == [mined.tx_hash]


def test_one_that_was_mined_after_all_keeps_its_nonce() -> None:
    chain = FakeChain(hold=True)
    sender = chain.sender(timeout_s=5.0)
    with pytest.raises(SendUncertain) as hanging:
        sender.send(TARGET, b"\x01")
    chain.hold = False
    chain.mine()
    mined = sender.send(TARGET, b"\x02")
    assert chain.mined() == [hanging.value.tx_hash, mined.tx_hash]
    assert chain.seen[mined.tx_hash]["nonce"] == 1


def test_the_cap_on_fees_holds_for_replacing_too() -> None:
    chain = FakeChain(hold=True)
    sender = chain.sender(timeout_s=5.0, max_fee=3 * GWEI)
    with pytest.raises(SendUncertain):
        sender.send(TARGET, b"\x01")
    with pytest.raises(FeeTooHigh):
        sender.send(TARGET, b"\x01")
    assert len(chain.seen) == 1


def test_what_was_settled_is_not_replaced() -> None:
    chain = FakeChain()
    sender = chain.sender()
    for _ in range(3):
        sender.send(TARGET, b"\x01")
    assert [chain.seen[tx]["nonce"] for tx in chain.mined()] == [0, 1, 2]
