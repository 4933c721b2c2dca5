"""Nitro documents: total parsing, exact writing, and no signed bit that may change."""

from __future__ import annotations

from typing import Any

import cbor2
import nitro_pki
import pytest
from attested import flip
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, MalformedEvidence, VerificationError
from attestation.evidence.nitro import NitroDocument
from attestation.verify.nitro import verify_nitro

GENUINE = nitro_pki.document()
digests = st.sampled_from([32, 48, 64]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
optional = st.none() | st.binary(min_size=1, max_size=512)
payloads = st.fixed_dictionaries(
    {
        "module_id": st.text(min_size=1, max_size=256),
        "digest": st.just("SHA384"),
        "timestamp": st.integers(1, 2**47),
        "pcrs": st.dictionaries(st.integers(0, 31), digests, min_size=1),
        "certificate": st.binary(min_size=1, max_size=1024),
        "cabundle": st.lists(st.binary(min_size=1, max_size=1024), min_size=1, max_size=8),
    },
    optional={"public_key": optional, "user_data": optional, "nonce": optional},
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.builds(cbor2.CBORTag, st.integers(0, 60), inner)
    ),
    max_leaves=12,
)


@given(payloads, st.binary(min_size=96, max_size=96), st.booleans(), st.booleans())
def test_write_after_read_is_identity(
    members: dict[str, Any], signature: bytes, tagged: bool, open_length: bool
) -> None:
    payload = cbor2.dumps(members)
    if open_length:
        payload = b"\xbf" + payload[1:] + b"\xff"
    raw = cbor2.dumps([nitro_pki.PROTECTED, {}, payload, signature])
    raw = b"\xd2" + raw if tagged else raw
    document = NitroDocument.read(raw)
    assert document.write() == raw
    assert document.pcrs == members["pcrs"]
    assert document.module_id == members["module_id"]


@given(st.integers(0, len(GENUINE) - 1))
def test_every_cut_is_malformed(size: int) -> None:
    with pytest.raises(MalformedEvidence):
        NitroDocument.read(GENUINE[:size])


@given(st.binary(min_size=1, max_size=64))
def test_nothing_may_follow(more: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        NitroDocument.read(GENUINE + more)


@given(st.integers(0, len(GENUINE) * 8 - 1))
@settings(max_examples=200)
def test_any_flipped_bit_is_refused(bit: int) -> None:
    """The envelope has one encoding and everything in it is signed or the signature."""
    with pytest.raises((MalformedEvidence, VerificationError)):
        verify_nitro(flip(GENUINE, bit), [nitro_pki.root()], nitro_pki.NOW)


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    for raw in (data, nitro_pki.sign(data), b"\x84\x44\xa1\x01\x38\x22\xa0" + data):
        with pytest.raises(MalformedEvidence):
            NitroDocument.read(raw)


@given(st.sampled_from(list(nitro_pki.Hypervisor().members())), values)
@settings(max_examples=150)
def test_arbitrary_members_raise_only_our_errors(name: str, value: Any) -> None:
    document = nitro_pki.Hypervisor(changes={name: value}).document()
    try:
        verify_nitro(document, [nitro_pki.root()], nitro_pki.NOW)
    except AttestationError:
        pass
    else:  # what the enclave may choose freely, and nothing else
        assert name in {"module_id", "public_key", "user_data", "nonce"}
