"""One table from what can go wrong to what a client is told, in OpenAI's error shape.

Messages name parameters, limits and models, never other values a client sent: an error
body may be logged by whoever receives it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from attestation.errors import MalformedEvidence
from enclave.errors import (
    EnclaveError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    WorkerUnavailable,
)

INVALID: Final = "invalid_request_error"
SERVER: Final = "server_error"
RETRY_SOON: Final = {"retry-after": "1"}


class GatewayError(Exception):
    """Root of every error this package raises on purpose."""


class ApiError(GatewayError):
    """An answer that is an error: HTTP status, OpenAI body members and extra headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def body(self) -> bytes:
        return json.dumps(self.document(), separators=(",", ":")).encode()


class StartError(GatewayError):
    """The node cannot start; the message is one line for the person who typed the command."""


class ClientGone(GatewayError):  # noqa: N818 - reads as the fact it states
    """The client closed its connection before it had sent its request."""


class StorageUnavailable(GatewayError):  # noqa: N818 - reads as the fact it states
    """A receipt cannot be written, so nothing may be answered that would need one."""


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """400: the request itself is at fault; `param` says where."""
    return ApiError(400, message, param=param, code=code)


def not_found(message: str) -> ApiError:
    """404 in ACI's type, the same for what never existed and what belongs to another."""
    return ApiError(404, message, type="not_found")


def model_not_found(model: str) -> ApiError:
    return ApiError(
        404, f"The model {model[:128]!r} is not served here.", param="model", code="model_not_found"
    )


def unavailable(message: str, code: str) -> ApiError:
    """503 that a client may retry soon."""
    return ApiError(503, message, type=SERVER, code=code, headers=RETRY_SOON)


def shutting_down() -> ApiError:
    return unavailable("The node is shutting down.", "shutting_down")


def too_many(message: str, retry_after_s: float) -> ApiError:
    seconds = max(1, round(retry_after_s + 0.5))
    return ApiError(
        429,
        message,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": str(seconds)},
    )


def timed_out() -> ApiError:
    return ApiError(
        504, "The generation did not finish in time.", type=SERVER, code="generation_timeout"
    )


def internal() -> ApiError:
    return ApiError(500, "Internal error.", type=SERVER, code="internal_error")


def _malformed(error: MalformedEvidence) -> ApiError:
    return invalid(None, f"The request body is not valid JSON: {error}.")


_TABLE: Final[tuple[tuple[type[Exception], Callable[[Any], ApiError]], ...]] = (
    (ApiError, lambda e: e),
    (MalformedEvidence, _malformed),
    (InvalidRequest, lambda e: invalid(e.param, e.message, e.code)),
    (ModelNotFound, lambda e: model_not_found(e.model)),
    (
        Overloaded,
        lambda _: unavailable("The waiting line is full; try again shortly.", "overloaded"),
    ),
    (
        WorkerUnavailable,
        lambda _: unavailable(
            "The engine stopped before the answer was complete; it is being restarted.",
            "engine_unavailable",
        ),
    ),
    (
        EnclaveError,
        lambda _: ApiError(
            503, "The engine cannot serve this request.", type=SERVER, code="engine_failed"
        ),
    ),
    (
        StorageUnavailable,
        lambda _: unavailable(
            "The node cannot store receipts, so it does not answer.", "storage_unavailable"
        ),
    ),
)


def to_api_error(error: BaseException) -> ApiError:
    """What the client is told about `error`; anything unforeseen is a bare 500."""
    for kind, tell in _TABLE:
        if isinstance(error, kind):
            return tell(error)
    return internal()
