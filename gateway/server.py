"""The HTTP server: uvicorn with the node's own TLS key, and deadlines it does not have."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from asyncio import TimerHandle, Transport
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.edge import aci_headers
from gateway.errors import ApiError, StartError, invalid
from gateway.prompt import CONNECTED
from gateway.settings import Limits

_LAST_BYTES_S: Final = 1.0
_GRACE_S: Final = 5.0
"""The application answers 408 first; the connection is closed only if it did not."""


class NodeConfig(uvicorn.Config):
    """A server's configuration whose TLS context comes from memory, never from files."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(app, **options)
        self._tls = tls

    def load(self) -> None:
        super().load()
        self.ssl = self._tls


class NodeServer(uvicorn.Server):
    """A server that leaves signals to the node and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def let_go(self) -> None:
        """After the last answer: drop connections whose clients do not close their side.

        TLS would wait half a minute for each. Called once `should_exit` is set.
        """
        await asyncio.sleep(_LAST_BYTES_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(
    app: ASGIApp, tls: ssl.SSLContext, limits: Limits, keyset_digest: Callable[[], str]
) -> NodeServer:
    """A server for `app`; the caller binds the socket and decides when to stop."""
    config = NodeConfig(
        app,
        tls,
        http=_protocol(limits, keyset_digest),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=round(limits.drain_timeout_s) + 10,
    )
    return NodeServer(config)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises StartError in words."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
        listener.setblocking(False)
    except (OSError, OverflowError) as e:
        listener.close()
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise StartError(f"cannot listen on {host}:{port}: {reason}") from None
    return listener


def follow_rotation(current: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """A context that hands every new connection to the current keys' context."""

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = current()

    context = current()
    context.sni_callback = choose
    return context


def _protocol(limits: Limits, keyset_digest: Callable[[], str]) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with bounds on connections, header bytes, and time to send either."""

    class NodeProtocol(HttpToolsProtocol):
        _deadline: TimerHandle | None = None
        _header_bytes = 0
        _refusal: ApiError | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                transport.close()
                return
            self._expect(limits.header_timeout_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._unset_deadline()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._header_bytes = 0
            self._expect(limits.header_timeout_s)

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            self._count(len(url))

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            self._count(len(name) + len(value))

        def on_headers_complete(self) -> None:
            self._expect(limits.body_timeout_s + _GRACE_S)
            super().on_headers_complete()
            cycle = self.cycle
            cycle.scope[CONNECTED] = lambda: not cycle.disconnected  # type: ignore[typeddict-unknown-key]

        def on_message_complete(self) -> None:
            self._unset_deadline()
            super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            error = self._refusal or invalid(None, "This is not a valid HTTP request.")
            body = error.body()
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                *aci_headers(keyset_digest()),
            ]
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + body)
            self.transport.close()

        def _count(self, size: int) -> None:
            self._header_bytes += size
            if self._header_bytes > limits.max_header_bytes:
                self._refusal = ApiError(
                    431, f"The headers are larger than {limits.max_header_bytes} bytes."
                )
                raise ValueError("headers too large")  # httptools turns it into a parse error

        def _expect(self, seconds: float) -> None:
            """Close the connection unless the next part of the request ends within `seconds`."""
            self._unset_deadline()
            self._deadline = self.loop.call_later(seconds, self._overdue)

        def _unset_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _overdue(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return NodeProtocol
