"""Many completions over one gRPC call, so that a token does not pay for a message of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any

import grpc.aio

from enclave.errors import EnclaveError, SlowReader, WorkerUnavailable
from enclave.worker.mailbox import Mailbox
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.wire import error_of, status_code


class Multiplex:
    """One Stream call to the worker. Once `lost`, every completion on it has failed."""

    def __init__(self, stub: Any, patience_s: float) -> None:
        self.lost = False
        self._patience_s = patience_s
        self._numbers = itertools.count(1)
        self._boxes: dict[int, Mailbox] = {}
        self._frames: deque[pb.ClientFrame] = deque()
        self._wake = asyncio.Event()
        self._call: grpc.aio.StreamStreamCall[Any, Any] = stub.Stream()
        self._tasks = (
            asyncio.create_task(self._write(), name="worker-write"),
            asyncio.create_task(self._read(), name="worker-read"),
        )

    def start(self, request: pb.GenerateRequest) -> tuple[int, Mailbox]:
        number = next(self._numbers)
        box = Mailbox(self._patience_s)
        self._boxes[number] = box
        self._send(pb.ClientFrame(call=number, generate=request))
        return number, box

    def cancel(self, number: int) -> None:
        """Forget the completion and free its row. Does nothing when it has ended."""
        if self._boxes.pop(number, None) is not None and not self.lost:
            self._send(pb.ClientFrame(call=number, cancel=pb.CancelCall()))

    def close(self) -> None:
        self._lose(WorkerUnavailable("the connection to the engine worker was closed"))

    def _send(self, frame: pb.ClientFrame) -> None:
        self._frames.append(frame)
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._frames:
                    await self._call.write(self._frames.popleft())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader learns why, and tells everyone

    async def _read(self) -> None:
        error: EnclaveError = WorkerUnavailable("the engine worker went away")
        try:
            async for batch in self._call:
                for entry in batch.events:
                    self._deliver(entry)
        except grpc.aio.AioRpcError as failure:
            error = WorkerUnavailable(f"the engine worker went away ({failure.code().name})")
        finally:
            self._lose(error)

    def _deliver(self, entry: pb.CallEvent) -> None:
        box = self._boxes.get(entry.call)
        if box is None:
            return  # cancelled while the event was under way
        if entry.HasField("event") and not box.put(entry.event):
            self.cancel(entry.call)
            box.fail(SlowReader("nobody read the answer"))
            return
        if entry.HasField("error"):
            box.fail(error_of(status_code(entry.error.code), entry.error.details))
        if box.closed:
            self._boxes.pop(entry.call, None)

    def _lose(self, error: EnclaveError) -> None:
        if self.lost:
            return
        self.lost = True
        boxes, self._boxes = self._boxes, {}
        for box in boxes.values():
            box.fail(error)
        self._call.cancel()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
