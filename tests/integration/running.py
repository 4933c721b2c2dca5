"""Real nodes for tests: started as a person starts them, asked over TLS, killed as needed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

CHAT = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
START_S = 120.0


GIVEN_KEY = "adt-" + "k" * 43
"""An API key the shared node is started with, known to it by digest alone."""


def gateway(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m gateway ARGUMENTS`, to its end."""
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=START_S, check=False, **options
    )


@dataclass
class RunningNode:
    """A node in a process of its own. `facts` is its ready line."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]
    state_dir: Path
    log: Path
    _keys: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname and parts.port
        return parts.hostname, parts.port

    def key(self, name: str = "main", *options: str) -> str:
        """The API key of this name, made when first asked for."""
        if name not in self._keys:
            made = gateway(
                "keys", "create", name, "--state-dir", str(self.state_dir), "--json", *options
            )
            assert made.returncode == 0, made.stderr
            self._keys[name] = json.loads(made.stdout)["key"]
        return self._keys[name]

    def tls(self) -> ssl.SSLContext:
        """Trusts the node's own certificate and nothing else."""
        return ssl.create_default_context(cafile=self.facts["tls_cert"])

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """A client that presents `key` (the main one unless told; "" for none)."""
        key = self.key() if key is None else key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(
            base_url=self.url, verify=self.tls(), headers=headers, timeout=60, **options
        )

    def socket(self) -> ssl.SSLSocket:
        """A bare TLS connection, for clients that misbehave."""
        raw = socket.create_connection(self.address, timeout=30)
        return self.tls().wrap_socket(raw, server_hostname=self.address[0])

    def worker(self) -> psutil.Process:
        """The engine worker that runs now."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # a zombie has no command line
                if "enclave.worker" in child.cmdline():
                    return child
        raise AssertionError("no worker is running")

    def metric(self, name: str) -> float:
        """The value of one line of /metrics, labels and all."""
        with self.client("") as client:
            for line in client.get("/metrics").text.splitlines():
                if line.startswith(name + " "):
                    return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")

    def until(self, holds: Any, timeout_s: float = 30.0, what: str = "it") -> None:
        """Wait for a condition that must come true soon."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert self.process.poll() is None, f"the node ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{what} did not happen"
            time.sleep(0.05)

    def kill(self) -> None:
        """As the kernel or the power supply would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """As an operator would; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return self.process.returncode


def start(
    state_dir: Path, *options: str, environment: dict[str, str] | None = None, name: str = "node"
) -> RunningNode:
    """A simulated node on a free port, once it says that it is ready."""
    log = state_dir.parent / f"{state_dir.name}-{name}-{time.monotonic_ns()}.log"
    command = [
        *(sys.executable, "-m", "gateway", "serve", "--tee", "simulator", "--port", "0"),
        *("--state-dir", str(state_dir), "--json", *options),
    ]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(10)
        raise AssertionError(f"the node did not start: {log.read_text()[-2000:]}")
    return RunningNode(process, json.loads(line), state_dir, log)


@contextmanager
def running(state_dir: Path, *options: str, **more: Any) -> Iterator[RunningNode]:
    node = start(state_dir, *options, **more)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.process.kill()
        node.process.wait(10)


def chat(content: str = "Say hello.", **more: Any) -> dict[str, Any]:
    """A chat request's body; greedy and short unless told otherwise."""
    return {
        "model": CHAT,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 0,
        **more,
    }


def events_of(raw: bytes) -> list[Any]:
    """The data of every server-sent event, parsed; "[DONE]" stays a string."""
    out: list[Any] = []
    for block in raw.split(b"\n\n"):
        if block:
            assert block.startswith(b"data: ") and b"\n" not in block
            data = block.removeprefix(b"data: ")
            out.append(data.decode() if data == b"[DONE]" else json.loads(data))
    return out


def receipt_events(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {event["type"]: event for event in document["event_log"]}


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def post_raw(path: str, key: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
    """A POST in bytes, for connections that are then treated badly."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: node",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
