"""A Llama forward pass in plain numpy, written for clarity and sharing no code with the engine.

Tensors are dequantised by the `gguf` package and used as float32 in the order llama.cpp stores
them: query and key rows keep their interleaved halves, so rotation is over adjacent pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def reference_logits(path: Path, tokens: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits (len(tokens), vocabulary) in float32."""
    reader = GGUFReader(path)
    stored = {t.name: t for t in reader.tensors}

    def number(name: str) -> float:
        return float(reader.fields[name].contents())

    def weight(name: str) -> Any:
        t = stored[name]
        return dequantize(t.data, t.tensor_type).astype(np.float32)

    heads = int(number("llama.attention.head_count"))
    kv_heads = int(number("llama.attention.head_count_kv"))
    epsilon = number("llama.attention.layer_norm_rms_epsilon")
    base = number("llama.rope.freq_base")

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight(name)

    embedding = weight("token_embd.weight")
    x = embedding[tokens]
    n, hidden = x.shape
    size = hidden // heads
    angles = np.outer(np.arange(n), base ** (-np.arange(0, size, 2) / size))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def rotate(v: Any) -> Any:
        a, b = v[..., 0::2], v[..., 1::2]
        return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(v.shape)

    hidden_future = np.triu(np.full((n, n), -np.inf), 1)
    for i in range(int(number("llama.block_count"))):
        h = norm(x, f"blk.{i}.attn_norm.weight")
        q = rotate((h @ weight(f"blk.{i}.attn_q.weight").T).reshape(n, heads, size))
        k = rotate((h @ weight(f"blk.{i}.attn_k.weight").T).reshape(n, kv_heads, size))
        v = (h @ weight(f"blk.{i}.attn_v.weight").T).reshape(n, kv_heads, size)
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size) + hidden_future
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", p, v).reshape(n, heads * size)
        x = x + mixed.astype(np.float32) @ weight(f"blk.{i}.attn_output.weight").T
        h = norm(x, f"blk.{i}.ffn_norm.weight")
        gate = h @ weight(f"blk.{i}.ffn_gate.weight").T
        wide = gate / (1 + np.exp(-gate)) * (h @ weight(f"blk.{i}.ffn_up.weight").T)
        x = x + wide @ weight(f"blk.{i}.ffn_down.weight").T
    head = "output.weight" if "output.weight" in stored else "token_embd.weight"
    logits = (
        norm(x, "output_norm.weight")
        @ (embedding if head == "token_embd.weight" else weight(head)).T
    )
    return np.asarray(logits, np.float32)


def divergence(reference: Any, ours: Any) -> tuple[float, float]:
    """(mean KL(reference || ours) in nats, share of positions with the same first choice)."""

    def log_softmax(x: Any) -> Any:
        x = x.astype(np.float64)
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    p, q = log_softmax(reference), log_softmax(ours)
    kl = (np.exp(p) * (p - q)).sum(-1).mean()
    return float(kl), float((reference.argmax(-1) == ours.argmax(-1)).mean())
