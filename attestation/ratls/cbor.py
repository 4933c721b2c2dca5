"""CBOR that means one thing only, as the evidence extension needs it. Spec: RFC 8949.

Definite lengths, no duplicate keys, little nesting, nothing behind the item, and every
length in its shortest form: writing what was read gives the bytes back. Two readers then
cannot see two documents in one text.
"""

from __future__ import annotations

from typing import Any, Final

import cbor2

from attestation.errors import MalformedEvidence

MAX_BYTES: Final = 1 << 17
MAX_DEPTH: Final = 4


def decode(name: str, data: bytes) -> Any:
    """The one item `data` begins with; `name` stands in errors. Raises MalformedEvidence.

    Whether the bytes are exactly that item is for `decode_exact` or the caller to say.
    """
    if len(data) > MAX_BYTES:
        raise MalformedEvidence(name, f"longer than {MAX_BYTES} bytes")
    try:
        return cbor2.loads(
            data,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except Exception as e:
        # CBORDecodeError, but also what the library's readers of tagged values raise.
        raise MalformedEvidence(name, f"not CBOR ({type(e).__name__})") from None


def decode_exact(name: str, data: bytes) -> Any:
    """The one item that `data` is, in its shortest encoding. Raises MalformedEvidence."""
    value = decode(name, data)
    if encode(name, value) != data:
        raise MalformedEvidence(name, "not in the shortest encoding, or bytes left over")
    return value


def encode(name: str, value: Any) -> bytes:
    """`value` with definite lengths in shortest form, map order kept."""
    try:
        return cbor2.dumps(value)
    except Exception as e:
        # A value that was read may be one the library cannot write, such as a cyclic one.
        raise MalformedEvidence(name, f"no exact encoding ({type(e).__name__})") from None


def tagged(name: str, value: Any) -> tuple[int, list[Any]]:
    """Tag and array of a tagged array. Raises MalformedEvidence."""
    if not isinstance(value, cbor2.CBORTag) or not isinstance(value.value, list | tuple):
        raise MalformedEvidence(name, "not a tagged array")
    return value.tag, list(value.value)


def tag(number: int, items: list[Any]) -> cbor2.CBORTag:
    """The array `items` under tag `number`, ready to be encoded."""
    return cbor2.CBORTag(number, items)
