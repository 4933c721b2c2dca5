"""The worker process over its socket, with an engine that counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import pytest
import pytest_asyncio

from enclave.errors import (
    EnclaveError,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    Overloaded,
    SlowReader,
)
from enclave.worker.client import WorkerClient
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.proto import worker_pb2_grpc as rpc
from enclave.worker.supervisor import ModelSpec, Supervisor
from enclave.worker.wire import MAX_MESSAGE_BYTES

FAKE = (sys.executable, "-I", str(Path(__file__).parents[1] / "fakes" / "engine_worker.py"))
ROWS, QUEUE = 4, 3

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Supervisor]:
    folder = tmp_path_factory.mktemp("worker")
    (folder / "chat.json").write_text("{}")
    (folder / "wordy.json").write_text(json.dumps({"words": 2000, "step_s": 0.0005}))
    (folder / "embed.json").write_text("{}")
    supervisor = Supervisor(
        [
            ModelSpec("count", pb.MODEL_KIND_CHAT, folder / "chat.json"),
            ModelSpec("wordy", pb.MODEL_KIND_CHAT, folder / "wordy.json"),
            ModelSpec("length", pb.MODEL_KIND_EMBEDDING, folder / "embed.json"),
        ],
        runtime_dir=folder,
        rows=ROWS,
        context=2000,
        threads=1,
        queue=QUEUE,
        reader_patience_s=0.3,
        command=FAKE,
    )
    await supervisor.start()
    yield supervisor
    await supervisor.stop(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(worker: Supervisor) -> AsyncIterator[WorkerClient]:
    """A client that waits for its readers, unlike the worker and its own client."""
    client = WorkerClient(socket_of(worker), reader_patience_s=300)
    yield client
    await client.close()


def socket_of(worker: Supervisor) -> str:
    return worker.client._target.removeprefix("unix:")


def ask(prompt: str = "hello", model: str = "count", **sampling: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(model=model, text=prompt, sampling=pb.Sampling(**sampling))


async def collect(events: AsyncIterator[pb.GenerateEvent]) -> pb.GenerateEvent:
    whole = pb.GenerateEvent()
    async for event in events:
        whole.text += event.text
        whole.logprobs.extend(event.logprobs)
        whole.prompt_tokens = event.prompt_tokens
        whole.completion_tokens = event.completion_tokens
        whole.finish_reason = event.finish_reason
    return whole


async def until(holds: Callable[[pb.HealthResponse], bool], client: WorkerClient) -> None:
    async with asyncio.timeout(20):
        while not holds(await client.health()):
            await asyncio.sleep(0.01)


def idle(health: pb.HealthResponse) -> bool:
    return health.rows_running + health.waiting == 0


async def endless(client: WorkerClient) -> AsyncGenerator[pb.GenerateEvent, None]:
    """A generation that would go on, taken as far as its admission."""
    events = client.generate(ask(max_tokens=10**9))
    assert (await anext(events)).prompt_tokens == 5
    return events


async def test_a_completion_streams_and_says_how_it_ended(client: WorkerClient) -> None:
    whole = await collect(client.generate(ask(max_tokens=5, top_logprobs=2)))
    assert whole.text == "0 1 2 3 4 "
    assert whole.finish_reason == pb.FINISH_REASON_LENGTH
    assert (whole.prompt_tokens, whole.completion_tokens) == (5, 5)
    assert [len(entry.top) for entry in whole.logprobs] == [2] * 5
    assert (await collect(client.generate(ask()))).finish_reason == pb.FINISH_REASON_STOP


async def test_the_first_event_means_admitted_and_counts_the_prompt(client: WorkerClient) -> None:
    events = await endless(client)
    await events.aclose()


async def test_chat_messages_and_token_ids_are_prompts_too(client: WorkerClient) -> None:
    messages = json.dumps([{"role": "user", "content": "four"}])
    chat = pb.GenerateRequest(model="count", messages_json=messages)
    tokens = pb.GenerateRequest(model="count", tokens=pb.TokenIds(ids=[1, 2, 3]))
    assert (await collect(client.generate(chat))).prompt_tokens == 4
    assert (await collect(client.generate(tokens))).prompt_tokens == 3


async def test_the_plain_call_says_the_same_as_the_shared_one(client: WorkerClient) -> None:
    stub = plain(client)
    whole = await collect(stub.Generate(ask(max_tokens=7)))
    assert whole == await collect(client.generate(ask(max_tokens=7)))


async def test_many_completions_share_a_connection_without_mixing(client: WorkerClient) -> None:
    async def one(tokens: int) -> None:
        whole = await collect(client.generate(ask(max_tokens=tokens)))
        assert whole.text == "".join(f"{i} " for i in range(tokens))

    await asyncio.gather(*(one(tokens) for tokens in (1, 50, 7, 33, 2, 20, 41)))


async def test_leaving_early_frees_the_row(client: WorkerClient) -> None:
    streams = [await endless(client) for _ in range(ROWS + QUEUE)]
    assert not idle(await client.health())
    for stream in streams:
        await stream.aclose()
    await until(idle, client)


async def test_a_cancelled_task_frees_the_row(client: WorkerClient) -> None:
    tasks = [asyncio.create_task(collect(client.generate(ask(max_tokens=10**9))))]
    await until(lambda health: health.rows_running == 1, client)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(idle, client)


async def test_cancelling_the_plain_call_frees_the_row(client: WorkerClient) -> None:
    call = plain(client).Generate(ask(max_tokens=10**9))
    await call.read()
    call.cancel()
    await until(idle, client)


async def test_a_node_that_goes_away_frees_its_rows(worker: Supervisor) -> None:
    other = WorkerClient(socket_of(worker))
    streams = [await endless(other) for _ in range(2)]
    await other.close()
    for stream in streams:
        with pytest.raises(EnclaveError):
            await collect(stream)
    await until(idle, worker.client)


async def test_the_line_behind_the_rows_has_an_end(client: WorkerClient) -> None:
    streams = [await endless(client) for _ in range(ROWS + QUEUE)]
    with pytest.raises(Overloaded):
        await collect(client.generate(ask()))
    await streams.pop().aclose()
    await until(lambda health: health.waiting == QUEUE - 1, client)
    late = await endless(client)
    for stream in (late, *streams):
        await stream.aclose()
    await until(idle, client)


async def test_a_reader_that_stops_reading_loses_its_row_and_nothing_it_was_sent(
    worker: Supervisor,
) -> None:
    slow = await endless(worker.client)
    await until(idle, worker.client)  # given up, without a word from this side
    told = await anext(slow)
    assert told.text.startswith("0 1 2 3 ")
    with pytest.raises(SlowReader):
        await anext(slow)


async def test_a_plain_reader_that_stops_reading_loses_its_row(client: WorkerClient) -> None:
    call = plain(client).Generate(ask(model="wordy", max_tokens=10**9))
    await call.read()
    await until(idle, client)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        while await call.read() is not grpc.aio.EOF:
            pass
    assert failure.value.code() is grpc.StatusCode.ABORTED


@pytest.mark.parametrize(
    ("param", "request_"),
    [
        ("temperature", ask(temperature=3)),
        ("top_p", ask(top_p=0)),
        ("logit_bias", ask(logit_bias={1000: 1})),
        ("prompt", ask("")),
        ("prompt", pb.GenerateRequest(model="count")),
        ("prompt", pb.GenerateRequest(model="count", tokens=pb.TokenIds(ids=[1000]))),
        ("messages", pb.GenerateRequest(model="count", messages_json="{}")),
        ("messages", ask("x" * 2000)),
    ],
)
async def test_a_refusal_names_the_parameter(
    client: WorkerClient, param: str, request_: pb.GenerateRequest
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await collect(client.generate(request_))
    assert refusal.value.param == param
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await collect(plain(client).Generate(request_))
    assert json.loads(failure.value.details() or "")["param"] == param


async def test_too_long_a_prompt_is_told_apart_by_its_code(client: WorkerClient) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await collect(client.generate(ask("x" * 2000)))
    assert refusal.value.code == "context_length_exceeded"


@pytest.mark.parametrize("model", ["", "nobody", "length", "x" * 10_000])
async def test_an_unknown_model_or_one_of_the_wrong_kind_is_not_found(
    client: WorkerClient, model: str
) -> None:
    with pytest.raises(ModelNotFound):
        await collect(client.generate(ask(model=model)))


async def test_a_request_too_large_to_send_leaves_the_others_running(
    client: WorkerClient,
) -> None:
    other = await endless(client)
    with pytest.raises(InvalidRequest) as refusal:
        await collect(client.generate(ask("x" * MAX_MESSAGE_BYTES)))
    assert refusal.value.param == "prompt"
    assert (await anext(other)).text
    await other.aclose()


async def test_an_unforeseen_error_ends_one_completion_and_is_told_without_content(
    client: WorkerClient, capfd: pytest.CaptureFixture[str]
) -> None:
    other = await endless(client)
    with pytest.raises(EnclaveError) as failure:
        await collect(client.generate(ask("fail")))
    assert str(failure.value) == "the engine failed: RuntimeError"
    assert (await anext(other)).text
    await other.aclose()
    async with asyncio.timeout(10):
        printed = ""
        while "RuntimeError" not in printed:
            await asyncio.sleep(0.01)
            printed += capfd.readouterr().err
    assert "cannot think" not in printed


async def test_embeddings_and_token_counts(client: WorkerClient) -> None:
    answer = await client.embed("length", ["abc", "d"])
    assert [list(row.values) for row in answer.embeddings] == [[3, 0, 0, 0], [1, 0, 0, 0]]
    assert answer.prompt_tokens == 4
    assert await client.count_tokens("count", text="hello") == 5
    assert await client.count_tokens("count", messages_json='[{"content":"abc"}]') == 3
    assert await client.count_tokens("length", text="hello") == 5


@pytest.mark.parametrize("texts", [[], ["a", ""], ["a"] * 2049])
async def test_embedding_nothing_or_too_much_is_refused(
    client: WorkerClient, texts: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await client.embed("length", texts)
    assert refusal.value.param == "input"


async def test_embedding_with_a_chat_model_is_not_found(client: WorkerClient) -> None:
    with pytest.raises(ModelNotFound):
        await client.embed("count", ["a"])
    with pytest.raises(InvalidRequest):
        await client.count_tokens("length", messages_json="[]")


async def test_a_model_is_loaded_once_and_only_if_it_is_one(
    client: WorkerClient, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.json"
    for name, kind, path in [
        ("count", pb.MODEL_KIND_CHAT, missing),
        ("new", pb.MODEL_KIND_CHAT, missing),
        ("new", pb.MODEL_KIND_UNSPECIFIED, missing),
        ("", pb.MODEL_KIND_CHAT, missing),
    ]:
        with pytest.raises(ModelError):
            await client.load_model(name, kind, path)


async def test_a_model_that_is_not_the_pinned_one_is_refused(
    client: WorkerClient, tmp_path: Path
) -> None:
    path = tmp_path / "model.json"
    path.write_text("{}")
    with pytest.raises(ModelError, match="pinned"):
        await client.load_model("new", pb.MODEL_KIND_CHAT, path, "sha256:" + "0" * 64)
    assert "new" not in {model.id for model in (await client.health()).models}


async def test_health_counts_tokens_and_names_the_models(client: WorkerClient) -> None:
    before = await client.health()
    await collect(client.generate(ask(max_tokens=10)))
    after = await client.health()
    assert after.tokens_generated >= before.tokens_generated + 10
    assert after.tokens_prefilled >= before.tokens_prefilled + 5
    assert {model.id for model in after.models} == {"count", "wordy", "length"}
    assert after.rows_total == 2 * ROWS


async def test_only_this_user_reaches_the_socket(worker: Supervisor) -> None:
    folder = Path(socket_of(worker)).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_the_worker_has_no_port_and_nobody_looks_inside(worker: Supervisor) -> None:
    process = psutil.Process(worker.pid)
    if os.geteuid() == 0:
        assert process.net_connections("inet") == []
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    else:
        with pytest.raises(psutil.AccessDenied):
            process.environ()


def plain(client: WorkerClient) -> Any:
    """The stub itself, for the call that carries one completion."""
    stub = client._connect()
    assert isinstance(stub, rpc.WorkerStub)
    return stub


async def test_garbage_on_the_socket_harms_nobody(client: WorkerClient) -> None:
    reader, writer = await asyncio.open_unix_connection(client._target.removeprefix("unix:"))
    writer.write(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 100)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        await reader.read()
    writer.close()
    assert (await collect(client.generate(ask(max_tokens=2)))).text == "0 1 "
