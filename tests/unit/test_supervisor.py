"""The worker's process under its supervisor: what happens when either of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from enclave.errors import EnclaveError, ModelError, WorkerUnavailable
from enclave.worker.process import EXIT_ORPHANED
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.supervisor import ModelSpec, RestartPolicy, Supervisor, WorkerState

FAKE = (sys.executable, "-I", str(Path(__file__).parents[1] / "fakes" / "engine_worker.py"))
ARGUMENTS = ("--rows", "1", "--context", "9", "--threads", "1", "--socket")
SOON = RestartPolicy(first_delay_s=0.05, max_delay_s=0.2)
WATCHFUL = RestartPolicy(first_delay_s=0.05, probe_every_s=0.1, probe_timeout_s=1.0)


def supervise(
    folder: Path,
    *,
    command: tuple[str, ...] = FAKE,
    restart: RestartPolicy = SOON,
    pin: str | None = None,
    states: list[WorkerState] | None = None,
) -> Supervisor:
    model = folder / "model.json"
    if not model.exists():
        model.write_text(json.dumps({"step_s": 0.001}))
    return Supervisor(
        [ModelSpec("count", pb.MODEL_KIND_CHAT, model, pin)],
        runtime_dir=folder,
        rows=2,
        context=100,
        threads=1,
        restart=restart,
        on_state=None if states is None else states.append,
        command=command,
    )


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = supervise(tmp_path)
    await supervisor.start()
    yield supervisor
    await supervisor.stop(0)


def ask(tokens: int, prompt: str = "hello") -> pb.GenerateRequest:
    sampling = pb.Sampling(max_tokens=tokens)
    return pb.GenerateRequest(model="count", text=prompt, sampling=sampling)


async def answer(supervisor: Supervisor, tokens: int, prompt: str = "hello") -> str:
    return "".join([e.text async for e in supervisor.client.generate(ask(tokens, prompt))])


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_worker_killed_mid_stream_is_told_at_once_and_replaced(
    running: Supervisor,
) -> None:
    streams = [running.client.generate(ask(10**9)) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    first = running.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    for stream in streams:
        with pytest.raises(WorkerUnavailable):
            async for _ in stream:
                pass
    await until(lambda: running.restarts == 1 and running.ready)
    assert running.pid != first
    assert running.last_error is None
    assert await answer(running, 2) == "0 1 "


async def test_a_worker_that_dies_by_itself_is_replaced(running: Supervisor) -> None:
    with pytest.raises(WorkerUnavailable):
        await answer(running, 1, "die")
    await until(lambda: running.restarts == 1 and running.ready)
    assert await answer(running, 1) == "0 "


async def test_while_no_worker_runs_requests_fail_by_name(running: Supervisor) -> None:
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    await until(lambda: not running.ready)
    with pytest.raises(WorkerUnavailable):
        await answer(running, 1)
    with pytest.raises(WorkerUnavailable):
        await running.client.embed("length", ["a"])


async def test_requests_that_keep_coming_do_not_keep_the_worker_down(
    running: Supervisor,
) -> None:
    async def insist() -> None:
        while running.restarts < 1 or not running.ready:
            with contextlib.suppress(EnclaveError):
                await answer(running, 1)
            await asyncio.sleep(0.001)

    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        await asyncio.gather(*(insist() for _ in range(5)))
    assert running.restarts == 1
    assert await answer(running, 1) == "0 "


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, restart=WATCHFUL)
    await supervisor.start()
    first = supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    await until(lambda: supervisor.restarts and supervisor.ready)
    await supervisor.stop(0)
    assert not psutil.pid_exists(first)


async def test_a_file_changed_behind_a_running_node_is_refused(
    running: Supervisor, tmp_path: Path
) -> None:
    model = tmp_path / "model.json"
    original = model.read_text()
    model.write_text(original + " ")
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    await until(lambda: running.restarts >= 2)
    assert not running.ready
    assert "pinned" in (running.last_error or "")
    with pytest.raises(EnclaveError):
        await answer(running, 1)
    model.write_text(original)
    await until(lambda: running.ready)
    assert await answer(running, 1) == "0 "


async def test_a_model_other_than_the_pinned_one_does_not_start(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, pin="sha256:" + "0" * 64)
    with pytest.raises(ModelError, match="pinned"):
        await supervisor.start()
    assert supervisor.state is WorkerState.STOPPED
    assert supervisor.pid is None


@pytest.mark.parametrize(
    "command",
    [("/nonexistent/python",), (sys.executable, "-c", "raise SystemExit(5)")],
    ids=["no such program", "exits at once"],
)
async def test_a_worker_that_cannot_run_is_told_at_start(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    supervisor = supervise(tmp_path, command=command)
    with pytest.raises(WorkerUnavailable):
        await supervisor.start()
    assert supervisor.state is WorkerState.STOPPED


async def test_stopping_lets_running_work_finish_and_takes_no_more(tmp_path: Path) -> None:
    states: list[WorkerState] = []
    supervisor = supervise(tmp_path, states=states)
    await supervisor.start()
    running = asyncio.create_task(answer(supervisor, 1000))
    late = supervisor.client.generate(ask(1))
    await anext(late)
    stopping = asyncio.create_task(supervisor.stop(20))
    while not (await supervisor.client.health()).draining:
        await asyncio.sleep(0)
    with pytest.raises(WorkerUnavailable):
        await answer(supervisor, 1)
    assert (await running).split() == [str(i) for i in range(1000)]
    await late.aclose()
    await stopping
    assert supervisor.pid is None
    assert states == [
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.DRAINING,
        WorkerState.STOPPED,
    ]


async def test_work_that_outlasts_the_drain_is_ended_by_name(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path)
    await supervisor.start()
    pid = supervisor.pid
    running = asyncio.create_task(answer(supervisor, 10**9))
    await anext(supervisor.client.generate(ask(1)))
    await supervisor.stop(0.1)
    with pytest.raises(WorkerUnavailable):
        await running
    assert pid is not None and not psutil.pid_exists(pid)


async def test_a_stopped_supervisor_starts_again(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path)
    for _ in range(2):
        await supervisor.start()
        assert await answer(supervisor, 1) == "0 "
        await supervisor.stop(1)


async def test_stopping_between_two_lives_leaves_no_process(tmp_path: Path) -> None:
    slow = RestartPolicy(first_delay_s=60, max_delay_s=60)
    supervisor = supervise(tmp_path, restart=slow)
    await supervisor.start()
    pid = supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: supervisor.state is WorkerState.BACKOFF)
    await supervisor.stop(1)
    assert supervisor.pid is None and supervisor.state is WorkerState.STOPPED


async def test_the_delay_grows_while_the_worker_keeps_dying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = supervise(tmp_path)
    await supervisor.start()
    said: list[str] = []
    monkeypatch.setattr("enclave.worker.supervisor.say", said.append)
    (tmp_path / "model.json").unlink()
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    await until(lambda: len(said) >= 4)
    await supervisor.stop(0)
    assert [line.split("next start in ")[1] for line in said[:4]] == [
        "0.05 s",
        "0.1 s",
        "0.2 s",
        "0.2 s",
    ]


SPY = """
import json, os, pathlib, sys
seen = {"arguments": sys.argv, "environment": dict(os.environ)}
pathlib.Path(sys.argv[1]).write_text(json.dumps(seen))
os.execv(sys.argv[2], sys.argv[2:])
"""


async def test_the_worker_inherits_no_secret_of_the_nodes_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("HTTPS_PROXY", "http://canary")
    spy = (sys.executable, "-I", "-c", SPY, str(tmp_path / "seen.json"), *FAKE)
    supervisor = supervise(tmp_path, command=spy)
    await supervisor.start()
    await supervisor.stop(1)
    seen = (tmp_path / "seen.json").read_text()
    assert "canary" not in seen
    assert json.loads(seen)["environment"]["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_worker_whose_input_ends_ends_too(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*FAKE, *ARGUMENTS, tmp_path / "w" / "s"],
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == EXIT_ORPHANED


def test_a_socket_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    result = subprocess.run(
        [*FAKE, *ARGUMENTS, folder / "s"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert b"0700" in result.stderr


PARENT = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_supervisor import supervise

async def main() -> None:
    supervisor = supervise(Path(sys.argv[1]))
    await supervisor.start()
    print(supervisor.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_node_killed_outright_takes_its_worker_along(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path), str(Path(__file__).parent)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(await parent.stdout.readline()))
    assert worker.is_running()
    parent.kill()
    await parent.wait()
    await until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


async def test_a_runtime_directory_too_deep_for_a_socket_still_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    supervisor = supervise(deep)
    await supervisor.start()
    assert await answer(supervisor, 1) == "0 "
    await supervisor.stop(1)
