"""The asynchronous twin of `adyton.transport`, on asyncio or trio: same rules, same order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import anyio
import httpcore2
import httpx2

from adyton.endpoint import Endpoint
from adyton.errors import ChannelError, NodeUnreachable, PinMismatch, ReceiptError
from adyton.fetch import Answer, aget, open_async_pool
from adyton.receipts import FETCH_DELAYS_S, Exchange, ReceiptLog, VerifiedReceipt
from adyton.transport import (
    authorization,
    core_request,
    http_errors,
    named_digest,
    new_exchange,
    public_extensions,
    refuse_digest,
    refuse_redirect,
    require_ours,
)
from adyton.trust import MAX_RECEIPT_BYTES, Established, Trust
from adyton.verify import aestablish
from attestation.errors import AttestationError


class _Channel:
    """A pool pinned to one keyset; when retired it closes with its last response.

    One event loop uses it, so counting needs no lock.
    """

    def __init__(self, established: Established) -> None:
        self.pool = open_async_pool(established.require_listed, connections=None, keepalive=20)
        self._in_flight = 0
        self._retired = False

    def acquire(self) -> None:
        self._in_flight += 1

    async def release(self) -> None:
        self._in_flight -= 1
        if self._retired and self._in_flight == 0:
            await self.pool.aclose()

    async def retire(self) -> None:
        self._retired = True
        if self._in_flight == 0:
            await self.pool.aclose()


@dataclass(frozen=True, slots=True)
class _State:
    established: Established
    channel: _Channel


class AsyncVerifyingTransport(httpx2.AsyncBaseTransport):
    """Give it to `httpx2.AsyncClient(transport=...)`. Task-safe; verification is single-flight.

    Refusals are AttestationErrors; failures of the network after verification are the
    HTTP library's own errors.
    """

    def __init__(self, endpoint: Endpoint, trust: Trust, receipts: ReceiptLog) -> None:
        self.endpoint = endpoint
        self.trust = trust
        self.receipts = receipts
        self._lock = anyio.Lock()
        self._state: _State | None = None

    @property
    def established(self) -> Established | None:
        """What is believed now; None before the first verification and after a failed one."""
        state = self._state
        return None if state is None else state.established

    async def verify(self) -> Established:
        """Verify the node now, whatever is established already."""
        async with self._lock:
            return (await self._establish()).established

    async def ensure(self) -> Established:
        """Verify the node unless a fresh enough verification stands."""
        async with AsyncExitStack() as leases:
            return (await self._acquire(leases)).established

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        require_ours(self.endpoint, request.url)
        body = await request.aread()
        async with AsyncExitStack() as leases:
            state = await self._acquire(leases)
            try:
                response = await self._send(request, body, state)
            except PinMismatch:
                # Nothing was sent; see the synchronous twin.
                state = await self._replace(state, leases)
                response = await self._send(request, body, state)
            try:
                refuse_redirect(self.endpoint, request, response)
                state = await self._confirm(state, response, leases)
                exchange = new_exchange(self.endpoint, request, body, self.receipts)
                exchange.begin(response.status, httpx2.Headers(response.headers))
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
                raise
            return httpx2.Response(
                status_code=response.status,
                headers=response.headers,
                stream=_Body(self, response, exchange, state, leases.pop_all()),
                extensions=public_extensions(response),
            )

    async def aclose(self) -> None:
        async with self._lock:
            await self._forget()

    async def check_receipt(self, exchange: Exchange, state: _State) -> None:
        """Fetch the exchange's receipt, judge it and record it. Raises ReceiptError."""
        answer = await self._fetch_receipt(exchange, state)
        self.receipts.record(exchange.verify(answer.status, answer.body, state.established))

    async def fetch_evm_receipt(self, verified: VerifiedReceipt) -> Answer:
        """GET the EVM form of a receipt, as served, over a verified channel."""
        path = self.endpoint.evm_receipt_path(verified.receipt_id)
        async with AsyncExitStack() as leases:
            state = await self._acquire(leases)
            try:
                return await self._get(state, path, authorization(verified))
            except PinMismatch:
                # See the synchronous twin.
                state = await self._replace(state, leases)
                return await self._get(state, path, authorization(verified))

    async def _get(self, state: _State, path: str, headers: dict[str, str]) -> Answer:
        return await aget(
            state.channel.pool,
            self.endpoint,
            path,
            "receipt",
            limit=MAX_RECEIPT_BYTES,
            headers=headers,
        )

    async def _fetch_receipt(self, exchange: Exchange, state: _State) -> Answer:
        receipt_id = exchange.receipt_id or ""
        path = self.endpoint.receipt_path(receipt_id)
        failure: AttestationError
        async with AsyncExitStack() as leases:
            for delay_s in FETCH_DELAYS_S:
                await anyio.sleep(delay_s)
                try:
                    answer = await self._get(state, path, authorization(exchange))
                except PinMismatch as e:
                    failure = e
                    state = await self._replace(state, leases)
                except NodeUnreachable as e:
                    failure = e
                else:
                    if answer.status != 404:
                        return answer
                    failure = ReceiptError("fetch", "the node does not have it", receipt_id)
        raise failure

    async def _send(
        self, request: httpx2.Request, body: bytes, state: _State
    ) -> httpcore2.Response:
        with http_errors():
            return await state.channel.pool.handle_async_request(core_request(request, body))

    async def _acquire(self, leases: AsyncExitStack) -> _State:
        """The state to send under; its channel stays open until `leases` closes."""
        async with self._lock:
            state = self._state
            if state is None or state.established.is_stale(self.trust):
                state = await self._establish()
            return self._lease(state, leases)

    async def _replace(self, failed: _State, leases: AsyncExitStack) -> _State:
        """A newly verified state in place of `failed`."""
        async with self._lock:
            state = self._state
            if state is None or state is failed:
                await self._forget()
                state = await self._establish()
            return self._lease(state, leases)

    async def _confirm(
        self, state: _State, response: httpcore2.Response, leases: AsyncExitStack
    ) -> _State:
        """The state whose keyset this response belongs to, verified anew if it is another."""
        named = named_digest(response)
        if named == state.established.keyset_digest:
            return state
        async with self._lock:
            current = self._state
            if current is None or named != current.established.keyset_digest:
                current = await self._establish()
            try:
                refuse_digest(named, current.established)
            except ChannelError:
                await self._forget()
                raise
            return self._lease(current, leases)

    @staticmethod
    def _lease(state: _State, leases: AsyncExitStack) -> _State:
        state.channel.acquire()
        leases.push_async_callback(state.channel.release)
        return state

    async def _establish(self) -> _State:
        """Verify the node and make it the state; on failure nothing is established any more."""
        try:
            established = await aestablish(self.endpoint, self.trust)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._forget()
            raise
        old = self._state
        if old is not None and old.established.keyset_digest == established.keyset_digest:
            self._state = _State(established, old.channel)
        else:
            await self._forget()
            self._state = _State(established, _Channel(established))
        return self._state

    async def _forget(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            await state.channel.retire()


class _Body(httpx2.AsyncByteStream):
    """The response's raw bytes, let through as its `Exchange` allows."""

    def __init__(
        self,
        transport: AsyncVerifyingTransport,
        response: httpcore2.Response,
        exchange: Exchange,
        state: _State,
        leases: AsyncExitStack,
    ) -> None:
        self._transport = transport
        self._response = response
        self._exchange = exchange
        self._state = state
        self._leases = leases
        self._complete = False
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # Readers may start over to drain what is left; past the end nothing is, and the
        # connection already serves somebody else.
        if self._complete:
            return
        stream: Any = self._response.stream
        with http_errors():
            async for chunk in stream:
                allowed = self._exchange.feed(chunk)
                if allowed:
                    yield allowed
        self._complete = True
        self._exchange.end()
        if self._exchange.needs_receipt:
            # The connection goes back first, so that the receipt can use it.
            await self._response.aclose()
            await self._transport.check_receipt(self._exchange, self._state)
            held = self._exchange.release()
            if held:
                yield held

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            async with self._leases:
                await self._response.aclose()
