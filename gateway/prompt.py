"""Serves one prompt request: from its exact bytes to an answer with a receipt.

The order is what makes a receipt worth keeping. The pending row is durable before the
client sees the receipt's id; the signed receipt is durable before the last bytes of the
answer leave. Whatever happens in between (a refusal, an engine that dies, a client that
leaves, a node that stops) ends in a receipt too, and when none can be written, there is
no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from attestation.errors import MalformedEvidence
from enclave.errors import EnclaveError, SlowReader, WorkerUnavailable
from enclave.worker.proto import worker_pb2 as pb
from gateway.cut import Cut, Interrupted, Reason, trip_when_gone
from gateway.edge import CONTEXT, RequestContext, send_error
from gateway.errors import ApiError, StorageUnavailable, shutting_down, timed_out, to_api_error
from gateway.exchange import Exchange
from gateway.limits import Lease
from gateway.requests import read_json, requested_model
from gateway.sse import DONE, ChunkWriter, sse
from gateway.storage import Binding
from gateway.work import Embedding, Engine, Generation

CONNECTED: Final = "adyton.connected"
"""Scope entry: a function that says whether bytes still reach the transport."""
_READER_PATIENCE_S: Final = 30.0
"""How long a client may leave its answer unread before its row goes to others."""
_BIG_BODY_BYTES: Final = 64 << 10
"""Above it a body is parsed in a thread, so that other clients' tokens keep flowing."""

Work = Generation | Embedding
Read = Callable[[dict[str, Any]], Work]


class Host(Protocol):
    """What serving a prompt needs of the node."""

    @property
    def engine(self) -> Engine: ...

    @property
    def cuts(self) -> set[Cut]: ...

    @property
    def generation_timeout_s(self) -> float: ...

    def begin(
        self,
        context: RequestContext,
        endpoint: str,
        owner: bytes,
        body: bytes,
        binding: Binding,
    ) -> Exchange: ...

    def model_digest(self, model: str) -> str: ...

    def count_tokens(self, model: str, prompt_tokens: int, completion_tokens: int) -> None: ...

    def count_first_token(self, model: str, context: RequestContext) -> None: ...


class PromptResponse(Response):
    """The rest of a request whose key was admitted and whose body was read."""

    def __init__(
        self,
        host: Host,
        lease: Lease,
        *,
        endpoint: str,
        owner: bytes,
        body: bytes,
        binding: Binding,
        read: Read,
    ) -> None:
        super().__init__()
        self._host = host
        self._lease = lease
        self._endpoint = endpoint
        self._owner = owner
        self._request_body = body
        self._binding = binding
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[CONTEXT]
        host = self._host
        cut = Cut()
        exchange = host.begin(
            context, self._endpoint, self._owner, self._request_body, self._binding
        )
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(host.generation_timeout_s, cut.trip, Reason.TIMEOUT)
        watcher = asyncio.create_task(trip_when_gone(receive, cut))
        host.cuts.add(cut)
        connected = scope.get(CONNECTED, lambda: cut.reason is not Reason.CLIENT_DISCONNECTED)
        try:
            serving = _Serving(
                host, context=context, exchange=exchange, cut=cut, send=send, connected=connected
            )
            await serving.serve(self._request_body, self._read)
        finally:
            host.cuts.discard(cut)
            deadline.cancel()
            watcher.cancel()
            self._lease.release()


class _Serving:
    """One exchange while it runs."""

    def __init__(
        self,
        host: Host,
        *,
        context: RequestContext,
        exchange: Exchange,
        cut: Cut,
        send: Send,
        connected: Callable[[], bool],
    ) -> None:
        self._host = host
        self._context = context
        self._exchange = exchange
        self._cut = cut
        self._send = send
        self._connected = connected
        self._started = False
        self._sending = False

    async def serve(self, body: bytes, read: Read) -> None:
        try:
            value = await self._parse(body, read)
        except (ApiError, EnclaveError, MalformedEvidence) as e:
            await self._refuse(to_api_error(e))
            return
        self._exchange.forward(value.chat_id, self._host.model_digest(value.model))
        if isinstance(value, Generation) and value.stream:
            await self._stream(value)
        else:
            await self._plain(value)

    async def _parse(self, body: bytes, read: Read) -> Work:
        big = len(body) > _BIG_BODY_BYTES
        value = await asyncio.to_thread(read_json, body) if big else read_json(body)
        self._exchange.name_model(requested_model(value))
        return await asyncio.to_thread(read, value) if big else read(value)

    # --- whole answers ------------------------------------------------------------

    async def _plain(self, work: Work) -> None:
        try:
            async with self._cut:
                answer = await work.run(self._host.engine)
        except (Interrupted, EnclaveError, StorageUnavailable) as e:
            await self._fail(e)
            return
        self._host.count_tokens(work.model, answer.prompt_tokens, answer.completion_tokens)
        await self._answer(answer.body)

    async def _answer(self, body: bytes) -> None:
        try:
            await self._exchange.finish(body, None)
        except StorageUnavailable as e:
            await self._unreceipted(e)
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-receipt-id", self._exchange.receipt_id.encode()),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _refuse(self, error: ApiError, reason: Reason | None = None) -> None:
        """Answer with an error, receipted like any other answer."""
        try:
            await self._exchange.finish(error.body(), reason)
        except StorageUnavailable as e:
            await self._unreceipted(e)
            return
        await send_error(self._send, error, {"x-receipt-id": self._exchange.receipt_id})

    async def _unreceipted(self, error: StorageUnavailable) -> None:
        """Say only that there is no answer; the truth is stored when there is room again."""
        told = to_api_error(error)
        self._exchange.defer(told.body(), Reason.STORAGE_FAILED)
        await send_error(self._send, told)

    # --- streams --------------------------------------------------------------------

    async def _stream(self, work: Generation) -> None:
        writer = ChunkWriter(
            work.identity, logprobs=work.logprobs, include_usage=work.include_usage
        )
        try:
            async with self._cut:
                last = await self._relay(work, writer)
        except (Interrupted, EnclaveError, StorageUnavailable) as e:
            await self._fail(e)
            return
        self._host.count_tokens(work.model, last.prompt_tokens, last.completion_tokens)
        await self._end(DONE, None)

    async def _relay(self, work: Generation, writer: ChunkWriter) -> pb.GenerateEvent:
        """Send the generation's events as they come; return the last."""
        events = self._host.engine.generate(work.request)
        counted = False
        try:
            async for event in events:
                if not self._started:
                    await self._exchange.open()
                    await self._start(writer.opening())
                if event.finish_reason:
                    await self._emit(writer.closing(event))
                    return event
                if chunk := writer.text(event):
                    await self._emit(chunk)
                    if not counted:
                        counted = True
                        self._host.count_first_token(work.model, self._context)
        finally:
            await events.aclose()
        raise WorkerUnavailable("the generation ended without a reason")

    async def _start(self, opening: bytes) -> None:
        """Headers go out only now: the engine took the prompt and the pending row is durable."""
        self._started = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-receipt-id", self._exchange.receipt_id.encode()),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if opening:
            await self._emit(opening)

    async def _emit(self, chunk: bytes) -> None:
        """Send, then hash: a send that is interrupted while it waits has written nothing."""
        self._sending = True
        try:
            async with asyncio.timeout(_READER_PATIENCE_S):
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            raise SlowReader("the client does not read its answer") from None
        self._sending = False
        if self._connected():
            self._exchange.returned(chunk)

    async def _end(self, final: bytes, reason: Reason | None) -> None:
        """Store the receipt over everything, then send what makes the answer complete."""
        try:
            await self._exchange.finish(final, reason)
        except StorageUnavailable as e:
            final = sse(to_api_error(e).document())
            self._exchange.defer(final, Reason.STORAGE_FAILED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READER_PATIENCE_S):
                await self._send({"type": "http.response.body", "body": final})

    # --- what goes wrong ----------------------------------------------------------

    async def _fail(self, error: Exception) -> None:
        """End an exchange that was handed to the engine and did not finish."""
        self._exchange.fail()
        reason, told = _verdict(error)
        if reason is Reason.CLIENT_DISCONNECTED or not self._connected():
            await self._abandon(Reason.CLIENT_DISCONNECTED)
        elif self._sending and reason is not None:
            await self._abandon(reason)
        elif isinstance(error, StorageUnavailable):
            await self._unreceipted(error)
        elif self._started:
            await self._end(sse(told.document()), reason)
        else:
            await self._refuse(told, reason)

    async def _abandon(self, reason: Reason) -> None:
        """Nobody is reading: the receipt covers what was sent until then."""
        try:
            await self._exchange.finish(b"", reason)
        except StorageUnavailable:
            self._exchange.defer(b"", reason)


def _verdict(error: Exception) -> tuple[Reason | None, ApiError]:
    """Why the exchange ended, for its receipt and for its client."""
    match error:
        case Interrupted(reason=Reason.TIMEOUT):
            return Reason.TIMEOUT, timed_out()
        case Interrupted(reason=Reason.SHUTDOWN):
            return Reason.SHUTDOWN, shutting_down()
        case Interrupted():
            return error.reason, timed_out()
        case SlowReader():
            return Reason.TIMEOUT, timed_out()
    told = to_api_error(error)
    return (Reason.ENGINE_FAILED if told.status >= 500 else None), told
