"""Event logs: readers are total and exact, and replay forgives nothing."""

from __future__ import annotations

import pytest
from attested import flip
from eventlogs import ccel, ccel_events, header, rtmrs, runtime
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import AttestationError, MalformedEvidence
from attestation.evidence.eventlog import Digest, EventType, TcgEvent, TcgEventLog
from attestation.evidence.eventlog_data import TaggedEvent, UefiVariable
from attestation.evidence.eventlog_json import RtmrEvent, RtmrEventLog, parse_event_log
from attestation.verify.events import verify_events

HONEST = ccel(ccel_events(), padding=b"")
WIRE = HONEST.write()
REGISTERS = rtmrs(HONEST)
uint32 = st.integers(0, 2**32 - 1)


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


events = st.builds(
    TcgEvent,
    register=st.integers(0, 2**32 - 2),
    event_type=uint32,
    digests=st.tuples(st.builds(Digest, st.just(0x0C), exactly(48))),
    data=st.binary(min_size=1, max_size=64).filter(lambda d: d.strip(b"\0\xff")),
)
logs = st.builds(
    lambda entries, padding: ccel(entries, padding),
    st.lists(events, max_size=5),
    st.sampled_from([b"", b"\xff" * 7, bytes(7)]),
)
rtmr_events = st.builds(
    RtmrEvent,
    imr=uint32,
    event_type=uint32.filter(lambda t: t != EventType.DSTACK_RUNTIME),
    digest=exactly(48),
    event=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    payload=st.binary(min_size=1, max_size=40) | st.none(),
    version=st.sampled_from([1, 2]),
    preimage=st.none() | st.binary(max_size=8),
)


@given(log=logs)
def test_a_binary_log_survives_writing_and_reading(log: TcgEventLog) -> None:
    assert parse_event_log(log.write()) == log


@given(entries=st.lists(rtmr_events, max_size=5))
def test_a_json_log_survives_writing_and_reading(entries: list[RtmrEvent]) -> None:
    log = RtmrEventLog((*entries, runtime("app-id", b"x")))
    assert parse_event_log(log.write()) == log


@given(size=st.integers(0, len(WIRE) - 1))
def test_a_cut_log_is_malformed_or_replays_elsewhere(size: int) -> None:
    """A cut between entries is a shorter log; what it still says is true, the rest unexplained."""
    try:
        got = verify_events(WIRE[:size], REGISTERS)
    except AttestationError:
        return
    assert got.unexplained


@given(size=st.integers(0, len(WIRE) - 1))
def test_a_cut_inside_an_entry_is_malformed(size: int) -> None:
    ends = {len(HONEST.with_events(HONEST.events[1:n]).write()) for n in range(1, 14)}
    if size in ends:
        assert TcgEventLog.read(WIRE[:size]).write() == WIRE[:size]
    else:
        with pytest.raises(MalformedEvidence):
            TcgEventLog.read(WIRE[:size])


@given(data=st.data())
def test_any_flipped_bit_of_a_digest_is_refused(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(HONEST.events) - 1))
    bit = data.draw(st.integers(0, 48 * 8 - 1))
    entries = list(HONEST.events[1:])
    entry = entries[n - 1]
    forged = Digest(0x0C, flip(entry.digests[0].value, bit))
    entries[n - 1] = TcgEvent(entry.register, entry.event_type, (forged,), entry.data)
    with pytest.raises(AttestationError):
        verify_events(HONEST.with_events(tuple(entries)), REGISTERS)


@given(bit=st.integers(0, len(WIRE) * 8 - 1))
def test_any_flipped_bit_leaves_measured_bytes_as_they_were(bit: int) -> None:
    """Labels and unmeasured data may change unseen; proven bytes and digests may not."""
    try:
        got = verify_events(flip(WIRE, bit), REGISTERS)
    except AttestationError:
        return
    honest = verify_events(WIRE, REGISTERS)
    for register, extended in got.events.items():
        expected = honest.events[register]
        assert [e.digest for e in extended] == [e.digest for e in expected]
        for actual, e in zip(extended, expected, strict=True):
            assert actual.measured in (None, e.measured)


@given(raw=st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_our_errors(raw: bytes) -> None:
    for bytes_ in (raw, b"[" + raw, WIRE[:65] + raw):
        with pytest.raises(AttestationError):
            verify_events(bytes_, REGISTERS, required=REGISTERS)


@given(raw=st.binary(max_size=120), name=st.text(max_size=12))
def test_readers_of_event_data_are_exact(raw: bytes, name: str) -> None:
    variable = UefiVariable.read(raw)
    assert variable is None or variable.write() == raw
    tagged = TaggedEvent.read(raw)
    assert tagged is None or tagged.write() == raw


def test_the_header_survives_writing_and_reading() -> None:
    log = TcgEventLog.of(header("sha1", "sha256", "sha384", "sha512"), ())
    assert TcgEventLog.read(log.write()) == log
