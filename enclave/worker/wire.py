"""What both ends of the socket agree on: sizes, channel options, how errors travel.

An error is a gRPC status. INVALID_ARGUMENT carries JSON `{"param","message","code"}`,
NOT_FOUND the model's id, RESOURCE_EXHAUSTED means the line is full, UNAVAILABLE that the
worker is draining or dying, ABORTED that the reader stopped reading, FAILED_PRECONDITION
that a model cannot be loaded. Anything else is a fault of the engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import grpc

from enclave.errors import (
    EnclaveError,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    Overloaded,
    SlowReader,
    WorkerUnavailable,
)

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Above the largest request body the node takes and the largest list of embeddings."""

_MAX_DETAILS = 4096  # a status travels in HTTP/2 headers, which have a ceiling of their own

COMMON_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.bdp_probe", 0),  # a Unix socket has no bandwidth to discover
    ("grpc.enable_channelz", 0),
)

CLIENT_OPTIONS = (
    *COMMON_OPTIONS,
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel never inherits a dead socket
    ("grpc.enable_retries", 0),  # a completion that failed half way must not run again
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

SERVER_OPTIONS = (
    *COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1024),
)

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _invalid_request(text: str) -> EnclaveError:
    try:
        fields = json.loads(text)
        return InvalidRequest(str(fields["param"]), str(fields["message"]), fields.get("code"))
    except (ValueError, TypeError, KeyError, AttributeError):
        # gRPC itself answers INVALID_ARGUMENT for a malformed call, without our JSON.
        return EnclaveError(f"the engine worker refused the call: {text}")


_CODE_OF_ERROR: tuple[tuple[type[EnclaveError], grpc.StatusCode], ...] = (
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (SlowReader, grpc.StatusCode.ABORTED),  # before its base
    (WorkerUnavailable, grpc.StatusCode.UNAVAILABLE),
    (ModelError, grpc.StatusCode.FAILED_PRECONDITION),
    (EnclaveError, grpc.StatusCode.INTERNAL),
)
_ERROR_OF_CODE: Mapping[grpc.StatusCode, Callable[[str], EnclaveError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid_request,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.CANCELLED: WorkerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: WorkerUnavailable,
    **{code: error for error, code in _CODE_OF_ERROR},
}


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status that carries `error`. An unforeseen one is named by its class only:

    its message could quote the text it choked on.
    """
    if isinstance(error, InvalidRequest):
        fields = {"param": error.param, "message": error.message[:2048], "code": error.code}
        return grpc.StatusCode.INVALID_ARGUMENT, json.dumps(fields)
    if isinstance(error, ModelNotFound):
        return grpc.StatusCode.NOT_FOUND, error.model[:128]
    for kind, code in _CODE_OF_ERROR:
        if isinstance(error, kind):
            return code, str(error)[:_MAX_DETAILS]
    return grpc.StatusCode.INTERNAL, f"the engine failed: {type(error).__name__}"


def error_of(code: grpc.StatusCode, details: str | None) -> EnclaveError:
    """The error a status carries; the inverse of `status_of` for our own errors."""
    return _ERROR_OF_CODE.get(code, EnclaveError)(details or code.name.lower())


def status_code(number: int) -> grpc.StatusCode:
    """The status with this number; UNKNOWN for a number gRPC does not define."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)
