"""The outermost layer: what holds for every response, whoever makes it.

Pure ASGI, because a layer that buffers would break streaming and one that wraps requests
costs more than the rest of a chunk's way out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError, ClientGone, internal
from gateway.identity import Identity
from gateway.logs import event, failure
from gateway.metrics import Metrics

CONTEXT = "adyton.context"
CLIENT_CLOSED = 499
"""Logged where there was nobody left to answer."""


@dataclass(slots=True)
class RequestContext:
    """What belongs to one request. It keeps its identity when the node's rotates meanwhile."""

    identity: Identity
    started: float = field(default_factory=time.monotonic)


def aci_headers(keyset_digest: str) -> list[tuple[bytes, bytes]]:
    """The headers ACI section 5.2 wants on every response."""
    return [(b"x-aci-version", b"aci/1"), (b"x-aci-keyset-digest", keyset_digest.encode())]


async def send_error(send: Send, error: ApiError, headers: dict[str, str] | None = None) -> None:
    """Answer with `error`, outside of any framework."""
    body = error.body()
    extra = {**error.headers, **(headers or {})}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *((k.encode(), v.encode()) for k, v in extra.items()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


class Edge:
    """Adds ACI's headers, counts, logs one line, and lets no exception out."""

    def __init__(self, app: ASGIApp, identity: Callable[[], Identity], metrics: Metrics) -> None:
        self._app = app
        self._identity = identity
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        context = RequestContext(self._identity())
        scope[CONTEXT] = context
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *aci_headers(context.identity.digest),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except ClientGone:
            status = status or CLIENT_CLOSED
        except Exception as e:
            failure("unhandled", e)
            if not status:
                await send_error(send_marked, internal())
        finally:
            self._observe(scope, context, status)

    def _observe(self, scope: Scope, context: RequestContext, status: int) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        seconds = time.monotonic() - context.started
        ms = round(seconds * 1000, 2)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        event("request", method=scope["method"], route=route, status=status, ms=ms)
