"""The ASGI application of one node."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from attestation.errors import MalformedEvidence
from enclave.errors import EnclaveError
from gateway.edge import Edge
from gateway.errors import ApiError, StorageUnavailable, invalid, not_found, to_api_error
from gateway.node import Node
from gateway.openapi import describe
from gateway.routes import aci, health, inference


def make_app(node: Node) -> ASGIApp:
    """Everything the node answers, wrapped in what holds for every answer."""
    app = FastAPI(
        title="Adyton",
        version=version("adyton"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.node = node
    for routes in (inference, aci, health):
        app.include_router(routes.router)
    for kind in (ApiError, StorageUnavailable, EnclaveError, MalformedEvidence):
        app.add_exception_handler(kind, _told)
    app.add_exception_handler(HTTPException, _http)

    def openapi() -> dict[str, Any]:
        return describe(app)

    app.openapi = openapi  # type: ignore[method-assign]
    return Edge(app, lambda: node.ring.current, node.metrics)


def _response(error: ApiError) -> Response:
    return Response(
        error.body(),
        status_code=error.status,
        media_type="application/json",
        headers=error.headers,
    )


async def _told(_: Request, error: Exception) -> Response:
    return _response(to_api_error(error))


async def _http(_: Request, error: Exception) -> Response:
    """What the framework itself refuses: paths and methods it does not know."""
    if not isinstance(error, HTTPException):
        return await _told(_, error)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return _response(not_found("There is nothing at this path."))
    if error.status_code == 405:
        told = ApiError(405, "This path does not have this method.", headers=headers)
        return _response(told)
    return _response(invalid(None, "The request is malformed."))
