"""The node's side of the socket: the worker's calls as coroutines, its refusals as our errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from enclave.errors import InvalidRequest, WorkerUnavailable
from enclave.worker.multiplex import Multiplex
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.proto import worker_pb2_grpc as rpc
from enclave.worker.wire import CLIENT_OPTIONS, MAX_MESSAGE_BYTES, error_of

_FRAME_OVERHEAD = 1024

T = TypeVar("T")


class WorkerClient:
    """One worker, reached by its socket. Outlives the worker: after a restart it reconnects.

    Every method raises InvalidRequest, ModelNotFound, Overloaded, ModelError or
    WorkerUnavailable, or EnclaveError when the engine itself failed. Belongs to the event
    loop it is first used on.
    """

    def __init__(
        self,
        socket_path: Path | str,
        *,
        reader_patience_s: float = 30.0,
        call_timeout_s: float = 120.0,
    ) -> None:
        self._target = f"unix:{socket_path}"
        self._patience_s = reader_patience_s
        self._timeout_s = call_timeout_s
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._multiplex: Multiplex | None = None

    async def health(
        self, timeout_s: float = 5.0, *, wait_for_worker: bool = False
    ) -> pb.HealthResponse:
        """What is loaded and how busy it is; at once, or when there is a worker to ask."""
        health = self._connect().Health
        call = health(pb.HealthRequest(), timeout=timeout_s, wait_for_ready=wait_for_worker)
        return await _ask(call)

    async def load_model(
        self,
        id: str,
        kind: pb.ModelKind,
        path: Path | str,
        pinned_digest: str | None = None,
        *,
        timeout_s: float = 900.0,
    ) -> pb.ModelInfo:
        """Load a model in the worker. Raises ModelError, also when the digest is another."""
        request = pb.LoadModelRequest(
            id=id, kind=kind, path=str(path), pinned_digest=pinned_digest or ""
        )
        answer: pb.LoadModelResponse = await _ask(
            self._connect().LoadModel(request, timeout=timeout_s)
        )
        return answer.model

    async def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
        """Stream one completion. The first event means it was admitted.

        Close the iterator (`aclose`) to stop early: that frees the row.
        """
        _check_size(request, "messages" if request.HasField("messages_json") else "prompt")
        multiplex = self._multiplexed()
        number, box = multiplex.start(request)
        try:
            while (event := await box.get()) is not None:
                yield event
        finally:
            multiplex.cancel(number)

    async def embed(self, model: str, texts: Sequence[str]) -> pb.EmbedResponse:
        request = pb.EmbedRequest(model=model, texts=texts)
        _check_size(request, "input")
        return await _ask(self._connect().Embed(request, timeout=self._timeout_s))

    async def count_tokens(
        self, model: str, *, messages_json: str | None = None, text: str | None = None
    ) -> int:
        request = pb.CountTokensRequest(model=model, messages_json=messages_json, text=text)
        _check_size(request, "messages" if text is None else "prompt")
        call = self._connect().CountTokens(request, timeout=self._timeout_s)
        answer: pb.CountTokensResponse = await _ask(call)
        return answer.tokens

    async def drain(self, timeout_s: float) -> bool:
        """Let running work finish and take no more; True when all of it did in time."""
        request = pb.DrainRequest(timeout_seconds=timeout_s)
        answer: pb.DrainResponse = await _ask(
            self._connect().Drain(request, timeout=timeout_s + 5.0)
        )
        return answer.idle

    async def reconnect(self) -> None:
        """Forget the connection; what still runs on it fails with WorkerUnavailable."""
        channel, self._channel, self._stub = self._channel, None, None
        if self._multiplex is not None:
            self._multiplex.close()
            self._multiplex = None
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        await self.reconnect()

    def _connect(self) -> Any:
        if self._stub is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=CLIENT_OPTIONS)
            self._stub = rpc.WorkerStub(self._channel)  # type: ignore[no-untyped-call]
        return self._stub

    def _multiplexed(self) -> Multiplex:
        if self._multiplex is None or self._multiplex.lost:
            self._multiplex = Multiplex(self._connect(), self._patience_s)
        return self._multiplex


async def _ask(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as failure:
        raise error_of(failure.code(), failure.details()) from None
    except grpc.aio.UsageError:
        raise WorkerUnavailable("the connection to the engine worker was closed") from None
    except asyncio.CancelledError:
        # Closing the channel cancels its calls, which is not this task being cancelled.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise WorkerUnavailable("the connection to the engine worker was closed") from None


def _check_size(request: Any, param: str) -> None:
    """Refuse here what would break the connection that other completions share."""
    if request.ByteSize() > MAX_MESSAGE_BYTES - _FRAME_OVERHEAD:
        raise InvalidRequest(param, f"{param} is too large")
