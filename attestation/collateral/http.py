"""One GET for collateral: bounded in time, size, attempts and in where it may lead.

What comes back proves nothing, since every part is signed and checked afterwards. The
bounds are about the service being slow, broken or hostile: https only (plain http to this
machine itself), no redirect is followed, no cookie, proxy, compression or credential is
used, and nothing of the environment decides where a request goes.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpcore2

from attestation.collateral.errors import CollateralMissing, CollateralUnavailable
from attestation.errors import CollateralError

MAX_BODY: Final = 1 << 20
_MAX_URL: Final = 2048
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_OK: Final = 200
_NOT_FOUND: Final = 404
_REDIRECTS: Final = range(300, 400)
_HEADERS: Final = (("user-agent", "adyton"), ("accept-encoding", "identity"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait and how often to try; `total_s` bounds everything one `get` does.

    `spacing_s` is the least time between two requests, for services that limit rates.
    """

    connect_s: float = 10.0
    read_s: float = 15.0
    total_s: float = 60.0
    attempts: int = 4
    backoff_s: float = 0.5
    longest_wait_s: float = 20.0
    spacing_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete 200 answer. Header names are lower case, with every value they came with."""

    url: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, *names: str) -> str | None:
        """The one value of the first of `names` that is there. Raises CollateralError on two."""
        for name in names:
            values = [v for n, v in self.headers if n == name.lower()]
            if len(values) > 1:
                raise CollateralError(f"{self.url}: header {name} came {len(values)} times")
            if values:
                return values[0]
        return None


class _TryAgain(Exception):  # noqa: N818 - control flow of this module, never leaves it
    """This attempt failed in a way that another may not; `wait_s` is what the service asks."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def check_url(url: str) -> str:
    """`url`, when collateral may be asked for there. Raises CollateralError saying why not."""
    if len(url) > _MAX_URL or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise CollateralError("url: not a plain ASCII URL")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as e:
        raise CollateralError(f"url: {e}") from None
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise CollateralError("url: needs a host, and has no place for credentials or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise CollateralError(f"url: {parts.scheme}://{host} is not https")
    return url


def base_url(url: str) -> str:
    """The service `url` names, without the API path that people like to paste along."""
    stripped = check_url(url).rstrip("/")
    for tee in ("sgx", "tdx"):
        stripped = stripped.removesuffix(f"/{tee}/certification/v4")
    if "?" in stripped:
        raise CollateralError("url: a service has no query")
    return stripped.rstrip("/")


class Fetcher:
    """Gets documents over one pool of connections. Use as an async context manager."""

    def __init__(
        self,
        patience: Patience | None = None,
        *,
        tls_ca: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`tls_ca` (PEM) names who may have issued the service's own certificate."""
        self._patience = patience or Patience()
        self._sleep = sleep
        self._jitter = jitter
        self._next_at = 0.0
        context = None if tls_ca is None else _context(tls_ca)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context, max_connections=2, max_keepalive_connections=1
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._pool.aclose()

    async def get(self, url: str, what: str, *, limit: int = MAX_BODY) -> Reply:
        """The document at `url`, at most `limit` bytes.

        Raises CollateralUnavailable when nobody gave an answer in time, and CollateralError
        when the answer is one that asking again will not change.
        """
        check_url(url)
        try:
            async with asyncio.timeout(self._patience.total_s):
                return await self._insist(url, what, limit)
        except TimeoutError:
            raise CollateralUnavailable(
                f"{what}: {url}: no answer in {self._patience.total_s:g} s"
            ) from None

    async def _insist(self, url: str, what: str, limit: int) -> Reply:
        failed = _TryAgain("never asked")
        for attempt in range(self._patience.attempts):
            if attempt:
                await self._sleep(self._wait_s(attempt, failed, what, url))
            try:
                return await self._once(url, what, limit)
            except _TryAgain as e:
                failed = e
        raise CollateralUnavailable(
            f"{what}: {url}: {failed}, {self._patience.attempts} times"
        ) from None

    def _wait_s(self, attempt: int, failed: _TryAgain, what: str, url: str) -> float:
        """Twice as long each time, half of it by chance; never less than the service asks."""
        patience = self._patience
        if failed.wait_s > patience.longest_wait_s:
            raise CollateralUnavailable(
                f"{what}: {url}: {failed}; it asks to wait {failed.wait_s:.0f} s"
            )
        backoff_s: float = min(patience.backoff_s * 2 ** (attempt - 1), patience.longest_wait_s)
        return max(failed.wait_s, backoff_s * (0.5 + self._jitter() / 2))

    async def _pace(self) -> None:
        wait_s = self._next_at - time.monotonic()
        if wait_s > 0:
            await self._sleep(wait_s)
        self._next_at = time.monotonic() + self._patience.spacing_s

    async def _once(self, url: str, what: str, limit: int) -> Reply:
        await self._pace()
        timeout = {
            "connect": self._patience.connect_s,
            "read": self._patience.read_s,
            "write": self._patience.read_s,
            "pool": self._patience.total_s,
        }
        try:
            async with self._pool.stream(
                "GET", url, headers=list(_HEADERS), extensions={"timeout": timeout}
            ) as response:
                headers = [
                    (n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in response.headers
                ]
                _check_status(response.status, Reply(url, headers, b""), what)
                return Reply(url, headers, await _read(response, what, url, limit))
        except httpcore2.ProtocolError as e:
            raise _TryAgain(f"not HTTP as it should be ({e})") from None
        except (httpcore2.TimeoutException, httpcore2.NetworkError, OSError) as e:
            raise _TryAgain(str(e) or type(e).__name__) from None


def _context(tls_ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(tls_ca))
    except (OSError, ssl.SSLError) as e:
        raise CollateralError(f"{tls_ca}: not certificates ({e})") from None


def _retry_after(reply: Reply) -> float:
    """Seconds that the service asks to be left alone; 0 where it does not say."""
    text = reply.header("retry-after")
    if text is None:
        return 0.0
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _check_status(status: int, reply: Reply, what: str) -> None:
    """The answer is the document, whole and uncompressed. Raises _TryAgain, CollateralError."""
    where = f"{what}: {reply.url}"
    if status in _AGAIN:
        raise _TryAgain(f"HTTP {status}", _retry_after(reply))
    if status in _REDIRECTS:
        raise CollateralError(f"{where}: redirects elsewhere, which is not followed")
    if status == _NOT_FOUND:
        raise CollateralMissing(f"{where}: HTTP {status}, it has none")
    if status != _OK:
        raise CollateralError(f"{where}: HTTP {status}")
    encoding = reply.header("content-encoding")
    if encoding not in (None, "", "identity"):
        raise CollateralError(f"{where}: compressed, which nobody asked for")


async def _read(response: httpcore2.Response, what: str, url: str, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > limit:
            raise CollateralError(f"{what}: {url}: longer than {limit} bytes")
    return bytes(body)
