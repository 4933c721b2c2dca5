"""Is it up, can it serve, how is it doing."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.metrics import CONTENT_TYPE
from gateway.node import Node
from gateway.openapi import STRING, errors, ok
from gateway.routes.common import json_response

router = APIRouter()
_STATUS = ok(
    "The node's state.",
    {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]},
)


@router.get("/healthz", summary="The process answers", responses={**_STATUS, **errors()})
async def healthz() -> Response:
    return json_response({"status": "ok"})


@router.get("/readyz", summary="Prompts are taken", responses={**_STATUS, 503: {**_STATUS[200]}})
async def readyz(request: Request) -> Response:
    node: Node = request.app.state.node
    problem = node.not_ready()
    if problem is None:
        return json_response({"status": "ready"})
    return json_response({"status": problem}, status=503)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    responses={200: {"description": "Metrics", "content": {"text/plain": {"schema": STRING}}}},
)
async def metrics(request: Request) -> Response:
    node: Node = request.app.state.node
    await node.observe()
    return Response(node.metrics.render(), headers={"content-type": CONTENT_TYPE})
