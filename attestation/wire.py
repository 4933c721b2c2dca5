"""Bounds-checked reading and writing of fixed binary layouts.

A `Cursor` knows what it is reading and where it is, so a short read says where. All
integers are little-endian and unsigned, as in every Intel quote structure.
"""

from __future__ import annotations

from typing import Final

from attestation.errors import MalformedEvidence

MAX_FIELD_BYTES: Final = 1 << 20
"""Ceiling on any declared length; real quotes stay below 16 KiB."""


class Cursor:
    """Reads `data` front to back; every failure is a MalformedEvidence naming the field."""

    __slots__ = ("_base", "_data", "_name", "_pos")

    def __init__(self, name: str, data: bytes, base: int = 0) -> None:
        """`name` prefixes field names in errors; `base` is data's offset in the outer bytes."""
        self._name = name
        self._data = data
        self._pos = 0
        self._base = base

    @property
    def offset(self) -> int:
        """Position in the outermost bytes."""
        return self._base + self._pos

    @property
    def remaining(self) -> int:
        return len(self._data) - self._pos

    def error(self, field: str, detail: str) -> MalformedEvidence:
        """The error for `field` at the current offset; the caller raises it."""
        return MalformedEvidence(f"{self._name}.{field}", detail, self.offset)

    def take(self, field: str, size: int) -> bytes:
        """The next `size` bytes."""
        if size > MAX_FIELD_BYTES:
            raise self.error(field, f"declared length {size} exceeds {MAX_FIELD_BYTES}")
        if size > self.remaining:
            raise self.error(field, f"needs {size} bytes, {self.remaining} left")
        start = self._pos
        self._pos += size
        return self._data[start : self._pos]

    def _uint(self, field: str, size: int) -> int:
        return int.from_bytes(self.take(field, size), "little")

    def u8(self, field: str) -> int:
        return self._uint(field, 1)

    def u16(self, field: str) -> int:
        return self._uint(field, 2)

    def u32(self, field: str) -> int:
        return self._uint(field, 4)

    def u64(self, field: str) -> int:
        return self._uint(field, 8)

    def zeros(self, field: str, size: int) -> None:
        """Skip `size` reserved bytes, which must be zero."""
        start = self.offset
        if any(self.take(field, size)):
            raise MalformedEvidence(f"{self._name}.{field}", "reserved bytes are not zero", start)

    def sub(self, field: str, size: int) -> Cursor:
        """A cursor over the next `size` bytes, which it must consume exactly."""
        start = self.offset
        return Cursor(f"{self._name}.{field}", self.take(field, size), start)

    def rest(self) -> bytes:
        """Everything that is left."""
        out = self._data[self._pos :]
        self._pos = len(self._data)
        return out

    def finish(self) -> None:
        """Nothing may be left."""
        if self.remaining:
            raise self.error("trailing", f"{self.remaining} bytes left over")


def u8(value: int) -> bytes:
    return value.to_bytes(1, "little")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")
