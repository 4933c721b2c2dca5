"""Canonical JSON and the digests taken over it. Spec: RFC 8785; ACI appendix A.

Reading is strict where laxness would let two parties see two documents in one text:
duplicate names, NaN and infinities, lone surrogates and deep nesting are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import rfc8785

from attestation.errors import MalformedEvidence

MAX_DEPTH: Final = 64
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# Strings, each taken whole (an unfinished one to the end of the text), and brackets.
_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)
JsonValue = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None


def jcs(value: JsonValue) -> bytes:
    """The RFC 8785 form of `value`. Raises MalformedEvidence where JSON cannot express it."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as e:
        raise MalformedEvidence("json", f"no canonical form: {e}") from None


def sha256_hex(data: bytes) -> str:
    """Bare lowercase hex, as in ACI ids and `*_sha256` fields."""
    return hashlib.sha256(data).hexdigest()


def digest(data: bytes) -> str:
    """`sha256:<hex>`, as in ACI digest fields."""
    return f"sha256:{sha256_hex(data)}"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in pairs:
        if name in out:
            raise MalformedEvidence("json", f"duplicate name {name[:64]!r}")
        out[name] = value
    return out


def _no_constant(text: str) -> Any:
    raise MalformedEvidence("json", f"{text} is not JSON")


def _check_depth(text: str) -> None:
    """Nothing is nested too deep, seen before parsing: the parser recurses on the C stack.

    Its own guard is the interpreter's recursion limit, which any library may have raised.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _TOKEN.finditer(text):
        match text[token.start()]:
            case "[" | "{":
                depth += 1
                if depth > MAX_DEPTH + 1:
                    raise MalformedEvidence("json", f"nested deeper than {MAX_DEPTH}")
            case "]" | "}":
                depth -= 1


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MalformedEvidence("json", f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        if not value.isascii() and _SURROGATE.search(value):
            raise MalformedEvidence("json", "lone surrogate in a string")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedEvidence("json", "number out of range")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check(name, depth)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def loads_strict(data: bytes | str, what: str = "json") -> Any:
    """Parse JSON that means one thing only. Raises MalformedEvidence naming `what`."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        _check_depth(text)
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        _check(value, 0)
    except MalformedEvidence as e:
        raise MalformedEvidence(what, e.detail) from None
    except UnicodeDecodeError as e:
        raise MalformedEvidence(what, "not UTF-8", e.start) from None
    except (ValueError, RecursionError) as e:
        offset = getattr(e, "pos", None)
        raise MalformedEvidence(what, getattr(e, "msg", "not JSON"), offset) from None
    return value
