"""The converted model computes what the file says: exact weights, a small float32 divergence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_models import kl_tokens, packaged_forward, write_tiny
from gguf import GGUFReader
from gguf.quants import dequantize
from llama_reference import divergence, reference_logits

from enclave.engine.chat import open_forward
from enclave.engine.forward import Forward
from enclave.engine.gguf import GgufFile
from enclave.engine.graph import convert
from enclave.engine.weights import BLOCK, BlockMatrix, Embedding, matrix, pack_zeros, stack
from enclave.models import default_chat_model

KINDS = ["Q4_0", "Q4_1", "Q8_0", "F16", "F32"]


def tiny_forward(path: Path, rows: int = 2) -> Forward:
    return open_forward(convert(GgufFile.read(path), 32), rows=rows, context=32, threads=1)


def expand(m: BlockMatrix) -> np.ndarray:
    """The float32 matrix that MatMulNBits and the residual product stand for."""
    if m.bits == 8:
        q = m.codes.astype(np.float32) - 128
    else:
        q = np.stack([m.codes & 15, m.codes >> 4], -1).reshape(*m.codes.shape[:2], BLOCK)
        q = q.astype(np.float32) - (8 if m.zeros is None else m.zeros[..., None])
    out = q * m.scales[..., None]
    if m.residual is not None:
        out = out + m.residual[..., None]
    return out.reshape(m.rows, m.columns)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_is_rounded(tmp_path: Path, kind: str) -> None:
    path = write_tiny(tmp_path / "m.gguf", kind)
    stored = {t.name: t for t in GGUFReader(path).tensors}["blk.0.ffn_down.weight"]
    expected = dequantize(stored.data, stored.tensor_type)
    ours = matrix(GgufFile.read(path).tensor("blk.0.ffn_down.weight", 64, 96))
    got = expand(ours) if isinstance(ours, BlockMatrix) else ours
    # One float32 rounding: d * (q - z) + (m + z * d) against d * q + m.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_rows_are_exact(tmp_path: Path, kind: str) -> None:
    path = write_tiny(tmp_path / "m.gguf", kind)
    stored = {t.name: t for t in GGUFReader(path).tensors}["token_embd.weight"]
    expected = dequantize(stored.data, stored.tensor_type)[[5, 0, 127, 5]]
    embedding = Embedding(GgufFile.read(path).tensor("token_embd.weight", 128, 64))
    got = embedding.lookup(np.array([5, 0, 127, 5]))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tiny_models_of_every_type_match_float32(tmp_path: Path, kind: str, tied: bool) -> None:
    path = write_tiny(tmp_path / "m.gguf", kind, tied=tied)
    tokens = [3, 17, 99, 4, 60, 61, 5, 127, 0, 33]
    reference = reference_logits(path, tokens)
    got = tiny_forward(path).score(0, np.array(tokens), 0, np.arange(len(tokens)))
    tight = kind in ("F16", "F32")
    kl, _ = divergence(reference, got)
    assert kl < (1e-9 if tight else 1e-2)  # activations are rounded to 8 bits


def test_layers_of_mixed_types(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    mixed = {
        "blk.0.attn_k.weight": (rng.standard_normal((32, 64)), "Q8_0"),
        "blk.1.attn_v.weight": (rng.standard_normal((32, 64)), "F16"),
        "blk.1.attn_k.weight": (rng.standard_normal((32, 64)), "Q4_0"),
    }
    path = write_tiny(tmp_path / "m.gguf", "Q4_1", tensors=mixed, skip=tuple(mixed))
    tokens = [3, 17, 99, 4, 60]
    got = tiny_forward(path).score(0, np.array(tokens), 0, np.arange(5))
    assert divergence(reference_logits(path, tokens), got)[0] < 1e-2


def test_stacking_q4_0_under_q4_1_keeps_both(tmp_path: Path) -> None:
    a = matrix(GgufFile.read(write_tiny(tmp_path / "a", "Q4_1")).tensors["output.weight"])
    b = matrix(GgufFile.read(write_tiny(tmp_path / "b", "Q4_0")).tensors["output.weight"])
    assert isinstance(a, BlockMatrix) and isinstance(b, BlockMatrix)
    both = stack([a, b])
    assert isinstance(both, BlockMatrix)
    np.testing.assert_array_equal(expand(both), np.concatenate([expand(a), expand(b)]))


def test_odd_number_of_blocks_pads_zero_points() -> None:
    packed = pack_zeros(np.array([[1, 2, 3], [15, 0, 7]], np.uint8))
    assert packed.tolist() == [[0x21, 0x03], [0x0F, 0x07]]


def test_rope_frequency_factors_change_the_angles(tmp_path: Path) -> None:
    factors = {"rope_freqs.weight": (np.linspace(1, 8, 16), "F32")}
    plain = convert(GgufFile.read(write_tiny(tmp_path / "a")), 32).weights["rotary.cos"]
    slow = convert(GgufFile.read(write_tiny(tmp_path / "b", tensors=factors)), 32).weights[
        "rotary.cos"
    ]
    assert np.array_equal(plain[:, 0], slow[:, 0])
    np.testing.assert_allclose(slow[8, -1], np.cos(8 * 10000.0 ** (-15 / 16) / 8), atol=1e-7)


def test_chunked_prefill_equals_one_piece(tmp_path: Path) -> None:
    forward = tiny_forward(write_tiny(tmp_path / "m.gguf", "F32"))
    tokens = np.array([3, 17, 99, 4, 60, 61, 5])
    whole = forward.prefill(0, tokens, 0)
    forward.prefill(1, tokens[:3], 0)
    forward.prefill(1, tokens[3:6], 3)
    np.testing.assert_allclose(forward.prefill(1, tokens[6:], 6), whole, atol=1e-4)


def test_cache_rows_move_and_forget(tmp_path: Path) -> None:
    forward = tiny_forward(write_tiny(tmp_path / "m.gguf", "F32"), rows=3)
    tokens = np.array([3, 17, 99])
    forward.prefill(0, np.array([9, 9, 9, 9]), 0)
    forward.prefill(2, tokens, 0)
    expected = forward.prefill(2, np.array([4]), 3)
    forward.cache.move(2, 0, 3)
    got = forward.decode(np.array([4]), np.array([3], np.int32))[0]
    np.testing.assert_allclose(got, expected, atol=1e-4)
    forward.cache.clear(2)
    assert not any(part[2].any() for part in forward.cache.parts)
    assert any(part[0].any() for part in forward.cache.parts)


def test_packaged_model_stays_close_to_float32() -> None:
    tokens = list(kl_tokens())
    assert 200 <= len(tokens) <= 300
    reference = reference_logits(default_chat_model(), tokens)
    forward = packaged_forward()
    ours = forward.score(0, np.array(tokens), 0, np.arange(len(tokens)))
    kl, agreement = divergence(reference, ours)
    assert kl <= 0.005
    assert agreement >= 0.98
    # Decoding one token at a time goes through other kernels.
    start = len(tokens) - 64
    forward.prefill(0, np.array(tokens[:start]), 0)
    steps = [
        forward.decode(np.array(tokens[i : i + 1]), np.array([i], np.int32))[0].copy()
        for i in range(start, len(tokens))
    ]
    kl, _ = divergence(reference[start:], np.stack(steps))
    assert kl <= 0.005
    forward.cache.clear(0)
