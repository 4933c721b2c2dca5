"""The model's forward pass over cache rows: prompts in chunks, then one token for many rows.

The key/value cache is one region of lazily committed memory, `rows` sequences of `context`
positions. Every buffer is bound to onnxruntime once, so a decode step writes a few numbers and
runs. Rows in use are the first ones; `move` and `clear` keep it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from enclave.engine import ort
from enclave.engine.graph import LlamaShape
from enclave.engine.memory import PAGE, Region
from enclave.engine.weights import Embedding

F32 = NDArray[np.float32]
BYTES: Final = 4


class KvCache:
    """Per layer and side, float32 (rows, kv heads, context, head size)."""

    def __init__(self, shape: LlamaShape, rows: int, context: int) -> None:
        dims = (rows, shape.kv_heads, context, shape.head_size)
        self._part_bytes = int(np.prod(dims)) * BYTES
        self._stride = -(-self._part_bytes // PAGE) * PAGE
        self._row_bytes = self._part_bytes // rows
        self._region = Region(2 * shape.layers * self._stride)
        self.names = [f"{side}.{i}" for i in range(shape.layers) for side in ("k", "v")]
        self.parts = [self._region.array(dims, np.float32) for _ in self.names]

    def move(self, source: int, target: int, length: int) -> None:
        """Make row `target` hold what row `source` holds in its first `length` positions."""
        for part in self.parts:
            part[target, :, :length] = part[source, :, :length]

    def clear(self, row: int) -> None:
        """Forget a row: its memory goes back and reads as zeros."""
        for n, part in enumerate(self.parts):
            start = n * self._stride + row * self._row_bytes
            if self._row_bytes % PAGE == 0:
                self._region.release_span(start, self._row_bytes)
            else:
                part[row] = 0


@dataclass(slots=True)
class _DecodeStep:
    """Buffers of a decode step over the first n rows, bound for good."""

    binding: Any
    x: F32
    past_lengths: NDArray[np.int32]
    total: NDArray[np.int32]
    logits: F32
    held: list[Any]


class Forward:
    """A session with its cache. One thread at a time."""

    def __init__(
        self, session: ort.Session, shape: LlamaShape, embedding: Embedding, rows: int, context: int
    ) -> None:
        self.rows, self.context, self.vocabulary = rows, context, shape.vocabulary
        self.cache = KvCache(shape, rows, context)
        self._session = session
        self._embedding = embedding
        self._logits = np.zeros((rows, shape.vocabulary), np.float32)
        self._last: list[NDArray[np.int64]] = [np.arange(n) for n in range(rows + 1)]
        self._steps: dict[int, _DecodeStep] = {}

    def prefill(self, row: int, tokens: NDArray[np.int64], past: int) -> F32:
        """Append `tokens` to `row`, which holds `past`; logits of the last, (vocabulary,)."""
        last: F32 = self.score(row, tokens, past, np.array([len(tokens) - 1], np.int64))[0]
        return last

    def score(
        self, row: int, tokens: NDArray[np.int64], past: int, positions: NDArray[np.int64]
    ) -> F32:
        """The same, with logits at these positions of `tokens`: (len(positions), vocabulary)."""
        count = len(tokens)
        binding = self._session.binding()
        logits = np.empty((len(positions), self.vocabulary), np.float32)
        held = self._bind_cache(binding, row, row + 1)
        held += _bind(
            binding,
            x=self._embedding.lookup(tokens),
            shape=np.array([1, count, -1], np.int64),
            past_lengths=np.array([past + count - 1], np.int32),
            total=np.array(past + count, np.int32),
            last=positions,
        )
        held += _bind_output(binding, "logits", logits)
        self._session.run(binding)
        return logits

    def decode(self, tokens: NDArray[np.int64], lengths: NDArray[np.int32]) -> F32:
        """Append one token to each of the first len(tokens) rows, which hold `lengths` tokens.

        Returns logits (rows, vocabulary), overwritten by the next step.
        """
        n = len(tokens)
        step = self._steps.get(n) or self._steps.setdefault(n, self._bound_step(n))
        step.x[...] = self._embedding.lookup(tokens)
        step.past_lengths[...] = lengths
        step.total[...] = lengths.max() + 1
        self._session.run(step.binding)
        return step.logits

    def _bound_step(self, n: int) -> _DecodeStep:
        binding = self._session.binding()
        x = np.zeros((n, self._embedding.size), np.float32)
        past_lengths, total = np.zeros(n, np.int32), np.zeros((), np.int32)
        logits = self._logits[:n]
        held = self._bind_cache(binding, 0, n)
        held += _bind(
            binding,
            x=x,
            shape=np.array([n, 1, -1], np.int64),
            past_lengths=past_lengths,
            total=total,
            last=self._last[n],
        )
        held += _bind_output(binding, "logits", logits)
        return _DecodeStep(binding, x, past_lengths, total, logits, held)

    def _bind_cache(self, binding: Any, start: int, stop: int) -> list[Any]:
        held = []
        for name, part in zip(self.cache.names, self.cache.parts, strict=True):
            value = ort.OrtValue.ortvalue_from_numpy(part[start:stop])
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(f"{name}.new", value)
            held.append(value)
        return held


def _bind(binding: Any, **inputs: NDArray[Any]) -> list[Any]:
    held = []
    for name, array in inputs.items():
        value = ort.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(name, value)
        held.append(value)
    return held


def _bind_output(binding: Any, name: str, array: NDArray[Any]) -> list[Any]:
    value = ort.OrtValue.ortvalue_from_numpy(array)
    binding.bind_ortvalue_output(name, value)
    return [value]
