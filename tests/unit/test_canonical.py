"""Canonical JSON has one reading; what has two is refused."""

from __future__ import annotations

import json
import sys

import pytest

from attestation.canonical import MAX_DEPTH, digest, jcs, loads_strict, sha256_hex
from attestation.errors import MalformedEvidence


def test_names_are_sorted_and_nothing_is_padded() -> None:
    assert jcs({"b": 1, "a": [True, None, "\u20ac"]}) == '{"a":[true,null,"€"],"b":1}'.encode()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**60, {"k": "\ud800"}, {1: 2}, object(), {"k": b"bytes"}],
    ids=["nan", "infinity", "inexact integer", "surrogate", "integer name", "object", "bytes"],
)
def test_what_json_cannot_express_has_no_canonical_form(value: object) -> None:
    with pytest.raises(MalformedEvidence, match="no canonical form"):
        jcs(value)  # type: ignore[arg-type]


def test_endless_nesting_has_no_canonical_form() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(MalformedEvidence, match="no canonical form"):
        jcs(value)


def test_digest_forms() -> None:
    assert digest(b"") == "sha256:" + sha256_hex(b"")
    assert sha256_hex(b"").startswith("e3b0c442")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a":1,"a":2}', "duplicate"),
        (b'{"x":{"a":1,"a":1}}', "duplicate"),
        (b"NaN", "not JSON"),
        (b"-Infinity", "not JSON"),
        (b"1e999", "out of range"),
        (b'{"a":-1e999}', "out of range"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b"[" * 70 + b"]" * 70, "nested"),
        (b"[" * 100_000, ""),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested"),
        (b"1" * 5000, ""),
        (b"{", ""),
        (b"", ""),
        (b"{} {}", ""),
        (b"\xff", "UTF-8"),
        ("{'a':1}", ""),
    ],
)
def test_text_with_two_readings_or_none_is_refused(text: bytes | str, reason: str) -> None:
    with pytest.raises(MalformedEvidence, match=f"^doc.*{reason}"):
        loads_strict(text, "doc")


def test_depth_just_within_the_limit_is_read() -> None:
    text = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert loads_strict(text) is not None


def test_a_syntax_error_says_where() -> None:
    with pytest.raises(MalformedEvidence) as e:
        loads_strict(b'{"a": }')
    assert e.value.offset == 6


def test_nesting_is_refused_before_the_parser_recurses() -> None:
    # A library that raises the recursion limit takes the parser's own guard away.
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        for deep in ("[" * 1_000_000, '{"a":' * 200_000, '["\\"]]]",' * 66):
            with pytest.raises(MalformedEvidence, match="nested"):
                loads_strict(deep)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("text", ['"' + "[{" * 100 + '"', '["' + "[" * 99 + '\\"]]"]'])
def test_brackets_in_strings_nest_nothing(text: str) -> None:
    assert loads_strict(text) == json.loads(text)
