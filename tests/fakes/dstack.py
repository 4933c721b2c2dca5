"""dstack's guest agent: JSON over HTTP/1.1 on a Unix socket.

Spec: dstack, "Guest Agent RPC API" (0.5) and, under `/prpc/Tappd.`, the older agent's. A
quote is over the report data zero-padded to 64 bytes; an application event extends RTMR3
with SHA-384 over type, name and payload; keys depend on the path alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

APP_ID = "5a" * 20
COMPOSE = '{"manifest_version":2,"name":"fake","runner":"docker-compose"}'
COMPOSE_HASH = hashlib.sha256(COMPOSE.encode()).hexdigest()
_EVENT_TYPE = 0x08000001
_REPORT_DATA_BYTES = 64
Quote = Callable[[bytes, bytes], bytes]
"""(report data, rt_mr3) to a quote."""


class Refused(Exception):
    """Answered with status 400 and this text, as the agent answers."""


def event_digest(name: str, payload: bytes) -> bytes:
    data = _EVENT_TYPE.to_bytes(4, "little") + b":" + name.encode() + b":" + payload
    return hashlib.sha384(data).digest()


class Agent(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The agent on `path`. `asked` is what it was asked; `answers` replaces a method's answer."""

    daemon_threads = True

    def __init__(self, path: Path, quote: Quote) -> None:
        super().__init__(str(path), _Handler)
        self.path = path
        self.quote = quote
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.events: list[tuple[str, bytes]] = []
        for name, payload in (
            ("app-id", bytes.fromhex(APP_ID)),
            ("compose-hash", bytes.fromhex(COMPOSE_HASH)),
            ("instance-id", b"\x1b" * 20),
            ("key-provider", b'{"name":"none","id":""}'),
            ("system-ready", b""),
        ):
            self.events.append((name, payload))
        self._methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "/GetQuote": self._get_quote,
            "/GetKey": self._get_key,
            "/GetTlsKey": self._get_tls_key,
            "/Info": self._info,
            "/EmitEvent": self._emit_event,
            "/prpc/Tappd.TdxQuote": self._tdx_quote,
            "/prpc/Tappd.DeriveKey": self._get_tls_key,
            "/prpc/Tappd.Info": self._info,
        }

    def answer(self, method: str, body: bytes) -> tuple[int, bytes]:
        """Status and body, for one request."""
        try:
            asked = json.loads(body)
        except ValueError:
            return 400, b'{"error":"not JSON"}'
        self.asked.append((method, asked))
        if method in self.answers:
            return self.answers[method]
        if method not in self._methods:
            return 404, b"{}"
        try:
            return 200, json.dumps(self._methods[method](asked)).encode()
        except Refused as e:
            return 400, json.dumps({"error": str(e)}).encode()

    @property
    def rt_mr3(self) -> bytes:
        register = bytes(48)
        for name, payload in self.events:
            register = hashlib.sha384(register + event_digest(name, payload)).digest()
        return register

    def _event_log(self) -> list[dict[str, Any]]:
        return [
            {
                "imr": 3,
                "event_type": _EVENT_TYPE,
                "digest": event_digest(name, payload).hex(),
                "event": name,
                "event_payload": payload.hex(),
            }
            for name, payload in self.events
        ]

    def _quoted(self, report_data: bytes) -> dict[str, Any]:
        return {
            "quote": self.quote(report_data, self.rt_mr3).hex(),
            "event_log": json.dumps(self._event_log()),
        }

    def _get_quote(self, asked: dict[str, Any]) -> dict[str, Any]:
        data = _hex(asked, "report_data")
        if not 0 < len(data) <= _REPORT_DATA_BYTES:
            raise Refused("report_data has 1 to 64 bytes")
        padded = data.ljust(_REPORT_DATA_BYTES, b"\0")
        return {**self._quoted(padded), "report_data": padded.hex(), "vm_config": "{}"}

    def _tdx_quote(self, asked: dict[str, Any]) -> dict[str, Any]:
        data, algorithm = _hex(asked, "report_data"), asked.get("hash_algorithm", "sha512")
        if algorithm != "raw":
            data = hashlib.new(algorithm, b"app-data:" + data).digest()
        elif len(data) != _REPORT_DATA_BYTES:
            raise Refused("raw report_data has 64 bytes")
        padded = data.ljust(_REPORT_DATA_BYTES, b"\0")
        return {**self._quoted(padded), "hash_algorithm": algorithm, "prefix": "app-data:"}

    def _get_key(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("algorithm", "secp256k1") not in ("", "k256", "secp256k1", "ed25519"):
            raise Refused("unsupported algorithm")
        key = hashlib.sha256(b"app key " + str(asked.get("path", "")).encode()).hexdigest()
        return {"key": key, "signature_chain": ["00" * 65, "01" * 65]}

    def _get_tls_key(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A fresh key each time, certified by a CA of the application."""
        ca, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        leaf = _certificate(asked.get("subject") or "app", key, "App CA", ca)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = [leaf, _certificate("App CA", ca, "App CA", ca)]
        return {"key": pem.decode(), "certificate_chain": chain}

    def _emit_event(self, asked: dict[str, Any]) -> dict[str, Any]:
        if not asked.get("event"):
            raise Refused("event has no name")
        self.events.append((asked["event"], _hex(asked, "payload")))
        return {}

    def _info(self, _: dict[str, Any]) -> dict[str, Any]:
        zero = "00" * 48
        tcb_info = {
            "mrtd": zero,
            "rtmr0": zero,
            "rtmr1": zero,
            "rtmr2": zero,
            "rtmr3": self.rt_mr3.hex(),
            "mr_aggregated": "00" * 32,
            "os_image_hash": "00" * 32,
            "rootfs_hash": "00" * 32,
            "compose_hash": COMPOSE_HASH,
            "device_id": "00" * 32,
            "app_compose": COMPOSE,
            "event_log": self._event_log(),
        }
        return {
            "app_id": APP_ID,
            "instance_id": "1b" * 20,
            "app_cert": "",
            "tcb_info": json.dumps(tcb_info),
            "app_name": "fake",
            "device_id": "00" * 32,
            "mr_aggregated": "00" * 32,
            "os_image_hash": "00" * 32,
            "key_provider_info": '{"name":"none","id":""}',
            "compose_hash": COMPOSE_HASH,
            "vm_config": "{}",
        }


def _hex(asked: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(asked.get(name, ""))
    except (TypeError, ValueError):
        raise Refused(f"{name} is not hex") from None


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey
) -> str:
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2025, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2045, 1, 1, tzinfo=UTC))
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


class _Handler(BaseHTTPRequestHandler):
    server: Agent
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        status, body = self.server.answer(self.path, self.rfile.read(size))
        with contextlib.suppress(BrokenPipeError):  # the client gave up on us
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Tests keep standard error to themselves."""


@contextmanager
def serving(path: Path, quote: Quote) -> Iterator[Agent]:
    """An agent that answers on `path` while the block runs."""
    agent = Agent(path, quote)
    thread = threading.Thread(target=agent.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield agent
    finally:
        agent.shutdown()
        agent.server_close()
        thread.join()
