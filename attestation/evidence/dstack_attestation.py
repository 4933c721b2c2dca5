"""dstack's binary attestation, version 0: a TDX quote and its events in SCALE encoding.

The list of runtime events at its end repeats what the event log holds, without digests; it
must be the same list. Boot entries come stripped, so usually only RTMR3 can be replayed.

Spec: Dstack-TEE/dstack, dstack-attest `attestation.rs` (`VersionedAttestation::V0`), SCALE
codec ("Compact integers").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.evidence.eventlog import (
    MAX_EVENT_DATA_BYTES,
    MAX_EVENTS,
    MAX_LOG_BYTES,
    EventType,
)
from attestation.evidence.eventlog_json import RTMR_DIGEST_BYTES, RtmrEvent, RtmrEventLog
from attestation.wire import Cursor, u8, u16, u32

REPORT_DATA_BYTES: Final = 64
_TDX: Final = 0
_MAX_NAME_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class DstackAttestation:
    """Quote, events, the report data asked for, and the VM configuration as JSON text."""

    quote: bytes
    event_log: RtmrEventLog
    report_data: bytes
    config: str

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The attestation in all of `data`. Raises MalformedEvidence, also for other TEEs."""
        if len(data) > MAX_LOG_BYTES:
            raise MalformedEvidence("attestation", f"longer than {MAX_LOG_BYTES} bytes")
        c = Cursor("attestation", data)
        if c.u8("version") != 0:
            raise MalformedEvidence("attestation.version", "is not 0", 0)
        if c.u8("platform") != _TDX:
            raise MalformedEvidence("attestation.platform", "is not dstack on TDX", 1)
        quote = _bytes(c, "quote")
        events = tuple(_event(c) for _ in range(_count(c, "event_log", MAX_EVENTS)))
        repeated = [
            (_string(c, "event"), _bytes(c, "payload"))
            for _ in range(_count(c, "runtime_events", MAX_EVENTS))
        ]
        if repeated != [(e.event, e.payload) for e in events if e.is_runtime]:
            raise c.error("runtime_events", "not those of the event log")
        report_data = c.take("report_data", REPORT_DATA_BYTES)
        config = _string(c, "config", MAX_EVENT_DATA_BYTES)
        c.finish()
        return cls(quote, RtmrEventLog(events), report_data, config)

    def write(self) -> bytes:
        """The bytes `read` reads."""
        events = self.event_log.events
        runtime = [e for e in events if e.is_runtime]
        return b"".join(
            (
                u8(0),
                u8(_TDX),
                _write_bytes(self.quote),
                _compact(len(events)),
                *(_write_event(e) for e in events),
                _compact(len(runtime)),
                *(_write_bytes(e.event.encode()) + _write_bytes(e.payload or b"") for e in runtime),
                self.report_data,
                _write_bytes(self.config.encode()),
            )
        )


def _count(c: Cursor, field: str, highest: int) -> int:
    """A SCALE compact integer of the shortest form, at most `highest`."""
    start = c.offset
    first = c.u8(field)
    mode = first & 3
    if mode == 0:
        value = first >> 2
    elif mode == 1:
        value = (first | c.u8(field) << 8) >> 2
    elif mode == 2:
        value = (first | c.u8(field) << 8 | c.u16(field) << 16) >> 2
    else:
        raise MalformedEvidence(f"attestation.{field}", "length of more than 30 bits", start)
    if value > highest or len(_compact(value)) != c.offset - start:
        raise MalformedEvidence(f"attestation.{field}", f"{value} exceeds {highest}", start)
    return value


def _compact(value: int) -> bytes:
    if value < 1 << 6:
        return u8(value << 2)
    return u16(value << 2 | 1) if value < 1 << 14 else u32(value << 2 | 2)


def _bytes(c: Cursor, field: str, highest: int = MAX_EVENT_DATA_BYTES) -> bytes:
    return c.take(field, _count(c, field, highest))


def _write_bytes(data: bytes) -> bytes:
    return _compact(len(data)) + data


def _string(c: Cursor, field: str, highest: int = _MAX_NAME_BYTES) -> str:
    start = c.offset
    try:
        return _bytes(c, field, highest).decode()
    except UnicodeDecodeError:
        raise MalformedEvidence(f"attestation.{field}", "not UTF-8", start) from None


def _event(c: Cursor) -> RtmrEvent:
    imr, event_type = c.u32("imr"), c.u32("event_type")
    runtime = event_type == EventType.DSTACK_RUNTIME
    digest = _bytes(c, "digest", RTMR_DIGEST_BYTES)
    if len(digest) != RTMR_DIGEST_BYTES and (digest or not runtime):
        raise c.error("digest", f"{len(digest)} bytes are not 48")
    name, payload = _string(c, "event"), _bytes(c, "payload")
    return RtmrEvent(imr, event_type, digest or None, name, payload if payload or runtime else None)


def _write_event(event: RtmrEvent) -> bytes:
    return b"".join(
        (
            u32(event.imr),
            u32(event.event_type),
            _write_bytes(event.digest or b""),
            _write_bytes(event.event.encode()),
            _write_bytes(event.payload or b""),
        )
    )
