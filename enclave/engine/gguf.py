"""A GGUF file becomes checked metadata and raw tensors, or a ModelError.

The bytes are copied once into memory this process owns, hashed on the way, and parsed from
that copy: the file may change afterwards without anyone here noticing or caring. Format:
GGUF version 2 and 3; the `gguf` package reads the header, with its array reader replaced
because it takes seconds on a vocabulary and forever on a forged length.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from enclave.errors import ModelError

CHUNK_BYTES: Final = 1 << 22
MAX_ARRAY_ITEMS: Final = 1 << 22
MAX_FIELDS: Final = 1 << 16
MAX_TENSORS: Final = 1 << 16
SUPPORTED_TYPES: Final = frozenset({"Q4_0", "Q4_1", "Q8_0", "F16", "F32"})


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as stored: `rows` output features by `columns` input features (1 row for vectors).

    `data` is uint8 (rows, bytes per row), borrowed from the file's private copy.
    """

    name: str
    type: str
    rows: int
    columns: int
    data: NDArray[np.uint8]


class _Reader(GGUFReader):
    """The library's reader with bounds on every count and arrays read in one pass."""

    def _get(
        self, offset: int, dtype: Any, count: int = 1, override_order: Any = None
    ) -> NDArray[Any]:
        size = np.dtype(dtype).itemsize * int(count)
        if offset + size > self.data.nbytes:
            raise ModelError(f"the GGUF file ends inside a value at byte {offset}")
        return super()._get(offset, dtype, count, override_order)

    def _build_fields(self, offs: int, count: int) -> int:
        if count > MAX_FIELDS:
            raise ModelError(f"the GGUF file declares {count} metadata fields")
        return int(super()._build_fields(offs, count))

    def _build_tensor_info(self, offs: int, count: int) -> tuple[int, Any]:
        if count > MAX_TENSORS:
            raise ModelError(f"the GGUF file declares {count} tensors")
        return super()._build_tensor_info(offs, count)

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[NDArray[Any]], list[int], list[Any]]:
        if GGUFValueType(raw_type) is not GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        if count > MAX_ARRAY_ITEMS:
            raise ModelError(f"a GGUF array declares {count} items")
        start = orig_offs + 12
        if item is GGUFValueType.STRING:
            size, values = self._strings(start, count)
        elif item in self.gguf_scalar_to_np:
            values = self._get(start, self.gguf_scalar_to_np[item], count)
            size = values.nbytes
        else:
            raise ModelError(f"a GGUF array holds {item.name} items")
        return 12 + size, [values], [0], [GGUFValueType.ARRAY, item]

    def _strings(self, start: int, count: int) -> tuple[int, NDArray[Any]]:
        view = memoryview(self.data)  # type: ignore[arg-type]
        out = np.empty(count, dtype=object)
        at = start
        for i in range(count):
            size = int.from_bytes(view[at : at + 8], "little")
            end = at + 8 + size
            if end > len(view):
                raise ModelError(f"the GGUF file ends inside a string at byte {at}")
            out[i] = bytes(view[at + 8 : end])
            at = end
        return at - start, out


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A parsed file: `sha256` of its bytes (hex), metadata as Python values, tensors by name."""

    sha256: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Copy, hash and parse `path`. Raises ModelError for anything that is not GGUF."""
        with _private_file() as copy:
            try:
                sha256 = _copy(path, copy)
            except OSError as e:
                raise ModelError(f"cannot read the model file: {e.strerror}") from None
            try:
                reader = _Reader(f"/proc/self/fd/{copy.fileno()}")
                metadata = {
                    name: _value(field)
                    for name, field in reader.fields.items()
                    if not name.startswith("GGUF.")
                }
                tensors = {t.name: _tensor(t) for t in reader.tensors}
            except ModelError:
                raise
            except Exception as e:  # the library raises whatever numpy does on forged headers
                raise ModelError(f"not a readable GGUF file: {type(e).__name__}") from None
        return cls(sha256=sha256, metadata=metadata, tensors=tensors)

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """Metadata `name` as `kind`; `default` when absent. Raises ModelError on another type."""
        value = self.metadata.get(name, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if value is not None and (
            not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        ):
            raise ModelError(f"GGUF metadata {name} is not {kind.__name__}")
        return value

    def require(self, name: str, kind: type) -> Any:
        value = self.get(name, kind)
        if value is None:
            raise ModelError(f"GGUF metadata lacks {name}")
        return value

    def tensor(self, name: str, rows: int, columns: int) -> Tensor:
        """The tensor of this name and shape in a type we map exactly. Raises ModelError."""
        t = self.tensors.get(name)
        if t is None:
            raise ModelError(f"the GGUF file lacks tensor {name}")
        if t.type not in SUPPORTED_TYPES:
            known = ", ".join(sorted(SUPPORTED_TYPES))
            raise ModelError(f"tensor {name} is {t.type}; supported types are {known}")
        if (t.rows, t.columns) != (rows, columns):
            raise ModelError(
                f"tensor {name} is {t.rows}x{t.columns}, but the metadata says {rows}x{columns}"
            )
        return t


def _private_file() -> Any:
    """A file no other process can reach; in memory where the kernel offers that."""
    if hasattr(os, "memfd_create"):
        try:
            return os.fdopen(os.memfd_create("adyton-model"), "w+b")
        except OSError:  # a library OS without memfd; its own /tmp is inside the enclave
            pass
    return tempfile.TemporaryFile()


def _copy(path: Path, to: Any) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            to.write(chunk)
    to.flush()
    return digest.hexdigest()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _value(field: Any) -> Any:
    """Strings as str, numbers as int, float or bool, arrays as lists."""
    kind = field.types[0]
    part = field.parts[field.data[0]]
    if kind is GGUFValueType.ARRAY:
        if field.types[1] is GGUFValueType.STRING:
            return [_text(raw) for raw in part]
        return part.tolist()
    if kind is GGUFValueType.STRING:
        return _text(bytes(part))
    return part.tolist()[0]


def _tensor(t: Any) -> Tensor:
    shape = [int(n) for n in t.shape]
    if not 1 <= len(shape) <= 2 or min(shape) < 1:
        raise ModelError(f"tensor {t.name} has shape {shape}")
    kind = GGMLQuantizationType(t.tensor_type)
    columns, rows = shape[0], shape[1] if len(shape) == 2 else 1
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if columns % block:
        raise ModelError(f"tensor {t.name} has {columns} columns, not a multiple of {block}")
    row_bytes = columns // block * block_bytes
    data = np.asarray(t.data).reshape(-1).view(np.uint8)
    if data.nbytes != rows * row_bytes:
        raise ModelError(f"tensor {t.name} is cut short")
    return Tensor(t.name, kind.name, rows, columns, data.reshape(rows, row_bytes))
