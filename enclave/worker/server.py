"""The worker's gRPC half: requests in, the engine's events out, on one event loop.

Whatever fails becomes a status by `wire.status_of`, and an unforeseen failure is
printed by class and place only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio

from enclave.engine.api import ChatEngine, Deliver, Embedder
from enclave.errors import (
    EnclaveError,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    Overloaded,
    SlowReader,
    WorkerUnavailable,
)
from enclave.worker.convert import (
    check_tokens,
    model_message,
    parse_messages,
    parse_sampling,
)
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.proto import worker_pb2_grpc as rpc
from enclave.worker.rows import MailboxSink, Rows, Sink, report
from enclave.worker.stream import Connection
from enclave.worker.wire import status_of

MAX_EMBED_TEXTS = 2048  # OpenAI's ceiling

T = TypeVar("T")


class Loader(Protocol):
    """Turns a model's files into something that runs. Called off the event loop."""

    def chat(self, path: Path, *, id: str, pinned_digest: str, deliver: Deliver) -> ChatEngine: ...

    def embedder(self, path: Path, *, id: str, pinned_digest: str) -> Embedder: ...


class WorkerService(rpc.WorkerServicer):
    """The protocol's service. `queue` is how many may wait beyond the rows."""

    def __init__(
        self, loader: Loader, *, rows: int, queue: int, reader_patience_s: float = 30.0
    ) -> None:
        self._loader = loader
        self._rows_per_model = rows
        self._queue = queue
        self._patience_s = reader_patience_s
        self._chats: dict[str, Rows] = {}
        self._embedders: dict[str, Embedder] = {}
        self._connections: set[Connection] = set()
        self._draining = False
        self._loading = asyncio.Lock()
        self._embeds_waiting = 0
        self._encode_pool = ThreadPoolExecutor(2, thread_name_prefix="encode")
        self._embed_pool = ThreadPoolExecutor(1, thread_name_prefix="embed")

    # --- models -------------------------------------------------------------------

    async def LoadModel(  # noqa: N802 - the protocol's name
        self, request: pb.LoadModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.LoadModelResponse:
        return await _answer(context, self._load(request))

    async def _load(self, request: pb.LoadModelRequest) -> pb.LoadModelResponse:
        if not request.id or not request.path:
            raise ModelError("a model needs an id and a path")
        async with self._loading:
            if request.id in self._chats or request.id in self._embedders:
                raise ModelError(f"a model called {request.id!r} is already loaded")
            started = time.monotonic()
            match request.kind:
                case pb.MODEL_KIND_CHAT:
                    info = await self._load_chat(request)
                case pb.MODEL_KIND_EMBEDDING:
                    info = await self._load_embedder(request)
                case _:
                    raise ModelError("a model is either for chat or for embeddings")
            return pb.LoadModelResponse(model=info, load_seconds=time.monotonic() - started)

    async def _load_chat(self, request: pb.LoadModelRequest) -> pb.ModelInfo:
        rows = Rows(self._rows_per_model + self._queue)
        engine = await asyncio.to_thread(
            _load_or_explain,
            lambda: self._loader.chat(
                Path(request.path),
                id=request.id,
                pinned_digest=request.pinned_digest,
                deliver=rows.deliver,
            ),
        )
        rows.engine = engine
        self._chats[request.id] = rows
        return model_message(engine.info)

    async def _load_embedder(self, request: pb.LoadModelRequest) -> pb.ModelInfo:
        embedder = await asyncio.to_thread(
            _load_or_explain,
            lambda: self._loader.embedder(
                Path(request.path), id=request.id, pinned_digest=request.pinned_digest
            ),
        )
        self._embedders[request.id] = embedder
        return model_message(embedder.info)

    def _chat(self, model: str) -> tuple[Rows, ChatEngine]:
        rows = self._chats.get(model)
        if rows is None or rows.engine is None:
            raise ModelNotFound(model)
        return rows, rows.engine

    # --- generation ---------------------------------------------------------------

    async def admit(self, request: pb.GenerateRequest, sink: Sink) -> tuple[Rows, int, int]:
        """Encode the prompt and give it a place; (rows, generation, prompt tokens)."""
        rows, engine = self._chat(request.model)
        sampling = parse_sampling(request.sampling, engine.info.vocab_size)
        prompt = await self._encode(engine, request)
        if self._draining:
            raise WorkerUnavailable("the engine worker is shutting down")
        return rows, rows.submit(prompt, sampling, sink), len(prompt)

    async def _encode(self, engine: ChatEngine, request: Any) -> list[int]:
        """Off the loop: a long prompt must not hold up other rows' tokens."""

        def encode() -> list[int]:
            match request.WhichOneof("prompt"):
                case "messages_json":
                    return engine.encode_chat(parse_messages(request.messages_json))
                case "text":
                    return engine.encode_text(request.text)
                case "tokens":
                    return check_tokens(list(request.tokens.ids), engine.info.vocab_size)
                case _:
                    raise InvalidRequest("prompt", "a prompt is required")

        return await asyncio.get_running_loop().run_in_executor(self._encode_pool, encode)

    async def Generate(  # noqa: N802 - the protocol's name
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateEvent]:
        sink = MailboxSink(self._patience_s)
        try:
            rows, generation, prompt_tokens = await self.admit(request, sink)
        except Exception as error:
            await _abort(context, error)
        sink.cancel = lambda: rows.cancel(generation)
        try:
            yield pb.GenerateEvent(prompt_tokens=prompt_tokens)
            while (event := await sink.mailbox.get()) is not None:
                yield event
        except Exception as error:
            await _abort(context, error)
        finally:
            rows.cancel(generation)  # does nothing once the generation has ended

    async def Stream(  # noqa: N802 - the protocol's name
        self,
        request_iterator: AsyncIterator[pb.ClientFrame],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        connection = Connection(self.admit, context, self._patience_s)
        self._connections.add(connection)
        try:
            await connection.run(request_iterator)
        except TimeoutError:
            await _abort(context, SlowReader("the node stopped reading"))
        finally:
            self._connections.discard(connection)
            connection.cancel_all()

    # --- the rest -----------------------------------------------------------------

    async def Embed(  # noqa: N802 - the protocol's name
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EmbedResponse:
        return await _answer(context, self._embed(request))

    async def _embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        embedder = self._embedders.get(request.model)
        if embedder is None:
            raise ModelNotFound(request.model)
        texts = list(request.texts)
        if not 0 < len(texts) <= MAX_EMBED_TEXTS:
            raise InvalidRequest("input", f"input must have 1 to {MAX_EMBED_TEXTS} texts")
        if self._draining:
            raise WorkerUnavailable("the engine worker is shutting down")
        if self._embeds_waiting >= self._rows_per_model + self._queue:
            raise Overloaded("too many embedding requests are waiting")

        def embed() -> pb.EmbedResponse:
            vectors, tokens = embedder.embed(texts)
            rows = [pb.Embedding(values=vector.tolist()) for vector in vectors]
            return pb.EmbedResponse(embeddings=rows, prompt_tokens=tokens)

        self._embeds_waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._embed_pool, embed)
        finally:
            self._embeds_waiting -= 1

    async def CountTokens(  # noqa: N802 - the protocol's name
        self, request: pb.CountTokensRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CountTokensResponse:
        return await _answer(context, self._count(request))

    async def _count(self, request: pb.CountTokensRequest) -> pb.CountTokensResponse:
        embedder = self._embedders.get(request.model)
        if embedder is None:
            _, engine = self._chat(request.model)
            return pb.CountTokensResponse(tokens=len(await self._encode(engine, request)))
        if request.WhichOneof("prompt") != "text":
            raise InvalidRequest("input", "an embedding model counts the tokens of text")
        count = embedder.count
        loop = asyncio.get_running_loop()
        tokens = await loop.run_in_executor(self._encode_pool, count, [request.text])
        return pb.CountTokensResponse(tokens=tokens[0])

    async def Health(  # noqa: N802 - the protocol's name
        self, request: pb.HealthRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.HealthResponse:
        answer = pb.HealthResponse(draining=self._draining)
        for rows in self._chats.values():
            if rows.engine is not None:
                answer.models.append(model_message(rows.engine.info))
                stats = rows.engine.stats()
                answer.rows_total += stats.rows_total
                answer.rows_running += stats.rows_running
                answer.waiting += stats.waiting
                answer.tokens_generated += stats.tokens_generated
                answer.tokens_prefilled += stats.tokens_prefilled
        answer.models.extend(model_message(e.info) for e in self._embedders.values())
        return answer

    async def Drain(  # noqa: N802 - the protocol's name
        self, request: pb.DrainRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DrainResponse:
        self._draining = True
        deadline = time.monotonic() + max(0.0, min(request.timeout_seconds, 3600.0))
        # Idle is what several counters say together; nothing announces it.
        while not (idle := self._idle()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return pb.DrainResponse(idle=idle)

    def _idle(self) -> bool:
        return not self._embeds_waiting and not any(len(r) for r in self._chats.values())

    def close(self) -> None:
        """End whatever runs and stop the engines."""
        self._draining = True
        for rows in self._chats.values():
            rows.fail_all(WorkerUnavailable("the engine worker is shutting down"))
            if rows.engine is not None:
                rows.engine.close()
        for connection in self._connections:
            connection.close()
        self._encode_pool.shutdown(wait=False, cancel_futures=True)
        self._embed_pool.shutdown(wait=False, cancel_futures=True)


def _load_or_explain(load: Callable[[], T]) -> T:
    """Files are not prompts, so what is wrong with them may be told in full."""
    try:
        return load()
    except EnclaveError:
        raise
    except Exception as error:
        raise ModelError(f"the model cannot be loaded: {type(error).__name__}: {error}") from error


async def _answer(context: grpc.aio.ServicerContext[Any, Any], work: Awaitable[T]) -> T:
    try:
        return await work
    except Exception as error:
        await _abort(context, error)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    report(error)
    code, details = status_of(error)
    await context.abort(code, details)
    raise AssertionError("abort returned")
