"""Between the protocol's messages and the engine's values, checking every number on the way in.

Parameters are named as OpenAI names them, because the refusal reaches the caller as is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from enclave.engine.api import (
    FinishReason,
    GenerationEvent,
    ModelInfo,
    ModelKind,
    Sampling,
    TokenLogprob,
)
from enclave.errors import InvalidRequest
from enclave.worker.proto import worker_pb2 as pb

MAX_STOPS = 4
MAX_STOP_CHARS = 1024
MAX_TOP_LOGPROBS = 20

_FINISH = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_KIND = {
    ModelKind.CHAT: pb.MODEL_KIND_CHAT,
    ModelKind.EMBEDDING: pb.MODEL_KIND_EMBEDDING,
}


def parse_sampling(message: pb.Sampling, vocab_size: int) -> Sampling:
    """The engine's sampling values, each inside its range. NaN lies in no range.

    Raises InvalidRequest naming the parameter.
    """
    default = Sampling()
    top_p = _optional(message, "top_p", default.top_p)
    if not 0 < top_p <= 1:
        raise InvalidRequest("top_p", "top_p must be above 0 and at most 1")
    top_k = _optional(message, "top_k", default.top_k)
    if top_k < 0:
        raise InvalidRequest("top_k", "top_k must not be negative")
    max_tokens = _optional(message, "max_tokens", default.max_tokens)
    if max_tokens is not None and max_tokens < 1:
        raise InvalidRequest("max_tokens", "max_tokens must be at least 1")
    top_logprobs = _optional(message, "top_logprobs", default.top_logprobs)
    if top_logprobs is not None:
        _within("top_logprobs", top_logprobs, 0, MAX_TOP_LOGPROBS)
    return Sampling(
        temperature=_within("temperature", _optional(message, "temperature", 1.0), 0, 2),
        top_p=top_p,
        top_k=top_k,
        seed=_optional(message, "seed", default.seed),
        max_tokens=max_tokens,
        stop=_stops(message),
        logit_bias=_logit_bias(message, vocab_size),
        frequency_penalty=_within(
            "frequency_penalty", _optional(message, "frequency_penalty", 0.0), -2, 2
        ),
        presence_penalty=_within(
            "presence_penalty", _optional(message, "presence_penalty", 0.0), -2, 2
        ),
        top_logprobs=top_logprobs,
    )


def _optional(message: pb.Sampling, name: str, default: Any) -> Any:
    return getattr(message, name) if message.HasField(name) else default


def _within(name: str, value: float, low: int, high: int) -> float:
    if not low <= value <= high:
        raise InvalidRequest(name, f"{name} must be between {low} and {high}")
    return value


def _stops(message: pb.Sampling) -> tuple[str, ...]:
    stops = tuple(message.stop)
    if len(stops) > MAX_STOPS:
        raise InvalidRequest("stop", f"stop takes at most {MAX_STOPS} strings")
    if not all(0 < len(stop) <= MAX_STOP_CHARS for stop in stops):
        raise InvalidRequest("stop", f"a stop string has 1 to {MAX_STOP_CHARS} characters")
    return stops


def _logit_bias(message: pb.Sampling, vocab_size: int) -> dict[int, float]:
    biases = dict(message.logit_bias)
    for token, bias in biases.items():
        if not 0 <= token < vocab_size:
            raise InvalidRequest("logit_bias", f"logit_bias names a token outside 0..{vocab_size}")
        _within("logit_bias", bias, -100, 100)
    return biases


def parse_messages(messages_json: str) -> list[Mapping[str, Any]]:
    """Chat messages: a non-empty JSON list of objects whose strings are all Unicode text."""
    try:
        messages = json.loads(messages_json)
        if "\\u" in messages_json:  # the one way a lone surrogate gets past UTF-8
            json.dumps(messages, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise InvalidRequest("messages", "messages must be a JSON list of Unicode text") from None
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages", "messages must be a list with at least one message")
    if not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest("messages", "each message must be an object")
    return messages


def check_tokens(ids: list[int], vocab_size: int) -> list[int]:
    """A prompt given as token ids, each in the vocabulary."""
    if not ids or not all(0 <= token < vocab_size for token in ids):
        raise InvalidRequest("prompt", f"prompt must be token ids from 0 to {vocab_size - 1}")
    return ids


def event_message(event: GenerationEvent) -> pb.GenerateEvent:
    """The event as it travels. Its `error` does not: that becomes a status."""
    message = pb.GenerateEvent(
        prompt_tokens=event.prompt_tokens,
        text=event.text,
        completion_tokens=event.completion_tokens,
    )
    if event.logprobs:
        message.logprobs.extend(_logprob_message(entry) for entry in event.logprobs)
    if event.finish_reason is not None:
        message.finish_reason = _FINISH[event.finish_reason]
    return message


def _logprob_message(entry: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        id=entry.id,
        token=entry.token,
        token_bytes=entry.token_bytes,
        logprob=entry.logprob,
        top=[_logprob_message(other) for other in entry.top],
    )


def model_message(info: ModelInfo) -> pb.ModelInfo:
    return pb.ModelInfo(
        id=info.id,
        kind=_KIND[info.kind],
        model_digest=info.model_digest,
        context_length=info.context_length,
        embedding_size=info.embedding_size,
        vocab_size=info.vocab_size,
    )
