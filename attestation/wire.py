"""Bounds-checked reading and writing of fixed binary layouts.

A `Cursor` knows what it is reading and where it is, so a short read says where. Its
integers are little-endian and unsigned, as in every Intel and AMD structure; those of a
`BigEndianCursor` are big-endian, as in every TPM structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Self

from attestation.errors import MalformedEvidence

MAX_FIELD_BYTES: Final = 1 << 20
"""Ceiling on any declared length; real quotes stay below 16 KiB."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field as it was read: its full name, where it stands, its bytes, and their number."""

    name: str
    offset: int
    data: bytes
    integer: int | None


_fields: ContextVar[list[Field] | None] = ContextVar("fields", default=None)


@contextmanager
def recorded() -> Iterator[list[Field]]:
    """Everything cursors read meanwhile, in order, also what came before a failure.

    For showing evidence to people. Parsers never look at it.
    """
    out: list[Field] = []
    token = _fields.set(out)
    try:
        yield out
    finally:
        _fields.reset(token)


class Cursor:
    """Reads `data` front to back; every failure is a MalformedEvidence naming the field."""

    __slots__ = ("_base", "_data", "_fields", "_name", "_pos")
    _ORDER: ClassVar[Literal["little", "big"]] = "little"

    def __init__(self, name: str, data: bytes, base: int = 0) -> None:
        """`name` prefixes field names in errors; `base` is data's offset in the outer bytes."""
        self._name = name
        self._data = data
        self._pos = 0
        self._base = base
        self._fields = _fields.get()

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
        start = self.offset
        data = self._slice(field, size)
        self._record(field, start, data)
        return data

    def _record(self, field: str, start: int, data: bytes, integer: int | None = None) -> None:
        if self._fields is not None:
            self._fields.append(Field(f"{self._name}.{field}", start, data, integer))

    def _slice(self, field: str, size: int) -> bytes:
        if size > MAX_FIELD_BYTES:
            raise self.error(field, f"declared length {size} exceeds {MAX_FIELD_BYTES}")
        if size > self.remaining:
            raise self.error(field, f"needs {size} bytes, {self.remaining} left")
        start = self._pos
        self._pos += size
        return self._data[start : self._pos]

    def _uint(self, field: str, size: int) -> int:
        start = self.offset
        data = self._slice(field, size)
        integer = int.from_bytes(data, self._ORDER)
        self._record(field, start, data, integer)
        return integer

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

    def sub(self, field: str, size: int) -> Self:
        """A cursor over the next `size` bytes, which it must consume exactly."""
        start = self.offset
        return type(self)(f"{self._name}.{field}", self._slice(field, size), start)

    def rest(self) -> bytes:
        """Everything that is left."""
        start, out = self.offset, self._data[self._pos :]
        self._pos = len(self._data)
        if out:
            self._record("rest", start, out)
        return out

    def finish(self) -> None:
        """Nothing may be left."""
        if self.remaining:
            raise self.error("trailing", f"{self.remaining} bytes left over")


class BigEndianCursor(Cursor):
    """A cursor whose integers are big-endian."""

    __slots__ = ()
    _ORDER = "big"


def u8(value: int) -> bytes:
    return value.to_bytes(1, "little")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")
