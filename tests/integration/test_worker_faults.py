"""The worker with the real engine: what a crash, a changed file or a leaving reader does."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from enclave.errors import EnclaveError, InvalidRequest, WorkerUnavailable
from enclave.models import default_chat_model, default_embedding_model
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.supervisor import ModelSpec, RestartPolicy, Supervisor

CANARY = "zanzibar-heliotrope-7741"
SOON = RestartPolicy(first_delay_s=0.05, max_delay_s=0.5)
ROWS = 8

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the default model, so that a test may change it."""
    return Path(shutil.copy(default_chat_model(), tmp_path_factory.mktemp("model")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory, model: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(
        [
            ModelSpec("chat", pb.MODEL_KIND_CHAT, model),
            ModelSpec("embed", pb.MODEL_KIND_EMBEDDING, default_embedding_model()),
        ],
        runtime_dir=tmp_path_factory.mktemp("run"),
        rows=ROWS,
        context=512,
        threads=2,
        restart=SOON,
    )
    await supervisor.start()
    yield supervisor
    await supervisor.stop(5)


def ask(prompt: str, tokens: int, **sampling: float) -> pb.GenerateRequest:
    messages = json.dumps([{"role": "user", "content": prompt}])
    chosen = pb.Sampling(max_tokens=tokens, temperature=0, **sampling)  # type: ignore[arg-type]
    return pb.GenerateRequest(model="chat", messages_json=messages, sampling=chosen)


async def answer(node: Supervisor, prompt: str = "Name three colours.", tokens: int = 12) -> str:
    return "".join([e.text async for e in node.client.generate(ask(prompt, tokens))])


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.05)


async def until_idle(node: Supervisor) -> None:
    async with asyncio.timeout(60):
        while (health := await node.client.health()).rows_running or health.waiting:
            await asyncio.sleep(0.02)


async def test_a_killed_worker_is_told_replaced_and_answers_as_before(
    node: Supervisor, model: Path
) -> None:
    digests = [info.model_digest for info in node.models]
    expected = await answer(node)
    restarts = node.restarts
    streams = [node.client.generate(ask("Count to a thousand.", 400)) for _ in range(3)]
    for stream in streams:
        await anext(stream)
    assert node.pid is not None
    os.kill(node.pid, signal.SIGKILL)
    for stream in streams:
        with pytest.raises(WorkerUnavailable):
            async for _ in stream:
                pass
    await until(lambda: node.restarts > restarts and node.ready)
    assert [info.model_digest for info in node.models] == digests
    assert await answer(node) == expected


async def test_a_model_changed_behind_the_node_is_not_served_after_a_crash(
    node: Supervisor, model: Path
) -> None:
    size = model.stat().st_size
    with model.open("r+b") as file:
        file.seek(size - 1000)
        original = file.read(1)
        file.seek(size - 1000)
        file.write(bytes([original[0] ^ 1]))
    assert node.pid is not None
    restarts = node.restarts
    os.kill(node.pid, signal.SIGKILL)
    await until(lambda: node.restarts > restarts + 1)
    assert not node.ready and "sha256:" in (node.last_error or "")
    with pytest.raises(EnclaveError):
        await answer(node)
    with model.open("r+b") as file:
        file.seek(size - 1000)
        file.write(original)
    await until(lambda: node.ready)
    assert await answer(node)


async def test_readers_that_leave_free_their_rows(node: Supervisor) -> None:
    streams = [node.client.generate(ask("Tell a long story.", 400)) for _ in range(ROWS)]
    for stream in streams:
        await anext(stream)
    assert (await node.client.health()).rows_running
    for stream in streams:
        await stream.aclose()
    await until_idle(node)


async def test_more_completions_than_rows_all_finish_and_agree(node: Supervisor) -> None:
    prompts = [f"What is {i} plus {i}?" for i in range(4)]
    alone = [await answer(node, prompt, 8) for prompt in prompts]
    together = await asyncio.gather(*(answer(node, prompt, 8) for prompt in prompts * 6))
    assert together == alone * 6


async def test_a_prompt_beyond_the_context_is_refused_by_name(node: Supervisor) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await answer(node, "word " * 1000)
    assert refusal.value.code == "context_length_exceeded"


async def test_embeddings_come_from_the_same_worker(node: Supervisor) -> None:
    reply = await node.client.embed("embed", ["a cat", "a kitten", "a tax form"])
    cat, kitten, form = (list(row.values) for row in reply.embeddings)

    def alike(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert alike(cat, kitten) > alike(cat, form)
    assert abs(alike(cat, cat) - 1) < 1e-3


async def test_nothing_the_worker_prints_or_writes_holds_a_prompt(
    node: Supervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    await answer(node, f"Repeat: {CANARY}", 16)
    with pytest.raises(InvalidRequest):
        await answer(node, f"{CANARY} " * 1000)
    with pytest.raises(InvalidRequest):
        await anext(node.client.generate(ask(CANARY, 5, top_p=7)))
    await node.client.embed("embed", [CANARY])
    output = capfd.readouterr()
    assert CANARY not in output.out + output.err
    folder = Path(node.client._target.removeprefix("unix:")).parent
    for file in folder.rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes()
