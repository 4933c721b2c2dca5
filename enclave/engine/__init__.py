"""Language and embedding models on onnxruntime.

`ORT_DISABLE_TELEMETRY` is set here, before anything can import onnxruntime: its wheel carries
an uploader that writes under HOME and calls out. Only `ort.py` imports that package.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from pathlib import Path

from enclave.engine.api import ChatEngine, Deliver, Embedder


def load_chat_engine(
    path: Path,
    *,
    id: str,
    pinned_digest: str | None = None,
    rows: int = 8,
    context: int = 2048,
    threads: int = 2,
    deliver: Deliver,
) -> ChatEngine:
    """A running engine for the GGUF model at `path`. Raises ModelError.

    See `chat.load_chat_engine`; this door keeps onnxruntime out of processes that only need
    the value types.
    """
    from enclave.engine.chat import load_chat_engine as load

    return load(
        path,
        id=id,
        pinned_digest=pinned_digest,
        rows=rows,
        context=context,
        threads=threads,
        deliver=deliver,
    )


def load_embedder(
    path: Path,
    *,
    id: str,
    pinned_digest: str | None = None,
    threads: int = 2,
) -> Embedder:
    """The embedding model in folder `path`. Raises ModelError."""
    from enclave.engine.embedding import load_embedder as load

    return load(path, id=id, pinned_digest=pinned_digest, threads=threads)
