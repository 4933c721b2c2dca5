"""A real node's receipts as contracts read them, over TLS, across kill -9, by foreign code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from evm_check import check_evm
from running import EMBEDDER, RunningNode, chat, running

import adyton

pytestmark = pytest.mark.slow

PATH = "/v1/chat/completions"
CONTEXT = "5eed" * 16
CANARY = "marmalade-4471-obelisk"


def keyset_of(client: httpx.Client) -> dict[str, Any]:
    report = client.get("/v1/aci/attestation").json()
    return dict(report["attestation"]["workload_keyset"])


def both_of(client: httpx.Client, answer: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}"
    receipt, evm = client.get(path), client.get(path + "/evm")
    assert (receipt.status_code, evm.status_code) == (200, 200)
    return receipt.json(), evm.json()


@pytest.mark.parametrize("body", [chat(), chat(stream=True), chat(temperature=99)])
def test_an_independent_reader_agrees(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post(PATH, json=body, headers={"X-Adyton-Context": CONTEXT})
    receipt, evm = both_of(client, answer)
    check_evm(
        evm,
        receipt,
        keyset_of(client),
        request=answer.request.content,
        response=answer.content,
        context=CONTEXT,
    )


def test_a_public_exchange(client: httpx.Client) -> None:
    body = {"model": EMBEDDER, "input": "public"}
    answer = client.post("/v1/embeddings", json=body, headers={"X-Adyton-Salt": "none"})
    receipt, evm = both_of(client, answer)
    check_evm(
        evm,
        receipt,
        keyset_of(client),
        request=answer.request.content,
        response=answer.content,
        public=True,
    )


def test_a_bad_header_is_refused_before_the_body_is_read(client: httpx.Client) -> None:
    answer = client.post(PATH, json=chat(), headers={"X-Adyton-Context": CONTEXT.upper()})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "X-Adyton-Context"
    assert "x-receipt-id" not in answer.headers
    assert client.get("/v1/models").status_code == 200, "the connection goes on"


def test_our_own_client_fetches_and_checks_it(node: RunningNode) -> None:
    with adyton.Client(
        base_url=node.url,
        api_key=node.key(),
        root=node.facts["root"],
        measurement=node.facts["measurement"],
    ) as client:
        answer = client.chat.completions.create(
            **chat(), extra_headers={"X-Adyton-Context": CONTEXT}
        )
        evm = client.adyton.evm_receipt(answer.id)
        verified = client.adyton.receipts[-1]
    assert evm.receipt.context.hex() == CONTEXT
    check_evm(
        dict(evm.document),
        dict(verified.document),
        dict(verified.established.keyset.document),
        request=verified.request_body,
        response=verified.response_body,
        context=CONTEXT,
    )


def test_it_survives_kill_9_and_its_salt_is_in_no_log(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state) as first:
        key = first.key()
        with first.client() as client:
            keyset = keyset_of(client)
            answer = client.post(PATH, json=chat(CANARY, stream=True))
            receipt, told = both_of(client, answer)
        first.kill()
    with running(state) as second:
        with second.client(key) as client:
            assert keyset_of(client) == keyset, "the EVM key is sealed with the others"
            assert both_of(client, answer) == (receipt, told)
            later = client.post(PATH, json=chat(CANARY))
            _, also = both_of(client, later)
            assert also["signer"] == told["signer"]
        assert second.stop() == 0
    check_evm(told, receipt, keyset, request=answer.request.content, response=answer.content)
    logged = first.log.read_bytes() + second.log.read_bytes()
    for evm in (told, also):
        assert evm["salt"][2:].encode() not in logged
        assert bytes.fromhex(evm["salt"][2:]) not in logged
    assert CANARY.encode() not in logged
