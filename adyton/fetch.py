"""Getting a report or a receipt: one GET, bounded in size and time, over a judged channel.

These requests carry no prompt. The report is fetched from a peer not yet known to be
the node, so nothing else, no credential either, goes over that connection.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpcore2

from adyton.endpoint import Endpoint
from adyton.errors import MalformedResponse, NodeUnreachable
from adyton.pinning import (
    AsyncPinnedBackend,
    Judge,
    PinnedBackend,
    peer_certificate,
    tls_context,
)
from adyton.trust import MAX_REPORT_BYTES

DEADLINE_S: Final = 60.0
"""For the whole answer; the timeouts below are for each step of it."""

_TIMEOUT: Final = {"connect": 10.0, "read": 30.0, "write": 10.0, "pool": 10.0}
_HEADERS: Final = (("accept", "application/json"), ("accept-encoding", "identity"))


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete response; `certificate_der` is the peer's, `tls_version` for display."""

    status: int
    body: bytes
    certificate_der: bytes
    tls_version: str


class _Collector:
    """Reads a body up to `limit` bytes and until the deadline."""

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._limit = limit
        self._deadline = time.monotonic() + DEADLINE_S
        self.body = bytearray()

    def add(self, chunk: bytes) -> None:
        self.body += chunk
        if len(self.body) > self._limit:
            raise MalformedResponse(self._what, f"longer than {self._limit} bytes")
        if time.monotonic() > self._deadline:
            raise NodeUnreachable(f"{self._what}: not complete after {DEADLINE_S:.0f} s")


@contextmanager
def _network_errors(what: str, endpoint: Endpoint) -> Generator[None]:
    try:
        yield
    except (
        httpcore2.NetworkError,
        httpcore2.TimeoutException,
        httpcore2.ProtocolError,
        OSError,
    ) as e:
        reason = str(e) or type(e).__name__
        raise NodeUnreachable(f"{what}: {endpoint.origin}: {reason}") from e


def _tls_version(stream: object) -> str:
    tls = getattr(stream, "get_extra_info")("ssl_object")  # noqa: B009 - the stream is untyped
    return str(tls.version())


def open_pool(
    judge: Judge, *, connections: int | None, keepalive: int | None
) -> httpcore2.ConnectionPool:
    """A pool whose every connection `judge` has accepted."""
    return httpcore2.ConnectionPool(
        ssl_context=tls_context(),
        max_connections=connections,
        max_keepalive_connections=keepalive,
        keepalive_expiry=60.0,
        network_backend=PinnedBackend(judge),
    )


def open_async_pool(
    judge: Judge, *, connections: int | None, keepalive: int | None
) -> httpcore2.AsyncConnectionPool:
    """The asynchronous twin of `open_pool`."""
    return httpcore2.AsyncConnectionPool(
        ssl_context=tls_context(),
        max_connections=connections,
        max_keepalive_connections=keepalive,
        keepalive_expiry=60.0,
        network_backend=AsyncPinnedBackend(judge),
    )


def _headers(extra: Mapping[str, str]) -> list[tuple[bytes | str, bytes | str]]:
    return [*_HEADERS, *extra.items()]


def get(
    pool: httpcore2.ConnectionPool,
    endpoint: Endpoint,
    path: str,
    what: str,
    *,
    limit: int,
    headers: Mapping[str, str],
) -> Answer:
    """GET `path`. Raises NodeUnreachable, MalformedResponse, and what the pool's judge raises."""
    collector = _Collector(what, limit)
    with (
        _network_errors(what, endpoint),
        pool.stream(
            "GET",
            endpoint.origin + path,
            headers=_headers(headers),
            extensions={"timeout": _TIMEOUT},
        ) as response,
    ):
        stream = response.extensions["network_stream"]
        certificate, version = peer_certificate(stream), _tls_version(stream)
        for chunk in response.iter_stream():
            collector.add(chunk)
    return Answer(response.status, bytes(collector.body), certificate, version)


async def aget(
    pool: httpcore2.AsyncConnectionPool,
    endpoint: Endpoint,
    path: str,
    what: str,
    *,
    limit: int,
    headers: Mapping[str, str],
) -> Answer:
    """The asynchronous twin of `get`."""
    collector = _Collector(what, limit)
    with _network_errors(what, endpoint):
        async with pool.stream(
            "GET",
            endpoint.origin + path,
            headers=_headers(headers),
            extensions={"timeout": _TIMEOUT},
        ) as response:
            stream = response.extensions["network_stream"]
            certificate, version = peer_certificate(stream), _tls_version(stream)
            async for chunk in response.aiter_stream():
                collector.add(chunk)
    return Answer(response.status, bytes(collector.body), certificate, version)


def _anyone(_host: str, _certificate_der: bytes) -> None:
    """Accept any peer: only for the report, which is what tells who the peer is."""


def fetch_report(endpoint: Endpoint, nonce: str) -> Answer:
    """The node's report under `nonce`, with the certificate of the channel that carried it."""
    with open_pool(_anyone, connections=1, keepalive=0) as pool:
        return get(
            pool,
            endpoint,
            endpoint.attestation_path(nonce),
            "attestation report",
            limit=MAX_REPORT_BYTES,
            headers={},
        )


async def afetch_report(endpoint: Endpoint, nonce: str) -> Answer:
    """The asynchronous twin of `fetch_report`."""
    async with open_async_pool(_anyone, connections=1, keepalive=0) as pool:
        return await aget(
            pool,
            endpoint,
            endpoint.attestation_path(nonce),
            "attestation report",
            limit=MAX_REPORT_BYTES,
            headers={},
        )
