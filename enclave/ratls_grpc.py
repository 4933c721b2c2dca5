"""Mutual RA-TLS for gRPC: stock credentials over the same two steps as `enclave.ratls`.

gRPC asks for a list of roots, so that list is the appraised peers' own certificates, read
anew for each handshake. Its own check of host names is met with a name from the appraised
certificate, where it says nothing.
"""

from __future__ import annotations

import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import grpc
import grpc.aio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestation.ratls import AttestedPeer
from enclave.ratls import PeerBook, PeerRefused, check_peer
from enclave.tls import TlsIdentity

Options = Sequence[tuple[str, Any]]
_CERTIFICATE: Final = "x509_pem_cert"
_KINDS: Final[Mapping[tuple[bool, bool], tuple[str, Any]]] = MappingProxyType(
    {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
)


def secure_channel(
    target: str, identity: TlsIdentity, peer: AttestedPeer, *, now: int, options: Options = ()
) -> grpc.aio.Channel:
    """A channel that carries calls to `peer` and to nobody else, showing `identity`.

    Raises PeerRefused. Every connection it opens, also a later one, is held to `peer`.
    """
    check_peer(peer, now)
    name = peer.certificate.server_name
    if name is None:
        raise PeerRefused("the peer's certificate has no name for gRPC to ask for")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_pem(peer.certificate.der),
        private_key=_private(identity),
        certificate_chain=_own(identity),
    )
    return grpc.aio.secure_channel(
        target, credentials, options=[("grpc.ssl_target_name_override", name), *options]
    )


def server_credentials(identity: TlsIdentity, book: PeerBook) -> grpc.ServerCredentials:
    """Credentials whose handshake succeeds with whoever stands in `book` at that moment.

    Use them with a `PeerGuard`: calls on a connection that outlived its appraisal pass the
    handshake's check.
    """
    key, certificate = _private(identity), _own(identity)
    known: list[int] = []

    def configuration(peers: tuple[AttestedPeer, ...]) -> grpc.ServerCertificateConfiguration:
        # Never an empty list of roots, which would leave the meaning to the library: our own
        # certificate is in it, whose key only we hold, and the guard refuses even us.
        roots = b"".join([certificate, *(_pem(peer.certificate.der) for peer in peers)])
        return grpc.ssl_server_certificate_configuration([(key, certificate)], roots)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        version, peers = book.current()
        if known == [version]:
            return None
        known[:] = [version]
        return configuration(peers)

    return grpc.dynamic_ssl_server_credentials(
        configuration(()),
        fetch,  # type: ignore[arg-type]  # None keeps what there is; the stubs do not know
        require_client_authentication=True,
    )


class PeerGuard(grpc.aio.ServerInterceptor):
    """Answers UNAUTHENTICATED to calls whose peer is not, or no longer, in `book`."""

    def __init__(self, book: PeerBook) -> None:
        self._book = book

    def peer(self, context: Any) -> AttestedPeer:
        """Who is calling. Raises PeerRefused."""
        shown = context.auth_context().get(_CERTIFICATE, ())
        if len(shown) != 1:
            raise PeerRefused("the connection shows no certificate")
        return self._book.expect(ssl.PEM_cert_to_DER_cert(shown[0].decode("ascii")))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        name, build = _KINDS[handler.request_streaming, handler.response_streaming]
        behaviour = getattr(handler, name)
        if inspect.isasyncgenfunction(behaviour):
            guarded = self._stream(behaviour)
        elif inspect.iscoroutinefunction(behaviour):
            guarded = self._call(behaviour)
        else:
            raise TypeError(f"{name} handler is not asynchronous")
        return build(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _check(self, context: Any) -> None:
        try:
            self.peer(context)
        except PeerRefused as e:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(e))

    def _call(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            await self._check(context)
            return await behaviour(request, context)

        return call

    def _stream(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._check(context)
            async for item in behaviour(request, context):
                yield item

        return stream


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode("ascii")


def _own(identity: TlsIdentity) -> bytes:
    return identity.certificate.public_bytes(Encoding.PEM)


def _private(identity: TlsIdentity) -> bytes:
    return identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
