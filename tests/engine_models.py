"""Models for engine tests: the packaged one, loaded once a run, and tiny ones written to order."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize

from enclave.engine.chat import open_forward
from enclave.engine.forward import Forward
from enclave.engine.gguf import GgufFile
from enclave.engine.graph import convert
from enclave.engine.tokenizer import ChatTokenizer, Segment
from enclave.models import default_chat_model

VECTORS = Path(__file__).parent / "vectors" / "engine"
CONTEXT = 384
ROWS = 8


@cache
def packaged_file() -> GgufFile:
    return GgufFile.read(default_chat_model())


@cache
def packaged_tokenizer() -> ChatTokenizer:
    return ChatTokenizer(packaged_file(), 49152)


@cache
def packaged_forward() -> Forward:
    return open_forward(convert(packaged_file(), CONTEXT), rows=ROWS, context=CONTEXT, threads=2)


@cache
def kl_tokens() -> tuple[int, ...]:
    text = (VECTORS / "kl.txt").read_text()
    return tuple(packaged_tokenizer().encode_segments([Segment(text, trusted=True)]))


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


TINY: dict[str, Any] = {
    "hidden": 64,
    "heads": 2,
    "kv_heads": 1,
    "layers": 2,
    "feed_forward": 96,
    "vocabulary": 128,
}


def write_tiny(
    path: Path,
    kind: str = "F32",
    *,
    tied: bool = False,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    skip: tuple[str, ...] = (),
    architecture: str = "llama",
) -> Path:
    """A random Llama of this tensor type. `metadata` and `tensors` replace or add entries."""
    t = TINY
    rng = np.random.default_rng(5)
    w = gguf.GGUFWriter(path, architecture)
    numbers: dict[str, Any] = {
        "llama.block_count": t["layers"],
        "llama.context_length": 64,
        "llama.embedding_length": t["hidden"],
        "llama.feed_forward_length": t["feed_forward"],
        "llama.attention.head_count": t["heads"],
        "llama.attention.head_count_kv": t["kv_heads"],
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        **(metadata or {}),
    }
    for key, value in numbers.items():
        if value is None:
            continue
        if isinstance(value, str):
            w.add_string(key, value)
        elif isinstance(value, float):
            w.add_float32(key, value)
        else:
            w.add_uint32(key, value)
    _vocabulary(w, t["vocabulary"])
    head = t["hidden"] // t["heads"]
    shapes = {"token_embd.weight": (t["vocabulary"], t["hidden"])}
    for i in range(t["layers"]):
        for name, rows, columns in (
            ("attn_q", t["hidden"], t["hidden"]),
            ("attn_k", t["kv_heads"] * head, t["hidden"]),
            ("attn_v", t["kv_heads"] * head, t["hidden"]),
            ("attn_output", t["hidden"], t["hidden"]),
            ("ffn_gate", t["feed_forward"], t["hidden"]),
            ("ffn_up", t["feed_forward"], t["hidden"]),
            ("ffn_down", t["hidden"], t["feed_forward"]),
        ):
            shapes[f"blk.{i}.{name}.weight"] = (rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{i}.{name}.weight"] = (t["hidden"],)
    shapes["output_norm.weight"] = (t["hidden"],)
    if not tied:
        shapes["output.weight"] = (t["vocabulary"], t["hidden"])
    for name, shape in shapes.items():
        if name in skip:
            continue
        norm = len(shape) == 1
        values = rng.standard_normal(shape).astype(np.float32) * (0.1 if norm else 0.25)
        _add(w, name, values + norm, "F32" if norm else kind)
    for name, (values, stored) in (tensors or {}).items():
        _add(w, name, values, stored)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _add(w: gguf.GGUFWriter, name: str, values: Any, kind: str) -> None:
    stored = gguf.GGMLQuantizationType[kind]
    if kind == "F32":
        w.add_tensor(name, values.astype(np.float32))
    else:
        w.add_tensor(name, quantize(values.astype(np.float32), stored), raw_dtype=stored)


def _vocabulary(w: gguf.GGUFWriter, size: int) -> None:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens += [chr(c) for c in range(0x21, 0x7F)]
    tokens += ["ab"] + [chr(c) for c in range(0xAE, 0xAE + size - len(tokens) - 1)]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3, 3, 3] + [1] * (size - 3))
    w.add_token_merges(["a b"])
    w.add_eos_token_id(2)
    w.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
