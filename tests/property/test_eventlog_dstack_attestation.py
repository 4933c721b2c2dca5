"""dstack's binary attestation: total, exact, and one encoding only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eventlogs import runtime
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedEvidence
from attestation.evidence import dstack_attestation
from attestation.evidence.dstack_attestation import DstackAttestation
from attestation.evidence.eventlog_json import RtmrEvent, RtmrEventLog

HONEST = DstackAttestation(
    quote=b"q" * 300,
    event_log=RtmrEventLog(
        (
            RtmrEvent(0, 10, b"\x01" * 48, "acpi-loader", b"ACPI DATA"),
            RtmrEvent(0, 4, b"\x02" * 48, "", None),
            runtime("app-id", b"x" * 20, digest=None),
            runtime("system-ready"),
        )
    ),
    report_data=bytes(64),
    config='{"vm_config": "{}"}',
)
WIRE = HONEST.write()
sizes = st.sampled_from([0, 63, 64, 16383, 16384, 100_000])


@given(quote=sizes, payload=sizes)
def test_read_mirrors_write_at_every_width_of_length(quote: int, payload: int) -> None:
    log = RtmrEventLog((*HONEST.event_log.events, runtime("more", b"p" * payload)))
    attestation = replace(HONEST, quote=b"q" * quote, event_log=log)
    assert DstackAttestation.read(attestation.write()) == attestation


@given(size=st.integers(0, len(WIRE) - 1))
def test_every_cut_is_malformed(size: int) -> None:
    with pytest.raises(MalformedEvidence):
        DstackAttestation.read(WIRE[:size])


@given(raw=st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_our_errors(raw: bytes) -> None:
    for data in (raw, b"\0\0" + raw, WIRE + raw + b"\0"):
        with pytest.raises(MalformedEvidence):
            DstackAttestation.read(data)


def refused(data: bytes, field: str) -> None:
    with pytest.raises(MalformedEvidence) as e:
        DstackAttestation.read(data)
    assert e.value.field == f"attestation{field}"


def test_other_versions_and_platforms_are_refused() -> None:
    refused(b"\x81" + WIRE[1:], ".version")
    refused(b"\0\x03" + WIRE[2:], ".platform")


def test_lengths_have_one_encoding_and_a_ceiling() -> None:
    refused(b"\0\0" + b"\x05\0" + b"q" + WIRE[4:], ".quote")  # 1 in the two-byte form
    refused(b"\0\0" + b"\x03" + bytes(4), ".quote")  # the form for long integers
    refused(b"\0\0" + b"\xfe\xff\xff\xff", ".quote")
    refused(WIRE + bytes(dstack_attestation.MAX_LOG_BYTES), "")


def test_runtime_events_that_differ_from_the_log_are_refused() -> None:
    at = WIRE.rindex(b"app-id")
    refused(WIRE[:at] + b"app-ix" + WIRE[at + 6 :], ".runtime_events")


def test_digests_are_whole_and_only_runtime_events_leave_theirs_out() -> None:
    for event in (RtmrEvent(0, 4, None, "", None), RtmrEvent(0, 4, b"short", "", None)):
        refused(replace(HONEST, event_log=RtmrEventLog((event,))).write(), ".digest")
    short = runtime("app-id", b"x", digest=b"short")
    refused(replace(HONEST, event_log=RtmrEventLog((short,))).write(), ".digest")


def test_names_that_are_no_text_are_refused() -> None:
    at = WIRE.index(b"acpi-loader")
    refused(WIRE[:at] + b"\xff" + WIRE[at + 1 :], ".event")
