"""A worker whose engine counts instead of thinking, for tests of everything around it.

Run as a program it takes the arguments of `python -m enclave.worker`. A model is a JSON
file of `Behaviour`; its digest is the file's, so that editing the file changes it. A prompt
is its UTF-8 bytes, and the answer to it is "0 1 2 ...". Prompts that misbehave: "die" ends
the process, "fail" ends the generation with an unforeseen error that quotes the prompt.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engine.api import (
    Deliver,
    EngineStats,
    FinishReason,
    GenerationEvent,
    ModelInfo,
    ModelKind,
    Sampling,
    TokenLogprob,
)
from enclave.errors import InvalidRequest, ModelError, Overloaded
from enclave.worker.main import WorkerOptions, main

VOCAB = 1000


@dataclass(frozen=True)
class Behaviour:
    step_s: float = 0.001
    default_tokens: int = 16
    words: int = 1


@dataclass
class _Generation:
    prompt: Sequence[int]
    sampling: Sampling
    done: int = 0
    prefilled: bool = False


@dataclass
class CountingEngine:
    info: ModelInfo
    rows: int
    behaviour: Behaviour
    deliver: Deliver
    _active: dict[int, _Generation] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _generated: int = 0
    _prefilled: int = 0
    _closed: bool = False

    def __post_init__(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return self.encode_text("".join(str(message.get("content")) for message in messages))

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode())

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> int:
        if not prompt:
            raise InvalidRequest("prompt", "the prompt is empty")
        if len(prompt) >= self.info.context_length:
            raise InvalidRequest("messages", "too long", "context_length_exceeded")
        with self._lock:
            if len(self._active) >= 500:
                raise Overloaded("full")
            number = next(self._numbers)
            self._active[number] = _Generation(prompt, sampling)
            return number

    def cancel(self, generation: int) -> None:
        with self._lock:
            self._active.pop(generation, None)

    def stats(self) -> EngineStats:
        with self._lock:
            running = min(len(self._active), self.rows)
            return EngineStats(
                self.rows, running, len(self._active) - running, self._generated, self._prefilled
            )

    def close(self) -> None:
        self._closed = True

    def _run(self) -> None:
        while not self._closed:
            time.sleep(self.behaviour.step_s)
            with self._lock:
                batch = [(n, self._step(n)) for n in list(self._active)[: self.rows]]
            if batch:
                self.deliver(batch)

    def _step(self, number: int) -> GenerationEvent:
        row = self._active[number]
        prompt = bytes(token % 256 for token in row.prompt)
        if not row.prefilled:
            row.prefilled, self._prefilled = True, self._prefilled + len(row.prompt)
        if prompt == b"die":
            os._exit(9)
        if prompt == b"fail":
            del self._active[number]
            error = RuntimeError(f"cannot think about {prompt!r}")
            return GenerationEvent(len(row.prompt), row.done, error=error)
        text = " ".join(str(row.done) for _ in range(self.behaviour.words)) + " "
        row.done += 1
        self._generated += 1
        finish = None
        if row.done >= (row.sampling.max_tokens or self.behaviour.default_tokens):
            finish = FinishReason.LENGTH if row.sampling.max_tokens else FinishReason.STOP
            del self._active[number]
        logprobs = ()
        if row.sampling.top_logprobs is not None:
            tops = tuple(
                TokenLogprob(i, str(i), b"%d" % i, -1.0 - i)
                for i in range(row.sampling.top_logprobs)
            )
            logprobs = (TokenLogprob(row.done, text, text.encode(), -0.5, tops),)
        return GenerationEvent(len(row.prompt), row.done, text, logprobs, finish)


@dataclass
class CountingEmbedder:
    """The embedding of a text is its length, then zeros."""

    info: ModelInfo

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        if not all(texts):
            raise InvalidRequest("input", "a text is empty")
        rows = np.zeros((len(texts), self.info.embedding_size), np.float32)
        rows[:, 0] = [len(text) for text in texts]
        return rows, sum(self.count(texts))


@dataclass(frozen=True)
class FakeLoader:
    options: WorkerOptions

    def _info(self, path: Path, id: str, kind: ModelKind, pinned: str, size: int) -> ModelInfo:
        digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        if pinned and pinned != digest:
            raise ModelError(f"model {id!r} is {digest}, pinned is {pinned}")
        return ModelInfo(id, kind, digest, self.options.context, VOCAB, size)

    def chat(self, path: Path, *, id: str, pinned_digest: str, deliver: Deliver) -> CountingEngine:
        info = self._info(path, id, ModelKind.CHAT, pinned_digest, 0)
        behaviour = Behaviour(**json.loads(path.read_text()))
        return CountingEngine(info, self.options.rows, behaviour, deliver)

    def embedder(self, path: Path, *, id: str, pinned_digest: str) -> CountingEmbedder:
        return CountingEmbedder(self._info(path, id, ModelKind.EMBEDDING, pinned_digest, 4))


if __name__ == "__main__":
    main(make_loader=FakeLoader)
