"""TLS connections that are judged by the peer's public key before anything is sent.

WebPKI plays no part: a certificate authority vouches for a name, attestation for the
machine behind it. The check sits in the network backend, below the HTTP library, so
every connection it opens, retries and reconnections included, passes through here.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adyton.errors import ChannelError

Judge = Callable[[str, bytes], None]
"""Called with (host, peer certificate DER); raises ChannelError to refuse the peer."""

SocketOptions = Iterable[httpcore2.SOCKET_OPTION] | None


def spki_sha256(certificate_der: bytes) -> str:
    """SHA-256 of the certificate's SubjectPublicKeyInfo, 64 lowercase hex.

    Raises ChannelError when the bytes are not a certificate with a readable key.
    """
    try:
        key = x509.load_der_x509_certificate(certificate_der).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as e:  # the parser of a hostile certificate may fail in many ways
        raise ChannelError("tls", f"unreadable certificate: {type(e).__name__}") from None
    return hashlib.sha256(spki).hexdigest()


def tls_context() -> ssl.SSLContext:
    """A context without WebPKI, for connections whose peer key is judged by the caller.

    Built bare: the library's default context would read SSL_CERT_FILE and
    SSLKEYLOGFILE from the environment.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def peer_certificate(stream: Any) -> bytes:
    """DER of the certificate presented on a TLS stream. Raises ChannelError without one."""
    tls = stream.get_extra_info("ssl_object")
    der = tls.getpeercert(True) if tls is not None else None
    if not isinstance(der, bytes) or not der:
        raise ChannelError("tls", "the peer showed no certificate")
    return der


class _BeforeTls(httpcore2.NetworkStream):
    """A TCP connection on which nothing but a TLS handshake can happen."""

    def __init__(self, inner: httpcore2.NetworkStream, host: str, judge: Judge) -> None:
        self._inner = inner
        self._host = host
        self._judge = judge

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        raise ChannelError("tls", "refusing to read without TLS")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        raise ChannelError("tls", "refusing to write without TLS")

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        stream = self._inner.start_tls(ssl_context, server_hostname, timeout)
        try:
            self._judge(self._host, peer_certificate(stream))
        except BaseException:
            stream.close()
            raise
        return stream

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class PinnedBackend(httpcore2.NetworkBackend):
    """Opens TCP connections that only continue as TLS to a peer `judge` accepts."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore2.NetworkStream:
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _BeforeTls(stream, host, self._judge)


# The signatures are httpcore2's, timeout arguments included.


class _AsyncBeforeTls(httpcore2.AsyncNetworkStream):
    """The asynchronous twin of `_BeforeTls`."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream, host: str, judge: Judge) -> None:
        self._inner = inner
        self._host = host
        self._judge = judge

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        raise ChannelError("tls", "refusing to read without TLS")

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        raise ChannelError("tls", "refusing to write without TLS")

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._inner.start_tls(ssl_context, server_hostname, timeout)
        try:
            self._judge(self._host, peer_certificate(stream))
        except BaseException:
            await stream.aclose()
            raise
        return stream

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class AsyncPinnedBackend(httpcore2.AsyncNetworkBackend):
    """The asynchronous twin of `PinnedBackend`, on asyncio or trio."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _AsyncBeforeTls(stream, host, self._judge)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
