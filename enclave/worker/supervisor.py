"""Keeps one engine worker running: starts it, loads its models, starts it again when it dies.

What a model's digest was at its first load it must be at every later one. A file changed
behind a running node is refused, and the node says so instead of serving it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from enclave.errors import EnclaveError, ModelError, WorkerUnavailable
from enclave.worker.child import Child, say
from enclave.worker.client import WorkerClient
from enclave.worker.proto import worker_pb2 as pb

WORKER_COMMAND = (sys.executable, "-I", "-m", "enclave.worker")

_START_TIMEOUT_S = 60.0
_MAX_SOCKET_PATH = 107  # sun_path, less its closing zero


class WorkerState(Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to load. `pinned_digest` None: whatever the first load finds."""

    id: str
    kind: pb.ModelKind
    path: Path
    pinned_digest: str | None = None


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How soon a dead worker is started again, and when a silent one counts as dead."""

    first_delay_s: float = 0.2
    max_delay_s: float = 10.0
    healthy_after_s: float = 60.0
    probe_every_s: float = 5.0
    probe_timeout_s: float = 10.0
    probes_missed: int = 3


class Supervisor:
    """One worker process and its client. `client` stays the same object across restarts."""

    def __init__(
        self,
        models: Sequence[ModelSpec],
        *,
        runtime_dir: Path,
        rows: int,
        context: int,
        threads: int,
        queue: int = 64,
        reader_patience_s: float = 30.0,
        restart: RestartPolicy | None = None,
        on_state: Callable[[WorkerState], None] | None = None,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self._specs = tuple(models)
        self._socket = _socket_path(runtime_dir)
        self._restart = restart or RestartPolicy()
        self._on_state = on_state
        self._command = (
            *command,
            *("--socket", str(self._socket)),
            *("--rows", str(rows), "--context", str(context), "--threads", str(threads)),
            *("--queue", str(queue), "--reader-patience-s", str(reader_patience_s)),
        )
        self._pins: dict[str, str] = {s.id: s.pinned_digest for s in models if s.pinned_digest}
        self._child: Child | None = None
        self._watch: asyncio.Task[None] | None = None
        self.client = WorkerClient(self._socket, reader_patience_s=reader_patience_s)
        self.models: list[pb.ModelInfo] = []
        self.state = WorkerState.STOPPED
        self.restarts = 0
        self.last_error: str | None = None
        self.stats = pb.HealthResponse()

    @property
    def ready(self) -> bool:
        """Every model is loaded and the worker answers."""
        return self.state is WorkerState.READY

    @property
    def pid(self) -> int | None:
        """The running worker's process id."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Run the worker and load every model. Raises ModelError or WorkerUnavailable."""
        if self.state is not WorkerState.STOPPED:
            raise RuntimeError("the supervisor is already running")
        try:
            child = await self._launch()
        except BaseException as error:
            self.last_error = str(error)
            await self._discard()
            self._set(WorkerState.STOPPED)
            raise
        self._watch = asyncio.create_task(self._keep_running(child), name="worker-supervisor")

    async def stop(self, drain_timeout_s: float = 10.0) -> None:
        """Let running work finish, then end the worker: asked, told, and last killed."""
        drain = self.ready and drain_timeout_s > 0
        self._set(WorkerState.DRAINING)
        if self._watch is not None:
            self._watch.cancel()  # from here on a dead worker stays dead
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        if drain:
            try:
                await self.client.drain(drain_timeout_s)
            except EnclaveError as error:
                self.last_error = str(error)  # it died meanwhile: nothing is left to drain
        await self._discard(ask_first=True)
        self._set(WorkerState.STOPPED)

    # --- one life of the worker ---------------------------------------------------

    async def _launch(self) -> Child:
        self._set(WorkerState.STARTING)
        directory = self._socket.parent
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        child = self._child = await Child.start(self._command, directory)
        await self._until_answering(child)
        self.models = [await self._load(spec) for spec in self._specs]
        self.last_error = None
        self._set(WorkerState.READY)
        return child

    async def _until_answering(self, child: Child) -> None:
        answer = asyncio.create_task(self._first_answer())
        exited = asyncio.create_task(child.wait())
        try:
            await asyncio.wait({answer, exited}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise WorkerUnavailable(f"the engine worker exited with {exited.result()}")
            self.stats = await answer
        finally:
            answer.cancel()
            exited.cancel()

    async def _first_answer(self) -> pb.HealthResponse:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not await asyncio.to_thread(self._socket.exists):
            if time.monotonic() > deadline:
                raise WorkerUnavailable("the engine worker did not open its socket")
            await asyncio.sleep(0.02)
        # Requests that came meanwhile made the old connection wait before its next try.
        await self.client.reconnect()
        return await self.client.health(_START_TIMEOUT_S, wait_for_worker=True)

    async def _load(self, spec: ModelSpec) -> pb.ModelInfo:
        pin = self._pins.get(spec.id)
        info = await self.client.load_model(spec.id, spec.kind, spec.path, pin)
        if pin is not None and info.model_digest != pin:
            raise ModelError(f"model {spec.id!r} is {info.model_digest}, pinned is {pin}")
        self._pins[spec.id] = info.model_digest
        return info

    async def _discard(self, *, ask_first: bool = False) -> None:
        """End the worker; requests still running on it fail now, not when a timer fires."""
        child, self._child = self._child, None
        if child is not None:
            await child.end(ask_first=ask_first)
        await self.client.reconnect()

    # --- from one life to the next ------------------------------------------------

    async def _keep_running(self, child: Child) -> None:
        policy = self._restart
        delay_s = policy.first_delay_s
        while True:
            if self.ready:
                ready_at = time.monotonic()
                self.last_error = await self._until_dead(child)
                if time.monotonic() - ready_at >= policy.healthy_after_s:
                    delay_s = policy.first_delay_s
            self._set(WorkerState.BACKOFF)
            await self._discard()
            say(f"down: {self.last_error}; next start in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, policy.max_delay_s)
            self.restarts += 1
            try:
                child = await self._launch()
            except (EnclaveError, OSError) as error:
                self.last_error = str(error)

    async def _until_dead(self, child: Child) -> str:
        """Why the worker has to be started again: it exited, or stopped answering."""
        exited = asyncio.create_task(child.wait())
        missed = 0
        try:
            while missed < self._restart.probes_missed:
                done, _ = await asyncio.wait({exited}, timeout=self._restart.probe_every_s)
                if done:
                    return f"the engine worker exited with {exited.result()}"
                try:
                    self.stats = await self.client.health(self._restart.probe_timeout_s)
                    missed = 0
                except EnclaveError:
                    missed += 1
        finally:
            exited.cancel()
        return f"the engine worker did not answer {missed} times"

    def _set(self, state: WorkerState) -> None:
        if state is not self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(state)


def _socket_path(runtime_dir: Path) -> Path:
    """In the runtime directory, or in a private temporary one when that path is too long."""
    path = runtime_dir.absolute() / "worker" / "engine.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    return Path(tempfile.mkdtemp(prefix="adyton-")) / "engine.sock"
