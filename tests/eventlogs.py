"""Event logs made for tests, and the register values they lead to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from attestation.evidence.eventlog import (
    ALGORITHMS,
    DIGEST_BYTES,
    Digest,
    EventType,
    SpecIdEvent,
    TcgEvent,
    TcgEventLog,
)
from attestation.evidence.eventlog_data import (
    EFI_GLOBAL_VARIABLE,
    STARTUP_LOCALITY,
    TAG_LOAD_OPTIONS,
    TaggedEvent,
    UefiVariable,
)
from attestation.evidence.eventlog_json import RtmrEvent, RtmrEventLog, runtime_preimage
from attestation.verify.events import VerifiedEvents, verify_events

SEPARATOR = bytes(4)
IDENTIFIERS = {name: number for number, name in ALGORITHMS.items()}
CMDLINE = "/boot/vmlinuz root=/dev/vda1 ro"


def header(*banks: str) -> SpecIdEvent:
    sizes = tuple((IDENTIFIERS[b], DIGEST_BYTES[b]) for b in banks)
    return SpecIdEvent(0, 0, 2, 0, 2, sizes, b"")


def event(
    register: int,
    event_type: int,
    data: bytes,
    measured: bytes | None = None,
    banks: Sequence[str] = ("sha384",),
) -> TcgEvent:
    """An entry over `data`, whose digests are of `measured` where that differs."""
    of = data if measured is None else measured
    digests = tuple(Digest(IDENTIFIERS[b], hashlib.new(b, of).digest()) for b in banks)
    return TcgEvent(register, event_type, digests, data)


def variable(name: str, value: bytes) -> bytes:
    return UefiVariable(EFI_GLOBAL_VARIABLE, name.encode("utf-16-le"), value).write()


def no_action(register: int, data: bytes, banks: Sequence[str] = ("sha384",)) -> TcgEvent:
    digests = tuple(Digest(IDENTIFIERS[b], bytes(DIGEST_BYTES[b])) for b in banks)
    return TcgEvent(register, EventType.NO_ACTION, digests, data)


def locality(value: int, banks: Sequence[str]) -> TcgEvent:
    return no_action(0, STARTUP_LOCALITY + bytes((value,)), banks)


def ccel_events(secure_boot: bytes = b"\x01") -> list[TcgEvent]:
    """A plausible boot of a TD: firmware, boot loader, kernel."""
    text = CMDLINE.encode()
    boot0 = variable("Boot0000", b"a boot option")
    return [
        event(1, EventType.EFI_PLATFORM_FIRMWARE_BLOB2, b"where", b"what"),
        event(1, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", secure_boot)),
        event(1, EventType.SEPARATOR, SEPARATOR),
        event(1, EventType.EFI_VARIABLE_BOOT, boot0, b"a boot option"),
        event(2, EventType.EFI_ACTION, b"Calling EFI Application from Boot Option"),
        event(2, EventType.SEPARATOR, SEPARATOR),
        event(2, EventType.EFI_GPT_EVENT, b"EFI PART" + bytes(84)),
        event(2, EventType.EFI_BOOT_SERVICES_APPLICATION, b"where", b"the boot loader"),
        event(3, EventType.IPL, b"/boot/grub/grub.cfg\0", b"the configuration"),
        event(3, EventType.IPL, b"grub_cmd: set timeout=0\0", b"set timeout=0"),
        event(3, EventType.IPL, b"kernel_cmdline: " + text + b"\0", text),
        event(2, EventType.EFI_ACTION, b"Exit Boot Services Invocation"),
    ]


def load_options(text: str, register: int = 3) -> TcgEvent:
    data = TaggedEvent(TAG_LOAD_OPTIONS, b"LOADED_IMAGE::LoadOptions\0").write()
    return event(register, EventType.EVENT_TAG, data, (text + "\0").encode("utf-16-le"))


def ccel(events: Sequence[TcgEvent], padding: bytes = b"\xff" * 64) -> TcgEventLog:
    log = TcgEventLog.of(header("sha384"), tuple(events))
    return TcgEventLog(log.header, log.events, padding)


def extend(digests: Sequence[bytes], bank: str = "sha384", initial: bytes | None = None) -> str:
    value = bytes(DIGEST_BYTES[bank]) if initial is None else initial
    for digest in digests:
        value = hashlib.new(bank, value + digest).digest()
    return value.hex()


def rtmrs(log: TcgEventLog) -> dict[str, str]:
    """The registers an honest machine has after `log`, by a loop of the test's own."""
    measured = [e for e in log.events if e.event_type != EventType.NO_ACTION]
    return {
        f"rtmr{i}": extend([e.digests[-1].value for e in measured if e.register == i + 1])
        for i in range(4)
    }


def verified(events: Sequence[TcgEvent]) -> VerifiedEvents:
    log = ccel(events)
    return verify_events(log.write(), rtmrs(log))


def runtime(name: str, payload: bytes = b"", version: int = 1, **odd: Any) -> RtmrEvent:
    digest = hashlib.sha384(runtime_preimage(name, payload, version)).digest()
    fields = {"imr": 3, "event_type": int(EventType.DSTACK_RUNTIME), "digest": digest}
    return RtmrEvent(**{**fields, "event": name, "payload": payload, "version": version, **odd})


def rtmr3(events: Sequence[RtmrEvent]) -> str:
    return extend([e.digest for e in events if e.imr == 3 and e.digest])


def verified_runtime(events: Sequence[RtmrEvent]) -> VerifiedEvents:
    log = RtmrEventLog(tuple(events))
    return verify_events(log.write(), {"rtmr3": rtmr3(events)})
