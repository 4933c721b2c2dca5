"""Properties of compact collateral: it says what the text says, and nothing else is one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_texts import qe_identities, qe_identity_bytes, tcb_info_bytes, tcb_infos

from attestation.errors import MalformedEvidence
from attestation.onchain.errors import NotProvable
from attestation.onchain.qe import QeIdentity
from attestation.onchain.tcb import TcbInfo

DOCUMENTS = tcb_infos() | qe_identities()


@given(DOCUMENTS)
def test_text_and_compact_form_say_the_same(document: TcbInfo | QeIdentity) -> None:
    assert type(document).parse(document.text()) == document
    assert type(document).read(document.write()) == document


@given(DOCUMENTS)
def test_what_is_packed_is_what_the_json_says(document: TcbInfo | QeIdentity) -> None:
    expected = tcb_info_bytes if isinstance(document, TcbInfo) else qe_identity_bytes
    assert document.packed() == expected(document.text())


@given(DOCUMENTS, st.data())
def test_no_cut_or_longer_form_is_read(document: TcbInfo | QeIdentity, data: st.DataObject) -> None:
    compact = document.write()
    with pytest.raises(MalformedEvidence):
        type(document).read(compact[: data.draw(st.integers(0, len(compact) - 1))])
    with pytest.raises(MalformedEvidence):
        type(document).read(compact + b"\0")


@given(DOCUMENTS, st.data())
def test_another_byte_is_another_text(document: TcbInfo | QeIdentity, data: st.DataObject) -> None:
    """Whatever else is read of changed bytes, no text is stored as other values."""
    compact = bytearray(document.write())
    compact[data.draw(st.integers(0, len(compact) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = type(document).read(bytes(compact))
    except MalformedEvidence:
        return
    if read.text() == document.text():
        assert read.packed() == document.packed()


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_as_malformed(compact: bytes) -> None:
    for kind in (TcbInfo, QeIdentity):
        try:
            read = kind.read(compact)
        except MalformedEvidence:
            continue
        assert kind.read(read.write()) == read


@given(DOCUMENTS, st.data())
def test_texts_with_a_member_changed_are_refused_or_come_out_the_same(
    document: TcbInfo | QeIdentity, data: st.DataObject
) -> None:
    members = json.loads(document.text())
    name = data.draw(st.sampled_from(sorted(members)))
    members[name] = data.draw(st.none() | st.integers() | st.text() | st.lists(st.integers()))
    text = json.dumps(members, separators=(",", ":"))
    try:
        parsed = type(document).parse(text)
    except NotProvable:
        return
    assert parsed.text() == text


@given(DOCUMENTS, st.text(max_size=3), st.data())
def test_texts_with_anything_put_in_are_refused_or_come_out_the_same(
    document: TcbInfo | QeIdentity, extra: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(document.text())))
    text = document.text()[:at] + extra + document.text()[at:]
    try:
        parsed = type(document).parse(text)
    except (NotProvable, MalformedEvidence):
        return
    assert parsed.text() == text
