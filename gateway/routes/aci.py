"""ACI's own endpoints: the report, receipts, and sessions (of which a direct node has none)."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response

from gateway.auth import bearer, credential_required, lookup
from gateway.edge import CONTEXT, RequestContext
from gateway.errors import StorageUnavailable, invalid, not_found
from gateway.evm import evm_document
from gateway.logs import failure
from gateway.node import Node
from gateway.openapi import EVM_RECEIPT, NONCE, RECEIPT, REPORT, SESSIONS, errors, ok
from gateway.routes.common import json_response
from gateway.storage import StorageError, StoredReceipt

router = APIRouter()


def _nonce(query: bytes) -> str | None:
    """The challenge, or None where there is none. Raises ApiError on anything else."""
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    if query and not parameters:
        raise invalid(None, "Only 'nonce' may be asked for.")
    if any(name != "nonce" for name, _ in parameters):
        raise invalid(None, "Only 'nonce' may be asked for.")
    if len(parameters) > 1:
        raise invalid("nonce", "'nonce' may be given once.")
    return parameters[0][1] if parameters else None


@router.get(
    "/v1/aci/attestation",
    summary="What this node is and which keys it has",
    openapi_extra={"parameters": [NONCE]},
    responses={**ok("The attestation report (ACI section 4).", REPORT), **errors(400, 429, 503)},
)
async def attestation(request: Request) -> Response:
    node: Node = request.app.state.node
    context: RequestContext = request.scope[CONTEXT]
    nonce = _nonce(request.scope["query_string"])
    body = await node.attester.report(context.identity, nonce)
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


@router.get(
    "/v1/aci/receipts/{id}",
    summary="The signed receipt of one exchange",
    responses={**ok("The receipt (ACI section 7).", RECEIPT), **errors(401, 404, 503)},
)
async def receipt(request: Request, id: str) -> Response:
    """By receipt id or response id, for the key that made the request and for no other.

    An unknown id, another's id and an answer still under way look the same.
    """
    return json_response((await _receipt(request, id)).document)


@router.get(
    "/v1/aci/receipts/{id}/evm",
    summary="The same receipt as a contract can check it",
    responses={
        **ok("The EIP-712 receipt, its salt and its signature.", EVM_RECEIPT),
        **errors(401, 404, 503),
    },
)
async def evm_receipt(request: Request, id: str) -> Response:
    """For whom the receipt itself is. Whoever learns the salt can test guesses of the bodies."""
    stored = await _receipt(request, id)
    document = await asyncio.to_thread(evm_document, stored)
    return json_response(document)


async def _receipt(request: Request, id: str) -> StoredReceipt:
    """The final receipt with this id, if the caller made the request. Raises ApiError."""
    node: Node = request.app.state.node
    credential = bearer(request.headers)
    if credential is None:
        raise credential_required()
    key = await lookup(node.api_keys, credential)
    try:
        stored = await node.receipts.get(id)
    except StorageError as e:
        failure("receipt_lookup_failed", e, reason=e.reason)
        raise StorageUnavailable(e.reason) from None
    if key is None or stored is None or not stored.visible_to(key.digest):
        raise not_found("There is no such receipt.")
    if stored.document is None:
        raise not_found("There is no such receipt.")
    return stored


@router.get(
    "/v1/aci/sessions",
    summary="Attested sessions; a direct service has none",
    responses=ok("An empty list.", SESSIONS),
)
async def sessions() -> Response:
    return json_response({"api_version": "aci/1", "sessions": []})


@router.get(
    "/v1/aci/sessions/{id}",
    summary="One attested session",
    responses=errors(404),
)
async def session(id: str) -> Response:
    raise not_found("A service that runs inference itself has no sessions.")
