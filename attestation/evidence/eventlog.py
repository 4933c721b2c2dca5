"""Event logs of measured boot, as written: what was extended into which register, and why.

The binary form is what firmware hands to the operating system: TPM 2.0 logs and the CCEL
table of confidential VMs. The header event says which digests each entry carries; a log
without it is the old form with SHA-1 digests only. A log proves nothing by itself: only
`attestation.verify` says whether it replays to registers a quote vouches for.

Spec: TCG PC Client Platform Firmware Profile 1.06, sections 10.2 (records) and 10.4.5.1
(header); UEFI 2.10, section 38.4 (CCEL).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Self

from attestation.errors import MalformedEvidence
from attestation.wire import Cursor, u8, u16, u32

MAX_LOG_BYTES: Final = 4 << 20
MAX_EVENTS: Final = 8192
MAX_EVENT_DATA_BYTES: Final = 1 << 19
MAX_ALGORITHMS: Final = 8
SPEC_ID_SIGNATURE: Final = b"Spec ID Event03\0"
NO_REGISTER: Final = 0xFFFFFFFF

ALGORITHMS: Final = MappingProxyType({0x04: "sha1", 0x0B: "sha256", 0x0C: "sha384", 0x0D: "sha512"})
"""TPM algorithm identifiers and hashlib's names. Spec: TCG Algorithm Registry, table 3."""

DIGEST_BYTES: Final = MappingProxyType(
    {name: hashlib.new(name, usedforsecurity=False).digest_size for name in ALGORITHMS.values()}
)


class EventType(IntEnum):
    """What an entry says it measured. Spec: PFP 1.06, tables 27 and 28."""

    PREBOOT_CERT = 0x0
    POST_CODE = 0x1
    NO_ACTION = 0x3
    SEPARATOR = 0x4
    ACTION = 0x5
    EVENT_TAG = 0x6
    S_CRTM_CONTENTS = 0x7
    S_CRTM_VERSION = 0x8
    CPU_MICROCODE = 0x9
    PLATFORM_CONFIG_FLAGS = 0xA
    TABLE_OF_DEVICES = 0xB
    COMPACT_HASH = 0xC
    IPL = 0xD
    IPL_PARTITION_DATA = 0xE
    NONHOST_CODE = 0xF
    NONHOST_CONFIG = 0x10
    NONHOST_INFO = 0x11
    OMIT_BOOT_DEVICE_EVENTS = 0x12
    POST_CODE2 = 0x13
    DSTACK_RUNTIME = 0x08000001
    EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EFI_VARIABLE_BOOT = 0x80000002
    EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EFI_GPT_EVENT = 0x80000006
    EFI_ACTION = 0x80000007
    EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EFI_HANDOFF_TABLES = 0x80000009
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EFI_HANDOFF_TABLES2 = 0x8000000B
    EFI_VARIABLE_BOOT2 = 0x8000000C
    EFI_GPT_EVENT2 = 0x8000000D
    EFI_HCRTM_EVENT = 0x80000010
    EFI_VARIABLE_AUTHORITY = 0x800000E0
    EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2


@dataclass(frozen=True, slots=True)
class Digest:
    """One digest of an entry. `algorithm` is a TPM algorithm identifier."""

    algorithm: int
    value: bytes


@dataclass(frozen=True, slots=True)
class TcgEvent:
    """TCG_PCR_EVENT2, or TCG_PCClientPCREvent with its one SHA-1 digest.

    `register` is the number as written: a PCR, or a CC measurement register index, where
    0 is MRTD and 1 to 4 are RTMR0 to RTMR3.
    """

    register: int
    event_type: int
    digests: tuple[Digest, ...]
    data: bytes

    def digest(self, bank: str) -> bytes | None:
        """The digest for `bank` (a hashlib name), None where the entry has none."""
        return next((d.value for d in self.digests if ALGORITHMS.get(d.algorithm) == bank), None)


@dataclass(frozen=True, slots=True)
class SpecIdEvent:
    """TCG_EfiSpecIDEvent. `digest_sizes` are pairs of algorithm identifier and size in bytes."""

    platform_class: int
    spec_version_minor: int
    spec_version_major: int
    spec_errata: int
    uintn_size: int
    digest_sizes: tuple[tuple[int, int], ...]
    vendor_info: bytes

    @classmethod
    def read(cls, c: Cursor) -> Self:
        if c.take("signature", len(SPEC_ID_SIGNATURE)) != SPEC_ID_SIGNATURE:
            raise MalformedEvidence("eventlog.header.signature", "not a Spec ID Event03", 0)
        header = cls(
            platform_class=c.u32("platform_class"),
            spec_version_minor=c.u8("spec_version_minor"),
            spec_version_major=c.u8("spec_version_major"),
            spec_errata=c.u8("spec_errata"),
            uintn_size=c.u8("uintn_size"),
            digest_sizes=cls._read_sizes(c),
            vendor_info=c.take("vendor_info", c.u8("vendor_info_size")),
        )
        c.finish()
        return header

    @staticmethod
    def _read_sizes(c: Cursor) -> tuple[tuple[int, int], ...]:
        count = c.u32("number_of_algorithms")
        if not 1 <= count <= MAX_ALGORITHMS:
            raise c.error("number_of_algorithms", f"{count} is not 1 to {MAX_ALGORITHMS}")
        sizes = tuple((c.u16("algorithm_id"), c.u16("digest_size")) for _ in range(count))
        if len({algorithm for algorithm, _ in sizes}) != count:
            raise c.error("digest_sizes", "an algorithm is listed twice")
        for algorithm, size in sizes:
            if not 1 <= size <= 64 or DIGEST_BYTES.get(ALGORITHMS.get(algorithm, ""), size) != size:
                raise c.error("digest_sizes", f"{size} bytes for algorithm {algorithm:#06x}")
        return sizes

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return b"".join(
            (
                SPEC_ID_SIGNATURE,
                u32(self.platform_class),
                u8(self.spec_version_minor),
                u8(self.spec_version_major),
                u8(self.spec_errata),
                u8(self.uintn_size),
                u32(len(self.digest_sizes)),
                *(u16(algorithm) + u16(size) for algorithm, size in self.digest_sizes),
                u8(len(self.vendor_info)),
                self.vendor_info,
            )
        )


@dataclass(frozen=True, slots=True)
class TcgEventLog:
    """A binary log. `header` is None for the SHA-1 form.

    The header is also the first entry of `events`, an EV_NO_ACTION. `padding` is what the
    firmware's fixed area holds after the last entry: all zeros or all ones.
    """

    header: SpecIdEvent | None
    events: tuple[TcgEvent, ...]
    padding: bytes = b""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The log in all of `data`. Raises MalformedEvidence."""
        if len(data) > MAX_LOG_BYTES:
            raise MalformedEvidence("eventlog", f"longer than {MAX_LOG_BYTES} bytes")
        end = _end_of_entries(data)
        c = Cursor("eventlog", data)
        first = _read_legacy(c)
        if first.event_type != EventType.NO_ACTION or first.data[:16] != SPEC_ID_SIGNATURE:
            events = _read_all(c, end, first, None)
            return cls(None, events, c.rest())
        if any(first.digests[0].value):
            raise MalformedEvidence("eventlog.header.digest", "is not zero", 8)
        header = SpecIdEvent.read(Cursor("eventlog.header", first.data, 32))
        events = _read_all(c, end, first, dict(header.digest_sizes))
        return cls(header, events, c.rest())

    def write(self) -> bytes:
        """The bytes `read` reads, padding included."""
        first, *others = self.events
        rest = (_write_legacy(e) if self.header is None else _write_agile(e) for e in others)
        return b"".join((_write_legacy(first), *rest, self.padding))

    @classmethod
    def of(cls, header: SpecIdEvent, events: tuple[TcgEvent, ...]) -> Self:
        """The log of `events` behind `header`, in the crypto-agile form."""
        first = TcgEvent(0, EventType.NO_ACTION, (Digest(0x04, bytes(20)),), header.write())
        return cls(header, (first, *events))

    def with_events(self, events: tuple[TcgEvent, ...]) -> Self:
        """The same log with other entries behind its first."""
        return replace(self, events=(self.events[0], *events))


def _end_of_entries(data: bytes) -> int:
    """Where padding may begin: behind it stand only zeros, or only ones."""
    return min(len(data.rstrip(b"\0")), len(data.rstrip(b"\xff")))


def _read_data(c: Cursor) -> bytes:
    size = c.u32("event_size")
    if size > MAX_EVENT_DATA_BYTES:
        raise c.error("event_size", f"{size} exceeds {MAX_EVENT_DATA_BYTES}")
    return c.take("event", size)


def _read_legacy(c: Cursor) -> TcgEvent:
    register, event_type = c.u32("pcr_index"), c.u32("event_type")
    digest = Digest(0x04, c.take("digest", 20))
    return TcgEvent(register, event_type, (digest,), _read_data(c))


def _read_agile(c: Cursor, sizes: dict[int, int]) -> TcgEvent:
    register, event_type, count = c.u32("pcr_index"), c.u32("event_type"), c.u32("digest_count")
    if register == NO_REGISTER:
        raise c.error("pcr_index", "the end mark is not the end")
    if not 1 <= count <= len(sizes):
        raise c.error("digest_count", f"{count} is not 1 to {len(sizes)}, as the header lists")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = c.u16("algorithm_id")
        if algorithm not in sizes or algorithm in digests:
            raise c.error("algorithm_id", f"{algorithm:#06x} is not in the header, or twice here")
        digests[algorithm] = c.take("digest", sizes[algorithm])
    listed = tuple(Digest(algorithm, value) for algorithm, value in digests.items())
    return TcgEvent(register, event_type, listed, _read_data(c))


def _read_all(
    c: Cursor, end: int, first: TcgEvent, sizes: dict[int, int] | None
) -> tuple[TcgEvent, ...]:
    events = [first]
    while c.offset < end:
        if len(events) == MAX_EVENTS:
            raise c.error("events", f"more than {MAX_EVENTS}")
        events.append(_read_legacy(c) if sizes is None else _read_agile(c, sizes))
    return tuple(events)


def _write_legacy(event: TcgEvent) -> bytes:
    return b"".join(
        (
            u32(event.register),
            u32(event.event_type),
            event.digests[0].value,
            u32(len(event.data)),
            event.data,
        )
    )


def _write_agile(event: TcgEvent) -> bytes:
    return b"".join(
        (
            u32(event.register),
            u32(event.event_type),
            u32(len(event.digests)),
            *(u16(d.algorithm) + d.value for d in event.digests),
            u32(len(event.data)),
            event.data,
        )
    )
