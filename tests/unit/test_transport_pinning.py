"""Nothing crosses a connection before its peer has been judged."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpcore2
import pytest
from fake_node import FakeNode, TlsIdentity

from adyton.errors import ChannelError, PinMismatch
from adyton.fetch import open_async_pool, open_pool
from adyton.pinning import (
    AsyncPinnedBackend,
    PinnedBackend,
    peer_certificate,
    spki_sha256,
    tls_context,
)
from adyton.verify import pinned_context, verify_node


class Listener:
    """A TLS server that records every byte of plaintext it is sent."""

    def __init__(self, identity: TlsIdentity) -> None:
        self.received = b""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.path)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        connection.settimeout(5)
        try:
            with self._context.wrap_socket(connection, server_side=True) as tls:
                while data := tls.recv(4096):
                    self.received += data
        except OSError:
            connection.close()

    def finish(self) -> bytes:
        self._thread.join(5)
        self._socket.close()
        return self.received


@pytest.fixture
def identity(tmp_path: Path) -> TlsIdentity:
    return TlsIdentity(tmp_path, "listener")


def refuse(host: str, certificate: bytes) -> None:
    raise PinMismatch("channel", f"{host} shows {spki_sha256(certificate)}")


def test_refused_peer_receives_not_one_byte(identity: TlsIdentity) -> None:
    listener = Listener(identity)
    url = f"https://127.0.0.1:{listener.port}/"
    with (
        open_pool(refuse, connections=1, keepalive=1) as pool,
        pytest.raises(PinMismatch, match=identity.spki_sha256),
    ):
        pool.request("POST", url, content=b"a secret")
    assert listener.finish() == b""


async def test_refused_peer_receives_not_one_byte_async(identity: TlsIdentity) -> None:
    listener = Listener(identity)
    url = f"https://127.0.0.1:{listener.port}/"
    async with open_async_pool(refuse, connections=1, keepalive=1) as pool:
        with pytest.raises(PinMismatch, match=identity.spki_sha256):
            await pool.request("POST", url, content=b"a secret")
    assert listener.finish() == b""


@pytest.fixture
def plain_server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_plaintext_never_leaves_the_network_layer(plain_server: socket.socket) -> None:
    """Even code that asked for http:// by mistake cannot write through this layer."""
    port = plain_server.getsockname()[1]
    with open_pool(refuse, connections=1, keepalive=1) as pool, pytest.raises(ChannelError):
        pool.request("POST", f"http://127.0.0.1:{port}/", content=b"a secret")
    stream = PinnedBackend(refuse).connect_tcp("127.0.0.1", port)
    with pytest.raises(ChannelError):
        stream.read(1)
    assert stream.get_extra_info("server_addr")[1] == port
    stream.close()


async def test_plaintext_never_leaves_the_network_layer_async(
    plain_server: socket.socket,
) -> None:
    port = plain_server.getsockname()[1]
    async with open_async_pool(refuse, connections=1, keepalive=1) as pool:
        with pytest.raises(ChannelError):
            await pool.request("POST", f"http://127.0.0.1:{port}/", content=b"a secret")
    stream = await AsyncPinnedBackend(refuse).connect_tcp("127.0.0.1", port)
    with pytest.raises(ChannelError):
        await stream.read(1)
    assert stream.get_extra_info("server_addr")[1] == port
    await stream.aclose()


def test_connection_without_tls_shows_no_certificate() -> None:
    class Bare(httpcore2.NetworkStream):
        def get_extra_info(self, info: str) -> None:
            return None

    with pytest.raises(ChannelError, match="no certificate"):
        peer_certificate(Bare())


def test_the_environment_does_not_reach_the_tls_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = tls_context()
    assert context.keylog_filename is None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_context_of_a_verified_node_trusts_that_certificate_only(
    tmp_path: Path,
) -> None:
    with FakeNode(tmp_path, "node").running() as node:
        established = verify_node(node.url, root=node.root, measurement=node.measurement)
        assert established.certificate_der == node.tls.certificate_der
    context = pinned_context(established)
    for identity, good in ((node.tls, True), (TlsIdentity(tmp_path, "other"), False)):
        listener = Listener(identity)
        with socket.create_connection(("127.0.0.1", listener.port)) as raw:
            if good:
                context.wrap_socket(raw).close()
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    context.wrap_socket(raw)
        listener.finish()
