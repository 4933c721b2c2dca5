"""A GGUF file becomes a running chat engine."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from enclave.engine import ort
from enclave.engine.api import Deliver, EngineStats, ModelInfo, ModelKind, Sampling
from enclave.engine.batch import Batch
from enclave.engine.forward import Forward
from enclave.engine.gguf import GgufFile
from enclave.engine.graph import ConvertedModel, convert
from enclave.engine.memory import Region
from enclave.engine.template import ChatTemplate
from enclave.engine.tokenizer import ChatTokenizer
from enclave.errors import InvalidRequest, ModelError
from enclave.models import check_pin, model_digest

log = logging.getLogger(__name__)

PROBE_TOKENS: Final = 5


class LlamaEngine:
    """A chat model with its tokenizer, template and batch. See `api.ChatEngine`."""

    def __init__(
        self, info: ModelInfo, tokenizer: ChatTokenizer, template: ChatTemplate | None, batch: Batch
    ) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._template = template
        self._batch = batch

    @property
    def info(self) -> ModelInfo:
        return self._info

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        if self._template is None:
            raise InvalidRequest("messages", "this model has no chat template; use completions")
        return self._tokenizer.encode_segments(self._template.render(messages))

    def encode_text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> int:
        return self._batch.submit(prompt, sampling)

    def cancel(self, generation: int) -> None:
        self._batch.cancel(generation)

    def stats(self) -> EngineStats:
        return self._batch.stats()

    def close(self) -> None:
        self._batch.close()


def load_chat_engine(
    path: Path,
    *,
    id: str,
    pinned_digest: str | None = None,
    rows: int = 8,
    context: int = 2048,
    threads: int = 2,
    deliver: Deliver,
) -> LlamaEngine:
    """Load, check and start the GGUF model at `path`. Raises ModelError.

    The conversion happens in memory at every start: a stored copy would lie where the host can
    change it, and authenticating it would take about as long.
    """
    file = GgufFile.read(path)
    digest = model_digest({path.name: file.sha256})
    check_pin(digest, pinned_digest)
    model = convert(file, context)
    if context < 2 or context > model.shape.context:
        raise ModelError(f"context {context} is not within the model's {model.shape.context}")
    tokenizer = ChatTokenizer(file, model.shape.vocabulary)
    source = file.get("tokenizer.chat_template", str)
    template = source and ChatTemplate(source, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
    del file
    forward = open_forward(model, rows=rows, context=context, threads=threads)
    info = ModelInfo(
        id=id,
        kind=ModelKind.CHAT,
        model_digest=digest,
        context_length=context,
        vocab_size=model.shape.vocabulary,
    )
    return LlamaEngine(info, tokenizer, template or None, Batch(forward, tokenizer, deliver))


def open_forward(model: ConvertedModel, *, rows: int, context: int, threads: int) -> Forward:
    """A forward pass over `model`, holding each weight once. Empties `model.weights`.

    onnxruntime packs quantised operands into its own memory and then no longer reads ours, on
    the CPUs we know. That is tried rather than believed: the originals are released only if
    a probe gives the same logits with and without them.
    """
    packed = [n for n in model.weights if _is_packed(model, n)]
    region, copies = Region.holding([model.weights[n] for n in packed])
    model.weights.update(zip(packed, copies, strict=True))
    session = ort.open_session(model.graph, model.weights, threads=threads)
    forward = Forward(session, model.shape, model.embedding, rows, context)
    originals = [np.array(c) for c in copies]
    before = _probe(forward)
    region.release()
    if not np.array_equal(before, _probe(forward)):
        log.warning("onnxruntime reads weights in place here; keeping them")
        for copy, original in zip(copies, originals, strict=True):
            copy[...] = original
    model.weights.clear()
    del originals
    _trim()
    return forward


def _is_packed(model: ConvertedModel, name: str) -> bool:
    if name.startswith("logits.") and model.tied:
        return False  # the token embedding reads these
    return name.endswith((".codes", ".scales", ".zeros", ".residual"))


def _probe(forward: Forward) -> NDArray[np.float32]:
    """Logits of a short prompt and of a step after it; the row is cleared again."""
    tokens = np.arange(PROBE_TOKENS, dtype=np.int64) % forward.vocabulary
    first = forward.prefill(0, tokens, 0)
    second = forward.decode(tokens[:1], np.array([PROBE_TOKENS], np.int32))
    out = np.concatenate([first, second[0]])
    forward.cache.clear(0)
    return out


def _trim() -> None:
    """Give freed heap back to the system where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
