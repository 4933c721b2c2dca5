"""Reference values: what was written is read; no damage passes; nothing but our errors."""

from __future__ import annotations

import nvidia_pki as pki
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, CollateralError
from attestation.evidence.rim import read_rim

SIGNED = pki.sign_rim(pki.rim_xml(indexes=range(20, 24)))
VALUES = read_rim(SIGNED)

digests = st.binary(min_size=48, max_size=48)


@given(
    values=st.dictionaries(
        st.integers(0, 255), st.lists(digests, min_size=1, max_size=4), max_size=6
    ),
    version=st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){1,3}", fullmatch=True),
)
def test_values_are_read_as_written(values: dict[int, list[bytes]], version: str) -> None:
    rim = read_rim(pki.rim_xml(version, list(values), values=values).encode())
    assert rim.version == version
    assert {i: list(m.values) for i, m in rim.measurements.items()} == values


@given(data=st.binary(max_size=2000) | st.text(max_size=500).map(str.encode))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    try:
        read_rim(data)
    except CollateralError as e:
        assert str(e).startswith("rim: ")
    else:
        raise AssertionError("arbitrary bytes are no reference values")


@given(cut=st.integers(0, len(SIGNED) - 1))
@settings(max_examples=100)
def test_every_cut_is_refused(cut: int) -> None:
    try:
        pki.rim(SIGNED[:cut])
    except AttestationError:
        return
    raise AssertionError("a cut file passed")


@given(at=st.integers(0, len(SIGNED) - 1), patch=st.binary(min_size=1, max_size=24))
@settings(max_examples=300)
def test_damage_never_changes_a_value_that_still_verifies(at: int, patch: bytes) -> None:
    """Blanks in markup, and base64 of certificates, may be written otherwise; values may not."""
    try:
        rim = pki.rim(SIGNED[:at] + patch + SIGNED[at + len(patch) :])
    except AttestationError:
        return
    assert rim.rim == VALUES
