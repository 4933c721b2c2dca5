"""GGUF tensors become onnxruntime operands that stand for the same numbers, exactly.

A quantised matrix is held in blocks of 32 along the input. onnxruntime's `MatMulNBits`
multiplies by `d * (q - z)`, where z is 8 (4 bits), 128 (8 bits) or a stored integer, so:

- Q8_0, `w = d * q` with signed q: the 8-bit form, q shifted by 128.
- Q4_0, `w = d * (q - 8)`: the 4-bit form.
- Q4_1, `w = d * q + m`: the 4-bit form with z the integer nearest to -m / d, plus what that
  leaves, `r = m + z * d`, for every weight of the block, which a matrix product adds as
  (block sums of x) @ r. The weights stay exact. z = 8 would be exact too, but activations are
  rounded to 8 bits inside the product, and that error grows with |q - z|.
- F16 and F32: a float32 matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from enclave.engine.gguf import Tensor

BLOCK: Final = 32
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class BlockMatrix:
    """`bits`-bit codes (rows, blocks, 32 * bits / 8) and float32 scales (rows, blocks).

    For Q4_1 also zero points, uint8 (rows, blocks), and residuals, float32 (rows, blocks).
    """

    bits: int
    codes: U8
    scales: F32
    zeros: U8 | None = None
    residual: F32 | None = None

    @property
    def rows(self) -> int:
        return int(self.codes.shape[0])

    @property
    def columns(self) -> int:
        return int(self.codes.shape[1]) * BLOCK


Matrix = BlockMatrix | F32


def vector(t: Tensor) -> F32:
    """A norm's weights: float32 (columns,)."""
    return dense(t).reshape(-1)


def dense(t: Tensor) -> F32:
    """An F16 or F32 tensor as float32 (rows, columns)."""
    stored = t.data.view("<f2" if t.type == "F16" else "<f4")
    return stored.astype(np.float32)


def matrix(t: Tensor, rotary_heads: int = 0) -> Matrix:
    """The operand for `t`; with `rotary_heads`, rows put back from llama.cpp's order.

    llama.cpp interleaves the two halves of each rotary head; onnxruntime's faster rotary
    kernel wants them apart.
    """
    if t.type in ("F16", "F32"):
        return _unpermute(dense(t), rotary_heads)
    stored = _unpermute(t.data, rotary_heads).reshape(t.rows, t.columns // BLOCK, -1)
    d = _half(stored[..., 0:2])
    if t.type == "Q8_0":
        return BlockMatrix(8, stored[..., 2:] ^ np.uint8(0x80), d)
    if t.type == "Q4_0":
        return BlockMatrix(4, _nibbles(stored[..., 2:]), d)
    m = _half(stored[..., 2:4])
    z = np.rint(np.clip(-m / np.where(d == 0, np.float32(1), d), 0, 15))
    residual: F32 = (m + z * d).astype(np.float32)
    return BlockMatrix(4, _nibbles(stored[..., 4:]), d, z.astype(np.uint8), residual)


def stack(parts: list[Matrix]) -> Matrix | None:
    """Matrices over the same input as one, rows in order; None if their forms differ."""
    blocks = [p for p in parts if isinstance(p, BlockMatrix)]
    if not blocks:
        return np.concatenate([p for p in parts if not isinstance(p, BlockMatrix)])
    if len(blocks) < len(parts) or len({b.bits for b in blocks}) > 1:
        return None
    offset = any(b.residual is not None for b in blocks)
    return BlockMatrix(
        blocks[0].bits,
        np.concatenate([b.codes for b in blocks]),
        np.concatenate([b.scales for b in blocks]),
        np.concatenate([_zeros(b) for b in blocks]) if offset else None,
        np.concatenate([_residual(b) for b in blocks]) if offset else None,
    )


def _zeros(b: BlockMatrix) -> U8:
    return np.full(b.scales.shape, 8, np.uint8) if b.zeros is None else b.zeros


def _residual(b: BlockMatrix) -> F32:
    return np.zeros_like(b.scales) if b.residual is None else b.residual


def pack_zeros(z: U8) -> U8:
    """Zero points (rows, blocks) two to a byte, as `MatMulNBits` reads them with 4 bits."""
    even = np.pad(z, ((0, 0), (0, z.shape[1] % 2)))
    return even[:, 0::2] | (even[:, 1::2] << np.uint8(4))


class Embedding:
    """Rows of the token embedding, dequantised as they are asked for."""

    def __init__(self, t: Tensor) -> None:
        self._matrix = matrix(t)
        self.size = t.columns

    def lookup(self, tokens: NDArray[np.int64]) -> F32:
        """float32 (len(tokens), size)."""
        m = self._matrix
        if not isinstance(m, BlockMatrix):
            return m[tokens]
        codes = m.codes[tokens]
        if m.bits == 8:
            q = codes.astype(np.float32) - np.float32(128)
        else:
            q = np.empty((*codes.shape[:2], BLOCK), np.float32)
            q[..., 0::2] = codes & 15
            q[..., 1::2] = codes >> 4
            q -= np.float32(8) if m.zeros is None else m.zeros[tokens][..., None]
        q *= m.scales[tokens][..., None]
        if m.residual is not None:
            q += m.residual[tokens][..., None]
        return q.reshape(len(tokens), self.size)

    @property
    def matrix(self) -> Matrix:
        """The same numbers as an operand, for models whose output head is tied to it."""
        return self._matrix


def _half(raw: U8) -> F32:
    return np.ascontiguousarray(raw).view("<f2")[..., 0].astype(np.float32)


def _unpermute(x: NDArray[T], heads: int) -> NDArray[T]:
    if not heads:
        return x
    rows = x.shape[0]
    return x.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)


def _nibbles(stored: U8) -> U8:
    """llama.cpp keeps elements i and i + 16 in one byte; onnxruntime keeps 2i and 2i + 1."""
    pairs = np.ascontiguousarray(stored).view("<u2")
    out = np.empty(stored.shape, np.uint8)
    out[..., :8] = (pairs & 0x0F) | ((pairs >> 4) & 0xF0)
    out[..., 8:] = ((pairs >> 4) & 0x0F) | ((pairs >> 8) & 0xF0)
    return out
