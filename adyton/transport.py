"""An httpx2 transport that sends nothing before the node is verified, nor anywhere else.

Before the first request, and again when the keyset expires, changes, or the report
grows old, the node's report is fetched under a fresh nonce and judged (ACI section
9.1). Every connection is pinned to the keyset then established. A response naming
another keyset is not handed on until that keyset has verified in its turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2

from adyton.endpoint import Endpoint
from adyton.errors import (
    ChannelError,
    NodeUnreachable,
    PinMismatch,
    ReceiptError,
    RedirectRefused,
)
from adyton.fetch import Answer, get, open_pool
from adyton.receipts import FETCH_DELAYS_S, Asked, Exchange, ReceiptLog, VerifiedReceipt
from adyton.trust import MAX_RECEIPT_BYTES, Established, Trust
from adyton.verify import establish
from attestation.errors import AttestationError


@contextmanager
def http_errors() -> Generator[None]:
    """Let the pool's errors leave as the HTTP library's errors of the same name."""
    try:
        yield
    except (
        httpcore2.NetworkError,
        httpcore2.TimeoutException,
        httpcore2.ProtocolError,
        httpcore2.UnsupportedProtocol,
    ) as e:
        kind = getattr(httpx2, type(e).__name__, httpx2.TransportError)
        raise kind(str(e)) from e


def require_ours(endpoint: Endpoint, url: httpx2.URL) -> None:
    """Raise ChannelError unless `url` is https and at the endpoint that is verified."""
    port = url.port or (443 if url.scheme == "https" else None)
    if url.scheme != "https" or url.host.lower() != endpoint.host or port != endpoint.port:
        raise ChannelError(
            "origin",
            f"refusing to send to {url.scheme}://{url.netloc.decode('ascii', 'replace')}: "
            f"this client has verified {endpoint.origin} only",
        )


def refuse_redirect(
    endpoint: Endpoint, request: httpx2.Request, response: httpcore2.Response
) -> None:
    """Raise RedirectRefused when the response points to another origin."""
    headers = httpx2.Headers(response.headers)
    if not 300 <= response.status < 400 or "location" not in headers:
        return
    location = headers["location"]
    try:
        require_ours(endpoint, request.url.join(location))
    except (ChannelError, httpx2.InvalidURL, ValueError):
        raise RedirectRefused(
            "redirect", f"the response redirects to {location[:200]!r}, which nobody attested"
        ) from None


def core_request(request: httpx2.Request, body: bytes) -> httpcore2.Request:
    """The request as the pool sends it, asking for a body that is not encoded.

    Only the timeouts of the caller's extensions go along: others could redirect SNI
    or tap the connection.
    """
    request.headers["accept-encoding"] = "identity"
    timeout = request.extensions.get("timeout", {})
    return httpcore2.Request(
        method=request.method,
        url=httpcore2.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        ),
        headers=request.headers.raw,
        content=body,
        extensions={"timeout": timeout},
    )


def new_exchange(
    endpoint: Endpoint, request: httpx2.Request, body: bytes, log: ReceiptLog
) -> Exchange:
    return Exchange(
        method=request.method,
        path=request.url.path,
        base_path=endpoint.base_path,
        request_body=body,
        authorization=request.headers.get("authorization"),
        check_receipt=log.enabled,
        asked=Asked.of(request.headers),
    )


def authorization(exchange: Exchange | VerifiedReceipt) -> dict[str, str]:
    """The credential that made the request, which is the one its receipt is bound to."""
    return {} if exchange.authorization is None else {"authorization": exchange.authorization}


def named_digest(response: httpcore2.Response) -> str | None:
    return httpx2.Headers(response.headers).get("x-aci-keyset-digest")


def refuse_digest(named: str | None, established: Established) -> None:
    """Raise ChannelError when a response still names a keyset other than the one verified."""
    if named is not None and named != established.keyset_digest:
        raise ChannelError(
            "keyset",
            f"the response names keyset {named[:80]!r}, but the node proves "
            f"{established.keyset_digest}",
        )


def public_extensions(response: httpcore2.Response) -> dict[str, Any]:
    """What callers may see of the connection; the raw stream would bypass the checks."""
    shown = ("http_version", "reason_phrase")
    return {k: v for k, v in response.extensions.items() if k in shown}


class _Channel:
    """A pool pinned to one keyset; when retired it closes with its last response."""

    def __init__(self, established: Established) -> None:
        self.pool = open_pool(established.require_listed, connections=None, keepalive=20)
        self._lock = threading.Lock()
        self._in_flight = 0
        self._retired = False

    def acquire(self) -> None:
        with self._lock:
            self._in_flight += 1

    def release(self) -> None:
        with self._lock:
            self._in_flight -= 1
            close = self._retired and self._in_flight == 0
        if close:
            self.pool.close()

    def retire(self) -> None:
        with self._lock:
            self._retired = True
            close = self._in_flight == 0
        if close:
            self.pool.close()


@dataclass(frozen=True, slots=True)
class _State:
    established: Established
    channel: _Channel


class VerifyingTransport(httpx2.BaseTransport):
    """Give it to `httpx2.Client(transport=...)`. Thread-safe; verification is single-flight.

    Refusals are AttestationErrors; failures of the network after verification are the
    HTTP library's own errors.
    """

    def __init__(self, endpoint: Endpoint, trust: Trust, receipts: ReceiptLog) -> None:
        self.endpoint = endpoint
        self.trust = trust
        self.receipts = receipts
        self._lock = threading.Lock()
        self._state: _State | None = None

    @property
    def established(self) -> Established | None:
        """What is believed now; None before the first verification and after a failed one."""
        state = self._state
        return None if state is None else state.established

    def verify(self) -> Established:
        """Verify the node now, whatever is established already."""
        with self._lock:
            return self._establish().established

    def ensure(self) -> Established:
        """Verify the node unless a fresh enough verification stands."""
        with ExitStack() as leases:
            return self._acquire(leases).established

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        require_ours(self.endpoint, request.url)
        body = request.read()
        with ExitStack() as leases:
            state = self._acquire(leases)
            try:
                response = self._send(request, body, state)
            except PinMismatch:
                # Nothing was sent. A restarted node has new keys; whoever is there now
                # is asked to prove itself, and the request goes out only if it does.
                state = self._replace(state, leases)
                response = self._send(request, body, state)
            try:
                refuse_redirect(self.endpoint, request, response)
                state = self._confirm(state, response, leases)
                exchange = new_exchange(self.endpoint, request, body, self.receipts)
                exchange.begin(response.status, httpx2.Headers(response.headers))
            except BaseException:
                response.close()
                raise
            return httpx2.Response(
                status_code=response.status,
                headers=response.headers,
                stream=_Body(self, response, exchange, state, leases.pop_all()),
                extensions=public_extensions(response),
            )

    def close(self) -> None:
        with self._lock:
            self._forget()

    def check_receipt(self, exchange: Exchange, state: _State) -> None:
        """Fetch the exchange's receipt, judge it and record it. Raises ReceiptError."""
        answer = self._fetch_receipt(exchange, state)
        self.receipts.record(exchange.verify(answer.status, answer.body, state.established))

    def fetch_receipt(self, receipt_id: str, api_key: str | None) -> tuple[Answer, Established]:
        """GET one receipt over a verified channel, as served."""
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        with ExitStack() as leases:
            state = self._acquire(leases)
            path = self.endpoint.receipt_path(receipt_id)
            return self._get(state, path, headers), state.established

    def fetch_evm_receipt(self, verified: VerifiedReceipt) -> Answer:
        """GET the EVM form of a receipt, as served, over a verified channel."""
        path = self.endpoint.evm_receipt_path(verified.receipt_id)
        with ExitStack() as leases:
            state = self._acquire(leases)
            try:
                return self._get(state, path, authorization(verified))
            except PinMismatch:
                # The receipt is judged under its own keyset, whichever the node has now.
                state = self._replace(state, leases)
                return self._get(state, path, authorization(verified))

    def _fetch_receipt(self, exchange: Exchange, state: _State) -> Answer:
        """The node's answer about this exchange's receipt, asked for until it is final.

        A node that renewed its keys meanwhile is verified again; its receipt is still
        judged under the keyset that the response belonged to.
        """
        receipt_id = exchange.receipt_id or ""
        path = self.endpoint.receipt_path(receipt_id)
        failure: AttestationError
        with ExitStack() as leases:
            for delay_s in FETCH_DELAYS_S:
                time.sleep(delay_s)
                try:
                    answer = self._get(state, path, authorization(exchange))
                except PinMismatch as e:
                    failure = e
                    state = self._replace(state, leases)
                except NodeUnreachable as e:
                    failure = e
                else:
                    if answer.status != 404:
                        return answer
                    failure = ReceiptError("fetch", "the node does not have it", receipt_id)
        raise failure

    def _get(self, state: _State, path: str, headers: dict[str, str]) -> Answer:
        return get(
            state.channel.pool,
            self.endpoint,
            path,
            "receipt",
            limit=MAX_RECEIPT_BYTES,
            headers=headers,
        )

    def _send(self, request: httpx2.Request, body: bytes, state: _State) -> httpcore2.Response:
        with http_errors():
            return state.channel.pool.handle_request(core_request(request, body))

    def _acquire(self, leases: ExitStack) -> _State:
        """The state to send under; its channel stays open until `leases` closes."""
        with self._lock:
            state = self._state
            if state is None or state.established.is_stale(self.trust):
                state = self._establish()
            return self._lease(state, leases)

    def _replace(self, failed: _State, leases: ExitStack) -> _State:
        """A newly verified state in place of `failed`."""
        with self._lock:
            state = self._state
            if state is None or state is failed:
                self._forget()
                state = self._establish()
            return self._lease(state, leases)

    def _confirm(self, state: _State, response: httpcore2.Response, leases: ExitStack) -> _State:
        """The state whose keyset this response belongs to, verified anew if it is another.

        The connection itself was pinned to the keyset established before, which a node
        that renews its keys keeps serving until its clients have moved on.
        """
        named = named_digest(response)
        if named == state.established.keyset_digest:
            return state
        with self._lock:
            current = self._state
            if current is None or named != current.established.keyset_digest:
                current = self._establish()
            try:
                refuse_digest(named, current.established)
            except ChannelError:
                self._forget()
                raise
            return self._lease(current, leases)

    @staticmethod
    def _lease(state: _State, leases: ExitStack) -> _State:
        state.channel.acquire()
        leases.callback(state.channel.release)
        return state

    def _establish(self) -> _State:
        """Verify the node and make it the state; on failure nothing is established any more."""
        try:
            established = establish(self.endpoint, self.trust)
        except BaseException:
            self._forget()
            raise
        old = self._state
        if old is not None and old.established.keyset_digest == established.keyset_digest:
            self._state = _State(established, old.channel)
        else:
            self._forget()
            self._state = _State(established, _Channel(established))
        return self._state

    def _forget(self) -> None:
        if self._state is not None:
            self._state.channel.retire()
            self._state = None


class _Body(httpx2.SyncByteStream):
    """The response's raw bytes, let through as its `Exchange` allows."""

    def __init__(
        self,
        transport: VerifyingTransport,
        response: httpcore2.Response,
        exchange: Exchange,
        state: _State,
        leases: ExitStack,
    ) -> None:
        self._transport = transport
        self._response = response
        self._exchange = exchange
        self._state = state
        self._leases = leases
        self._complete = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        # Readers may start over to drain what is left; past the end nothing is, and the
        # connection already serves somebody else.
        if self._complete:
            return
        stream: Any = self._response.stream
        with http_errors():
            for chunk in stream:
                allowed = self._exchange.feed(chunk)
                if allowed:
                    yield allowed
        self._complete = True
        self._exchange.end()
        if self._exchange.needs_receipt:
            # The connection goes back first, so that the receipt can use it.
            self._response.close()
            self._transport.check_receipt(self._exchange, self._state)
            held = self._exchange.release()
            if held:
                yield held

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with self._leases:
                self._response.close()
