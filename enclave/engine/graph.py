"""A Llama-family GGUF becomes an ONNX graph for onnxruntime's CPU kernels.

Inputs per run, for `b` sequences of `s` new tokens each (b = 1 or s = 1), t = b * s:
`x` float32 (t, hidden) embeddings; `shape` int64 [b, s, -1]; `past_lengths` int32 (b,) = tokens
in the cache after this run, minus one; `total` int32 () = the longest of them, plus one;
`last` int64 (n,) = positions in 0..t-1 whose logits are wanted; per layer `k.<i>` and `v.<i>`
float32 (b, kv heads, context, head size), written in place. Output: `logits` (n, vocabulary).

Activations stay two-dimensional, so that one Gemm can add a Q4_1 residual to the quantised
product, and every product over the same input shares one set of block sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from enclave.engine.gguf import GgufFile
from enclave.engine.onnx_build import MS, GraphBuilder
from enclave.engine.weights import (
    BLOCK,
    BlockMatrix,
    Embedding,
    Matrix,
    matrix,
    pack_zeros,
    stack,
    vector,
)
from enclave.errors import ModelError

INT8_COMPUTE: Final = 4


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The dimensions a Llama-family model declares, checked against each other."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    context: int
    epsilon: float
    rope_base: float

    @classmethod
    def read(cls, file: GgufFile) -> LlamaShape:
        """From GGUF metadata. Raises ModelError where this engine would compute something else."""
        architecture = file.require("general.architecture", str)
        if architecture != "llama":
            raise ModelError(f"architecture {architecture!r} is not supported; llama is")
        heads = file.require("llama.attention.head_count", int)
        hidden = file.require("llama.embedding_length", int)
        if heads < 1 or hidden < 1:
            raise ModelError("GGUF metadata has no attention heads or no width")
        head_size = file.get("llama.attention.key_length", int, hidden // heads)
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None:
            raise ModelError("the GGUF file lacks tensor token_embd.weight")
        shape = cls(
            layers=file.require("llama.block_count", int),
            hidden=hidden,
            heads=heads,
            kv_heads=file.get("llama.attention.head_count_kv", int, heads),
            head_size=head_size,
            feed_forward=file.require("llama.feed_forward_length", int),
            vocabulary=embedding.rows,
            context=file.require("llama.context_length", int),
            epsilon=file.require("llama.attention.layer_norm_rms_epsilon", float),
            rope_base=file.get("llama.rope.freq_base", float, 10000.0),
        )
        shape._check(file)
        return shape

    def _check(self, file: GgufFile) -> None:
        counts = (self.layers, self.kv_heads, self.feed_forward, self.context)
        if min(counts) < 1 or self.heads % self.kv_heads or self.head_size % 2:
            raise ModelError("GGUF metadata describes no possible attention layer")
        if file.get("llama.attention.value_length", int, self.head_size) != self.head_size:
            raise ModelError("key and value heads of different size are not supported")
        if file.get("llama.rope.dimension_count", int, self.head_size) != self.head_size:
            raise ModelError("rotary embedding over part of a head is not supported")
        scaling = file.get("llama.rope.scaling.type", str, "none")
        if scaling != "none":
            raise ModelError(f"rope scaling {scaling!r} is not supported")
        for key in ("llama.expert_count", "llama.attention.sliding_window"):
            if file.get(key, int, 0):
                raise ModelError(f"GGUF metadata {key} is not supported")
        for name in file.tensors:
            if name.endswith(".bias"):
                raise ModelError(f"tensor {name}: biases are not supported")


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """A graph, the weights its external initialisers name, and what runs before it."""

    shape: LlamaShape
    graph: bytes
    weights: dict[str, NDArray[Any]]
    embedding: Embedding
    tied: bool


class _Builder(GraphBuilder):
    """A graph of exact products. Methods return the name of what they computed."""

    def __init__(self) -> None:
        super().__init__()
        self._block_sums: dict[str, str] = {}

    def product(self, x: str, m: Matrix, name: str) -> str:
        """x @ m.T for activations x (t, columns)."""
        if not isinstance(m, BlockMatrix):
            return self.node("MatMul", [x, self.weight(f"{name}.w", m.T)], name)
        quantised = f"{name}.q" if m.residual is not None else name
        operands = [self.weight(f"{name}.codes", m.codes), self.weight(f"{name}.scales", m.scales)]
        if m.zeros is not None:
            operands.append(self.weight(f"{name}.zeros", pack_zeros(m.zeros)))
        self.node(
            "MatMulNBits",
            [x, *operands],
            quantised,
            domain=MS,
            K=m.columns,
            N=m.rows,
            bits=m.bits,
            block_size=BLOCK,
            accuracy_level=INT8_COMPUTE,
        )
        if m.residual is None:
            return name
        residual = self.weight(f"{name}.residual", m.residual.T)
        return self.node("Gemm", [self.block_sums(x, m.columns), residual, quantised], name)

    def block_sums(self, x: str, columns: int) -> str:
        """Sums over each block of 32 inputs, computed once per activation: (t, blocks)."""
        if x not in self._block_sums:
            ones = self.weight(
                f"block_ones.{columns}",
                np.repeat(np.eye(columns // BLOCK, dtype=np.float32), BLOCK, axis=0),
            )
            self._block_sums[x] = self.node("MatMul", [x, ones], f"{x}.sums")
        return self._block_sums[x]

    def norm(self, x: str, skip: str | None, gamma: str, epsilon: float, name: str) -> list[str]:
        """[RMS norm of x (+ skip), the sum itself]."""
        if skip is None:
            self.node("SimplifiedLayerNormalization", [x, gamma], name, axis=-1, epsilon=epsilon)
            return [name, x]
        total = f"{name}.sum"
        self.node_with_outputs(
            "SkipSimplifiedLayerNormalization",
            [x, skip, gamma],
            [name, "", "", total],
            domain=MS,
            epsilon=epsilon,
        )
        return [name, total]


def convert(file: GgufFile, context: int) -> ConvertedModel:
    """The ONNX form of `file` for sequences up to `context` tokens. Raises ModelError."""
    shape = LlamaShape.read(file)
    b = _Builder()
    _rotary(b, file, shape, context)
    residual: str | None = None
    x = "x"
    for layer in range(shape.layers):
        x, residual = _layer(b, file, shape, layer, x=x, residual=residual)
    gamma = b.weight("output_norm", vector(file.tensor("output_norm.weight", 1, shape.hidden)))
    normed, _ = b.norm(x, residual, gamma, shape.epsilon, "final")
    embedding = Embedding(file.tensor("token_embd.weight", shape.vocabulary, shape.hidden))
    tied = "output.weight" not in file.tensors
    head = embedding.matrix
    if not tied:
        head = matrix(file.tensor("output.weight", shape.vocabulary, shape.hidden))
    b.product(normed, head, "logits")
    graph, weights = _serialise(b, shape)
    return ConvertedModel(shape, graph, weights, embedding, tied)


def _rotary(b: _Builder, file: GgufFile, shape: LlamaShape, context: int) -> None:
    half = shape.head_size // 2
    frequency = shape.rope_base ** (-np.arange(half, dtype=np.float64) / half)
    if "rope_freqs.weight" in file.tensors:  # Llama 3 lengthens the slow rotations
        frequency = frequency / vector(file.tensor("rope_freqs.weight", 1, half))
    angle = np.arange(context, dtype=np.float64)[:, None] * frequency
    b.weight("rotary.cos", np.cos(angle).astype(np.float32))
    b.weight("rotary.sin", np.sin(angle).astype(np.float32))


def _layer(
    b: _Builder, file: GgufFile, s: LlamaShape, i: int, *, x: str, residual: str | None
) -> tuple[str, str]:
    """One transformer block: ([layer output before the residual], [residual])."""

    def load(name: str, rows: int, columns: int, rotary_heads: int = 0) -> Matrix:
        return matrix(file.tensor(f"blk.{i}.{name}.weight", rows, columns), rotary_heads)

    def gamma(name: str) -> str:
        t = file.tensor(f"blk.{i}.{name}.weight", 1, s.hidden)
        return b.weight(f"{name}.{i}", vector(t))

    q_size, kv_size = s.heads * s.head_size, s.kv_heads * s.head_size
    normed, residual = b.norm(x, residual, gamma("attn_norm"), s.epsilon, f"attn_norm.{i}.out")
    qkv = _joined(
        b,
        normed,
        [
            load("attn_q", q_size, s.hidden, s.heads),
            load("attn_k", kv_size, s.hidden, s.kv_heads),
            load("attn_v", kv_size, s.hidden),
        ],
        f"qkv.{i}",
    )
    attended = _attention(b, s, i, qkv, q_size)
    if i == s.layers - 1:
        # Only these positions are ever asked about; the rest stops here.
        attended = b.node("Gather", [attended, "last"], "last.attended", axis=0)
        residual = b.node("Gather", [residual, "last"], "last.residual", axis=0)
    out = b.product(attended, load("attn_output", s.hidden, q_size), f"attn_output.{i}")
    normed, residual = b.norm(out, residual, gamma("ffn_norm"), s.epsilon, f"ffn_norm.{i}.out")
    gate = b.product(normed, load("ffn_gate", s.feed_forward, s.hidden), f"gate.{i}")
    up = b.product(normed, load("ffn_up", s.feed_forward, s.hidden), f"up.{i}")
    gate = b.node("QuickGelu", [gate], f"silu.{i}", domain=MS, alpha=1.0)
    wide = b.node("Mul", [gate, up], f"wide.{i}")
    down = b.product(wide, load("ffn_down", s.hidden, s.feed_forward), f"down.{i}")
    return down, residual


def _joined(b: _Builder, x: str, parts: list[Matrix], name: str) -> str:
    together = stack(parts)
    if together is not None:
        return b.product(x, together, name)
    outs = [b.product(x, part, f"{name}.{n}") for n, part in enumerate(parts)]
    return b.node("Concat", outs, name, axis=-1)


def _attention(b: _Builder, s: LlamaShape, i: int, qkv: str, q_size: int) -> str:
    folded = b.node("Reshape", [qkv, "shape"], f"qkv3.{i}")
    out = f"attended3.{i}"
    inputs = [folded, "", "", f"k.{i}", f"v.{i}", "past_lengths", "total"]
    b.node_with_outputs(
        "GroupQueryAttention",
        [*inputs, "rotary.cos", "rotary.sin"],
        [out, f"k.{i}.new", f"v.{i}.new"],
        domain=MS,
        num_heads=s.heads,
        kv_num_heads=s.kv_heads,
        do_rotary=1,
        scale=float(s.head_size**-0.5),
    )
    flat = b.weight("flat", np.array([-1, q_size], np.int64))
    return b.node("Reshape", [out, flat], f"attended.{i}")


def _serialise(b: _Builder, s: LlamaShape) -> tuple[bytes, dict[str, NDArray[Any]]]:
    f32, i64, i32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
    cache: list[str | int | None] = ["b", s.kv_heads, "context", s.head_size]
    inputs = [
        helper.make_tensor_value_info("x", f32, ["t", s.hidden]),
        helper.make_tensor_value_info("shape", i64, [3]),
        helper.make_tensor_value_info("past_lengths", i32, ["b"]),
        helper.make_tensor_value_info("total", i32, []),
        helper.make_tensor_value_info("last", i64, ["n"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", f32, ["n", s.vocabulary])]
    for i in range(s.layers):
        for side in ("k", "v"):
            inputs.append(helper.make_tensor_value_info(f"{side}.{i}", f32, cache))
            outputs.append(helper.make_tensor_value_info(f"{side}.{i}.new", f32, cache))
    return b.serialise("llama", inputs, outputs)
