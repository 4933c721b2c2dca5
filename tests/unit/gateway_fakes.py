"""A whole node in one process whose engine says what a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from attestation.issuers.simulator import MeasuredState, SimulatorIssuer
from enclave.worker.proto import worker_pb2 as pb
from enclave.worker.supervisor import WorkerState
from gateway.app import make_app
from gateway.node import Node
from gateway.settings import Limits, Settings
from gateway.storage import ApiKeyStore, Database

CHAT = "echo"
EMBEDDER = "vectors"
DIGEST = "sha256:" + "ab" * 32
Script = Callable[[pb.GenerateRequest], AsyncGenerator[pb.GenerateEvent, None]]


async def hello(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
    """Says "Hello, world" in three pieces."""
    yield pb.GenerateEvent(prompt_tokens=5)
    for number, text in enumerate(["Hello", ", ", "world"], 1):
        yield pb.GenerateEvent(prompt_tokens=5, text=text, completion_tokens=number)
    yield pb.GenerateEvent(
        prompt_tokens=5, completion_tokens=3, finish_reason=pb.FINISH_REASON_STOP
    )


@dataclass
class FakeEngine:
    """The worker's client, scripted. `asked` are the requests it saw, `closed` how many ended."""

    script: Script = hello
    asked: list[pb.GenerateRequest] = field(default_factory=list)
    closed: int = 0
    failure: Exception | None = None

    async def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateEvent, None]:
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        events = self.script(request)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()
            self.closed += 1

    async def embed(self, model: str, texts: list[str]) -> pb.EmbedResponse:
        if self.failure is not None:
            raise self.failure
        vectors = [pb.Embedding(values=[0.5, -0.5, float(len(t))]) for t in texts]
        return pb.EmbedResponse(embeddings=vectors, prompt_tokens=len(texts))

    async def health(self, timeout_s: float = 5.0) -> pb.HealthResponse:
        return pb.HealthResponse(rows_total=8)


@dataclass
class FakeSupervisor:
    client: FakeEngine
    ready: bool = True
    restarts: int = 0
    pid: int | None = None
    state: WorkerState = WorkerState.READY
    models: list[pb.ModelInfo] = field(
        default_factory=lambda: [
            pb.ModelInfo(id=CHAT, kind=pb.MODEL_KIND_CHAT, model_digest=DIGEST),
            pb.ModelInfo(id=EMBEDDER, kind=pb.MODEL_KIND_EMBEDDING, model_digest=DIGEST),
        ]
    )

    async def stop(self, drain_timeout_s: float = 10.0) -> None:
        self.ready = False


@dataclass
class FakeNode:
    """A node, the engine behind it, and a client that holds a key."""

    node: Node
    engine: FakeEngine
    supervisor: FakeSupervisor
    client: httpx.AsyncClient
    key: str
    app: Any

    async def receipt(self, answer: httpx.Response) -> dict[str, Any]:
        found = await self.client.get(f"/v1/aci/receipts/{answer.headers['x-receipt-id']}")
        assert found.status_code == 200, found.text
        return dict(found.json())

    async def events(self, answer: httpx.Response) -> dict[str, dict[str, Any]]:
        return {event["type"]: event for event in (await self.receipt(answer))["event_log"]}


@asynccontextmanager
async def fake_node(
    state_dir: Path, limits: Limits | None = None, *, key_name: str = "tester", **changes: Any
) -> AsyncGenerator[FakeNode, None]:
    settings = replace(
        Settings(tee="simulator", state_dir=state_dir, limits=limits or Limits()), **changes
    )
    state_dir.mkdir(parents=True, exist_ok=True)
    engine = FakeEngine()
    supervisor = FakeSupervisor(engine)
    database = Database.open(state_dir / "node.db")
    measured = MeasuredState(bytes(32), bytes(32), bytes(32))
    node = Node(
        settings,
        issuer=SimulatorIssuer(settings.sim_tee, b"\x07" * 32, measured),
        database=database,
        supervisor=supervisor,  # type: ignore[arg-type]
    )
    key = await ApiKeyStore(database).create(key_name)
    app = make_app(node)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="https://node", headers=headers
        ) as client:
            yield FakeNode(node, engine, supervisor, client, key, app)
    finally:
        await node.stop()


def chat(**more: Any) -> dict[str, Any]:
    return {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}], **more}


class Wire:
    """One request at the ASGI boundary, for clients that leave and servers that hang."""

    def __init__(self, fake: FakeNode, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": raw, "more_body": False})
        self.sent: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()
        self.blocked: asyncio.Event | None = None
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "root_path": "",
            "scheme": "https",
            "query_string": b"",
            "server": ("node", 443),
            "client": ("test", 1),
            "headers": [
                (b"content-type", b"application/json"),
                (b"authorization", f"Bearer {fake.key}".encode()),
            ],
        }
        run: Callable[..., Awaitable[None]] = fake.app
        self.task = asyncio.create_task(_awaited(run(scope, self._incoming.get, self._send)))

    async def _send(self, message: dict[str, Any]) -> None:
        if self.blocked is not None:
            await self.blocked.wait()
        self.sent.append(message)
        self.arrived.set()

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def until_text(self) -> None:
        while b"Hello" not in self.body:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), 5)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent)

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.sent[0]["headers"]}


async def _awaited(run: Awaitable[None]) -> None:
    await run
