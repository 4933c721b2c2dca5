"""Anonymous memory that can be given back page by page while arrays over it stay valid.

numpy asks for huge pages, which commits two megabytes at a first touched byte; a cache that is
mostly empty must not. Released pages read as zeros, so a released cache row keeps no trace of
the conversation it held, and a released operand can never be a dangling pointer.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

PAGE = mmap.PAGESIZE


def _aligned(size: int) -> int:
    return -(-size // PAGE) * PAGE


class Region:
    """`size_bytes` of zeroed memory, handed out page-aligned and committed on first touch."""

    def __init__(self, size_bytes: int) -> None:
        # Private: releasing pages of a shared mapping would only unmap them, content and all.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, max(_aligned(size_bytes), PAGE), flags=flags)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self._used = 0

    @classmethod
    def holding(cls, arrays: list[NDArray[Any]]) -> tuple[Region, list[NDArray[Any]]]:
        """A region and copies of `arrays` inside it."""
        region = cls(sum(_aligned(a.nbytes) for a in arrays))
        copies = []
        for a in arrays:
            copy = region.array(a.shape, a.dtype)
            copy[...] = a
            copies.append(copy)
        return region, copies

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """The next free pages as an array; the caller sized the region for it."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        out = np.frombuffer(self._map, kind, count, self._used).reshape(shape)
        self._used += _aligned(count * kind.itemsize)
        return out

    def release(self) -> None:
        """Give every page back; all arrays now read as zeros."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def release_span(self, offset: int, size_bytes: int) -> None:
        """Give back the whole pages of a span that starts on a page boundary."""
        size = size_bytes // PAGE * PAGE
        if size:
            self._map.madvise(mmap.MADV_DONTNEED, offset, size)
