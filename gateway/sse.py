"""Answers in OpenAI's words: whole documents, and the chunks of a stream.

A chunk is a constant prefix, one JSON string and a constant suffix: what is the same for
every token of an answer is encoded once.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from enclave.worker.proto import worker_pb2 as pb

DONE: Final = b"data: [DONE]\n\n"
_FLOOR: Final = -9999.0
"""OpenAI's stand-in for a probability too small to write; JSON has no infinity."""
_REASONS: Final = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


def dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def sse(document: Any) -> bytes:
    """One server-sent event. JSON escapes newlines, so it stays one."""
    return f"data: {dumps(document)}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Identity:
    """What every document and chunk of one answer repeats."""

    id: str
    created: int
    model: str
    fingerprint: str
    chat: bool

    def head(self, streamed: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class ChunkWriter:
    """Turns the events of one generation into the bytes of its stream."""

    def __init__(self, identity: Identity, *, logprobs: bool, include_usage: bool) -> None:
        self._identity = identity
        self._logprobs = logprobs
        self._usage = include_usage
        self._offset = 0
        head = dumps(identity.head(streamed=True))[:-1]
        tail = ',"usage":null}' if include_usage else "}"
        field = '"delta":{"content":' if identity.chat else '"text":'
        close = "}" if identity.chat else ""
        self._prefix = f'data: {head},"choices":[{{"index":0,{field}'
        self._suffix = f'{close},"logprobs":null,"finish_reason":null}}]{tail}\n\n'

    def opening(self) -> bytes:
        """The chunk that says whose turn it is; text completions have none."""
        if not self._identity.chat:
            return b""
        return self._chunk({"role": "assistant", "content": ""}, None, None)

    def text(self, event: pb.GenerateEvent) -> bytes:
        """What this event adds; empty while a character or a stop string is undecided."""
        if self._logprobs and event.logprobs:
            return self._chunk(
                {"content": event.text} if self._identity.chat else event.text,
                self._logprob_document(event),
                None,
            )
        if not event.text:
            return b""
        return f"{self._prefix}{json.dumps(event.text)}{self._suffix}".encode()

    def closing(self, event: pb.GenerateEvent) -> bytes:
        """The last event's text, why it ended, and what it cost if that was asked for."""
        out = self.text(event)
        out += self._chunk({} if self._identity.chat else "", None, _REASONS[event.finish_reason])
        if self._usage:
            spent = usage(event.prompt_tokens, event.completion_tokens)
            out += sse({**self._identity.head(streamed=True), "choices": [], "usage": spent})
        return out

    def _chunk(self, content: Any, logprobs: Any, reason: str | None) -> bytes:
        choice = {
            "index": 0,
            ("delta" if self._identity.chat else "text"): content,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        document = {**self._identity.head(streamed=True), "choices": [choice]}
        if self._usage:
            document["usage"] = None
        return sse(document)

    def _logprob_document(self, event: pb.GenerateEvent) -> dict[str, Any]:
        if self._identity.chat:
            return chat_logprobs(event.logprobs)
        document = text_logprobs(event.logprobs, self._offset)
        self._offset += sum(len(t.token) for t in event.logprobs)
        return document


def completion(
    identity: Identity,
    text: str,
    logprobs: Sequence[pb.TokenLogprob] | None,
    last: pb.GenerateEvent,
) -> bytes:
    """A whole answer. `logprobs` None means they were not asked for."""
    choice: dict[str, Any] = {"index": 0}
    if identity.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        choice["logprobs"] = None if logprobs is None else chat_logprobs(logprobs)
    else:
        choice["text"] = text
        choice["logprobs"] = None if logprobs is None else text_logprobs(logprobs, 0)
    choice["finish_reason"] = _REASONS[last.finish_reason]
    document = {
        **identity.head(streamed=False),
        "choices": [choice],
        "usage": usage(last.prompt_tokens, last.completion_tokens),
    }
    return dumps(document).encode()


def chat_logprobs(tokens: Iterable[pb.TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {**_token(t), "top_logprobs": [_token(alternative) for alternative in t.top]}
            for t in tokens
        ],
        "refusal": None,
    }


def text_logprobs(tokens: Sequence[pb.TokenLogprob], offset: int) -> dict[str, Any]:
    """The older form; `offset` is the length of the text before the first of these tokens."""
    offsets = []
    for t in tokens:
        offsets.append(offset)
        offset += len(t.token)
    return {
        "tokens": [t.token for t in tokens],
        "token_logprobs": [_finite(t.logprob) for t in tokens],
        "top_logprobs": [{a.token: _finite(a.logprob) for a in t.top} for t in tokens],
        "text_offset": offsets,
    }


def _token(t: pb.TokenLogprob) -> dict[str, Any]:
    return {"token": t.token, "logprob": _finite(t.logprob), "bytes": list(t.token_bytes)}


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _FLOOR


def embeddings(model: str, response: pb.EmbedResponse, *, as_base64: bool) -> bytes:
    """The vectors, as numbers or as base64 of little-endian float32."""
    data = []
    for i, vector in enumerate(response.embeddings):
        values: Any = list(vector.values)
        if as_base64:
            values = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        data.append({"object": "embedding", "index": i, "embedding": values})
    spent = {"prompt_tokens": response.prompt_tokens, "total_tokens": response.prompt_tokens}
    return dumps({"object": "list", "data": data, "model": model, "usage": spent}).encode()
