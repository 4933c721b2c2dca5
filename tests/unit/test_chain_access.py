"""An access list is sent where it saves gas, and is never a reason not to send."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fake_chain import TARGET, FakeChain, RpcFault

from attestation.onchain.access import MAX_ADDRESSES, MAX_KEYS
from attestation.onchain.faults import GasTooHigh
from attestation.onchain.sender import MAX_GAS

OTHER = "0x" + "0a" * 20
CREATE = "eth_createAccessList"
ESTIMATE = "eth_estimateGas"


def entry(address: str = OTHER, keys: int = 2) -> dict[str, Any]:
    return {"address": address, "storageKeys": ["0x" + k.to_bytes(32).hex() for k in range(keys)]}


def answer(*entries: Any, **members: Any) -> dict[str, Any]:
    return {"accessList": list(entries), "gasUsed": "0x1", **members}


def sent(chain: FakeChain, to: str | None = TARGET) -> tuple[list[str], int]:
    """The addresses that the transaction named, and its gas limit."""
    mined = chain.sender().send(to, b"\x01")
    assert chain.mined() == [mined.tx_hash]
    seen = chain.seen[mined.tx_hash]
    return ["0x" + bytes(address).hex() for address, _ in _listed(seen)], seen["gas"]


def _listed(seen: dict[str, Any]) -> list[tuple[bytes, Any]]:
    return [(e["address"], e["storageKeys"]) for e in seen["accessList"]]


def test_what_saves_gas_is_named_and_the_limit_follows() -> None:
    chain = FakeChain(access=answer(entry()), saves=10_000)
    assert sent(chain) == ([OTHER], 108_000)
    (seen,) = chain.seen.values()
    assert [list(keys) for _, keys in _listed(seen)] == [[0, 1]]


@pytest.mark.parametrize("saves", [0, -1])
def test_what_saves_nothing_is_left_out(saves: int) -> None:
    assert sent(FakeChain(access=answer(entry()), saves=saves)) == ([], 120_000)


def test_the_called_contract_is_named_for_many_keys_only() -> None:
    few = FakeChain(access=answer(entry(TARGET, 24), entry()), saves=1)
    assert sent(few)[0] == [OTHER]
    many = FakeChain(access=answer(entry(TARGET, 25)), saves=1)
    assert sent(many)[0] == [TARGET]
    alone = FakeChain(access=answer(entry(TARGET)), saves=1)
    assert sent(alone)[0] == [] and alone.asked.count(ESTIMATE) == 1


def test_a_deployment_names_nothing() -> None:
    chain = FakeChain(access=answer(entry()), saves=1)
    assert sent(chain, None)[0] == [] and CREATE not in chain.asked


def test_a_node_without_the_method_is_asked_once() -> None:
    chain = FakeChain(saves=1)
    sender = chain.sender()
    for _ in range(3):
        sender.send(TARGET, b"\x01")
    assert len(chain.mined()) == 3 and chain.asked.count(CREATE) == 1


@pytest.mark.parametrize(
    "bad",
    [
        [],
        "0x",
        {},
        {"accessList": {}},
        answer(7),
        answer({"address": OTHER}),
        answer({"address": "0x12", "storageKeys": []}),
        answer({"address": OTHER, "storageKeys": ["0x01"]}),
        answer({"address": OTHER, "storageKeys": [None]}),
        answer(*[entry()] * (MAX_ADDRESSES + 1)),
        answer(entry(keys=MAX_KEYS + 1)),
        answer(entry(keys=MAX_KEYS), entry(keys=1)),
    ],
    ids=str,
)
def test_nonsense_is_no_reason_not_to_send(bad: Any) -> None:
    assert sent(FakeChain(access=bad, saves=1)) == ([], 120_000)


def test_a_list_of_a_call_that_failed_is_not_used() -> None:
    assert sent(FakeChain(access=answer(entry(), error="reverted"), saves=1))[0] == []


@pytest.mark.parametrize(
    "fault",
    [
        lambda: RpcFault(-32000, "not now"),
        lambda: httpx.ReadTimeout("silence"),
        lambda: httpx.ConnectError("gone"),
    ],
)
def test_silence_is_no_reason_not_to_send(fault: Any) -> None:
    def silent(method: str) -> None:
        if method == CREATE:
            raise fault()

    assert sent(FakeChain(access=answer(entry()), saves=1, before=silent)) == ([], 120_000)


def test_a_list_that_cannot_be_priced_is_not_used() -> None:
    chain = FakeChain(access=answer(entry()), saves=1)

    def silent(method: str) -> None:
        if method == ESTIMATE and chain.asked.count(ESTIMATE) == 2:
            raise RpcFault(-32602, "unknown field accessList")

    chain.before = silent
    assert sent(chain) == ([], 120_000)


def test_the_ceiling_holds_for_the_cheapest_form() -> None:
    chain = FakeChain(access=answer(entry()), saves=1, estimate=MAX_GAS + 1)
    assert sent(chain) == ([OTHER], MAX_GAS)
    with pytest.raises(GasTooHigh):
        FakeChain(estimate=MAX_GAS + 1).sender().send(TARGET, b"\x01")
