"""RTMR event logs as dstack serves them: a JSON list, one object per extension.

An entry is `{imr, event_type, digest, event, event_payload}` with hex digests and payloads;
runtime entries may add `version` and `preimage`. Boot entries may come without payload and
runtime entries without digest, because agents strip what a verifier can do without. What is
left out is None here, so that nobody mistakes it for empty.

Spec: Dstack-TEE/dstack, cc-eventlog (`tdx.rs`, `runtime_events.rs`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.canonical import jcs, loads_strict
from attestation.errors import MalformedEvidence
from attestation.evidence.eventlog import (
    MAX_EVENT_DATA_BYTES,
    MAX_EVENTS,
    MAX_LOG_BYTES,
    EventType,
    TcgEventLog,
)
from attestation.wire import u32

RTMR_DIGEST_BYTES: Final = 48
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")
_MAX_NAME: Final = 256


@dataclass(frozen=True, slots=True)
class RtmrEvent:
    """One extension of RTMR `imr` (0 to 3).

    `digest` (48 bytes) and `payload` are None where the log leaves them out. `event` names
    runtime entries and is empty for what firmware measured. `version` is that of dstack's
    digest format, 1 or 2; `preimage` what the log says was hashed.
    """

    imr: int
    event_type: int
    digest: bytes | None
    event: str
    payload: bytes | None
    version: int = 1
    preimage: bytes | None = None

    @property
    def is_runtime(self) -> bool:
        """True for what dstack measured after the kernel started."""
        return self.event_type == EventType.DSTACK_RUNTIME

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The entry `value` means; members it does not know are ignored.

        Raises MalformedEvidence.
        """
        if not isinstance(value, dict):
            raise MalformedEvidence("eventlog.event", "not an object")
        event_type = _uint(value, "event_type", 0xFFFFFFFF)
        digest = _hex(value, "digest")
        if digest and len(digest) != RTMR_DIGEST_BYTES:
            raise MalformedEvidence("eventlog.event.digest", f"{len(digest)} bytes are not 48")
        runtime = event_type == EventType.DSTACK_RUNTIME
        if not digest and not runtime:
            raise MalformedEvidence("eventlog.event.digest", "only runtime events may omit it")
        payload = _hex(value, "event_payload")
        version = _uint(value, "version", 2) if "version" in value else 1
        if version == 0:
            raise MalformedEvidence("eventlog.event.version", "must be 1 or 2")
        return cls(
            imr=_uint(value, "imr", 0xFFFFFFFF),
            event_type=event_type,
            digest=digest or None,
            event=_name(value.get("event", "")),
            payload=payload if payload or runtime else None,
            version=version,
            preimage=None if value.get("preimage") is None else _hex(value, "preimage"),
        )

    def to_json(self) -> dict[str, Any]:
        """The object `from_json` reads."""
        out: dict[str, Any] = {
            "imr": self.imr,
            "event_type": self.event_type,
            "digest": (self.digest or b"").hex(),
            "event": self.event,
            "event_payload": (self.payload or b"").hex(),
        }
        if self.version != 1:
            out["version"] = self.version
        if self.preimage is not None:
            out["preimage"] = self.preimage.hex()
        return out


def runtime_preimage(event: str, payload: bytes, version: int) -> bytes:
    """What dstack hashes for a runtime event: the bytes whose digest is extended.

    Version 1 joins type (u32, little-endian), name and payload with colons; version 2 is
    the canonical JSON of name, payload in hex and type.
    """
    if version == 1:
        return b":".join((u32(EventType.DSTACK_RUNTIME), event.encode(), payload))
    return jcs({"name": event, "payload": payload.hex(), "type": int(EventType.DSTACK_RUNTIME)})


@dataclass(frozen=True, slots=True)
class RtmrEventLog:
    """Extensions of the four RTMRs, in the order they happened."""

    events: tuple[RtmrEvent, ...]

    @classmethod
    def read(cls, data: bytes | str) -> Self:
        """The log in a JSON list. Raises MalformedEvidence."""
        if len(data) > MAX_LOG_BYTES:
            raise MalformedEvidence("eventlog", f"longer than {MAX_LOG_BYTES}")
        return cls.from_json(loads_strict(data, "eventlog"))

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The log a decoded JSON list means. Raises MalformedEvidence."""
        if not isinstance(value, list):
            raise MalformedEvidence("eventlog", "must be a JSON list")
        if len(value) > MAX_EVENTS:
            raise MalformedEvidence("eventlog.events", f"more than {MAX_EVENTS}")
        return cls(tuple(RtmrEvent.from_json(entry) for entry in value))

    def write(self) -> bytes:
        """JSON that `read` reads."""
        return json.dumps([e.to_json() for e in self.events], separators=(",", ":")).encode()


def parse_event_log(data: bytes) -> TcgEventLog | RtmrEventLog:
    """The log in `data`: JSON when it starts as a JSON list, else the binary form.

    Raises MalformedEvidence.
    """
    if data[:64].lstrip().startswith(b"["):
        return RtmrEventLog.read(data)
    return TcgEventLog.read(data)


def _uint(value: dict[str, Any], field: str, highest: int) -> int:
    number = value.get(field)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= highest:
        raise MalformedEvidence(f"eventlog.event.{field}", f"not an integer of 0 to {highest}")
    return number


def _hex(value: dict[str, Any], field: str) -> bytes:
    text = value.get(field, "")
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise MalformedEvidence(f"eventlog.event.{field}", "not hex")
    if len(text) > 2 * MAX_EVENT_DATA_BYTES:
        raise MalformedEvidence(
            f"eventlog.event.{field}", f"longer than {MAX_EVENT_DATA_BYTES} bytes"
        )
    return bytes.fromhex(text)


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise MalformedEvidence("eventlog.event.event", f"not a string of up to {_MAX_NAME}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedEvidence("eventlog.event.event", "lone surrogate") from None
    return value
