"""A BERT sentence-embedding folder (all-MiniLM-L6-v2 and its kin) becomes unit vectors.

Weights come from `model.safetensors`; the graph is emitted here. Mean pooling followed by
normalisation equals a masked sum followed by normalisation, which is what is computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors import SafetensorError
from tokenizers import Tokenizer

from enclave.engine import ort
from enclave.engine.api import ModelInfo, ModelKind
from enclave.engine.onnx_build import MS, GraphBuilder
from enclave.errors import InvalidRequest, ModelError
from enclave.models import ModelFolder, check_pin

F32 = NDArray[np.float32]
MAX_TEXTS: Final = 2048
BATCH_TOKENS: Final = 4096


@dataclass(frozen=True, slots=True)
class BertShape:
    """What the folder's configuration says, restricted to what is computed here."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    max_tokens: int
    epsilon: float

    @classmethod
    def read(cls, folder: ModelFolder) -> BertShape:
        """Raises ModelError for another architecture, activation or pooling."""
        config = _json(folder, "config.json")
        limits = _json(folder, "sentence_bert_config.json")
        pooling = _json(folder, "1_Pooling/config.json")
        for key, expected in (
            ("model_type", "bert"),
            ("hidden_act", "gelu"),
            ("position_embedding_type", "absolute"),
        ):
            if config.get(key, expected) != expected:
                raise ModelError(f"{key} {config[key]!r} is not supported; {expected} is")
        modes = {k for k, on in pooling.items() if k.startswith("pooling_mode_") and on}
        if modes != {"pooling_mode_mean_tokens"}:
            raise ModelError("only mean pooling is supported")
        kinds = [str(m.get("type", "")).rsplit(".", 1)[-1] for m in _modules(folder)]
        if kinds != ["Transformer", "Pooling", "Normalize"]:
            raise ModelError(f"sentence-transformers modules {kinds} are not supported")
        try:
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=int(config["hidden_size"]),
                heads=int(config["num_attention_heads"]),
                vocabulary=int(config["vocab_size"]),
                max_tokens=min(
                    int(limits["max_seq_length"]), int(config["max_position_embeddings"])
                ),
                epsilon=float(config["layer_norm_eps"]),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise ModelError(f"the model's configuration lacks a number: {e}") from None


class BertEmbedder:
    """See `api.Embedder`. Thread-safe."""

    def __init__(
        self, info: ModelInfo, tokenizer: Tokenizer, session: ort.Session, table: _InputTable
    ) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._session = session
        self._table = table

    @property
    def info(self) -> ModelInfo:
        return self._info

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens per text, the two markers included. Raises InvalidRequest."""
        return [len(ids) for ids in self._encode(texts)]

    def embed(self, texts: Sequence[str]) -> tuple[F32, int]:
        """Unit rows (len(texts), embedding_size) and tokens used. Raises InvalidRequest."""
        encoded = self._encode(texts)
        longest = self._info.context_length
        for i, ids in enumerate(encoded):
            if len(ids) > longest:
                raise InvalidRequest(
                    "input",
                    f"input[{i}] has {len(ids)} tokens; this model takes {longest}",
                    "context_length_exceeded",
                )
        out = np.empty((len(encoded), self._info.embedding_size), np.float32)
        for group in _groups([len(ids) for ids in encoded]):
            out[group] = self._run([encoded[i] for i in group])
        return out, sum(len(ids) for ids in encoded)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts or len(texts) > MAX_TEXTS:
            raise InvalidRequest("input", f"input must hold 1 to {MAX_TEXTS} texts")
        if not all(isinstance(t, str) and t for t in texts):
            raise InvalidRequest("input", "every input must be a non-empty string")
        try:
            return [e.ids for e in self._tokenizer.encode_batch(list(texts))]
        except (UnicodeEncodeError, TypeError):
            raise InvalidRequest("input", "the text holds an unpaired surrogate") from None

    def _run(self, encoded: list[list[int]]) -> F32:
        width = max(len(ids) for ids in encoded)
        tokens = np.zeros((len(encoded), width), np.int64)
        mask = np.zeros((len(encoded), width), np.int32)
        for row, ids in enumerate(encoded):
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        feeds = {"x": self._table.lookup(tokens), "mask": mask}
        pooled: F32 = self._session.call("pooled", feeds)
        norms = np.linalg.norm(pooled, axis=1, keepdims=True)
        unit: F32 = pooled / np.maximum(norms, np.float32(1e-9))
        return unit


class _InputTable:
    """Word, position and type embeddings added up, before the first norm."""

    def __init__(self, words: F32, positions: F32, types: F32) -> None:
        self._words = words
        self._rest = positions + types[0]

    def lookup(self, tokens: NDArray[np.int64]) -> F32:
        out: F32 = self._words[tokens] + self._rest[: tokens.shape[1]]
        return out


def load_embedder(
    path: Path,
    *,
    id: str,
    pinned_digest: str | None = None,
    threads: int = 2,
) -> BertEmbedder:
    """Load and check the embedding model in folder `path`. Raises ModelError."""
    folder = ModelFolder(path)
    shape = BertShape.read(folder)
    vocabulary = folder.read("tokenizer.json")
    stored = folder.read("model.safetensors")
    digest = folder.digest()
    check_pin(digest, pinned_digest)
    try:
        weights = safetensors.numpy.load(stored)
    except (SafetensorError, ValueError, KeyError) as e:
        raise ModelError(f"model.safetensors cannot be read: {type(e).__name__}") from None
    del stored
    tokenizer = _tokenizer(vocabulary)
    table = _InputTable(
        _take(weights, "embeddings.word_embeddings.weight", (shape.vocabulary, shape.hidden)),
        _take(weights, "embeddings.position_embeddings.weight", (None, shape.hidden)),
        _take(weights, "embeddings.token_type_embeddings.weight", (None, shape.hidden)),
    )
    model, externals = _graph(shape, weights)
    session = ort.open_session(model, externals, threads=threads)
    info = ModelInfo(
        id=id,
        kind=ModelKind.EMBEDDING,
        model_digest=digest,
        context_length=shape.max_tokens,
        vocab_size=shape.vocabulary,
        embedding_size=shape.hidden,
    )
    return BertEmbedder(info, tokenizer, session, table)


def _graph(s: BertShape, weights: Mapping[str, NDArray[Any]]) -> tuple[bytes, dict[str, Any]]:
    """Inputs x float32 (b, t, hidden) and mask int32 (b, t); output pooled (b, hidden)."""
    b = GraphBuilder()

    def take(name: str, *shape: int) -> F32:
        return _take(weights, name, shape)

    def norm(x: str, skip: str, bias: str, prefix: str) -> str:
        gamma = b.weight(f"{prefix}.gamma", take(f"{prefix}.weight", s.hidden))
        beta = b.weight(f"{prefix}.beta", take(f"{prefix}.bias", s.hidden))
        return b.node(
            "SkipLayerNormalization",
            [x, skip, gamma, beta, bias],
            f"{prefix}.out",
            domain=MS,
            epsilon=s.epsilon,
        )

    def product(x: str, prefix: str, rows: int, columns: int) -> tuple[str, str]:
        """(x @ weight.T, name of the bias not yet added)."""
        w = b.weight(f"{prefix}.w", take(f"{prefix}.weight", rows, columns).T)
        return b.node("MatMul", [x, w], f"{prefix}.mm"), b.weight(
            f"{prefix}.b", take(f"{prefix}.bias", rows)
        )

    gamma = b.weight("embeddings.gamma", take("embeddings.LayerNorm.weight", s.hidden))
    beta = b.weight("embeddings.beta", take("embeddings.LayerNorm.bias", s.hidden))
    x = b.node("LayerNormalization", ["x", gamma, beta], "embedded", axis=-1, epsilon=s.epsilon)
    for i in range(s.layers):
        layer = f"encoder.layer.{i}"
        own = f"{layer}.attention.self"
        sides = ("query", "key", "value")
        qkv = np.concatenate([take(f"{own}.{n}.weight", s.hidden, s.hidden).T for n in sides], 1)
        bias = np.concatenate([take(f"{own}.{n}.bias", s.hidden) for n in sides])
        attended = b.node(
            "Attention",
            [x, b.weight(f"{own}.w", qkv), b.weight(f"{own}.b", bias), "mask"],
            f"{own}.out",
            domain=MS,
            num_heads=s.heads,
        )
        out, out_bias = product(attended, f"{layer}.attention.output.dense", s.hidden, s.hidden)
        x = norm(out, x, out_bias, f"{layer}.attention.output.LayerNorm")
        inner = weights.get(f"{layer}.intermediate.dense.bias", np.empty(0)).size
        wide, wide_bias = product(x, f"{layer}.intermediate.dense", inner, s.hidden)
        wide = b.node("BiasGelu", [wide, wide_bias], f"{layer}.gelu", domain=MS)
        out, out_bias = product(wide, f"{layer}.output.dense", s.hidden, inner)
        x = norm(out, x, out_bias, f"{layer}.output.LayerNorm")
    shown = b.node("Cast", ["mask"], "mask.float", to=TensorProto.FLOAT)
    row = b.node("Unsqueeze", [shown, b.weight("axis", np.array([1], np.int64))], "mask.row")
    total = b.node("MatMul", [row, x], "total")
    b.node("Squeeze", [total, "axis"], "pooled")
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "t", s.hidden]),
        helper.make_tensor_value_info("mask", TensorProto.INT32, ["b", "t"]),
    ]
    outputs = [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["b", s.hidden])]
    return b.serialise("bert", inputs, outputs)


def _take(weights: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...]) -> F32:
    value = weights.get(name)
    if value is None:
        raise ModelError(f"model.safetensors lacks tensor {name}")
    fits = len(value.shape) == len(shape) and all(
        want is None or want == size for want, size in zip(shape, value.shape, strict=True)
    )
    if not fits or value.dtype not in (np.float32, np.float16):
        raise ModelError(f"tensor {name} is {value.dtype} {value.shape}, expected {shape}")
    return value.astype(np.float32, copy=False)


def _tokenizer(raw: bytes) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(raw.decode())
    except Exception as e:  # the library raises bare Exception
        raise ModelError(f"tokenizer.json cannot be read: {type(e).__name__}") from None
    tokenizer.no_truncation()  # a text that is too long is refused, never cut silently
    tokenizer.no_padding()
    return tokenizer


def _groups(lengths: list[int]) -> list[list[int]]:
    """Indices batched with others of similar length, so that little is spent on padding."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and (len(groups[-1]) + 1) * lengths[i] <= BATCH_TOKENS:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _json(folder: ModelFolder, name: str) -> dict[str, Any]:
    value = _parsed(folder, name)
    if not isinstance(value, dict):
        raise ModelError(f"{name} is not a JSON object")
    return value


def _modules(folder: ModelFolder) -> list[dict[str, Any]]:
    value = _parsed(folder, "modules.json")
    if not isinstance(value, list) or not all(isinstance(m, dict) for m in value):
        raise ModelError("modules.json is not a list of objects")
    return value


def _parsed(folder: ModelFolder, name: str) -> Any:
    try:
        return json.loads(folder.read(name))
    except (ValueError, RecursionError):
        raise ModelError(f"{name} is not JSON") from None
