"""Event logs as bytes: what is read, and what is refused before anything is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from eventlogs import ccel, ccel_events, event, header, no_action, runtime

from attestation.errors import MalformedEvidence
from attestation.evidence import eventlog, eventlog_json
from attestation.evidence.eventlog import Digest, EventType, TcgEvent, TcgEventLog
from attestation.evidence.eventlog_data import (
    TaggedEvent,
    UefiVariable,
    grub_text,
    startup_locality,
    utf16_text,
)
from attestation.evidence.eventlog_json import (
    RtmrEvent,
    RtmrEventLog,
    parse_event_log,
    runtime_preimage,
)
from attestation.wire import u32

AGILE = ccel(ccel_events())
SHA1 = TcgEventLog(
    None,
    (
        TcgEvent(0, EventType.S_CRTM_VERSION, (Digest(4, bytes(range(20))),), b"1"),
        TcgEvent(7, EventType.SEPARATOR, (Digest(4, bytes(range(20))),), bytes(4)),
    ),
)


@pytest.mark.parametrize("padding", [b"", b"\xff" * 4, b"\xff" * 999, b"\0" * 4, b"\0" * 999])
@pytest.mark.parametrize("log", [AGILE, SHA1], ids=["agile", "sha1"])
def test_read_mirrors_write_with_any_padding(log: TcgEventLog, padding: bytes) -> None:
    padded = replace(log, padding=padding)
    assert parse_event_log(padded.write()) == padded


def test_an_algorithm_unknown_to_us_is_kept_as_the_header_sizes_it() -> None:
    head = replace(header("sha384"), digest_sizes=((0x12, 32), (0x0C, 48)), vendor_info=b"me")
    entry = TcgEvent(1, 4, (Digest(0x12, bytes(32)), Digest(0x0C, bytes(48))), b"")
    log = TcgEventLog.of(head, (entry,))
    assert TcgEventLog.read(log.write()) == log
    assert entry.digest("sha384") == bytes(48)
    assert entry.digest("sha256") is None


def refused(data: bytes, field: str) -> None:
    with pytest.raises(MalformedEvidence) as e:
        TcgEventLog.read(data)
    assert e.value.field == field


def test_bytes_behind_the_end_mark_are_refused() -> None:
    refused(ccel([], padding=b"\xff" * 8 + b"hidden").write(), "eventlog.pcr_index")


def test_bytes_behind_zero_padding_are_refused() -> None:
    refused(ccel([], padding=bytes(16) + b"hidden").write(), "eventlog.digest_count")


def test_padding_of_two_kinds_is_refused() -> None:
    refused(ccel([], padding=b"\xff" * 16 + bytes(16)).write(), "eventlog.pcr_index")


def test_a_log_longer_than_any_firmware_area_is_refused() -> None:
    refused(b"\xff" * (eventlog.MAX_LOG_BYTES + 1), "eventlog")


def test_more_entries_than_the_ceiling_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "MAX_EVENTS", 5)
    refused(AGILE.write(), "eventlog.events")


def test_event_data_longer_than_its_ceiling_is_refused_before_it_is_read() -> None:
    entry = u32(1) + u32(4) + u32(1) + b"\x0c\0" + bytes(48) + u32(0x7FFFFFFF)
    refused(ccel([], padding=b"").write() + entry + b"x", "eventlog.event_size")


@pytest.mark.parametrize("count", [0, 2, 0xFFFFFFFF])
def test_a_digest_count_the_header_does_not_list_is_refused(count: int) -> None:
    entry = u32(1) + u32(4) + u32(count) + b"\x0c\0" + bytes(48) + u32(1) + b"x"
    refused(ccel([], padding=b"").write() + entry, "eventlog.digest_count")


def test_a_digest_of_an_algorithm_the_header_does_not_list_is_refused() -> None:
    refused(ccel([event(1, 4, b"x", banks=("sha256",))]).write(), "eventlog.algorithm_id")


def test_two_digests_of_one_algorithm_are_refused() -> None:
    twice = event(1, 4, b"x", banks=("sha384", "sha384"))
    log = TcgEventLog.of(header("sha384", "sha256"), (twice,))
    refused(log.write(), "eventlog.algorithm_id")


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ((), "none"),
        (tuple((0x100 + i, 32) for i in range(9)), "too many"),
        (((0x0C, 48), (0x0C, 48)), "twice"),
        (((0x0C, 32),), "a SHA-384 of 32 bytes"),
        (((0x12, 0),), "an empty digest"),
        (((0x12, 65),), "longer than any"),
    ],
)
def test_a_header_with_strange_digest_sizes_is_refused(sizes: Any, why: str) -> None:
    log = TcgEventLog.of(replace(header("sha384"), digest_sizes=sizes), ())
    with pytest.raises(MalformedEvidence, match=r"eventlog\.header"):
        TcgEventLog.read(log.write())


def test_a_header_entry_with_a_digest_is_refused() -> None:
    first = replace(AGILE.events[0], digests=(Digest(4, b"\x01" * 20),))
    refused(replace(AGILE, events=(first,)).write(), "eventlog.header.digest")


def test_a_header_cut_short_inside_its_entry_is_refused() -> None:
    first = replace(AGILE.events[0], data=AGILE.events[0].data[:-1])
    with pytest.raises(MalformedEvidence, match="vendor_info_size"):
        TcgEventLog.read(replace(AGILE, events=(first,)).write())


def test_a_spec_id_reader_refuses_another_signature() -> None:
    from attestation.evidence.eventlog import SpecIdEvent
    from attestation.wire import Cursor

    with pytest.raises(MalformedEvidence, match="signature"):
        SpecIdEvent.read(Cursor("header", bytes(64)))


def test_with_events_keeps_the_header() -> None:
    assert AGILE.with_events(AGILE.events[1:]) == AGILE
    assert no_action(0, b"") not in AGILE.with_events(()).events


# JSON


def entry(**odd: Any) -> dict[str, Any]:
    return {
        "imr": 0,
        "event_type": 4,
        "digest": "00" * 48,
        "event": "",
        "event_payload": "00000000",
        **odd,
    }


def read_json(*entries: Any) -> RtmrEventLog:
    return RtmrEventLog.read(json.dumps(entries).encode())


def test_what_a_log_leaves_out_is_none_and_not_empty() -> None:
    stripped = read_json(entry(event_payload=""), runtime("app-id", b"x", digest=None).to_json())
    assert stripped.events[0].payload is None
    assert stripped.events[1].digest is None
    assert read_json(runtime("system-ready").to_json()).events[0].payload == b""


def test_a_version_2_entry_keeps_its_version_and_preimage() -> None:
    preimage = runtime_preimage("app-id", b"\x01", 2)
    assert preimage == b'{"name":"app-id","payload":"01","type":134217729}'
    log = RtmrEventLog((runtime("app-id", b"\x01", version=2, preimage=preimage),))
    assert parse_event_log(b" \n" + log.write()) == log


def test_members_of_later_versions_are_ignored() -> None:
    assert read_json(entry(later=1)) == read_json(entry())
    assert read_json(entry(preimage=None)) == read_json(entry())


@pytest.mark.parametrize(
    "odd",
    [
        {"imr": -1},
        {"imr": True},
        {"imr": "3"},
        {"imr": 1 << 32},
        {"event_type": 1.0},
        {"event_type": None},
        {"digest": "00"},
        {"digest": ""},
        {"digest": "zz" * 48},
        {"digest": 7},
        {"event": None},
        {"event": "n" * 257},
        {"event_payload": "0"},
        {"version": 0},
        {"version": 3},
        {"preimage": "x"},
    ],
    ids=str,
)
def test_a_json_entry_of_another_shape_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidence):
        read_json(entry(**odd))


@pytest.mark.parametrize("value", [{}, None, [1], [[]], "log"], ids=str)
def test_json_that_is_no_list_of_entries_is_refused(value: Any) -> None:
    with pytest.raises(MalformedEvidence):
        RtmrEventLog.from_json(value)


def test_a_name_that_no_encoding_can_write_is_refused() -> None:
    with pytest.raises(MalformedEvidence, match="surrogate"):
        RtmrEvent.from_json(entry(event="\ud800"))


def test_ceilings_hold_for_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog_json, "MAX_EVENTS", 1)
    with pytest.raises(MalformedEvidence, match="more than 1"):
        read_json(entry(), entry())
    monkeypatch.setattr(eventlog_json, "MAX_EVENT_DATA_BYTES", 3)
    with pytest.raises(MalformedEvidence, match="longer than 3"):
        read_json(entry())
    monkeypatch.setattr(eventlog_json, "MAX_LOG_BYTES", 10)
    with pytest.raises(MalformedEvidence, match="longer than 10"):
        read_json(entry())


# Event data


def test_a_variable_reads_as_it_is_written() -> None:
    from eventlogs import variable

    data = variable("SecureBoot", b"\x01")
    read = UefiVariable.read(data)
    assert read is not None
    assert (read.text, read.value, read.write()) == ("SecureBoot", b"\x01", data)


@pytest.mark.parametrize(
    "data", [b"", bytes(31), bytes(33), bytes(16) + b"\xff" * 16, bytes(24) + b"\x01" + bytes(7)]
)
def test_bytes_that_are_no_variable_are_none(data: bytes) -> None:
    assert UefiVariable.read(data) is None


def test_tagged_events_read_as_they_are_written() -> None:
    tagged = TaggedEvent(0x8F3B22ED, b"text")
    assert TaggedEvent.read(tagged.write()) == tagged
    assert TaggedEvent.read(tagged.write()[:-1]) is None


def test_small_readers_answer_none_for_everything_else() -> None:
    assert grub_text(b"grub_cmd: boot\0") == b"boot"
    assert grub_text(b"/boot/vmlinuz\0") is None
    assert utf16_text("quiet\0".encode("utf-16-le")) == "quiet"
    for other in (b"", bytes(2), b"odd", b"\x00\xd8", "a\0b\0".encode("utf-16-le"), b"ab"):
        assert utf16_text(other) is None
    assert startup_locality(b"StartupLocality\0\x03") == 3
    assert startup_locality(b"StartupLocality\0") is None
    assert startup_locality(b"startuplocality\0\x03") is None
