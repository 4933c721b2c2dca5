"""An RPC node that is slow, busy, lying or of another chain."""

from __future__ import annotations

import json

import httpx
import pytest
from fake_chain import CHAIN, TARGET, FakeChain, RpcFault

from attestation.onchain import artifacts
from attestation.onchain.abi import ErrorTable, keccak, selector
from attestation.onchain.faults import (
    ChainError,
    ContractRefused,
    NoContract,
    RpcError,
    RpcMalformed,
    RpcUnreachable,
    WrongChain,
)
from attestation.onchain.rpc import MAX_ANSWER_BYTES, Rpc

EXPIRED = {
    "type": "error",
    "name": "CollateralExpired",
    "inputs": [{"name": "id", "type": "bytes32"}, {"name": "at", "type": "uint64"}],
}


def failing(times: int, failure: Exception | httpx.Response, method: str = "eth_chainId"):
    left = [times]

    def before(asked: str) -> httpx.Response | None:
        if asked != method or not left[0]:
            return None
        left[0] -= 1
        if isinstance(failure, Exception):
            raise failure
        return failure

    return before


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("no"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        httpx.Response(429),
        httpx.Response(503),
        RpcFault(-32005, "limit exceeded"),
    ],
    ids=repr,
)
def test_what_passes_is_tried_again_a_bounded_number_of_times(failure: object) -> None:
    chain = FakeChain(before=failing(4, failure))
    assert chain.rpc().chain_id == CHAIN
    assert chain.waits == [0.25, 0.5, 1.0, 2.0]

    silent = FakeChain(before=failing(100, failure))
    with pytest.raises(RpcUnreachable):
        _ = silent.rpc().chain_id
    assert len(silent.asked) == 5


def test_a_server_that_says_when_to_come_back_is_heard_within_reason() -> None:
    chain = FakeChain(before=failing(1, httpx.Response(429, headers={"retry-after": "3"})))
    assert chain.rpc().chain_id == CHAIN
    patient = FakeChain(before=failing(1, httpx.Response(429, headers={"retry-after": "86400"})))
    assert patient.rpc().chain_id == CHAIN
    assert (chain.waits, patient.waits) == ([3.0], [8.0])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"1.0","id":1,"result":"0x1"}',
        b'{"jsonrpc":"2.0","id":7,"result":"0x1"}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x1","result":"0x2"}',
        b'{"jsonrpc":"2.0","id":1,"result":"1"}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x01"}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x"}',
        b'{"jsonrpc":"2.0","id":1,"result":-1}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x' + b"f" * 65 + b'"}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":true,"message":"no"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1}}',
    ],
)
def test_what_is_no_answer_is_refused_and_not_asked_again(body: bytes) -> None:
    chain = FakeChain(before=failing(9, httpx.Response(200, content=body)))
    with pytest.raises(RpcMalformed):
        _ = chain.rpc().chain_id
    assert len(chain.asked) == 1


def test_an_answer_without_end_is_cut_off() -> None:
    sent = 0

    def endless():
        nonlocal sent
        while True:
            sent += 1 << 20
            yield b" " * (1 << 20)

    chain = FakeChain(before=lambda _m: httpx.Response(200, content=endless()))
    with pytest.raises(RpcMalformed, match="over"):
        _ = chain.rpc().chain_id
    assert sent <= MAX_ANSWER_BYTES + (2 << 20)


def test_another_chain_is_refused() -> None:
    with pytest.raises(WrongChain, match="serves chain 31337, not 1"):
        _ = FakeChain().rpc(chain_id=1).chain_id


def test_errors_never_show_the_key_in_the_url() -> None:
    chain = FakeChain(before=failing(9, httpx.ConnectError("http://chain.test/v3/SECRET")))
    with pytest.raises(RpcUnreachable) as raised:
        _ = chain.rpc().chain_id
    assert "SECRET" not in str(raised.value) and "chain.test" in str(raised.value)


@pytest.mark.parametrize("url", ["", "chain.test", "ws://chain.test", "file:///etc/passwd"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(ChainError):
        Rpc(url)


def test_a_redirect_is_not_followed() -> None:
    away = httpx.Response(307, headers={"location": "http://elsewhere.test/"})
    chain = FakeChain(before=failing(9, away))
    with pytest.raises(RpcMalformed):
        _ = chain.rpc().chain_id
    assert len(chain.asked) == 1


# --- reverts --------------------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "errors", lambda: ErrorTable([EXPIRED]))


REVERT = "0x" + (selector(EXPIRED) + b"\x11" * 32 + (1_780_000_000).to_bytes(32, "big")).hex()


@pytest.mark.parametrize(
    ("code", "data"),
    [(3, REVERT), (-32000, REVERT), (-32015, f"Reverted {REVERT}"), (3, {"data": REVERT})],
)
def test_a_custom_error_is_told_by_name(known: None, code: int, data: object) -> None:
    chain = FakeChain(before=failing(1, RpcFault(code, "execution reverted", data), "eth_call"))
    with pytest.raises(ContractRefused) as raised:
        chain.rpc().call(TARGET, b"")
    assert raised.value.name == "CollateralExpired"
    assert raised.value.arguments == (b"\x11" * 32, 1_780_000_000)
    assert str(raised.value) == f"CollateralExpired(0x{'11' * 32}, 1780000000)"


@pytest.mark.parametrize(
    ("data", "name", "arguments"),
    [
        ("0x", "", ()),
        (None, "", ()),
        ("0x12345678", "0x12345678", ()),
        ("0x12345678ab", "0x12345678", (b"\xab",)),
        ("0x4e487b71" + "11".zfill(64), "Panic", (0x11,)),
        ("0x08c379a0" + "20".zfill(64) + "2".zfill(64) + "6e6f".ljust(64, "0"), "Error", ("no",)),
        (REVERT[:-2], "CollateralExpired", (bytes.fromhex(REVERT[10:-2]),)),
    ],
)
def test_every_other_revert_is_told_as_far_as_it_goes(
    known: None, data: str | None, name: str, arguments: tuple[object, ...]
) -> None:
    chain = FakeChain(before=failing(1, RpcFault(3, "execution reverted", data), "eth_call"))
    with pytest.raises(ContractRefused) as raised:
        chain.rpc().call(TARGET, b"")
    assert (raised.value.name, raised.value.arguments) == (name, arguments)


def test_an_error_that_is_no_revert_stays_one_of_the_node() -> None:
    chain = FakeChain(before=failing(1, RpcFault(-32000, "header not found"), "eth_call"))
    with pytest.raises(RpcError, match="header not found"):
        chain.rpc().call(TARGET, b"")


def test_an_address_without_a_contract_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    item = {"type": "function", "name": "owner", "inputs": [], "outputs": [{"type": "address"}]}
    (tmp_path / "Owned.json").write_text(json.dumps({"abi": [item], "bytecode": ""}))
    monkeypatch.setattr(artifacts, "FOLDER", tmp_path)
    with pytest.raises(NoContract, match="no Owned is deployed there"):
        FakeChain().rpc().read("Owned", TARGET, "owner")


# --- events ---------------------------------------------------------------------------------


ALLOWED = {
    "type": "event",
    "name": "Allowed",
    "inputs": [
        {"name": "id", "type": "bytes32", "indexed": True},
        {"name": "from", "type": "uint256", "indexed": False},
    ],
}


@pytest.fixture
def logging(monkeypatch: pytest.MonkeyPatch, tmp_path) -> FakeChain:
    """A chain on which `TARGET` has logged an event in each of some blocks."""
    (tmp_path / "Logged.json").write_text(json.dumps({"abi": [ALLOWED], "bytecode": ""}))
    monkeypatch.setattr(artifacts, "FOLDER", tmp_path)
    chain = FakeChain()
    for number in (3, 4, 500, 999):
        topics = [keccak(b"Allowed(bytes32,uint256)"), number.to_bytes(32, "big")]
        chain.logs[number] = {
            "address": TARGET,
            "topics": ["0x" + t.hex() for t in topics],
            "data": "0x" + (7 * number).to_bytes(32, "big").hex(),
        }
    return chain


def allowed(chain: FakeChain) -> list[dict[str, object]]:
    return list(chain.rpc().events("Logged", TARGET, "Allowed", 0, 1000))


@pytest.mark.parametrize("span", [1 << 60, 100, 1])
def test_events_are_read_in_order_whatever_span_is_answered(logging: FakeChain, span: int) -> None:
    logging.max_span = span
    found = [int.from_bytes(e["id"], "big") for e in allowed(logging)]
    assert found == [3, 4, 500, 999]


def test_a_node_that_answers_no_span_is_told(logging: FakeChain) -> None:
    logging.max_span = 0
    with pytest.raises(RpcError, match="too wide"):
        allowed(logging)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("address", "0x" + "11" * 20),
        ("topics", []),
        ("topics", ["0x" + "00" * 32]),
        ("topics", None),
        ("data", None),
        ("data", "0x0"),
    ],
)
def test_logs_of_something_else_are_refused(logging: FakeChain, member: str, value: object) -> None:
    logging.logs[4][member] = value
    with pytest.raises(RpcMalformed):
        allowed(logging)


@pytest.mark.parametrize(("member", "value"), [("data", "0x"), ("data", "0x00")])
def test_logs_of_another_form_are_no_such_event(
    logging: FakeChain, member: str, value: object
) -> None:
    logging.logs[4][member] = value
    with pytest.raises(NoContract):
        allowed(logging)
