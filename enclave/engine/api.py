"""What the engine offers to the worker: values in, events out.

Everything here is plain data, so the worker's gRPC half can be read without the
engine and the engine without gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from numpy import float32
from numpy.typing import NDArray


class ModelKind(Enum):
    CHAT = "chat"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model. `model_digest` is `sha256:<hex>` over JCS of {path: sha256(file)}."""

    id: str
    kind: ModelKind
    model_digest: str
    context_length: int
    vocab_size: int
    embedding_size: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """OpenAI's sampling parameters, validated. `top_logprobs` None means none are wanted."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    id: int
    token: str
    token_bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class FinishReason(Enum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class GenerationEvent:
    """Progress of one generation. The last event has `finish_reason` or `error`.

    `text` may be empty while a character or a stop string is undecided; a stop string is
    never part of it. Logprobs accompany the tokens whose text this event completes.
    """

    prompt_tokens: int
    completion_tokens: int
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None


EventBatch = Sequence[tuple[int, GenerationEvent]]
Deliver = Callable[[EventBatch], None]
"""Called from the engine's thread once a step with (generation id, event) pairs."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    rows_total: int
    rows_running: int
    waiting: int
    tokens_generated: int
    tokens_prefilled: int


class ChatEngine(Protocol):
    """Continuous batching over a fixed number of rows. Methods are thread-safe."""

    @property
    def info(self) -> ModelInfo: ...

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Render with the model's own template and tokenise. Raises InvalidRequest."""
        ...

    def encode_text(self, text: str) -> list[int]: ...

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """Admit a generation and return its id. Raises InvalidRequest, Overloaded."""
        ...

    def cancel(self, generation: int) -> None:
        """Free the row at the next step. Unknown ids are ignored; no event follows."""
        ...

    def stats(self) -> EngineStats: ...

    def close(self) -> None:
        """Stop the engine's thread; running generations end with an error event."""
        ...


class Embedder(Protocol):
    @property
    def info(self) -> ModelInfo: ...

    def count(self, texts: Sequence[str]) -> list[int]: ...

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[float32], int]:
        """Unit-length rows (len(texts), embedding_size) and tokens used. Raises InvalidRequest."""
        ...
