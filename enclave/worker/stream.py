"""Many completions over one Stream call: the worker's end of `multiplex`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from enclave.engine.api import GenerationEvent
from enclave.worker.convert import event_message
from enclave.worker.mailbox import join_events
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.rows import Rows, Sink, report
from enclave.worker.wire import status_of

Admit = Callable[[pb.GenerateRequest, Sink], Awaitable[tuple[Rows, int, int]]]
"""Gives a completion its place: (rows, generation, prompt tokens)."""


class Connection:
    """One Stream call: what is to be sent next, joined per completion while a write runs."""

    def __init__(
        self,
        admit: Admit,
        context: grpc.aio.ServicerContext[Any, Any],
        patience_s: float,
    ) -> None:
        self._admit = admit
        self._context = context
        self._patience_s = patience_s
        self._wake = asyncio.Event()
        self._next = pb.EventBatch()
        self._index: dict[int, pb.CallEvent] = {}
        self._calls: dict[int, Callable[[], object]] = {}
        self._open = True

    async def run(self, frames: AsyncIterator[pb.ClientFrame]) -> None:
        """Until the node ends its half. Raises TimeoutError when it stops reading."""
        reader = asyncio.create_task(self._read(frames))
        try:
            while True:
                if self._open:
                    await self._wake.wait()
                    self._wake.clear()
                if self._next.events:
                    batch, self._next, self._index = self._next, pb.EventBatch(), {}
                    async with asyncio.timeout(self._patience_s):
                        await self._context.write(batch)
                elif not self._open:
                    return
        finally:
            reader.cancel()

    async def _read(self, frames: AsyncIterator[pb.ClientFrame]) -> None:
        try:
            async for frame in frames:
                if frame.WhichOneof("action") == "generate" and frame.call not in self._calls:
                    task = asyncio.create_task(self._begin(frame.call, frame.generate))
                    self._calls[frame.call] = task.cancel
                elif frame.WhichOneof("action") == "cancel":
                    self._calls.pop(frame.call, int)()
        finally:
            self.close()

    async def _begin(self, call: int, request: pb.GenerateRequest) -> None:
        sink = _StreamSink(self, call)
        try:
            rows, generation, prompt_tokens = await self._admit(request, sink)
        except Exception as error:
            sink.fail(error)
            return
        # No await since submit: the call cannot have been cancelled in between.
        self._calls[call] = lambda: rows.cancel(generation)
        self.entry(call).event.prompt_tokens = prompt_tokens

    def entry(self, call: int) -> pb.CallEvent:
        """What goes to `call` with the next message."""
        entry = self._index.get(call)
        if entry is None:
            entry = self._next.events.add()
            entry.call = call
            self._index[call] = entry
            self._wake.set()
        return entry

    def ended(self, call: int) -> None:
        self._calls.pop(call, None)

    def close(self) -> None:
        """End the Stream call once what there is to say was sent."""
        self._open = False
        self._wake.set()

    def cancel_all(self) -> None:
        for cancel in list(self._calls.values()):
            cancel()
        self._calls.clear()


class _StreamSink:
    def __init__(self, connection: Connection, call: int) -> None:
        self._connection = connection
        self._call = call

    def event(self, event: GenerationEvent) -> None:
        if event.error is not None:
            self.fail(event.error)
            return
        join_events(self._connection.entry(self._call).event, event_message(event))
        if event.finish_reason is not None:
            self._connection.ended(self._call)

    def fail(self, error: BaseException) -> None:
        report(error)
        code, details = status_of(error)
        entry = self._connection.entry(self._call)
        entry.error.code, entry.error.details = code.value[0], details
        self._connection.ended(self._call)
