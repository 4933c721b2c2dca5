"""Receipts of whole answers have a form for contracts, for the one who asked and nobody else."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from evm_check import check_evm
from gateway_fakes import DIGEST, EMBEDDER, FakeNode, Wire, chat, fake_node
from test_gateway_prompt import dying, endless

from attestation.keyset import Keyset
from enclave.errors import InvalidRequest, WorkerUnavailable
from gateway.storage import ApiKeyStore, StorageError

PATH = "/v1/chat/completions"
CONTEXT = "c0" * 31 + "01"
ASKED = {"X-Adyton-Context": CONTEXT}
NOTHING = "0x" + "00" * 32


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeNode]:
    async with fake_node(tmp_path / "state") as fake:
        yield fake


async def evm_of(fake: FakeNode, receipt_id: str) -> dict[str, Any]:
    found = await fake.client.get(f"/v1/aci/receipts/{receipt_id}/evm")
    assert found.status_code == 200, found.text
    return dict(found.json())


async def checked(fake: FakeNode, answer: httpx.Response, **expected: Any) -> dict[str, Any]:
    """The members of this answer's EVM receipt, once an independent reader agrees."""
    return check_evm(
        await evm_of(fake, answer.headers["x-receipt-id"]),
        await fake.receipt(answer),
        dict(fake.node.ring.current.keys.keyset.document),
        request=answer.request.content,
        response=answer.content,
        **expected,
    )


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_an_answer_has_one(fake: FakeNode, stream: bool) -> None:
    answer = await fake.client.post(PATH, json=chat(stream=stream), headers=ASKED)
    members = await checked(fake, answer, context=CONTEXT)
    assert members["modelDigest"] == "0x" + DIGEST.removeprefix("sha256:")


async def test_embeddings_have_one(fake: FakeNode) -> None:
    answer = await fake.client.post("/v1/embeddings", json={"model": EMBEDDER, "input": "abc"})
    await checked(fake, answer)


async def test_a_refusal_has_one_that_names_no_model(fake: FakeNode) -> None:
    answer = await fake.client.post(PATH, json=chat(temperature=9), headers=ASKED)
    assert answer.status_code == 400
    members = await checked(fake, answer, context=CONTEXT)
    assert members["modelDigest"] == members["adapterDigest"] == NOTHING


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_has_none(fake: FakeNode, stream: bool) -> None:
    """It would name the model, and look like an answer of it."""
    fake.engine.failure = InvalidRequest("messages", "too long", "context_length_exceeded")
    answer = await fake.client.post(PATH, json=chat(stream=stream), headers=ASKED)
    assert answer.status_code == 400
    path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}"
    assert "model.loaded" in await fake.events(answer)
    assert (await fake.client.get(path + "/evm")).status_code == 404


async def none_for(fake: FakeNode, receipt_id: str) -> None:
    """There is a receipt that says how the answer ended, and nothing for contracts."""
    path = f"/v1/aci/receipts/{receipt_id}"
    events = {e["type"] for e in (await fake.client.get(path)).json()["event_log"]}
    assert "stream.truncated" in events
    missing = await fake.client.get(path + "/evm")
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "not_found"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_has_none(fake: FakeNode, stream: bool) -> None:
    """The eight words could not say that it failed, and a contract would pay for it."""
    fake.engine.failure = WorkerUnavailable("gone")
    answer = await fake.client.post(PATH, json=chat(stream=stream))
    assert answer.status_code == 503
    await none_for(fake, answer.headers["x-receipt-id"])


async def test_a_stream_the_engine_broke_has_none(fake: FakeNode) -> None:
    fake.engine.script = dying(WorkerUnavailable("gone"))
    answer = await fake.client.post(PATH, json=chat(stream=True))
    await none_for(fake, answer.headers["x-receipt-id"])


async def test_a_stream_its_client_left_has_none(fake: FakeNode) -> None:
    fake.engine.script = endless
    wire = Wire(fake, chat(stream=True))
    await wire.until_text()
    wire.leave()
    await asyncio.wait_for(wire.task, 5)
    await none_for(fake, wire.headers["x-receipt-id"])


async def test_a_response_nobody_knows_has_none(fake: FakeNode) -> None:
    """What a killed node had sent is in no receipt, so a contract is told nothing either."""
    fake.engine.script = endless
    wire = Wire(fake, chat(stream=True))
    await wire.until_text()
    path = f"/v1/aci/receipts/{wire.headers['x-receipt-id']}"
    assert (await fake.client.get(path + "/evm")).status_code == 404
    assert await fake.node.desk.settle_restart(fake.node.ring.current) == 1
    assert (await fake.client.get(path)).status_code == 200
    assert (await fake.client.get(path + "/evm")).status_code == 404
    wire.leave()
    await asyncio.wait_for(wire.task, 5)


async def test_it_is_signed_by_the_key_the_exchange_began_with(fake: FakeNode) -> None:
    answer = await fake.client.post(PATH, json=chat())
    before = fake.node.ring.current.keys
    await fake.node.renew_keys()
    assert fake.node.ring.current.keys.evm_address != before.evm_address
    evm = await evm_of(fake, answer.headers["x-receipt-id"])
    assert evm["signer"] == before.evm_address
    receipt = await fake.receipt(answer)
    document = dict(before.keyset.document)
    check_evm(evm, receipt, document, request=answer.request.content, response=answer.content)


async def test_a_restart_keeps_it_word_for_word(tmp_path: Path) -> None:
    async with fake_node(tmp_path / "state") as first:
        answer = await first.client.post(PATH, json=chat(), headers=ASKED)
        told = await evm_of(first, answer.headers["x-receipt-id"])
    async with fake_node(tmp_path / "state", key_name="second") as second:
        headers = {"authorization": f"Bearer {first.key}"}
        path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}/evm"
        again = await second.client.get(path, headers=headers)
        assert again.json() == told


async def test_one_that_could_not_be_stored_in_time_has_none(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fake.node.receipts.finish

    async def full(*_: Any, **__: Any) -> None:
        raise StorageError("full", "the disk is full")

    monkeypatch.setattr(fake.node.receipts, "finish", full)
    answer = await fake.client.post(PATH, json=chat(stream=True), headers=ASKED)
    monkeypatch.setattr(fake.node.receipts, "finish", real)
    await fake.node.desk.retry()
    await none_for(fake, answer.headers["x-receipt-id"])


# --- the salt ------------------------------------------------------------------------


async def test_each_exchange_has_a_salt_of_its_own(fake: FakeNode) -> None:
    answers = [await fake.client.post(PATH, json=chat()) for _ in range(3)]
    receipts = [await evm_of(fake, a.headers["x-receipt-id"]) for a in answers]
    assert len({r["salt"] for r in receipts}) == 3
    assert len({r["receipt"]["requestHash"] for r in receipts}) == 3


async def test_a_public_exchange_has_none(fake: FakeNode) -> None:
    answer = await fake.client.post(PATH, json=chat(), headers={"X-Adyton-Salt": "none"})
    await checked(fake, answer, public=True)


async def test_salts_and_contexts_are_not_logged(
    fake: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="adyton")
    answer = await fake.client.post(PATH, json=chat(), headers=ASKED)
    receipt_id = answer.headers["x-receipt-id"]
    salt = bytes.fromhex((await evm_of(fake, receipt_id))["salt"][2:])
    stored = await fake.node.receipts.get(receipt_id)
    assert stored is not None and stored.binding is not None
    logged = "".join(str(vars(record)) for record in caplog.records)
    assert "request" in logged and CONTEXT not in logged
    for form in (salt.hex(), repr(salt)):
        assert form not in logged + repr(stored.binding)


# --- who may see it, and what is refused ----------------------------------------------


async def test_it_is_for_whom_the_receipt_is(fake: FakeNode) -> None:
    answer = await fake.client.post(PATH, json=chat())
    path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}/evm"
    stranger = await ApiKeyStore(fake.node.receipts._database).create("stranger")
    for key, status in ((stranger, 404), ("adt-" + "x" * 43, 404), (fake.key, 200)):
        got = await fake.client.get(path, headers={"authorization": f"Bearer {key}"})
        assert got.status_code == status
    anonymous = await fake.client.get(path, headers={"authorization": ""})
    assert anonymous.status_code == 401 and anonymous.json()["error"]["type"] == "unauthorized"
    unknown = await fake.client.get(f"/v1/aci/receipts/rcpt-{'0' * 32}/evm")
    assert unknown.status_code == 404


async def test_it_is_found_by_the_answers_id_too(fake: FakeNode) -> None:
    answer = await fake.client.post(PATH, json=chat())
    assert await evm_of(fake, answer.json()["id"]) == await evm_of(
        fake, answer.headers["x-receipt-id"]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Adyton-Context", ""),
        ("X-Adyton-Context", "0x" + "00" * 32),
        ("X-Adyton-Context", "AB" * 32),
        ("X-Adyton-Context", "ab" * 31),
        ("X-Adyton-Context", "ab" * 33),
        ("X-Adyton-Context", "ab" * 31 + "g0"),
        ("X-Adyton-Context", "ab" * 32 + ", " + "ab" * 32),
        ("X-Adyton-Salt", ""),
        ("X-Adyton-Salt", "None"),
        ("X-Adyton-Salt", "random"),
        ("X-Adyton-Salt", "00" * 32),
    ],
)
@pytest.mark.parametrize("path", [PATH, "/v1/completions", "/v1/embeddings"])
async def test_a_malformed_header_is_a_400_that_names_it(
    fake: FakeNode, path: str, name: str, value: str
) -> None:
    answer = await fake.client.post(path, json=chat(), headers={name: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", name)
    assert name in error["message"] and fake.engine.asked == []
    assert fake.node.gate.inflight == 0


@pytest.mark.parametrize("name", ["X-Adyton-Context", "X-Adyton-Salt"])
async def test_a_header_given_twice_is_a_400(fake: FakeNode, name: str) -> None:
    """Two readers must not pick two of them."""
    value = "none" if name.endswith("Salt") else CONTEXT
    headers = [(name, value), (name, value), ("content-type", "application/json")]
    answer = await fake.client.post(PATH, content=json.dumps(chat()), headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == name


async def test_the_description_has_the_headers_and_the_endpoint(fake: FakeNode) -> None:
    paths = (await fake.client.get("/openapi.json")).json()["paths"]
    for path in (PATH, "/v1/completions", "/v1/embeddings"):
        names = {p["name"] for p in paths[path]["post"]["parameters"]}
        assert names == {"X-Adyton-Context", "X-Adyton-Salt"}
    operation = paths["/v1/aci/receipts/{id}/evm"]["get"]
    assert {"200", "401", "404", "503"} <= set(operation["responses"])
    assert operation["security"] == [{"apiKey": []}]


async def test_the_keyset_is_read_by_those_who_know_nothing_of_contracts(fake: FakeNode) -> None:
    keyset = Keyset.from_json(fake.node.ring.current.keys.keyset.document)
    assert [k.algo for k in keyset.receipt_signing_keys] == ["ed25519", "eip712-secp256k1"]


# --- what an older version left --------------------------------------------------------


async def test_a_receipt_of_an_older_version_has_none(fake: FakeNode, tmp_path: Path) -> None:
    answer = await fake.client.post(PATH, json=chat())
    receipt_id = answer.headers["x-receipt-id"]
    database = sqlite3.connect(tmp_path / "state" / "node.db")
    database.execute("UPDATE receipts SET evm_context=NULL, evm_salt=NULL, evm_signature=NULL")
    database.commit()
    assert (await fake.client.get(f"/v1/aci/receipts/{receipt_id}")).status_code == 200
    missing = await fake.client.get(f"/v1/aci/receipts/{receipt_id}/evm")
    assert missing.status_code == 404


async def test_an_answer_an_older_version_began_is_settled_without(
    fake: FakeNode, tmp_path: Path
) -> None:
    fake.engine.script = endless
    wire = Wire(fake, chat(stream=True))
    await wire.until_text()
    database = sqlite3.connect(tmp_path / "state" / "node.db")
    database.execute("UPDATE receipts SET evm_context=NULL, evm_salt=NULL")
    database.commit()
    assert await fake.node.desk.settle_restart(fake.node.ring.current) == 1
    path = f"/v1/aci/receipts/{wire.headers['x-receipt-id']}"
    assert (await fake.client.get(path)).status_code == 200
    assert (await fake.client.get(path + "/evm")).status_code == 404
    wire.leave()
    await asyncio.wait_for(wire.task, 5)
