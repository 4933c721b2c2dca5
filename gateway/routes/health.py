"""Is it up, can it serve, how is it doing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.metrics import CONTENT_TYPE
from gateway.node import Node
from gateway.openapi import STRING, errors, ok
from gateway.routes.common import json_response

router = APIRouter()
_STATUS = ok(
    "The node's state; `chain` where it registers itself, of which readiness does not depend.",
    {
        "type": "object",
        "properties": {
            "status": {"type": "string"},
            "chain": {
                "type": "object",
                "properties": {
                    "state": {"enum": ["starting", "not_registered", "registered"]},
                    "signer": {"type": "string"},
                    "registered_until": {"type": "integer"},
                    "failures": {"type": "integer"},
                    "problem": {"type": "string"},
                },
                "required": ["state", "failures"],
            },
        },
        "required": ["status"],
    },
)


@router.get("/healthz", summary="The process answers", responses={**_STATUS, **errors()})
async def healthz() -> Response:
    return json_response({"status": "ok"})


@router.get("/readyz", summary="Prompts are taken", responses={**_STATUS, 503: {**_STATUS[200]}})
async def readyz(request: Request) -> Response:
    node: Node = request.app.state.node
    problem = node.not_ready()
    told: dict[str, Any] = {"status": problem or "ready"}
    if node.on_chain is not None:
        told["chain"] = node.on_chain
    return json_response(told, status=200 if problem is None else 503)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    responses={200: {"description": "Metrics", "content": {"text/plain": {"schema": STRING}}}},
)
async def metrics(request: Request) -> Response:
    node: Node = request.app.state.node
    await node.observe()
    return Response(node.metrics.render(), headers={"content-type": CONTENT_TYPE})
