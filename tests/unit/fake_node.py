"""A node small enough to misbehave on demand: TLS, reports, receipts, and a knob for each lie.

It uses the real issuer, keyset, report and receipt code; only the HTTP server is its own.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from attestation.issuers.simulator import MeasuredState, SimulatorIssuer
from attestation.keyset import KeyEntry, Keyset, TlsKey
from attestation.onchain.receipt import (
    EvmReceipt,
    address_of,
    compact,
    key_entry,
    sign,
)
from attestation.receipts import (
    receipt_payload,
    request_forwarded,
    request_received,
    response_returned,
    sign_receipt,
    stream_truncated,
)
from attestation.report import build_report
from attestation.statement import report_data

SEED = b"a seed for the tests of a client"
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "A quiet answer, é."},
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5},
}


@lru_cache
def issuer(tee: str = "tdx", *, model: bytes = b"m", seed: bytes = SEED) -> SimulatorIssuer:
    digests = (hashlib.sha256(part).digest() for part in (b"code", b"config", model))
    return SimulatorIssuer(tee, seed, MeasuredState(*digests))


class TlsIdentity:
    """A P-256 key and a self-signed certificate for it."""

    def __init__(self, folder: Path, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .sign(key, hashes.SHA256())
        )
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.spki_sha256 = hashlib.sha256(spki).hexdigest()
        self.certificate_der = certificate.public_bytes(Encoding.DER)
        self.path = folder / f"{name}.pem"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.path.write_bytes(pem + certificate.public_bytes(Encoding.PEM))


class FakeNode:
    """One server. Every attribute set after construction is a way to misbehave."""

    def __init__(self, folder: Path, name: str, *, tee: str = "tdx", model: bytes = b"m") -> None:
        self.folder = folder
        self.issuer = issuer(tee, model=model)
        self.tls = TlsIdentity(folder, name)
        self.receipt_key = ed25519.Ed25519PrivateKey.generate()
        self.evm_key = hashlib.sha256(name.encode()).digest()
        self.edit_evm: Callable[[dict[str, Any]], Any] = lambda r: r
        self.evm_status = 200
        self.listed = [TlsKey(self.tls.spki_sha256)]
        self.not_after = int(time.time()) + 3600
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.receipts: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, tuple[bool, str]] = {}
        self.report_from: FakeNode = self
        self.fixed_report: bytes | None = None
        self.report_status = 200
        self.edit_report: Callable[[dict[str, Any]], Any] = lambda r: r
        self.edit_receipt: Callable[[dict[str, Any]], Any] = lambda r: r
        self.raw_receipt: tuple[int, bytes] | None = None
        self.receipt_delays = 0
        self.send_receipt_id = True
        self.receipt_id_header: str | None = None
        self.digest_header: str | None = ""
        self.redirect: str | None = None
        self.flip_response = False
        self.truncate: str | None = None
        self.status = 200
        self.content_encoding: str | None = None
        self.before_answer: Callable[[], None] = lambda: None
        self.after_answer: Callable[[], None] = lambda: None
        self.close_after_answer = False
        self.drop_receipts = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def keyset(self) -> Keyset:
        public = self.receipt_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return Keyset.build(
            subject=None,
            not_after=self.not_after,
            receipt_signing_keys=(
                KeyEntry("receipt-1", "ed25519", public.hex()),
                key_entry(address_of(self.evm_key)),
            ),
            tls_public_keys=tuple(self.listed),
        )

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    @property
    def root(self) -> bytes:
        return self.issuer.root_der

    @property
    def measurement(self) -> str:
        return self.issuer.measurement

    @property
    def prompts(self) -> list[bytes]:
        """Bodies of the requests that carried one."""
        return [body for method, _, _, body in self.requests if method == "POST"]

    def count(self, part: str) -> int:
        return sum(1 for _, path, _, _ in self.requests if part in path)

    def report(self, nonce: str | None) -> bytes:
        keyset = self.keyset
        document = build_report(
            keyset=keyset,
            nonce=nonce,
            evidence=self.issuer.issue(report_data(keyset.digest, nonce)),
            key_custody={"kind": "generated"},
        )
        return json.dumps(self.edit_report(document)).encode()

    def rotate(self, *, tls: bool = False) -> None:
        """New keys, as after a restart; with `tls` new connections get the new one too."""
        self.receipt_key = ed25519.Ed25519PrivateKey.generate()
        if tls:
            self.tls = TlsIdentity(self.folder, f"rotated-{time.monotonic_ns()}")
            self.listed = [TlsKey(self.tls.spki_sha256)]
            self.context.load_cert_chain(self.tls.path)

    def evm(self, receipt_id: str) -> bytes:
        """The EVM form of a receipt, under the context and salt its request asked for."""
        salted, context = self.asked[receipt_id]
        salt = hashlib.sha256(receipt_id.encode()).digest() if salted else bytes(32)
        document = self.receipts[receipt_id]
        receipt = EvmReceipt.from_document(document, salt=salt, context=bytes.fromhex(context))
        signature = sign(receipt, self.evm_key)
        r, vs = compact(signature)
        told = {
            "format": "adyton-evm-receipt/1",
            "receipt_id": receipt_id,
            "key_id": "evm-1",
            "signer": address_of(self.evm_key),
            "receipt": receipt.to_json(),
            "salt": "0x" + salt.hex(),
            "signature": "0x" + signature.hex(),
            "r": "0x" + r.hex(),
            "vs": "0x" + vs.hex(),
            "typed_data": receipt.typed_data(),
        }
        return json.dumps(self.edit_evm(told)).encode()

    def sign(self, path: str, request: bytes, response: bytes, cut: str | None) -> str:
        """Make and keep the receipt of one exchange; returns its id."""
        receipt_id = f"r{len(self.receipts) + 1:030x}"
        events = [
            request_received(hashlib.sha256(request).hexdigest()),
            request_forwarded(hashlib.sha256(request).hexdigest()),
            *([] if cut is None else [stream_truncated(cut)]),
            response_returned(hashlib.sha256(response).hexdigest()),
        ]
        payload = receipt_payload(
            receipt_id=receipt_id,
            chat_id="chatcmpl-1",
            model="m",
            keyset_digest=self.keyset.digest,
            endpoint=path,
            method="POST",
            served_at=int(time.time()),
            events=events,
        )
        payload = self.edit_receipt(payload)
        self.receipts[receipt_id] = sign_receipt(payload, "receipt-1", self.receipt_key)
        return receipt_id

    @contextmanager
    def running(self) -> Iterator[FakeNode]:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.tls.path)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        server.socket = self.context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._server = server
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def stream_chunks() -> list[bytes]:
    """An SSE answer in four writes, [DONE] in the last."""
    out = []
    for i, text in enumerate(("One", " two", " three")):
        delta = {"role": "assistant", "content": text} if i == 0 else {"content": text}
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        }
        out.append(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    out.append(b"data: [DONE]\n\n")
    return out


def _handler(node: FakeNode) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        timeout = 10

        def log_message(self, *_: Any) -> None:
            return

        def _note(self, body: bytes) -> None:
            headers = {k.lower(): v for k, v in self.headers.items()}
            self._digest = node.keyset.digest
            node.requests.append((self.command, self.path, headers, body))

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            if node.digest_header is not None:
                self.send_header("X-ACI-Keyset-Digest", node.digest_header or self._digest)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            named = {k.replace("_", "-"): v for k, v in headers.items()}
            kind = {"content-type": "application/json", "content-length": str(len(body))}
            self._head(status, kind | named)
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._note(b"")
            url = urlsplit(self.path)
            if node.redirect is not None and "/aci/" not in url.path:
                self._answer(307, b"", location=node.redirect)
            elif url.path == "/v1/aci/attestation":
                nonce = parse_qs(url.query)["nonce"][0]
                body = node.fixed_report or node.report_from.report(nonce)
                self._answer(node.report_status, body)
            elif url.path.endswith("/evm"):
                self._answer(node.evm_status, node.evm(url.path.split("/")[-2]))
            elif url.path.startswith("/v1/aci/receipts/"):
                self._receipt(url.path.rpartition("/")[2])
            elif url.path == "/v1/models":
                models = [{"id": "m", "object": "model", "created": 1, "owned_by": "us"}]
                self._answer(200, json.dumps({"object": "list", "data": models}).encode())
            else:
                self._answer(404, b'{"error":{"message":"no","type":"not_found"}}')

        def _receipt(self, receipt_id: str) -> None:
            if node.drop_receipts > 0 or node.raw_receipt == (-1, b""):
                node.drop_receipts -= 1
                self.close_connection = True
            elif node.raw_receipt is not None:
                self._answer(*node.raw_receipt)
            elif node.receipt_delays > 0:
                node.receipt_delays -= 1
                self._answer(404, b"{}")
            elif receipt_id in node.receipts and self.headers.get("authorization"):
                self._answer(200, json.dumps(node.receipts[receipt_id], indent=1).encode())
            else:
                self._answer(404, b'{"error":{"message":"no","type":"not_found"}}')

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._note(body)
            node.before_answer()
            if node.redirect is not None:
                self._answer(307, b"", location=node.redirect)
            elif json.loads(body).get("stream"):
                self._stream(body)
            else:
                self._plain(body)
            if node.close_after_answer:
                self.close_connection = True

        def _ids(self, receipt_id: str) -> dict[str, str]:
            if not node.send_receipt_id:
                return {}
            return {"x-receipt-id": node.receipt_id_header or receipt_id}

        def _remember(self, receipt_id: str) -> None:
            salted = self.headers.get("x-adyton-salt") != "none"
            node.asked[receipt_id] = salted, self.headers.get("x-adyton-context", "00" * 32)

        def _plain(self, body: bytes) -> None:
            document: dict[str, Any] = CHAT
            if node.status != 200:
                document = {"error": {"message": "refused", "type": "x"}}
            answer = json.dumps(document).encode()
            receipt_id = node.sign(self.path, body, answer, None)
            self._remember(receipt_id)
            if node.flip_response:
                answer = answer.replace(b"quiet", b"quieT")
            encoding = {}
            if node.content_encoding is not None:
                encoding = {"content-encoding": node.content_encoding}
            node.after_answer()
            self._answer(node.status, answer, **self._ids(receipt_id), **encoding)

        def _stream(self, body: bytes) -> None:
            chunks = stream_chunks()
            if node.truncate in ("no-done", "stated"):
                chunks = chunks[:-1]
            cut = "cut" if node.truncate in ("stated", "stated-with-done") else None
            receipt_id = node.sign(self.path, body, b"".join(chunks), cut)
            self._remember(receipt_id)
            kind = {"content-type": "text/event-stream; charset=utf-8"}
            self._head(200, kind | {"transfer-encoding": "chunked"} | self._ids(receipt_id))
            for i, chunk in enumerate(chunks):
                if node.truncate == "hang-up" and i == 2:
                    self.close_connection = True
                    return
                if node.flip_response and i == 1:
                    chunk = chunk.replace(b"two", b"twO")
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            node.after_answer()
            self.wfile.write(b"0\r\n\r\n")

    return Handler
