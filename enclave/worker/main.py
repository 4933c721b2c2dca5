"""Starts the worker: arguments in, one socket out, until a signal or orphanhood."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import uvloop

from enclave.engine.api import ChatEngine, Deliver, Embedder
from enclave.worker.process import (
    die_with_parent,
    harden,
    loop_exception_handler,
    private_directory,
    silence_content,
)
from enclave.worker.proto import worker_pb2_grpc as rpc
from enclave.worker.server import Loader, WorkerService
from enclave.worker.wire import SERVER_OPTIONS

STDIN = 0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    socket: Path
    rows: int
    context: int
    threads: int
    queue: int
    reader_patience_s: float


@dataclass(frozen=True, slots=True)
class EngineLoader:
    """Loads models with the real engine, imported only when a model asks for it."""

    options: WorkerOptions

    def chat(self, path: Path, *, id: str, pinned_digest: str, deliver: Deliver) -> ChatEngine:
        from enclave.engine import load_chat_engine

        return load_chat_engine(
            path,
            id=id,
            pinned_digest=pinned_digest or None,
            rows=self.options.rows,
            context=self.options.context,
            threads=self.options.threads,
            deliver=deliver,
        )

    def embedder(self, path: Path, *, id: str, pinned_digest: str) -> Embedder:
        from enclave.engine import load_embedder

        return load_embedder(
            path,
            id=id,
            pinned_digest=pinned_digest or None,
            threads=self.options.threads,
        )


def parse_options(argv: Sequence[str]) -> WorkerOptions:
    parser = argparse.ArgumentParser(
        prog="python -m enclave.worker",
        description="The engine process of a node. Started by the node, not by hand.",
    )
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--rows", type=_positive, required=True, help="completions at once")
    parser.add_argument("--context", type=_positive, required=True, help="tokens per completion")
    parser.add_argument("--threads", type=_positive, required=True)
    parser.add_argument("--queue", type=int, default=64, help="completions that may wait")
    parser.add_argument("--reader-patience-s", type=float, default=30.0)
    return WorkerOptions(**vars(parser.parse_args(argv)))


def main(
    argv: Sequence[str] | None = None,
    make_loader: Callable[[WorkerOptions], Loader] = EngineLoader,
) -> None:
    """Run the worker. Who starts the process chooses the loader; no argument does."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports onnxruntime
    options = parse_options(sys.argv[1:] if argv is None else argv)
    silence_content()
    harden()
    private_directory(options.socket.parent)
    die_with_parent(STDIN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options, make_loader(options)))


async def serve(options: WorkerOptions, loader: Loader) -> None:
    """Answer on the socket until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(loop_exception_handler)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = WorkerService(
        loader,
        rows=options.rows,
        queue=options.queue,
        reader_patience_s=options.reader_patience_s,
    )
    server = grpc.aio.server(options=SERVER_OPTIONS)
    rpc.add_WorkerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    options.socket.unlink(missing_ok=True)  # left by a worker that was killed
    server.add_insecure_port(f"unix:{options.socket}")
    await server.start()
    await stop.wait()
    service.close()
    await server.stop(grace=0.5)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
