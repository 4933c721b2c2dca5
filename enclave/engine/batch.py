"""Continuous batching: generations join and leave a fixed number of rows while others run.

One thread owns the model. Each turn it frees cancelled rows, feeds one chunk of one waiting
prompt if a row is free, then decodes one token for every running row. A turn's events are
delivered together, but for a first token, which goes out before the step that follows it.
Running rows are rows 0..n-1 of the cache; a prompt being read is row n.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np

from enclave.engine.api import Deliver, EngineStats, GenerationEvent, Sampling
from enclave.engine.forward import Forward
from enclave.engine.generation import Generation
from enclave.engine.sampling import check_sampling
from enclave.engine.tokenizer import ChatTokenizer
from enclave.errors import EnclaveError, InvalidRequest, Overloaded, WorkerUnavailable

log = logging.getLogger(__name__)

MAX_WAITING: Final = 256
CHUNK_ALONE: Final = 256
CHUNK_SHARED: Final = 64  # tokens of a prompt between two steps of the rows already running


class Batch:
    """Rows, the line in front of them, and the thread that serves both."""

    def __init__(
        self,
        forward: Forward,
        tokenizer: ChatTokenizer,
        deliver: Deliver,
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._forward = forward
        self._tokenizer = tokenizer
        self._deliver = deliver
        self._max_waiting = max_waiting
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._waiting: deque[Generation] = deque()  # these three under the condition's lock
        self._cancelled: set[int] = set()
        self._closing = False
        self._running: list[Generation] = []  # the thread's own from here on
        self._reading: Generation | None = None
        self._generated = self._prefilled = 0
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """Join the line; the generation's id. Raises InvalidRequest, Overloaded."""
        check_sampling(sampling, self._forward.vocabulary)
        self._check_prompt(prompt)
        g = Generation(
            next(self._numbers), prompt, sampling, self._tokenizer, self._forward.context
        )
        with self._changed:
            if self._closing:
                raise WorkerUnavailable("the engine is closing")
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{len(self._waiting)} generations are waiting already")
            self._waiting.append(g)
            self._changed.notify()
        return g.number

    def cancel(self, number: int) -> None:
        """Forget a generation at the next turn. Unknown numbers are ignored."""
        with self._changed:
            for g in self._waiting:
                if g.number == number:
                    self._waiting.remove(g)
                    return
            self._cancelled.add(number)

    def stats(self) -> EngineStats:
        with self._changed:
            waiting = len(self._waiting)
        reading = self._reading is not None
        running = len(self._running) + reading
        return EngineStats(self._forward.rows, running, waiting, self._generated, self._prefilled)

    def close(self) -> None:
        """Stop after the current turn; whatever was running ends with WorkerUnavailable."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        if not len(prompt):
            raise InvalidRequest("prompt", "the prompt is empty")
        if len(prompt) >= self._forward.context:
            raise InvalidRequest(
                "messages",
                f"the prompt has {len(prompt)} tokens; this model's context is "
                f"{self._forward.context}, completion included",
                "context_length_exceeded",
            )
        if min(prompt) < 0 or max(prompt) >= self._forward.vocabulary:
            raise InvalidRequest("prompt", "a token id is outside the vocabulary")

    # --- the engine's thread ---------------------------------------------------------------

    def _serve(self) -> None:
        error: Exception = WorkerUnavailable("the engine was closed")
        try:
            while self._await_work():
                events: list[tuple[int, GenerationEvent]] = []
                try:
                    self._read_prompt(events)
                    if any(event.text for _, event in events):
                        # A first token does not wait for the step that makes the second.
                        self._deliver(events)
                        events = []
                    self._decode(events)
                except Exception as e:
                    # Only the kind: a message or a traceback could carry what a user wrote.
                    log.error("a model step failed: %s", type(e).__name__)  # noqa: TRY400
                    failure = EnclaveError(f"the model step failed: {type(e).__name__}")
                    events += self._abandon(failure)
                if events:
                    self._deliver(events)
        except Exception as e:
            log.error("the engine stopped: %s", type(e).__name__)  # noqa: TRY400
            error = WorkerUnavailable("the engine stopped")
        with self._changed:
            self._closing = True
            left = list(self._waiting)
            self._waiting.clear()
        ended = self._abandon(error) + [(g.number, g.failed(error)) for g in left]
        if ended:
            self._deliver(ended)

    def _await_work(self) -> bool:
        """Block until there is something to do; False when closing."""
        with self._changed:
            while not (self._closing or self._waiting or self._running or self._reading):
                self._cancelled.clear()
                self._changed.wait()
            cancelled, self._cancelled = self._cancelled, set()
            if self._closing:
                return False
        if cancelled:
            if self._reading and self._reading.number in cancelled:
                self._reading = None
                self._forward.cache.clear(len(self._running))
            for g in [g for g in self._running if g.number in cancelled]:
                self._leave(self._running.index(g))
        return True

    def _read_prompt(self, events: list[tuple[int, GenerationEvent]]) -> None:
        """Feed one chunk of one prompt; its generation starts running after the last chunk."""
        g = self._reading
        if g is None:
            if len(self._running) == self._forward.rows:
                return
            with self._changed:
                if not self._waiting:
                    return
                g = self._reading = self._waiting.popleft()
            events.append((g.number, g.started()))
        size = CHUNK_SHARED if self._running else CHUNK_ALONE
        chunk = g.prompt[g.length : g.length + size]
        logits = self._forward.prefill(len(self._running), chunk, g.length)
        g.length += len(chunk)
        self._prefilled += len(chunk)
        if g.prefilled:
            self._reading = None
            self._running.append(g)
            self._advance(g, logits, events)
            self._retire(events)

    def _decode(self, events: list[tuple[int, GenerationEvent]]) -> None:
        if not self._running:
            return
        tokens = np.array([g.last_token for g in self._running], np.int64)
        lengths = np.array([g.length for g in self._running], np.int32)
        logits = self._forward.decode(tokens, lengths)
        for g, row in zip(self._running, logits, strict=True):
            g.length += 1
            self._advance(g, row, events)
        self._retire(events)

    def _advance(
        self,
        g: Generation,
        logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
        events: list[tuple[int, GenerationEvent]],
    ) -> None:
        event = g.advance(logits)
        self._generated += 1
        events.append((g.number, event))

    def _retire(self, events: list[tuple[int, GenerationEvent]]) -> None:
        done = {n for n, event in events if event.finish_reason is not None}
        for row in range(len(self._running) - 1, -1, -1):
            if self._running[row].number in done:
                self._leave(row)

    def _leave(self, row: int) -> None:
        """Close the gap at `row` with the last running row, and that gap with the reading one."""
        cache = self._forward.cache
        last = len(self._running) - 1
        if row != last:
            cache.move(last, row, self._running[last].length)
            self._running[row] = self._running[last]
        self._running.pop()
        free = last
        if self._reading is not None:
            cache.move(last + 1, last, self._reading.length)
            free = last + 1
        cache.clear(free)

    def _abandon(self, error: Exception) -> list[tuple[int, GenerationEvent]]:
        """End everything that has a row."""
        ended = [*self._running, *([self._reading] if self._reading else [])]
        for row in range(len(ended)):
            self._forward.cache.clear(row)
        self._running, self._reading = [], None
        return [(g.number, g.failed(error)) for g in ended]
