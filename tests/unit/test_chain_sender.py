"""Nothing is sent twice, whatever happens to the messages about it."""

from __future__ import annotations

import httpx
import pytest
from fake_chain import TARGET, FakeChain, RpcFault

from attestation.onchain.faults import (
    ChainError,
    ContractRefused,
    FeeTooHigh,
    GasTooHigh,
    MinedInVain,
    NonceTaken,
    RpcError,
    RpcMalformed,
    SendUncertain,
)
from attestation.onchain.sender import GWEI, MAX_GAS

SEND = "eth_sendRawTransaction"
LOOKS = ("eth_getTransactionReceipt", "eth_getTransactionByHash")


def once(method: str, failure: Exception | httpx.Response):
    """The first request for `method` ends in `failure`."""
    left = [1]

    def knob(asked: str) -> httpx.Response | None:
        if asked != method or not left[0]:
            return None
        left[0] = 0
        if isinstance(failure, Exception):
            raise failure
        return failure

    return knob


def test_a_transaction_is_mined_and_told() -> None:
    chain = FakeChain()
    mined = chain.sender().send(TARGET, b"\x01")
    assert chain.mined() == [mined.tx_hash]
    assert (mined.block_number, mined.gas_used, mined.contract) == (1, 100_000, None)
    assert len(chain.broadcasts) == 1


@pytest.mark.parametrize("lost", [httpx.ReadTimeout("lost"), httpx.Response(502)], ids=repr)
def test_a_lost_answer_to_a_broadcast_does_not_send_twice(lost: Exception | httpx.Response) -> None:
    """The node mined it, but we did not hear: the repetition is refused, and we look."""
    chain = FakeChain(after=once(SEND, lost))
    mined = chain.sender().send(TARGET, b"\x01")
    assert chain.mined() == [mined.tx_hash]
    assert len(chain.broadcasts) == 2 and len(set(chain.broadcasts)) == 1


def test_a_lost_broadcast_is_repeated_with_the_same_bytes() -> None:
    chain = FakeChain(before=once(SEND, httpx.ConnectError("lost")))
    mined = chain.sender().send(TARGET, b"\x01")
    assert chain.mined() == [mined.tx_hash]


def test_what_the_node_already_knows_is_waited_for() -> None:
    chain = FakeChain(hold=True, after=once(SEND, httpx.ReadTimeout("lost")))
    polls = 0

    def before(method: str) -> None:
        nonlocal polls
        polls += method == "eth_getTransactionReceipt"
        if polls == 5 and chain.pool:
            chain.mine()

    chain.before = before
    mined = chain.sender().send(TARGET, b"\x01")
    assert chain.mined() == [mined.tx_hash]
    assert len(set(chain.broadcasts)) == 1


def test_a_nonce_somebody_else_used_is_told_and_nothing_is_mined() -> None:
    """Another program sends with the same key between our question and our broadcast."""
    chain = FakeChain()
    chain.before = lambda m: (
        chain.blocks.append(["0x" + "ab" * 32]) if m == SEND and not chain.mined() else None
    )
    with pytest.raises(NonceTaken, match="nonce 0"):
        chain.sender().send(TARGET, b"\x01")
    assert chain.mined() == ["0x" + "ab" * 32]


def test_a_node_that_lags_behind_another_is_asked_again() -> None:
    """One of the nodes behind the URL has mined it and says so by refusing the repetition;
    the one asked for the receipt has not heard of it yet."""
    chain = FakeChain(after=once(SEND, httpx.ReadTimeout("lost")))
    behind = [3]

    def lagging(method: str) -> httpx.Response | None:
        if not chain.broadcasts or method not in LOOKS or not behind[0]:
            return None
        behind[0] -= 1
        body = {"jsonrpc": "2.0", "id": len(chain.asked), "result": None}
        return httpx.Response(200, json=body)

    chain.before = lagging
    mined = chain.sender().send(TARGET, b"\x01")
    assert chain.mined() == [mined.tx_hash] and not behind[0]
    assert len(set(chain.broadcasts)) == 1


def test_a_pending_rival_is_told() -> None:
    def underpriced(method: str) -> None:
        if method == SEND:
            raise RpcFault(-32000, "replacement transaction underpriced")

    chain = FakeChain(before=underpriced)
    with pytest.raises(NonceTaken):
        chain.sender().send(TARGET, b"\x01")
    assert chain.mined() == []


def test_replaced_while_waiting_is_told() -> None:
    chain = FakeChain(hold=True)
    sender = chain.sender()

    def replaced(method: str) -> None:
        if method == SEND and len(chain.broadcasts) == 2:
            chain.pool.clear()
            chain.blocks.append(["0x" + "ab" * 32])

    chain.before = replaced
    with pytest.raises(NonceTaken):
        sender.send(TARGET, b"\x01")


def test_a_replacement_takes_the_same_nonce_and_only_when_asked() -> None:
    chain = FakeChain(hold=True)
    with pytest.raises(SendUncertain) as hanging:
        chain.sender(timeout_s=5.0).send(TARGET, b"\x01")
    assert hanging.value.nonce == 0 and chain.mined() == []
    chain.hold = False
    mined = chain.sender(replace=hanging.value.tx_hash).send(TARGET, b"\x01")
    assert mined.tx_hash != hanging.value.tx_hash
    assert chain.mined() == [mined.tx_hash]
    assert {seen["nonce"] for seen in chain.seen.values()} == {0}
    old, new = chain.seen[hanging.value.tx_hash], chain.seen[mined.tx_hash]
    for fee in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert new[fee] * 10 >= old[fee] * 11


def test_only_the_first_transaction_replaces() -> None:
    chain = FakeChain(hold=True)
    with pytest.raises(SendUncertain) as hanging:
        chain.sender(timeout_s=5.0).send(TARGET, b"\x01")
    chain.hold = False
    sender = chain.sender(replace=hanging.value.tx_hash)
    sender.send(TARGET, b"\x01")
    sender.send(TARGET, b"\x02")
    assert [chain.seen[tx]["nonce"] for tx in chain.mined()] == [0, 1]


def test_nobody_elses_transaction_is_replaced() -> None:
    chain = FakeChain(hold=True)
    with pytest.raises(SendUncertain) as hanging:
        chain.sender(timeout_s=5.0).send(TARGET, b"\x01")
    chain.seen[hanging.value.tx_hash]["from"] = "0x" + "11" * 20
    with pytest.raises(ChainError, match="is not a transaction of"):
        chain.sender(replace=hanging.value.tx_hash).send(TARGET, b"\x01")
    assert len(chain.seen) == 1


def test_a_mined_transaction_is_not_replaced() -> None:
    chain = FakeChain()
    mined = chain.sender().send(TARGET, b"\x01")
    with pytest.raises(NonceTaken, match="not pending"):
        chain.sender(replace=mined.tx_hash).send(TARGET, b"\x01")
    assert len(chain.mined()) == 1


def test_a_dropped_block_starts_the_wait_again_with_the_same_bytes() -> None:
    chain = FakeChain()
    dropped = [False]

    def before(method: str) -> None:
        if method == "eth_getBlockByNumber" and chain.mined():
            if not dropped[0]:
                dropped[0] = True
                chain.reorganise()
            elif len(chain.blocks) < 5:
                chain.mine()

    chain.before = before
    mined = chain.sender(confirmations=3).send(TARGET, b"\x01")
    assert dropped[0] and chain.mined() == [mined.tx_hash]
    assert len(chain.broadcasts) == 2 and len(set(chain.broadcasts)) == 1
    assert len(chain.blocks) - 1 >= mined.block_number + 2


def test_a_receipt_from_a_fork_is_not_taken_for_a_confirmation() -> None:
    """The receipt names a block that the chain no longer has at that height."""
    chain = FakeChain()
    asked = []

    def before(method: str) -> None:
        if method == "eth_getBlockByNumber" and chain.mined():
            asked.append(method)
            chain.mine()
            if len(asked) == 2:
                chain.fork += 1

    chain.before = before
    mined = chain.sender(confirmations=2).send(TARGET, b"\x01")
    assert len(asked) > 2 and mined.block_hash.hex() == chain.block_hash(1)[2:]


def test_a_node_that_answers_another_hash_is_not_believed() -> None:
    chain = FakeChain()

    def after(method: str) -> httpx.Response | None:
        if method != SEND:
            return None
        return httpx.Response(
            200, json={"jsonrpc": "2.0", "id": len(chain.asked), "result": "0x" + "00" * 32}
        )

    chain.after = after
    with pytest.raises(RpcMalformed):
        chain.sender().send(TARGET, b"\x01")


def test_what_would_revert_is_never_broadcast() -> None:
    chain = FakeChain(reverts="0x12345678")
    with pytest.raises(ContractRefused, match="0x12345678"):
        chain.sender().send(TARGET, b"\x01")
    assert chain.broadcasts == []


def test_what_reverted_when_mined_is_told_by_name() -> None:
    chain = FakeChain(reverts="0x12345678", status=0)
    with pytest.raises(ContractRefused, match="0x12345678"):
        chain.sender().send(TARGET, b"\x01")
    assert len(chain.mined()) == 1


def test_what_failed_for_no_reason_the_chain_repeats_is_no_success() -> None:
    with pytest.raises(MinedInVain):
        FakeChain(status=0).sender().send(TARGET, b"\x01")


def test_gas_has_a_margin_and_a_ceiling() -> None:
    chain = FakeChain()
    chain.sender().send(TARGET, b"\x01")
    chain.estimate = MAX_GAS - 1
    chain.sender().send(TARGET, b"\x02")
    assert [seen["gas"] for seen in chain.seen.values()] == [120_000, MAX_GAS]
    chain.estimate = MAX_GAS + 1
    with pytest.raises(GasTooHigh):
        chain.sender().send(TARGET, b"\x03")


def test_fees_follow_the_base_fee_up_to_the_cap() -> None:
    chain = FakeChain(base_fee=30 * GWEI)
    sender = chain.sender(max_fee=50 * GWEI)
    fees = sender.fees()
    assert (fees.max_fee, fees.tip) == (50 * GWEI, GWEI)
    chain.base_fee = 50 * GWEI
    with pytest.raises(FeeTooHigh, match=r"51.000 gwei now, and 50.000"):
        sender.send(TARGET, b"\x01")
    assert chain.broadcasts == []


def test_other_refusals_of_a_broadcast_are_told_as_they_are() -> None:
    chain = FakeChain(before=once(SEND, RpcFault(-32000, "insufficient funds for gas")))
    with pytest.raises(RpcError, match="insufficient funds"):
        chain.sender().send(TARGET, b"\x01")


def test_silence_after_signing_names_the_transaction_to_look_for() -> None:
    chain = FakeChain()

    def silent(method: str) -> None:
        if chain.broadcasts:
            raise httpx.ReadTimeout("gone")

    chain.before = silent
    chain.after = silent
    with pytest.raises(SendUncertain) as raised:
        chain.sender(timeout_s=3.0).send(TARGET, b"\x01")
    assert raised.value.tx_hash in chain.seen
