"""Every way an exchange can end leaves the receipt it should, or no answer at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_fakes import CHAT, DIGEST, EMBEDDER, FakeNode, Wire, chat, fake_node, hello

from attestation.canonical import digest
from attestation.receipts import verify_receipt
from enclave.errors import (
    EnclaveError,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    Overloaded,
    SlowReader,
    WorkerUnavailable,
)
from enclave.worker.proto import worker_pb2 as pb
from gateway.cut import Reason
from gateway.settings import Limits
from gateway.storage import StorageError

PATH = "/v1/chat/completions"


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeNode]:
    async with fake_node(tmp_path / "state") as fake:
        yield fake


async def endless(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
    yield pb.GenerateEvent(prompt_tokens=5)
    yield pb.GenerateEvent(prompt_tokens=5, text="Hello", completion_tokens=1)
    await asyncio.Event().wait()


async def unending_text(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
    yield pb.GenerateEvent(prompt_tokens=5)
    while True:
        yield pb.GenerateEvent(prompt_tokens=5, text="Hello", completion_tokens=1)
        await asyncio.sleep(0)


def dying(error: Exception) -> Any:
    async def script(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
        yield pb.GenerateEvent(prompt_tokens=5)
        yield pb.GenerateEvent(prompt_tokens=5, text="Hello", completion_tokens=1)
        raise error

    return script


async def test_a_plain_answer(fake: FakeNode) -> None:
    answer = await fake.client.post(PATH, json=chat())
    assert answer.json()["choices"][0]["message"]["content"] == "Hello, world"
    receipt = verify_receipt(
        await fake.receipt(answer),
        fake.node.ring.current.keys.keyset,
        request_body=answer.request.content,
        response_body=answer.content,
    )
    assert receipt.model_digest == DIGEST and receipt.truncated is None


async def test_a_streamed_answer(fake: FakeNode) -> None:
    answer = await fake.client.post(PATH, json=chat(stream=True))
    verify_receipt(
        await fake.receipt(answer),
        fake.node.ring.current.keys.keyset,
        request_body=answer.request.content,
        response_body=answer.content,
    )
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_text_that_would_break_a_careless_framing(fake: FakeNode) -> None:
    awkward = 'a\n\ndata: [DONE]\n\n"\u2028\\\x00 \U0001f600'

    async def script(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
        yield pb.GenerateEvent(text=awkward, completion_tokens=1)
        yield pb.GenerateEvent(completion_tokens=1, finish_reason=pb.FINISH_REASON_LENGTH)

    fake.engine.script = script
    answer = await fake.client.post(PATH, json=chat(stream=True))
    blocks = answer.content.split(b"\n\n")
    assert blocks[-2:] == [b"data: [DONE]", b""]
    text = "".join(
        json.loads(b.removeprefix(b"data: "))["choices"][0]["delta"].get("content", "")
        for b in blocks[:-2]
    )
    assert text == awkward


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("messages", "too long", "context_length_exceeded"), 400, None),
        (ModelNotFound("m"), 404, "model_not_found"),
        (Overloaded("full"), 503, "overloaded"),
        (WorkerUnavailable("gone"), 503, "engine_unavailable"),
        (ModelError("broken"), 503, "engine_failed"),
        (EnclaveError("broken"), 503, "engine_failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_refuses(
    fake: FakeNode, error: Exception, status: int, code: str | None, stream: bool
) -> None:
    fake.engine.failure = error
    answer = await fake.client.post(PATH, json=chat(stream=stream))
    assert answer.status_code == status
    assert code in (None, answer.json()["error"]["code"])
    events = await fake.events(answer)
    assert "request.forwarded" in events
    assert events["response.returned"]["body_hash"] == digest(answer.content)
    assert ("stream.truncated" in events) == (status >= 500 and code != "model_not_found")


async def test_an_engine_that_dies_mid_stream(fake: FakeNode) -> None:
    fake.engine.script = dying(WorkerUnavailable("secret detail"))
    answer = await fake.client.post(PATH, json=chat(stream=True))
    assert b"[DONE]" not in answer.content and b"secret" not in answer.content
    assert b'"engine_unavailable"' in answer.content
    events = await fake.events(answer)
    assert events["stream.truncated"]["reason"] == "engine_failed"
    assert events["response.returned"]["body_hash"] == digest(answer.content)


async def test_a_generation_that_just_stops_is_not_an_answer(fake: FakeNode) -> None:
    async def script(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
        yield pb.GenerateEvent(prompt_tokens=5, text="Hello", completion_tokens=1)

    fake.engine.script = script
    assert (await fake.client.post(PATH, json=chat())).status_code == 503
    streamed = await fake.client.post(PATH, json=chat(stream=True))
    assert b"[DONE]" not in streamed.content


async def test_a_bug_is_a_500_that_says_nothing(fake: FakeNode, capsys: Any) -> None:
    fake.engine.failure = ZeroDivisionError("the prompt was: secret")
    answer = await fake.client.post(PATH, json=chat())
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.headers["x-aci-version"] == "aci/1"
    assert answer.headers["x-aci-keyset-digest"] == fake.node.ring.current.digest
    assert fake.node.gate.inflight == 0


async def test_a_client_that_leaves_frees_its_row(fake: FakeNode) -> None:
    fake.engine.script = endless
    wire = Wire(fake, chat(stream=True))
    await wire.until_text()
    seen = wire.body
    wire.leave()
    await asyncio.wait_for(wire.task, 5)
    assert fake.engine.closed == 1 and fake.node.gate.inflight == 0
    found = await fake.client.get(f"/v1/aci/receipts/{wire.headers['x-receipt-id']}")
    events = {e["type"]: e for e in found.json()["event_log"]}
    assert events["stream.truncated"]["reason"] == "client_disconnected"
    assert events["response.returned"]["body_hash"] == digest(seen)


async def test_a_client_that_stops_reading_is_cut(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.prompt._READER_PATIENCE_S", 0.05)
    fake.engine.script = unending_text
    wire = Wire(fake, chat(stream=True))
    await wire.until_text()
    wire.blocked = asyncio.Event()
    await asyncio.wait_for(wire.task, 5)
    found = await fake.client.get(f"/v1/aci/receipts/{wire.headers['x-receipt-id']}")
    events = {e["type"]: e for e in found.json()["event_log"]}
    assert events["stream.truncated"]["reason"] == "timeout"
    assert events["response.returned"]["body_hash"] == digest(wire.body)


async def test_a_worker_that_gave_up_on_the_reader(fake: FakeNode) -> None:
    fake.engine.script = dying(SlowReader("unread"))
    answer = await fake.client.post(PATH, json=chat(stream=True))
    assert (await fake.events(answer))["stream.truncated"]["reason"] == "timeout"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_that_takes_too_long(tmp_path: Path, stream: bool) -> None:
    async with fake_node(tmp_path / "s", Limits(generation_timeout_s=0.2)) as fake:
        fake.engine.script = endless
        answer = await fake.client.post(PATH, json=chat(stream=stream))
        assert answer.status_code == (200 if stream else 504)
        assert b"generation_timeout" in answer.content and b"[DONE]" not in answer.content
        events = await fake.events(answer)
        assert events["stream.truncated"]["reason"] == "timeout"
        assert events["response.returned"]["body_hash"] == digest(answer.content)
        assert fake.engine.closed == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_node_that_stops(tmp_path: Path, stream: bool) -> None:
    async with fake_node(tmp_path / "s", Limits(drain_timeout_s=0.05)) as fake:
        fake.engine.script = endless
        asked = asyncio.create_task(fake.client.post(PATH, json=chat(stream=stream)))
        while not fake.engine.asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        await fake.node.drain()
        answer = await asyncio.wait_for(asked, 5)
        assert b"shutting_down" in answer.content
        assert (await fake.events(answer))["stream.truncated"]["reason"] == "shutdown"
        refused = await fake.client.post(PATH, json=chat())
        assert refused.status_code == 503 and "x-receipt-id" not in refused.headers
        assert (await fake.client.get("/readyz")).status_code == 503


async def test_draining_lets_short_answers_finish(fake: FakeNode) -> None:
    asked = asyncio.create_task(fake.client.post(PATH, json=chat()))
    while not fake.engine.asked:
        await asyncio.sleep(0)
    await fake.node.drain()
    assert (await asked).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_no_receipt_no_answer(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise StorageError("full", "the disk is full")

    for name in ("open_receipt", "finish", "record"):
        monkeypatch.setattr(fake.node.receipts, name, full)
    answer = await fake.client.post(PATH, json=chat(stream=stream))
    assert answer.status_code == 503 and "x-receipt-id" not in answer.headers
    assert answer.json()["error"]["code"] == "storage_unavailable"
    refused = await fake.client.post(PATH, json={})
    assert refused.json()["error"]["code"] == "storage_unavailable"


async def test_a_disk_that_fills_up_mid_stream_ends_it_without_done(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fake.node.receipts.finish

    async def full(*_: Any, **__: Any) -> None:
        raise StorageError("full", "the disk is full")

    monkeypatch.setattr(fake.node.receipts, "finish", full)
    answer = await fake.client.post(PATH, json=chat(stream=True))
    assert b"storage_unavailable" in answer.content and b"[DONE]" not in answer.content
    path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}"
    assert (await fake.client.get(path)).status_code == 404
    monkeypatch.setattr(fake.node.receipts, "finish", real)
    await fake.node.desk.retry()
    events = await fake.events(answer)
    assert events["stream.truncated"]["reason"] == "storage_failed"
    assert events["response.returned"]["body_hash"] == digest(answer.content)


async def test_answers_a_crash_cut_short_are_signed_at_the_next_start(fake: FakeNode) -> None:
    fake.engine.script = endless
    wire = Wire(fake, chat(stream=True))
    await wire.until_text()
    assert await fake.node.desk.settle_restart(fake.node.ring.current) == 1
    found = await fake.client.get(f"/v1/aci/receipts/{wire.headers['x-receipt-id']}")
    receipt = verify_receipt(found.json(), fake.node.ring.current.keys.keyset)
    assert receipt.truncated == Reason.NODE_RESTARTED.value and receipt.model == CHAT
    wire.leave()
    await asyncio.wait_for(wire.task, 5)


async def test_a_request_keeps_the_keys_it_began_with(fake: FakeNode) -> None:
    go = asyncio.Event()

    async def script(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
        yield pb.GenerateEvent(prompt_tokens=5)
        await go.wait()
        async for event in hello(request):
            yield event

    fake.engine.script = script
    before = fake.node.ring.current
    asked = asyncio.create_task(fake.client.post(PATH, json=chat(stream=True)))
    while not fake.engine.asked:
        await asyncio.sleep(0.01)
    await fake.node.renew_keys()
    go.set()
    answer = await asked
    assert fake.node.ring.current.digest != before.digest
    assert answer.headers["x-aci-keyset-digest"] == before.digest
    verify_receipt(await fake.receipt(answer), before.keys.keyset)


async def test_a_worker_that_is_not_there_does_not_make_models_unknown(fake: FakeNode) -> None:
    fake.supervisor.ready = False
    known = await fake.client.post(PATH, json=chat())
    unknown = await fake.client.post(PATH, json=chat(model="other"))
    assert (known.status_code, unknown.status_code) == (503, 404)
    assert "request.forwarded" not in await fake.events(known)


async def test_a_big_body_is_read_like_a_small_one(fake: FakeNode) -> None:
    messages = [{"role": "user", "content": "x" * 200_000}]
    answer = await fake.client.post(PATH, json=chat(messages=messages))
    assert answer.status_code == 200
    assert len(json.loads(fake.engine.asked[0].messages_json)[0]["content"]) == 200_000


async def test_embeddings_in_both_encodings(fake: FakeNode) -> None:
    body = {"model": EMBEDDER, "input": "abc"}
    plain = await fake.client.post("/v1/embeddings", json=body)
    packed = await fake.client.post("/v1/embeddings", json={**body, "encoding_format": "base64"})
    assert plain.json()["data"][0]["embedding"] == [0.5, -0.5, 3.0]
    assert packed.json()["data"][0]["embedding"] == "AAAAPwAAAL8AAEBA"


async def test_a_callers_limits(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=3, concurrent_requests=1)
    async with fake_node(tmp_path / "s", limits) as fake:
        fake.engine.script = endless
        wire = Wire(fake, chat(stream=True))
        await wire.until_text()
        busy = await fake.client.post(PATH, json=chat())
        assert busy.status_code == 429 and "x-receipt-id" not in busy.headers
        wire.leave()
        await wire.task
        fake.engine.script = hello
        statuses = [(await fake.client.post(PATH, json=chat())).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]


async def test_a_full_node(tmp_path: Path) -> None:
    async with fake_node(tmp_path / "s", Limits(max_inflight=1)) as fake:
        fake.engine.script = endless
        wire = Wire(fake, chat(stream=True))
        await wire.until_text()
        refused = await fake.client.post(PATH, json=chat())
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "overloaded"
        wire.leave()
        await wire.task


async def test_reports_are_rationed(tmp_path: Path) -> None:
    async with fake_node(tmp_path / "s", Limits(attestations_per_minute=2)) as fake:
        path = "/v1/aci/attestation?nonce=" + "ab" * 32
        statuses = [(await fake.client.get(path)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await fake.client.get("/v1/aci/attestation")).status_code == 200


async def test_retention_forgets_old_receipts(tmp_path: Path) -> None:
    async with fake_node(tmp_path / "s", receipt_days=-1.0) as fake:
        answer = await fake.client.post(PATH, json=chat())
        path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}"
        assert (await fake.client.get(path)).status_code == 200
        await fake.node._purge()
        assert (await fake.client.get(path)).status_code == 404


async def test_two_authorization_headers_are_none(fake: FakeNode) -> None:
    bearer = f"Bearer {fake.key}"
    headers = [("authorization", bearer), ("authorization", bearer)]
    request = fake.client.build_request("GET", "/v1/models")
    del request.headers["authorization"]
    request.headers = type(request.headers)([*request.headers.multi_items(), *headers])
    assert (await fake.client.send(request)).status_code == 401
