"""The client hands on a contract's receipt only where nothing else can be true of the exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from evm_check import check_evm
from fake_node import FakeNode

import adyton
from adyton.receipts import Asked
from attestation.onchain.receipt import ORDER, EvmReceipt, address_of, compact, sign

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a secret"}]}
CONTEXT = "c0" * 32


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path, "node").running() as running:
        yield running


def settings(node: FakeNode, **options: Any) -> dict[str, Any]:
    return {
        "base_url": node.url,
        "api_key": "key",
        "root": node.root,
        "measurement": node.measurement,
        "max_retries": 0,
        **options,
    }


def evm_of(node: FakeNode, **headers: str) -> adyton.VerifiedEvmReceipt:
    with adyton.Client(**settings(node)) as client:
        client.chat.completions.create(**ASK, extra_headers=headers)
        return client.adyton.evm_receipt(client.adyton.receipts[-1])


def refusal(node: FakeNode, change: Callable[[dict[str, Any]], Any], **headers: str) -> str:
    node.edit_evm = change
    with pytest.raises(adyton.ReceiptError) as refused:
        evm_of(node, **headers)
    return refused.value.step


@pytest.mark.parametrize("public", [False, True])
def test_an_independent_reader_agrees(node: FakeNode, public: bool) -> None:
    headers = {"X-Adyton-Context": CONTEXT} | ({"X-Adyton-Salt": "none"} if public else {})
    with adyton.Client(**settings(node)) as client:
        client.chat.completions.create(**ASK, extra_headers=headers)
        verified = client.adyton.receipts[-1]
        evm = client.adyton.evm_receipt(verified)
        assert client.adyton.evm_receipt(verified.receipt_id).document == evm.document
        assert client.adyton.evm_receipt("chatcmpl-1").document == evm.document
    assert evm.signer == address_of(node.evm_key) and (evm.r, evm.vs) == compact(evm.signature)
    assert verified.asked == Asked(bytes.fromhex(CONTEXT), public)
    check_evm(
        dict(evm.document),
        dict(verified.document),
        dict(verified.established.keyset.document),
        request=verified.request_body,
        response=verified.response_body,
        context=CONTEXT,
        public=public,
    )
    assert verified.authorization == "Bearer key" and "Bearer" not in repr(verified)
    assert "salt=" not in repr(evm)


async def test_the_asynchronous_client_does_the_same(node: FakeNode) -> None:
    async with adyton.AsyncClient(**settings(node)) as client:
        answer = await client.chat.completions.create(
            **ASK, stream=True, extra_headers={"X-Adyton-Context": CONTEXT}
        )
        assert [c async for c in answer]
        evm = await client.adyton.evm_receipt("chatcmpl-1")
        assert evm.receipt.context.hex() == CONTEXT
        node.edit_evm = lambda told: {**told, "receipt": {**told["receipt"], "servedAt": 1}}
        with pytest.raises(adyton.ReceiptError):
            await client.adyton.evm_receipt("chatcmpl-1")
        node.edit_evm = lambda told: told
        with pytest.raises(adyton.ReceiptError, match="unknown"):
            await client.adyton.evm_receipt("another")


def test_it_is_asked_for_with_the_key_that_made_the_request(node: FakeNode) -> None:
    evm_of(node)
    path, headers = next((p, h) for _, p, h, _ in node.requests if p.endswith("/evm"))
    assert path.startswith("/v1/aci/receipts/") and headers["authorization"] == "Bearer key"


def test_a_node_that_came_back_with_other_keys_still_has_it(node: FakeNode) -> None:
    """It is judged under the keyset of the exchange, over a channel to the keys of now."""
    with adyton.Client(**settings(node)) as client:
        client.chat.completions.create(**ASK)
        node.rotate(tls=True)
        node.close_after_answer = True
        client._client.verifying._state.channel.pool.close()  # type: ignore[attr-defined]
        evm = client.adyton.evm_receipt("chatcmpl-1")
        verified = client.adyton.receipts[-1]
    assert evm.receipt.keyset_digest.hex() == verified.receipt.keyset_digest.removeprefix("sha256:")


def signed_anew(
    node: FakeNode, told: dict[str, Any], key: bytes | None = None, **members: Any
) -> Any:
    """What a node says that lies consistently, under its own key or another."""
    receipt = EvmReceipt.from_json({**told["receipt"], **members})
    key = key or node.evm_key
    signature = sign(receipt, key)
    r, vs = compact(signature)
    return {
        **told,
        "receipt": receipt.to_json(),
        "signature": "0x" + signature.hex(),
        "signer": address_of(key),
        "r": "0x" + r.hex(),
        "vs": "0x" + vs.hex(),
        "typed_data": receipt.typed_data(),
    }


WORDS = ["modelDigest", "adapterDigest", "requestHash", "responseHash", "receiptHash"]


@pytest.mark.parametrize("word", WORDS)
def test_a_well_signed_lie_about_the_exchange(node: FakeNode, word: str) -> None:
    lie = {word: "0x" + "11" * 32}
    assert refusal(node, lambda told: signed_anew(node, told, **lie)) == "evm.document"


def test_a_receipt_for_another_request_of_a_contract(node: FakeNode) -> None:
    lie = {"context": "0x" + "00" * 32}
    step = refusal(
        node, lambda told: signed_anew(node, told, **lie), **{"X-Adyton-Context": CONTEXT}
    )
    assert step == "evm.context"


def test_another_time_and_another_keyset(node: FakeNode) -> None:
    for lie, step in (
        ({"servedAt": 1}, "evm.document"),
        ({"servedAt": 1 << 40}, "evm.served_at"),
        ({"keysetDigest": "0x" + "11" * 32}, "evm.keyset_digest"),
    ):
        assert refusal(node, lambda told, lie=lie: signed_anew(node, told, **lie)) == step


def test_a_key_that_nobody_attested(node: FakeNode) -> None:
    assert refusal(node, lambda told: signed_anew(node, told, b"\x05" * 32)) == "evm.key"


def test_a_signature_of_the_upper_half(node: FakeNode) -> None:
    def flipped(told: dict[str, Any]) -> dict[str, Any]:
        raw = bytes.fromhex(told["signature"][2:])
        s = ORDER - int.from_bytes(raw[32:64], "big")
        other = raw[:32] + s.to_bytes(32, "big") + bytes([55 - raw[64]])
        return {**told, "signature": "0x" + other.hex()}

    assert refusal(node, flipped) == "evm.signature"


def test_a_salt_that_is_not_the_one(node: FakeNode) -> None:
    assert refusal(node, lambda told: {**told, "salt": "0x" + "11" * 32}) == "evm.document"


def test_a_node_that_publishes_what_was_private_is_told_on(node: FakeNode) -> None:
    """Without a salt anybody can test guesses of a prompt; and the other way round, a contract
    that was promised none could not open the commitments."""
    public = {"X-Adyton-Salt": "none"}

    def unsalted(told: dict[str, Any]) -> Any:
        receipt = EvmReceipt.from_document(
            node.receipts[told["receipt_id"]],
            salt=bytes(32) if any(bytes.fromhex(told["salt"][2:])) else b"s" * 32,
        )
        salt = "00" * 32 if any(bytes.fromhex(told["salt"][2:])) else (b"s" * 32).hex()
        return signed_anew(node, {**told, "salt": "0x" + salt}, **receipt.to_json())

    assert refusal(node, unsalted) == "evm.salt"
    assert refusal(node, unsalted, **public) == "evm.salt"


@pytest.mark.parametrize(
    ("name", "value", "step"),
    [
        ("format", "adyton-evm-receipt/2", "evm.document"),
        ("receipt", None, "evm.document"),
        ("receipt", {}, "evm.document"),
        ("salt", "00" * 33, "evm.document"),
        ("salt", "0x" + "G0" * 32, "evm.document"),
        ("salt", 1, "evm.document"),
        ("signature", "0x" + "00" * 64, "evm.document"),
        ("signature", "0x" + "00" * 65, "evm.signature"),
        ("receipt_id", "another", "evm.receipt_id"),
        ("signer", "0x" + "11" * 20, "evm.signer"),
        ("r", "0x" + "11" * 32, "evm.r"),
        ("vs", "0x" + "11" * 32, "evm.vs"),
        ("typed_data", {}, "evm.typed_data"),
    ],
)
def test_a_document_with_one_member_changed(
    node: FakeNode, name: str, value: Any, step: str
) -> None:
    assert refusal(node, lambda told: {**told, name: value}) == step


def test_a_node_that_has_none(node: FakeNode) -> None:
    node.evm_status = 404
    assert refusal(node, lambda told: told) == "evm.fetch"


def test_a_missing_library_is_named_before_anything_is_asked(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adyton.evm.find_spec", lambda name: None)
    with adyton.Client(**settings(node)) as client:
        client.chat.completions.create(**ASK)
        with pytest.raises(adyton.LibraryMissing, match=r"coincurve, pycryptodome.*onchain"):
            client.adyton.evm_receipt("chatcmpl-1")
    assert node.count("/evm") == 0


def test_a_receipt_nobody_verified_is_not_asked_for(node: FakeNode) -> None:
    with adyton.Client(**settings(node, verify_receipts="off")) as client:
        client.chat.completions.create(**ASK)
        with pytest.raises(adyton.ReceiptError, match="no receipt verified"):
            client.adyton.evm_receipt("chatcmpl-1")
    assert node.count("/evm") == 0
