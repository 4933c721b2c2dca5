"""Mutual RA-TLS over real sockets: two attested nodes talk, and nobody else gets a byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx2
import pytest
import uvicorn
from attested import NOW
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import load_der_x509_certificate
from ratls_peers import (
    DAY,
    OTHER_SEED,
    OTHER_STATE,
    appraise,
    appraised,
    collateral_for,
    der_of,
    ec_key,
    forge,
    interoperable,
    issued,
    wanting,
)

from attestation.errors import AttestationError
from attestation.ratls import AttestedPeer, Introduction
from enclave.ratls import PeerBook, PeerRefused, client_context, observe, peer_of, server_context
from enclave.ratls_grpc import PeerGuard, secure_channel, server_credentials
from enclave.tls import TlsIdentity, load_identity

# Certificates are judged at the fixed time of the test platform; OpenSSL and BoringSSL ask
# the machine's clock. The certificates are valid from then until long after any test.
LONG = 20_000 * DAY


def node(number: int, **changes: Any) -> TlsIdentity:
    return issued("tdx", number, not_after=NOW + LONG, **changes)


SERVER, CLIENT = node(1), node(2)


@dataclass
class Clock:
    now: int = NOW

    def __call__(self) -> int:
        return self.now


@dataclass
class Door:
    """A mutual HTTPS server: what it heard is what reached the application."""

    clock: Clock = field(default_factory=Clock)
    heard: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.book = PeerBook(self.clock)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.heard.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"heard " + body})


class _Config(uvicorn.Config):
    """uvicorn with a context of ours, as the gateway has it."""

    context: ssl.SSLContext

    def load(self) -> None:
        super().load()
        self.ssl = self.context


@contextlib.asynccontextmanager
async def https(door: Door, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    config = _Config(
        door.app, port=0, lifespan="off", log_config=None, ws="none", interface="asgi3"
    )
    config.context = context or server_context(SERVER, door.book)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await serving


async def post(port: int, context: ssl.SSLContext, body: bytes = b"secret") -> bytes:
    async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=10) as client:
        return (await client.post(f"https://127.0.0.1:{port}/", content=body)).content


def unchecked_context(identity: TlsIdentity | None) -> ssl.SSLContext:
    """What a hostile client uses: it shows what it likes and checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if identity is not None:
        load_identity(context, identity)
    return context


# --- HTTPS --------------------------------------------------------------------------


async def test_two_nodes_that_introduced_themselves_talk() -> None:
    door = Door()
    async with https(door) as port:
        introduction = Introduction.read(
            Introduction(der_of(CLIENT), collateral_for("tdx")).write()
        )
        door.book.admit(appraise(introduction.certificate, collateral=introduction.collateral))
        server = appraise(await observe("127.0.0.1", port))
        context = client_context(CLIENT, server, now=NOW)
        assert await post(port, context) == b"heard secret"
    assert door.heard == [b"secret"]


async def test_the_application_learns_which_peer_is_at_the_other_end() -> None:
    book = PeerBook(Clock())
    book.admit(appraised(CLIENT))
    seen: list[AttestedPeer] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(peer_of(writer.get_extra_info("ssl_object"), book))
        writer.write(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(SERVER, book))
    async with server:
        port = server.sockets[0].getsockname()[1]
        context = client_context(CLIENT, appraised(SERVER), now=NOW)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
    assert [p.spki_sha256 for p in seen] == [appraised(CLIENT).spki_sha256]


def issued_by_a_peer(number: int) -> TlsIdentity:
    """A key that an appraised peer's key vouches for, which no evidence does."""
    der = forge(
        [],
        key=ec_key(number),
        signer=CLIENT.key,
        issuer_name=CLIENT.certificate.subject,
        not_after=NOW + LONG,
    )
    return TlsIdentity(ec_key(number), load_der_x509_certificate(der))


def with_stolen_evidence(number: int) -> TlsIdentity:
    """A key of one's own under a certificate that carries the evidence of `CLIENT`'s key."""
    der = forge([interoperable(ec_key(2))], key=ec_key(number), not_after=NOW + LONG)
    return TlsIdentity(ec_key(number), load_der_x509_certificate(der))


IMPOSTORS: dict[str, TlsIdentity | None] = {
    "no-certificate": None,
    "never-introduced": node(3),
    "another-certificate-of-a-known-key": node(2),
    "stolen-evidence-over-another-key": with_stolen_evidence(5),
    "issued-by-a-known-peer": issued_by_a_peer(4),
}


@pytest.mark.parametrize("who", IMPOSTORS)
async def test_whoever_is_not_in_the_book_is_heard_by_nobody(who: str) -> None:
    door = Door()
    door.book.admit(appraised(CLIENT))
    async with https(door) as port:
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await post(port, unchecked_context(IMPOSTORS[who]))
        context = client_context(CLIENT, appraised(SERVER), now=NOW)
        assert await post(port, context, b"second") == b"heard second"
    assert door.heard == [b"second"]


@contextlib.asynccontextmanager
async def recorder(port: int) -> AsyncIterator[tuple[int, bytearray]]:
    """A relay to `port` that keeps every byte that clients send."""
    taken = bytearray()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if source is reader:
                    taken.extend(data)
                sink.write(data)
            sink.close()

        with contextlib.suppress(OSError):
            await asyncio.gather(copy(reader, back), copy(onward, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], taken


async def test_a_replayed_certificate_without_its_key_is_heard_by_nobody() -> None:
    """Somebody in the middle has every byte of a peer's handshake, certificate and all."""
    door = Door()
    door.book.admit(appraised(CLIENT))
    async with https(door) as port, recorder(port) as (relayed, taken):
        context = client_context(CLIENT, appraised(SERVER), now=NOW)
        assert await post(relayed, context) == b"heard secret"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes(taken))
        answer = await reader.read()
        writer.close()
    assert door.heard == [b"secret"]
    assert b"heard" not in answer and len(taken) > 1000


def test_a_certificate_without_its_key_cannot_even_be_loaded() -> None:
    """Replaying a certificate is free, using it is not: the handshake signs with the key."""
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        unchecked_context(TlsIdentity(ec_key(9), CLIENT.certificate))


UNWANTED: dict[str, dict[str, Any]] = {
    "wrong-measurement": {"state": OTHER_STATE},
    "foreign-root": {"seed": OTHER_SEED},
}


@pytest.mark.parametrize("why", UNWANTED)
async def test_an_unwanted_node_never_gets_into_the_book_nor_past_it(why: str) -> None:
    stranger = node(6, **UNWANTED[why])
    door = Door()
    with pytest.raises(AttestationError):
        appraised(stranger)
    async with https(door) as port:
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await post(port, unchecked_context(stranger))
    assert door.heard == []


@pytest.mark.parametrize("why", UNWANTED)
async def test_a_client_sends_nothing_to_an_unwanted_server(why: str) -> None:
    stranger = node(6, **UNWANTED[why])
    door = Door()
    door.book.admit(appraised(CLIENT))
    async with https(door, server_context(stranger, door.book)) as port:
        with pytest.raises(AttestationError):
            appraise(await observe("127.0.0.1", port))
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await post(port, client_context(CLIENT, appraised(SERVER), now=NOW))
    assert door.heard == []


async def test_evidence_that_expired_after_the_introduction_opens_nothing() -> None:
    door = Door()
    peer = appraised(CLIENT)
    door.book.admit(peer)
    context = client_context(CLIENT, appraised(SERVER), now=NOW)
    async with https(door) as port:
        assert await post(port, context, b"in time") == b"heard in time"
        door.clock.now = peer.not_after + 1
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await post(port, context)
    assert door.heard == [b"in time"]
    with pytest.raises(PeerRefused, match="ended"):
        client_context(CLIENT, appraised(SERVER), now=peer.not_after + 1)


async def test_a_peer_that_is_forgotten_may_not_come_back() -> None:
    door = Door()
    peer = appraised(CLIENT)
    door.book.admit(peer)
    context = client_context(CLIENT, appraised(SERVER), now=NOW)
    async with https(door) as port:
        assert await post(port, context)
        door.book.forget(peer.spki_sha256)
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await post(port, context)
    assert len(door.heard) == 1


async def test_a_session_is_not_resumed_past_the_book() -> None:
    """TLS tickets would let a peer return without showing its certificate again."""
    book = PeerBook(Clock())
    book.admit(appraised(CLIENT))
    resumable: list[Any] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(10))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(SERVER, book))
    async with server:
        port = server.sockets[0].getsockname()[1]
        context = client_context(CLIENT, appraised(SERVER), now=NOW)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"x")
        await reader.read()
        session = writer.get_extra_info("ssl_object").session
        resumable.append(session is not None and session.has_ticket)
        writer.close()
    assert resumable == [False]


def context_with_a_chain(path: Path, certificates: int) -> ssl.SSLContext:
    """A server that sends its certificate with that many behind it, and asks for none."""
    whole = SERVER.certificate.public_bytes(Encoding.PEM)
    key = SERVER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    other = ssl.DER_cert_to_PEM_cert(forge([], key=ec_key(30), not_after=NOW + LONG)).encode()
    path.write_bytes(whole + key + other * certificates)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_a_hundred_certificates_behind_the_first_change_nothing(tmp_path: Path) -> None:
    """The peer is the key of the first; nobody looks for an authority behind it."""
    door = Door()
    async with https(door, context_with_a_chain(tmp_path / "chain.pem", 100)) as port:
        peer = appraise(await observe("127.0.0.1", port))
        assert await post(port, client_context(CLIENT, peer, now=NOW)) == b"heard secret"
    assert peer.certificate.der == der_of(SERVER)


async def test_a_chain_without_end_is_refused_in_the_handshake(tmp_path: Path) -> None:
    async with https(Door(), context_with_a_chain(tmp_path / "chain.pem", 400)) as port:
        with pytest.raises(PeerRefused, match="SSLError"):
            await observe("127.0.0.1", port)


async def test_looking_at_a_certificate_fails_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(PeerRefused, match="no certificate"):
        await observe("127.0.0.1", free)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(PeerRefused, match="TimeoutError"),
    ):
        await observe("127.0.0.1", silent.getsockname()[1], timeout_s=0.2)


# --- gRPC ---------------------------------------------------------------------------


class _Service(grpc.GenericRpcHandler):
    """Echoes under all four kinds of call."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def service(self, details: Any) -> Any:
        kind = details.method.rpartition("/")[2]
        return getattr(grpc, f"{kind}_rpc_method_handler")(getattr(self, kind))

    async def unary_unary(self, request: bytes, _context: Any) -> bytes:
        self.heard.append(request)
        return b"heard " + request

    async def unary_stream(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        self.heard.append(request)
        yield b"heard "
        yield request

    async def stream_unary(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        whole = b"".join([r async for r in requests])
        self.heard.append(whole)
        return b"heard " + whole

    async def stream_stream(
        self, requests: AsyncIterator[bytes], _context: Any
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            self.heard.append(request)
            yield b"heard " + request


@contextlib.asynccontextmanager
async def grpc_server(
    service: grpc.GenericRpcHandler, book: PeerBook, identity: TlsIdentity = SERVER
) -> AsyncIterator[str]:
    server = grpc.aio.server(interceptors=(PeerGuard(book),))
    server.add_generic_rpc_handlers((service,))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(identity, book))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def call(channel: grpc.aio.Channel, body: bytes = b"secret") -> bytes:
    answer: bytes = await channel.unary_unary("/x/unary_unary")(body, timeout=10)
    return answer


async def refused(channel: grpc.aio.Channel) -> grpc.StatusCode:
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
    return caught.value.code()


def hostile_channel(target: str, identity: TlsIdentity | None) -> grpc.aio.Channel:
    """A client that trusts the server as it is and shows what it likes."""
    as_is = replace(identity or SERVER, certificate=SERVER.certificate)
    credentials = grpc.ssl_channel_credentials(
        ssl.DER_cert_to_PEM_cert(der_of(as_is)).encode(),
        *(_pems(identity) if identity else (None, None)),
    )
    options = [("grpc.ssl_target_name_override", "localhost")]
    return grpc.aio.secure_channel(target, credentials, options)


def _pems(identity: TlsIdentity) -> tuple[bytes, bytes]:
    from enclave.ratls_grpc import _own, _private

    return _private(identity), _own(identity)


async def test_two_nodes_that_introduced_themselves_call_each_other() -> None:
    book, service = PeerBook(Clock()), _Service()
    book.admit(appraised(CLIENT))
    async with (
        grpc_server(service, book) as target,
        secure_channel(target, CLIENT, appraised(SERVER), now=NOW) as channel,
    ):
        many = [b"a", b"b"]
        assert await call(channel) == b"heard secret"
        answers = channel.unary_stream("/x/unary_stream")(b"c")
        assert [a async for a in answers] == [b"heard ", b"c"]
        assert await channel.stream_unary("/x/stream_unary")(iter(many)) == b"heard ab"
        answers = channel.stream_stream("/x/stream_stream")(iter(many))
        assert [a async for a in answers] == [b"heard a", b"heard b"]
    assert service.heard == [b"secret", b"c", b"ab", b"a", b"b"]


async def test_many_peers_with_one_subject_are_told_apart() -> None:
    """Every node's certificate has the same subject: the key identifiers tell them apart."""
    book, service = PeerBook(Clock()), _Service()
    nodes = [node(n) for n in range(20, 26)]
    for each in nodes:
        book.admit(appraised(each))
    async with grpc_server(service, book) as target:
        for each in nodes:
            async with secure_channel(target, each, appraised(SERVER), now=NOW) as channel:
                assert await call(channel) == b"heard secret"


@pytest.mark.parametrize("who", IMPOSTORS)
async def test_whoever_is_not_in_the_book_calls_nobody(who: str) -> None:
    book, service = PeerBook(Clock()), _Service()
    book.admit(appraised(CLIENT))
    async with grpc_server(service, book) as target:
        code = await refused(hostile_channel(target, IMPOSTORS[who]))
    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED)
    assert service.heard == []


async def test_nobody_calls_a_server_whose_book_is_empty_not_even_itself() -> None:
    service = _Service()
    async with grpc_server(service, PeerBook(Clock())) as target:
        assert await refused(hostile_channel(target, CLIENT)) is grpc.StatusCode.UNAVAILABLE
        ourselves = hostile_channel(target, SERVER)
        assert await refused(ourselves) is grpc.StatusCode.UNAUTHENTICATED
    assert service.heard == []


@pytest.mark.parametrize("why", UNWANTED)
async def test_a_client_calls_no_unwanted_server(why: str) -> None:
    book, service = PeerBook(Clock()), _Service()
    book.admit(appraised(CLIENT))
    async with grpc_server(service, book, node(1, **UNWANTED[why])) as target:
        channel = secure_channel(target, CLIENT, appraised(SERVER), now=NOW)
        assert await refused(channel) is grpc.StatusCode.UNAVAILABLE
    assert service.heard == []


async def test_an_appraisal_that_ends_ends_calls_on_open_connections_too() -> None:
    clock, service = Clock(), _Service()
    book, peer = PeerBook(clock), appraised(CLIENT)
    book.admit(peer)
    async with grpc_server(service, book) as target:
        channel = secure_channel(target, CLIENT, appraised(SERVER), now=NOW)
        assert await call(channel) == b"heard secret"
        clock.now = peer.not_after + 1
        assert await refused(channel) is grpc.StatusCode.UNAUTHENTICATED
        again = secure_channel(target, CLIENT, appraised(SERVER), now=NOW)
        assert await refused(again) is grpc.StatusCode.UNAVAILABLE
    assert service.heard == [b"secret"]


async def test_a_peer_admitted_while_the_server_runs_is_let_in() -> None:
    book, service = PeerBook(Clock()), _Service()
    async with grpc_server(service, book) as target:
        first = secure_channel(target, CLIENT, appraised(SERVER), now=NOW)
        assert await refused(first) is grpc.StatusCode.UNAVAILABLE
        book.admit(appraised(CLIENT))
        async with secure_channel(target, CLIENT, appraised(SERVER), now=NOW) as channel:
            assert await call(channel) == b"heard secret"


def test_the_books_of_both_transports_are_one() -> None:
    """What admits is the appraisal; no transport has a way in of its own."""
    book = PeerBook(Clock())
    with pytest.raises(PeerRefused, match="inspects"):
        book.admit(appraised(CLIENT, policy=wanting(measurements="any", inspection_only=True)))
    assert book.current()[1] == ()
