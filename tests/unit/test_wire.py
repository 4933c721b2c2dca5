"""The cursor says where a short or dishonest layout breaks."""

from __future__ import annotations

import pytest

from attestation.errors import MalformedEvidence
from attestation.wire import MAX_FIELD_BYTES, BigEndianCursor, Cursor, recorded, u8, u16, u32, u64


def test_integers_are_little_endian_and_mirror_their_writers() -> None:
    data = u8(0x01) + u16(0x0203) + u32(0x04050607) + u64(0x08090A0B0C0D0E0F)
    c = Cursor("x", data)
    assert (c.u8("a"), c.u16("b"), c.u32("c"), c.u64("d")) == (
        0x01,
        0x0203,
        0x04050607,
        0x08090A0B0C0D0E0F,
    )
    c.finish()


def test_big_endian_cursors_stay_so_in_nested_structures() -> None:
    c = BigEndianCursor("x", bytes(range(1, 10)))
    assert (c.u8("a"), c.u16("b")) == (0x01, 0x0203)
    inner = c.sub("c", 4)
    assert inner.u32("d") == 0x04050607
    assert c.u16("e") == 0x0809


def test_short_read_names_field_and_offset() -> None:
    c = Cursor("quote", b"abcde")
    c.take("head", 3)
    with pytest.raises(MalformedEvidence) as e:
        c.u32("size")
    assert (e.value.field, e.value.offset) == ("quote.size", 3)


def test_declared_length_above_the_ceiling_is_refused_before_slicing() -> None:
    with pytest.raises(MalformedEvidence, match="exceeds"):
        Cursor("x", b"").take("blob", MAX_FIELD_BYTES + 1)


def test_reserved_bytes_must_be_zero() -> None:
    c = Cursor("x", b"\0\0\0\1")
    c.zeros("reserved1", 2)
    with pytest.raises(MalformedEvidence, match="reserved") as e:
        c.zeros("reserved2", 2)
    assert e.value.offset == 2


def test_sub_cursor_reports_offsets_in_the_outer_bytes() -> None:
    c = Cursor("quote", b"abcdefgh")
    c.take("head", 2)
    inner = c.sub("body", 4)
    inner.take("part", 3)
    with pytest.raises(MalformedEvidence) as e:
        inner.u16("tail")
    assert (e.value.field, e.value.offset) == ("quote.body.tail", 5)
    assert c.rest() == b"gh"
    assert c.remaining == 0


def test_left_over_bytes_are_an_error_where_a_structure_must_end() -> None:
    c = Cursor("x", b"ab")
    c.u8("a")
    with pytest.raises(MalformedEvidence, match="1 bytes left over"):
        c.finish()


def test_recording_shows_every_field_with_its_place_also_before_a_failure() -> None:
    data = b"\x01\x00" + b"ab" + b"\x02"
    with recorded() as fields:
        c = Cursor("outer", data)
        inner = c.sub("inner", 4)
        assert inner.u16("count") == 1 and inner.take("text", 2) == b"ab"
        with pytest.raises(MalformedEvidence):
            c.u32("too_much")
    assert [(f.name, f.offset, f.data, f.integer) for f in fields] == [
        ("outer.inner.count", 0, b"\x01\x00", 1),
        ("outer.inner.text", 2, b"ab", None),
    ]


def test_nothing_is_recorded_unless_somebody_asked() -> None:
    with recorded() as fields:
        pass
    assert Cursor("c", b"ab").take("text", 2) == b"ab" and fields == []
