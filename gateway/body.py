"""Reads a request body within bounds of size and time, whole and as it came."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Receive

from gateway.errors import ApiError, ClientGone
from gateway.settings import Limits

_DISCARD_BYTES: Final = 32 << 20
"""An oversized body is read and dropped up to here, so that its sender gets to read why it
was refused rather than a reset connection."""
_CLOSE: Final = {"connection": "close"}


async def read_body(receive: Receive, headers: Headers, limits: Limits) -> bytes:
    """The exact bytes of the body. Raises ApiError 408, 413 or 415, or ClientGone."""
    check_content(headers)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk = message.get("body", b"")
                size += len(chunk)
                if size <= limits.max_body_bytes:
                    chunks.append(chunk)
                elif size > limits.max_body_bytes + _DISCARD_BYTES:
                    break
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise ApiError(
            408,
            f"The request body did not arrive within {limits.body_timeout_s:g} seconds.",
            code="request_timeout",
            headers=_CLOSE,
        ) from None
    if size > limits.max_body_bytes:
        raise ApiError(
            413,
            f"The request body is larger than {limits.max_body_bytes} bytes.",
            code="request_too_large",
            headers=_CLOSE,
        )
    return b"".join(chunks)


def check_content(headers: Headers) -> None:
    """Only plain JSON: a receipt hashes the body as sent, so nothing may be encoded around it."""
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise ApiError(415, "Content-Type must be application/json.", code="unsupported_media_type")
    charset = parameters.lower().replace(" ", "").replace('"', "")
    if charset.startswith("charset=") and charset not in ("charset=utf-8", "charset=utf8"):
        raise ApiError(415, "The body must be UTF-8.", code="unsupported_media_type")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "Content-Encoding is not supported.", code="unsupported_media_type")
