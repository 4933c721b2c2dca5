"""Runs a node until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import uvloop
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from attestation.canonical import sha256_hex
from attestation.issuers.simulator import SimulatorIssuer
from enclave.worker.process import harden
from gateway.app import make_app
from gateway.errors import StartError
from gateway.logs import event
from gateway.machine import code_provenance
from gateway.node import Node, Progress
from gateway.server import NodeServer, bind, follow_rotation, make_server
from gateway.settings import Settings

_LOCK_FILE: Final = "node.lock"
Ready = Callable[[dict[str, Any]], None]


def run(settings: Settings, *, progress: Progress, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `ready` gets the facts of the running node.

    Raises StartError, EnclaveError, AttestationError or StorageError when it cannot start.
    """
    harden()
    with _only_one(settings.state_dir):
        listener = bind(settings.host, settings.port)
        with contextlib.closing(listener), asyncio.Runner(loop_factory=uvloop.new_event_loop) as r:
            r.run(_serve(code_provenance(settings), listener, progress, ready))


@contextlib.contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """This process alone uses `state_dir`. Raises StartError."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state_dir / _LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StartError(f"cannot use {state_dir}: {e.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StartError(f"another node is using {state_dir}") from None
    finally:
        os.close(lock)


async def _serve(
    settings: Settings, listener: socket.socket, progress: Progress, ready: Ready
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.create_task(Node.start(settings, progress))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    node = await starting
    try:
        server = make_server(
            make_app(node),
            follow_rotation(lambda: node.ring.current.tls),
            settings.limits,
            lambda: node.ring.current.digest,
        )
        renewals: set[asyncio.Task[None]] = set()
        loop.add_signal_handler(
            signal.SIGHUP, lambda: renewals.add(loop.create_task(node.renew_keys()))
        )
        await _until_told(node, server, listener, stop, ready)
    finally:
        stopping.cancel()
        await node.stop()
        event("stopped")


async def _until_told(
    node: Node, server: NodeServer, listener: socket.socket, stop: asyncio.Event, ready: Ready
) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    listening = asyncio.create_task(server.listening.wait())
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        listening.cancel()
        await serving
        raise StartError("the server stopped before it listened")
    facts = describe(node, listener)
    event("ready", url=facts["url"], keyset_digest=facts["keyset_digest"], tee=node.issuer.name)
    ready(facts)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    event("draining", inflight=node.gate.inflight)
    node.gate.draining = True
    server.should_exit = True  # closes the listener and idle connections at once
    await node.drain()
    await server.let_go()
    await serving


def describe(node: Node, listener: socket.socket) -> dict[str, Any]:
    """What a person or script needs to reach this node and to check it."""
    settings = node.settings
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    identity = node.ring.current
    root = _publish_root(node)
    return {
        "url": f"https://{f'[{host}]' if ':' in host else host}:{port}",
        "root": None if root is None else str(root[0]),
        "root_sha256": None if root is None else sha256_hex(root[1]),
        "root_pem": None
        if root is None
        else load_der_x509_certificate(root[1]).public_bytes(Encoding.PEM).decode(),
        "keyset_digest": identity.digest,
        "measurement": node.issuer.measurement,
        "tee_type": node.issuer.tee_type,
        "simulated": node.issuer.simulated,
        "models": list(node.models),
        "tls_cert": str(node.ring.certificate_file.absolute()),
        "state_dir": str(settings.state_dir.absolute()),
        "pid": os.getpid(),
    }


def _publish_root(node: Node) -> tuple[Path, bytes] | None:
    """The simulator's root as a file a person can name; hardware has its vendor's."""
    if not isinstance(node.issuer, SimulatorIssuer):
        return None
    path = (node.settings.state_dir / "simulator-root.der").absolute()
    path.write_bytes(node.issuer.root_der)
    return path, node.issuer.root_der
