"""OpenAI's prompt endpoints and the list of models."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from enclave.worker.proto import worker_pb2 as pb
from gateway import work
from gateway.auth import authenticate
from gateway.errors import ApiError, model_not_found
from gateway.node import Node
from gateway.openapi import (
    MODEL,
    MODELS,
    PROMPT_ERRORS,
    accepts,
    answers,
    errors,
    ok,
)
from gateway.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    PromptRequest,
    parse,
)
from gateway.routes.common import json_response, prompt

router = APIRouter()
Kind = TypeVar("Kind", bound=PromptRequest)


def _checked(node: Node, kind: type[Kind], value: dict[str, Any]) -> Kind:
    """The request, if this node can satisfy its constraints. Raises ApiError."""
    limits = node.settings.limits
    request = parse(kind, value, max_messages=limits.max_messages, max_inputs=limits.max_inputs)
    if request.provider is not None and request.provider.aci_session_ids is not None:
        raise ApiError(
            412,
            "This service runs inference itself and has no attested sessions to pin.",
            type="session_not_accepted",
            param="provider.aci_session_ids",
        )
    return request


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    openapi_extra=accepts("ChatRequest"),
    responses={**answers("chat.completion", streamed=True), **errors(*PROMPT_ERRORS)},
)
async def chat_completions(request: Request) -> Response:
    node: Node = request.app.state.node

    def read(value: dict[str, Any]) -> work.Generation:
        checked = _checked(node, ChatRequest, value)
        return work.chat(checked, node.served(checked.model, pb.MODEL_KIND_CHAT))

    return await prompt(request, read)


@router.post(
    "/v1/completions",
    summary="Continue a text",
    openapi_extra=accepts("CompletionRequest"),
    responses={**answers("text_completion", streamed=True), **errors(*PROMPT_ERRORS)},
)
async def completions(request: Request) -> Response:
    node: Node = request.app.state.node

    def read(value: dict[str, Any]) -> work.Generation:
        checked = _checked(node, CompletionRequest, value)
        return work.text(checked, node.served(checked.model, pb.MODEL_KIND_CHAT))

    return await prompt(request, read)


@router.post(
    "/v1/embeddings",
    summary="Turn texts into vectors",
    openapi_extra=accepts("EmbeddingRequest"),
    responses={**answers("list", streamed=False), **errors(*PROMPT_ERRORS)},
)
async def embeddings(request: Request) -> Response:
    node: Node = request.app.state.node

    def read(value: dict[str, Any]) -> work.Embedding:
        checked = _checked(node, EmbeddingRequest, value)
        return work.embedding(checked, node.served(checked.model, pb.MODEL_KIND_EMBEDDING))

    return await prompt(request, read)


def _document(node: Node, info: pb.ModelInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "object": "model",
        "created": node.started_at,
        "owned_by": "adyton",
        "model_digest": info.model_digest,
        "context_length": info.context_length,
        "kind": "embedding" if info.kind == pb.MODEL_KIND_EMBEDDING else "chat",
    }


@router.get(
    "/v1/models",
    summary="The models served here",
    responses={**ok("The models.", MODELS), **errors(401, 503)},
)
async def models(request: Request) -> Response:
    node: Node = request.app.state.node
    await authenticate(node.api_keys, request.headers)
    data = [_document(node, info) for info in node.models.values()]
    return json_response({"object": "list", "data": data})


@router.get(
    "/v1/models/{model}",
    summary="One model",
    responses={**ok("The model.", MODEL), **errors(401, 404, 503)},
)
async def model(request: Request, model: str) -> Response:
    node: Node = request.app.state.node
    await authenticate(node.api_keys, request.headers)
    info = node.models.get(model)
    if info is None:
        raise model_not_found(model)
    return json_response(_document(node, info))
