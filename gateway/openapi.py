"""The OpenAPI description: what the routes take, give and refuse.

Bodies are read by hand so that their exact bytes can be hashed, so their schemas are
attached here rather than inferred from function signatures.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from gateway.evm import CONTEXT_HEADER, FORMAT, SALT_HEADER
from gateway.requests import ChatRequest, CompletionRequest, EmbeddingRequest

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

PROMPT_ERRORS: Final = (400, 401, 404, 408, 412, 413, 415, 429, 503, 504)
_WORDS: Final = {
    400: "The request is at fault; `param` says where.",
    401: "No API key, or not a valid one.",
    404: "Not found, or not yours.",
    405: "The path does not have this method.",
    408: "The request body did not arrive in time.",
    412: "Pinned sessions cannot serve this request (`session_not_accepted`).",
    413: "The request body is too large.",
    415: "The body must be unencoded application/json.",
    429: "Too many requests; see Retry-After.",
    500: "Internal error.",
    503: "Not available now; see Retry-After.",
    504: "The generation did not finish in time.",
}

STRING: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer"}
DIGEST: Final[Schema] = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
    }


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _evm_hex(size: int) -> Schema:
    return {"type": "string", "pattern": f"^0x[0-9a-f]{{{size * 2}}}$"}


ERROR: Final = _object(
    {
        "error": _object(
            {
                "message": STRING,
                "type": STRING,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            }
        )
    }
)
MODEL: Final = _object(
    {
        "id": STRING,
        "object": {"const": "model"},
        "created": INTEGER,
        "owned_by": STRING,
        "model_digest": DIGEST,
        "context_length": INTEGER,
        "kind": {"enum": ["chat", "embedding"]},
    }
)
MODELS: Final = _object({"object": {"const": "list"}, "data": _array(MODEL)})
REPORT: Final = _object(
    {
        "api_version": {"const": "aci/1"},
        "workload_keyset_digest": DIGEST,
        "attestation": _object(
            {
                "tee_type": STRING,
                "workload_keyset": {"type": "object"},
                "report_data": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "source_provenance": {"type": "object"},
                "evidence": {"type": "object"},
            }
        ),
        "service_capabilities": {"type": "object"},
    }
)
RECEIPT: Final = _object(
    {
        "api_version": {"const": "aci/1"},
        "receipt_id": STRING,
        "chat_id": {"type": ["string", "null"]},
        "model": {"type": ["string", "null"]},
        "workload_keyset_digest": DIGEST,
        "endpoint": STRING,
        "method": STRING,
        "served_at": INTEGER,
        "event_log": _array(_object({"type": STRING})),
        "key_id": STRING,
        "signature": {"type": "string", "pattern": "^[0-9a-f]{128}$"},
    }
)
_EVM_WORDS: Final = (
    *("keysetDigest", "modelDigest", "adapterDigest"),
    *("requestHash", "responseHash", "receiptHash", "context"),
)
EVM_RECEIPT: Final = _object(
    {
        "format": {"const": FORMAT},
        "receipt_id": STRING,
        "key_id": STRING,
        "signer": _evm_hex(20),
        "receipt": _object({**{n: _evm_hex(32) for n in _EVM_WORDS}, "servedAt": INTEGER}),
        "salt": _evm_hex(32),
        "signature": _evm_hex(65),
        "r": _evm_hex(32),
        "vs": _evm_hex(32),
        "typed_data": _object(
            {
                "types": {"type": "object"},
                "primaryType": {"const": "Receipt"},
                "domain": {"type": "object"},
                "message": {"type": "object"},
            }
        ),
    }
)
SESSIONS: Final = _object({"api_version": {"const": "aci/1"}, "sessions": _array({})})
NONCE: Final[Schema] = {
    "name": "nonce",
    "in": "query",
    "required": False,
    "description": "32 random bytes as 64 lowercase hex characters; proves freshness.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}
BINDING: Final[list[Schema]] = [
    {
        "name": CONTEXT_HEADER,
        "in": "header",
        "required": False,
        "description": "What the answer's EVM receipt is bound to; zero unless given.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    {
        "name": SALT_HEADER,
        "in": "header",
        "required": False,
        "description": "'none' for an exchange that is public: its commitments are not salted.",
        "schema": {"enum": ["none"]},
    },
]
_ACI_HEADERS: Final[Schema] = {
    "X-ACI-Version": {"required": True, "schema": {"const": "aci/1"}},
    "X-ACI-Keyset-Digest": {"required": True, "schema": DIGEST},
}
_RECEIPT_HEADER: Final[Schema] = {
    "X-Receipt-Id": {"schema": {"type": "string", "pattern": "^rcpt-[0-9a-f]{32}$"}}
}


def ok(description: str, schema: Schema) -> Responses:
    return {200: {"description": description, "content": {"application/json": {"schema": schema}}}}


def errors(*statuses: int) -> Responses:
    """Documented refusals; every path can also say 500, and 405 to another method."""
    return {
        status: {
            "description": _WORDS[status],
            "content": {"application/json": {"schema": _ref("Error")}},
        }
        for status in (*statuses, 500)
    }


def answers(kind: str, *, streamed: bool) -> Responses:
    """A prompt's answer: a document whose `object` is `kind`, or a stream of its chunks."""
    document = _object({"object": {"const": kind}, "model": STRING, "usage": {"type": "object"}})
    content: Schema = {"application/json": {"schema": document}}
    if streamed:
        content["text/event-stream"] = {"schema": _object({"data": STRING})}
    return {200: {"description": "The answer.", "content": content, "headers": _RECEIPT_HEADER}}


def accepts(request: str) -> Schema:
    content = {"application/json": {"schema": _ref(request)}}
    return {"requestBody": {"required": True, "content": content}, "parameters": BINDING}


_UNAUTHENTICATED: Final = frozenset(
    {"/healthz", "/readyz", "/metrics", "/v1/aci/attestation", "/v1/aci/sessions"}
)


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, schemas = models_json_schema(
            [(m, "validation") for m in (ChatRequest, CompletionRequest, EmbeddingRequest)],
            ref_template="#/components/schemas/{model}",
        )
        components = document.setdefault("components", {})
        components["schemas"] = {**schemas["$defs"], "Error": ERROR}
        components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        app.openapi_schema = document
    return app.openapi_schema


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Say what holds for every operation: ACI's headers, who may call it, no inferred 422."""
    responses = operation["responses"]
    responses.pop("422", None)
    for response in responses.values():
        response["headers"] = {**response.get("headers", {}), **_ACI_HEADERS}
    if path not in _UNAUTHENTICATED and not path.startswith("/v1/aci/sessions/"):
        operation["security"] = [{"apiKey": []}]
