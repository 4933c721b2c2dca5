"""What the gateway costs: `python -m bench.gateway [--json]`.

The same engine is asked twice, taking turns: directly in a process of its own, and through
a node (TLS, HTTP, parsing, API key, gRPC, hashes, a durable signed receipt for each
request). Its clients run in this process and read bytes without understanding them; what
they cost counts against the node. The last line with `--json` is one object:
`overhead_tokens`, the fraction of tokens/s lost at 8 streams, and `ttft_ms`, what is added
to the time until the first token of one stream. Tokens/s are the best of each side's
rounds, since others on the machine can only slow it down; the first token's delay is the
median over pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

ROWS: Final = 8
CONTEXT: Final = 1024
THREADS: Final = 2
TOKENS: Final = 128
REST_S: Final = 0.2
"""The engine's threads spin for a while after their work; nobody is measured meanwhile."""
NO_END: Final = {0: -100.0, 2: -100.0}
"""SmolLM2's two end tokens, made impossible, so that every run has the same length."""


def conversation(stream: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me all you know about the number {stream}."}]


# --- the engine alone, in a process of its own ---------------------------------------


def serve_directly() -> None:
    """Answer measurement commands, one JSON line each, until standard input ends."""
    from enclave.engine import load_chat_engine
    from enclave.engine.api import EventBatch, Sampling
    from enclave.models import default_chat_model

    events: queue.SimpleQueue[EventBatch] = queue.SimpleQueue()
    engine = load_chat_engine(
        default_chat_model(),
        id="m",
        rows=ROWS,
        context=CONTEXT,
        threads=THREADS,
        deliver=events.put,
    )

    def run(streams: int, tokens: int) -> dict[str, float]:
        started = time.perf_counter()
        first = 0.0
        running = set()
        sampling = Sampling(temperature=0, max_tokens=tokens, logit_bias=NO_END)
        for stream in range(streams):
            running.add(engine.submit(engine.encode_chat(conversation(stream)), sampling))
        while running:
            for generation, event in events.get():
                if event.error is not None:
                    raise event.error
                if event.text and not first:
                    first = time.perf_counter() - started
                if event.finish_reason is not None:
                    running.discard(generation)
        return {"first": first, "total": time.perf_counter() - started}

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
    engine.close()


class Direct:
    """The engine process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.gateway", "--direct"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the engine process ended")
        return json.loads(line)

    def run(self, streams: int, tokens: int) -> dict[str, float]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"streams": streams, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        return dict(self._read())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


# --- the same through a node ---------------------------------------------------------


class Reader(asyncio.Protocol):
    """Counts events and notices the end, as cheaply as a client can."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._done: asyncio.Future[float] | None = None
        self._events = 0
        self.first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._events += data.count(b"data: {")
        if self._events > 1 and not self.first:
            self.first = time.perf_counter()
        if self._done and b"\r\n0\r\n\r\n" in data[-16:] and not self._done.done():
            if b"[DONE]" not in data:
                self._done.set_exception(RuntimeError(data.decode(errors="replace")))
            else:
                self._done.set_result(time.perf_counter())

    def ask(self, request: bytes) -> asyncio.Future[float]:
        self._events, self.first = 0, 0.0
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._done


class Node:
    """A simulated node and connections to it that are already open."""

    def __init__(self, state_dir: Path) -> None:
        command = [sys.executable, "-m", "gateway"]
        options = ["--rows", str(ROWS), "--context", str(CONTEXT), "--threads", str(THREADS)]
        state = ["--state-dir", str(state_dir), "--json"]
        self._process = subprocess.Popen(
            [*command, "serve", "--tee", "simulator", "--port", "0", *state, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the node did not start")
        self._facts = json.loads(line)
        made = subprocess.run(
            [*command, "keys", "create", "bench", *state], capture_output=True, check=True
        )
        self._key = json.loads(made.stdout)["key"]
        self._readers: list[Reader] = []

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        parts = urlsplit(self._facts["url"])
        tls = ssl.create_default_context(cafile=self._facts["tls_cert"])
        for _ in range(ROWS):
            _, reader = await loop.create_connection(Reader, parts.hostname, parts.port, ssl=tls)
            self._readers.append(reader)

    async def run(self, streams: int, tokens: int) -> dict[str, float]:
        requests = [self._request(stream, tokens) for stream in range(streams)]
        readers = self._readers[:streams]
        started = time.perf_counter()
        asked = [reader.ask(r) for reader, r in zip(readers, requests, strict=True)]
        ended = await asyncio.gather(*asked)
        return {
            "first": min(reader.first for reader in readers) - started,
            "total": max(ended) - started,
        }

    def _request(self, stream: int, tokens: int) -> bytes:
        body = json.dumps(
            {
                "model": self._facts["models"][0],
                "messages": conversation(stream),
                "max_tokens": tokens,
                "temperature": 0,
                "logit_bias": {str(token): bias for token, bias in NO_END.items()},
                "stream": True,
            }
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: node\r\n"
            f"authorization: Bearer {self._key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


async def in_turn(
    direct: Direct, node: Node, streams: int, tokens: int, *, node_first: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """The same work for both, one after the other, each on a machine the other has left."""
    if node_first:
        await asyncio.sleep(REST_S)
        through = await node.run(streams, tokens)
    await asyncio.sleep(REST_S)
    alone = direct.run(streams, tokens)
    if not node_first:
        await asyncio.sleep(REST_S)
        through = await node.run(streams, tokens)
    return alone, through


async def measure(
    direct: Direct, node: Node, rounds: int, say: Callable[[str], None]
) -> dict[str, float]:
    await node.connect()
    await node.run(ROWS, 16)
    direct.run(ROWS, 16)
    alone, through = [], []
    for number in range(rounds):
        one, other = await in_turn(direct, node, ROWS, TOKENS, node_first=number % 2 == 1)
        alone.append(ROWS * TOKENS / one["total"])
        through.append(ROWS * TOKENS / other["total"])
        say(
            f"round {number + 1}: {alone[-1]:.1f} tokens/s alone, "
            f"{through[-1]:.1f} through the node"
        )
    added = []
    for number in range(rounds * 8):
        one, other = await in_turn(direct, node, 1, 4, node_first=number % 2 == 1)
        added.append(other["first"] - one["first"])
    return {
        "overhead_tokens": round(1 - max(through) / max(alone), 4),
        "ttft_ms": round(statistics.median(added) * 1000, 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.direct:
        serve_directly()
        return

    def say(text: str) -> None:
        print(text, file=sys.stderr if chosen.json else sys.stdout, flush=True)

    direct = Direct()
    with tempfile.TemporaryDirectory(prefix="adyton-bench-") as folder:
        node = Node(Path(folder) / "state")
        try:
            result = asyncio.run(measure(direct, node, chosen.rounds, say))
        finally:
            node.close()
            direct.close()
    say(f"tokens/s lost at {ROWS} streams: {result['overhead_tokens']:.1%} (goal 5%)")
    say(f"added to the first token: {result['ttft_ms']:.2f} ms (goal 3 ms)")
    if chosen.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
