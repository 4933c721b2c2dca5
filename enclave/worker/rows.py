"""The engine's thread on one side, the event loop's listeners on the other.

The engine reports each step from its own thread, all rows at once; the loop is woken once
a step and gives every generation's event to its listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from enclave.engine.api import ChatEngine, EventBatch, GenerationEvent, Sampling
from enclave.errors import EnclaveError, Overloaded, SlowReader, WorkerUnavailable
from enclave.worker.convert import event_message
from enclave.worker.mailbox import Mailbox
from enclave.worker.process import print_fault


class Sink(Protocol):
    """Where the events of one generation go."""

    def event(self, event: GenerationEvent) -> None: ...

    def fail(self, error: BaseException) -> None: ...


class Rows:
    """One chat engine and who listens to which of its generations."""

    def __init__(self, limit: int | None) -> None:
        self.engine: ChatEngine | None = None
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._sinks: dict[int, Sink] = {}

    def __len__(self) -> int:
        return len(self._sinks)

    def deliver(self, batch: EventBatch) -> None:
        """Called by the engine's thread, once a step."""
        self._loop.call_soon_threadsafe(self._dispatch, batch)

    def _dispatch(self, batch: EventBatch) -> None:
        for generation, event in batch:
            sink = self._sinks.get(generation)
            if sink is None:
                continue  # cancelled while the step ran
            if event.finish_reason is not None or event.error is not None:
                del self._sinks[generation]
            sink.event(event)

    def submit(self, prompt: Sequence[int], sampling: Sampling, sink: Sink) -> int:
        """Admit one generation. On the loop, so its events cannot come before its sink."""
        if self.engine is None:
            raise WorkerUnavailable("the model is still loading")
        if self._limit is not None and len(self._sinks) >= self._limit:
            raise Overloaded("all rows are busy and the line is full")
        generation = self.engine.submit(prompt, sampling)
        self._sinks[generation] = sink
        return generation

    def cancel(self, generation: int) -> None:
        if self._sinks.pop(generation, None) is not None and self.engine is not None:
            self.engine.cancel(generation)

    def fail_all(self, error: EnclaveError) -> None:
        for generation in list(self._sinks):
            sink = self._sinks[generation]
            self.cancel(generation)
            sink.fail(error)


class MailboxSink:
    """A plain Generate call: its own mailbox, given up when nobody reads."""

    def __init__(self, patience_s: float) -> None:
        self.mailbox = Mailbox(patience_s)
        self.cancel: Callable[[], None] = lambda: None

    def event(self, event: GenerationEvent) -> None:
        if event.error is not None:
            self.fail(event.error)
        elif not self.mailbox.put(event_message(event)):
            self.cancel()
            self.fail(SlowReader("nobody read the answer"))

    def fail(self, error: BaseException) -> None:
        self.mailbox.fail(error)


def report(error: BaseException) -> None:
    """Tell the operator of an error nobody foresaw; ours are the caller's business."""
    if not isinstance(error, EnclaveError):
        print_fault("request", error)
