"""Events of one completion between the loop that produces them and the task that reads them.

Memory stays bounded without dropping a token: what the reader has not taken is joined
into one event. A reader that takes nothing for `patience_s` is given up.
"""

from __future__ import annotations

import asyncio
import time

from enclave.worker.proto import worker_pb2 as pb


def join_events(into: pb.GenerateEvent, event: pb.GenerateEvent) -> None:
    """`into` tells what both told: texts and logprobs in order, the newest counts."""
    if event.text:
        into.text += event.text
    if event.logprobs:
        into.logprobs.extend(event.logprobs)
    into.prompt_tokens = event.prompt_tokens or into.prompt_tokens
    into.completion_tokens = event.completion_tokens or into.completion_tokens
    into.finish_reason = event.finish_reason or into.finish_reason


class Mailbox:
    """One reader, one event loop. `closed` once the last event or an error was put in."""

    __slots__ = ("_error", "_patience_s", "_pending", "_since", "_waiter", "closed")

    def __init__(self, patience_s: float) -> None:
        self.closed = False
        self._patience_s = patience_s
        self._pending: pb.GenerateEvent | None = None
        self._error: BaseException | None = None
        self._since = 0.0
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: pb.GenerateEvent) -> bool:
        """Leave an event for the reader. False when the reader has stopped reading."""
        if self.closed:
            return True
        if event.finish_reason:
            self.closed = True
        if self._pending is None:
            self._pending = event
            self._since = time.monotonic()
        else:
            join_events(self._pending, event)
            if not self.closed and time.monotonic() - self._since > self._patience_s:
                return False
        self._wake()
        return True

    def fail(self, error: BaseException) -> None:
        """End with `error`, after the events already there were read."""
        if not self.closed:
            self.closed = True
            self._error = error
            self._wake()

    async def get(self) -> pb.GenerateEvent | None:
        """The next event; None after the last. Raises the error the completion ended with."""
        while self._pending is None:
            if self._error is not None:
                raise self._error
            if self.closed:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event, self._pending = self._pending, None
        return event

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
