"""What every route needs: JSON out, and a prompt's way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request, Response

from gateway.auth import authenticate
from gateway.body import read_body
from gateway.evm import read_binding
from gateway.node import Node
from gateway.prompt import PromptResponse, Work
from gateway.sse import dumps


def json_response(value: Any, status: int = 200) -> Response:
    return Response(dumps(value), status_code=status, media_type="application/json")


async def prompt(request: Request, read: Callable[[dict[str, Any]], Work]) -> Response:
    """Admit the caller, take the body, and hand both to the exchange.

    What fails before the whole body is here has no receipt: there is nothing to hash.
    """
    node: Node = request.app.state.node
    key = await authenticate(node.api_keys, request.headers)
    binding = read_binding(request.headers)
    lease = node.gate.admit(key.id, key.rate_per_minute, key.max_concurrency)
    try:
        body = await read_body(request.receive, request.headers, node.settings.limits)
    except BaseException:
        lease.release()
        raise
    return PromptResponse(
        node,
        lease,
        endpoint=request.url.path,
        owner=key.digest,
        body=body,
        binding=binding,
        read=read,
    )
