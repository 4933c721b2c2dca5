"""Small values that policy sections share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Mask:
    """`actual & mask == value & mask`, over equally long byte strings."""

    mask: bytes
    value: bytes

    def admits(self, actual: bytes) -> bool:
        return all((a ^ v) & m == 0 for a, v, m in zip(actual, self.value, self.mask, strict=True))

    def __str__(self) -> str:
        return f"{self.value.hex()} under mask {self.mask.hex()}"


def mask_of(value: Mapping[str, str] | None) -> Mask | None:
    """The mask a policy file writes as `{mask, value}`, both hex."""
    if value is None:
        return None
    return Mask(bytes.fromhex(value["mask"]), bytes.fromhex(value["value"]))


def optional_tuple(value: list[Any] | None) -> tuple[Any, ...] | None:
    """A list of accepted values; None, accepting every value, where there is none."""
    return None if value is None else tuple(value)


def one_of(values: Sequence[object]) -> str:
    """How findings say that any of `values` would have done."""
    return "one of " + ", ".join(str(v) for v in values)
