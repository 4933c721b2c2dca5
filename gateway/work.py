"""What a checked prompt request asks of the engine, and the document that answers it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, Protocol

from enclave.errors import InvalidRequest, WorkerUnavailable
from enclave.worker.proto import worker_pb2 as pb
from gateway.requests import ChatRequest, CompletionRequest, EmbeddingRequest, GenerationRequest
from gateway.sse import Identity, completion, dumps, embeddings

DEFAULT_COMPLETION_TOKENS: Final = 16
"""OpenAI's default for text completions; chat runs until the model stops."""


class Engine(Protocol):
    """The calls of the worker's client that answering takes."""

    def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]: ...

    async def embed(self, model: str, texts: list[str]) -> pb.EmbedResponse: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response body and what it cost."""

    body: bytes
    prompt_tokens: int
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """A chat or text completion."""

    identity: Identity
    request: pb.GenerateRequest
    logprobs: bool
    stream: bool
    include_usage: bool

    @property
    def model(self) -> str:
        return self.identity.model

    @property
    def chat_id(self) -> str | None:
        return self.identity.id

    async def run(self, engine: Engine) -> Answer:
        """Generate to the end. Raises EnclaveError."""
        texts: list[str] = []
        logprobs: list[pb.TokenLogprob] = []
        events = engine.generate(self.request)
        try:
            async for event in events:
                texts.append(event.text)
                logprobs.extend(event.logprobs)
                if event.finish_reason:
                    body = completion(
                        self.identity, "".join(texts), logprobs if self.logprobs else None, event
                    )
                    return Answer(body, event.prompt_tokens, event.completion_tokens)
        finally:
            await events.aclose()
        raise WorkerUnavailable("the generation ended without a reason")


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector for each text."""

    model: str
    texts: list[str]
    as_base64: bool

    @property
    def chat_id(self) -> str | None:
        return None

    @property
    def stream(self) -> bool:
        return False

    async def run(self, engine: Engine) -> Answer:
        response = await engine.embed(self.model, self.texts)
        body = embeddings(self.model, response, as_base64=self.as_base64)
        return Answer(body, response.prompt_tokens)


def chat(request: ChatRequest, model_digest: str) -> Generation:
    """Raises InvalidRequest where members contradict each other."""
    limit = request.max_completion_tokens
    if limit is None:
        limit = request.max_tokens
    elif request.max_tokens not in (None, limit):
        raise InvalidRequest("max_tokens", "max_tokens and max_completion_tokens differ.")
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs", "top_logprobs needs logprobs to be true.")
    sampling = _sampling(request, limit)
    if request.logprobs:
        sampling.top_logprobs = request.top_logprobs or 0
    messages = dumps([message.rendered() for message in request.messages])
    return _generation(
        request,
        _identity("chatcmpl-", request.model, model_digest, chat=True),
        pb.GenerateRequest(model=request.model, messages_json=messages, sampling=sampling),
        logprobs=bool(request.logprobs),
    )


def text(request: CompletionRequest, model_digest: str) -> Generation:
    sampling = _sampling(request, request.max_tokens or DEFAULT_COMPLETION_TOKENS)
    if request.logprobs is not None:
        sampling.top_logprobs = request.logprobs
    generate = pb.GenerateRequest(model=request.model, sampling=sampling)
    prompt = request.prompt
    if not isinstance(prompt, str) and not isinstance(prompt[0], int):
        prompt = prompt[0]  # an array of one prompt
    if isinstance(prompt, str):
        generate.text = prompt
    else:
        generate.tokens.ids.extend(prompt)
    return _generation(
        request,
        _identity("cmpl-", request.model, model_digest, chat=False),
        generate,
        logprobs=request.logprobs is not None,
    )


def embedding(request: EmbeddingRequest, model_digest: str) -> Embedding:
    texts = [request.input] if isinstance(request.input, str) else list(request.input)
    return Embedding(request.model, texts, request.encoding_format == "base64")


def _identity(prefix: str, model: str, model_digest: str, *, chat: bool) -> Identity:
    return Identity(
        id=prefix + secrets.token_hex(16),
        created=int(time.time()),
        model=model,
        fingerprint="fp_" + model_digest.removeprefix("sha256:")[:12],
        chat=chat,
    )


def _generation(
    request: GenerationRequest, identity: Identity, generate: pb.GenerateRequest, *, logprobs: bool
) -> Generation:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options", "stream_options needs stream to be true.")
    generate.request_id = identity.id
    return Generation(
        identity=identity,
        request=generate,
        logprobs=logprobs,
        stream=bool(request.stream),
        include_usage=request.include_usage,
    )


def _sampling(request: GenerationRequest, max_tokens: int | None) -> pb.Sampling:
    """OpenAI's members as the worker's; absent ones keep the engine's defaults."""
    return pb.Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        max_tokens=max_tokens,
        stop=request.stop_strings,
        logit_bias={int(token): bias for token, bias in (request.logit_bias or {}).items()},
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
    )
