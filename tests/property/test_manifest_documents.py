"""Manifests and reference values as others may write them: judged or refused, never a crash."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedEvidence, PolicyError, VerificationError
from attestation.manifest.lint import lint
from attestation.manifest.schema import SHAPE
from attestation.policy.reference import (
    Release,
    read_reference,
    sign_reference,
    verify_reference,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()

scalars = (
    st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.sampled_from(
        ["", "file:a", "dev:x", "1M", "none", "strict", "ab" * 32, "python3.11", "-I"]
    )
    | st.text(max_size=8)
)


def shaped(shape: Any) -> st.SearchStrategy[Any]:
    """Values near this shape: right, of another type, or with a key too many."""
    if isinstance(shape, dict):
        keys = {k if k != "*" else "any": shaped(v) for k, v in shape.items()}
        right = st.fixed_dictionaries({}, optional={**keys, "strange": scalars})
    elif isinstance(shape, list):
        right = st.lists(shaped(shape[0]), max_size=3)
    elif isinstance(shape, tuple):
        right = st.sampled_from(shape)
    else:
        right = scalars | st.fixed_dictionaries({}, optional={"uri": scalars, "sha256": scalars})
    return st.one_of(right, right, right, scalars)


manifests = st.fixed_dictionaries({}, optional={k: shaped(v) for k, v in SHAPE.items()})


@given(document=manifests)
def test_any_manifest_is_judged_with_reasons(document: dict[str, Any]) -> None:
    data = tomli_w.dumps(document).encode("utf-8", "surrogatepass")
    for complete in (True, False):
        try:
            lint(data, complete=complete)
        except PolicyError as e:
            assert e.findings and all(f.field and f.expected and f.actual for f in e.findings)
        except MalformedEvidence as e:
            assert e.field


hex48 = st.binary(min_size=48, max_size=48).map(bytes.hex)
releases = st.lists(
    st.builds(
        Release,
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,10}", fullmatch=True),
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 .+_-]{0,10}", fullmatch=True),
        st.fixed_dictionaries({"tdx": st.tuples(st.fixed_dictionaries({"mr_td": hex48}))}),
        st.none() | st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda r: r.label,
)


@given(published=releases)
def test_what_is_published_is_what_is_read(published: list[Release]) -> None:
    data = sign_reference(published, [KEY])
    found = verify_reference(data, [PUBLIC])
    assert {r.label: r.to_json() for r in found} == {r.label: r.to_json() for r in published}
    assert sign_reference(found, [KEY]) == data


@given(published=releases, data=st.data())
def test_no_value_of_a_published_file_can_change(
    published: list[Release], data: st.DataObject
) -> None:
    document = json.loads(sign_reference(published, [KEY]))
    release = data.draw(st.sampled_from(document["releases"]))
    match data.draw(st.sampled_from(["name", "version", "not_after", "measurements"])):
        case "measurements":
            registers = release["measurements"]["tdx"][0]
            flipped = int(registers["mr_td"], 16) ^ 1 << data.draw(st.integers(0, 383))
            registers["mr_td"] = f"{flipped:096x}"
        case "not_after":
            release["not_after"] = (release.get("not_after", 0) + 1) % 2**32
        case name:
            release[name] += "x"
    with pytest.raises((VerificationError, MalformedEvidence)):
        verify_reference(json.dumps(document).encode(), [PUBLIC])


@given(data=st.binary(max_size=200))
def test_any_bytes_are_reference_values_or_malformed(data: bytes) -> None:
    for text in (data, b'{"releases":' + data):
        with contextlib.suppress(MalformedEvidence):
            read_reference(text)
