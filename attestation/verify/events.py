"""Event logs, replayed to the registers a verified report vouches for.

A register only grows: new = H(old || digest). A log whose digests lead from a register's
first value to its reported one is complete and in order for that register; a forged, added,
missing or moved entry leads elsewhere. Digests are recomputed from the data wherever the log
holds what was measured.

Spec: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4 and 10.4.5.3; UEFI 2.10,
section 38.4; Intel TDX Virtual Firmware Design Guide, section 8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass
from types import MappingProxyType
from typing import Final

from attestation.errors import VerificationError
from attestation.evidence.eventlog import EventType, TcgEventLog
from attestation.evidence.eventlog_data import startup_locality
from attestation.evidence.eventlog_json import RtmrEvent, RtmrEventLog, parse_event_log
from attestation.verify import events_boot
from attestation.verify.events_digest import VerifiedEvent, measured_bytes, runtime_digest
from attestation.verify.events_runtime import RuntimeEvents, read_runtime_events
from attestation.verify.model import _SEAL, VerifiedReport

_BANKS: Final = MappingProxyType({64: "sha256", 96: "sha384", 128: "sha512"})
_NAME: Final = re.compile(r"(?:rtmr[0-3]|pcr(?:1?[0-9]|2[0-3]))")
_VALUE: Final = re.compile(r"[0-9a-f]+")
_HIGHEST_PCR: Final = 23
_DYNAMIC_PCRS: Final = frozenset(f"pcr{i}" for i in range(17, 23))
_LOCALITIES: Final = frozenset({0, 3, 4})

EventLog = TcgEventLog | RtmrEventLog


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvents:
    """Events of every register whose replay ends in its reported value.

    `registers` maps these registers (`rtmr0`.., `pcr0`..) to their values in lowercase hex;
    `events` to what extended them, in order. `unexplained` are reported registers that have
    no event in the log and yet are not in their first state: something extended them, and
    nothing here says what. `runtime` is what dstack measured into RTMR3.
    """

    bank: str
    registers: Mapping[str, str]
    events: Mapping[str, tuple[VerifiedEvent, ...]]
    unexplained: tuple[str, ...]
    runtime: RuntimeEvents | None
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("VerifiedEvents are made by attestation.verify only")

    @property
    def secure_boot(self) -> bool | None:
        """Whether firmware measured Secure Boot as on; None where the log does not prove it."""
        return events_boot.secure_boot(self.events)

    @property
    def boot_application_digests(self) -> tuple[str, ...]:
        """Digests of all that may be an EFI application or driver, hex, in order."""
        return events_boot.image_digests(self.events)

    @property
    def cmdline(self) -> str | None:
        """The kernel's command line, None where none or more than one was measured."""
        lines = set(events_boot.command_lines(self.events))
        return lines.pop() if len(lines) == 1 else None

    @property
    def command_lines(self) -> tuple[str, ...]:
        """Every text that could be the kernel's command line."""
        return events_boot.command_lines(self.events)

    @property
    def boot_texts(self) -> tuple[str, ...]:
        """Every text proven to be measured where boot loaders measure."""
        return events_boot.boot_texts(self.events)

    @property
    def boot_file_digests(self) -> tuple[str, ...]:
        """Digests where boot loaders measure whose bytes the log does not hold, hex."""
        return events_boot.opaque_digests(self.events)

    @property
    def grub_commands(self) -> tuple[str, ...]:
        """GRUB's commands as labelled in the log, for display."""
        return events_boot.grub_commands(self.events)

    def boots_with(self, command_line: str) -> bool:
        """True when `command_line` was measured, as text or as EFI load options."""
        return events_boot.boots_with(self.events, command_line, self.bank)

    def load_options_digest(self, command_line: str) -> str:
        """What the Linux EFI stub measures for `command_line`, hex."""
        return events_boot.load_options_digest(command_line, self.bank).hex()

    def runtime_event(self, name: str) -> bytes | None:
        """The payload dstack measured under `name` while booting, None where it did not."""
        return None if self.runtime is None else self.runtime.boot.get(name)


def _reported(registers: VerifiedReport | Mapping[str, str]) -> dict[str, str]:
    """The registers an event log can explain, by our names."""
    if isinstance(registers, VerifiedReport):
        values = {k.replace("rt_mr", "rtmr"): v for k, v in registers.measurements.items()}
        out = {k: v for k, v in values.items() if _NAME.fullmatch(k)}
    else:
        out = dict(registers)
    if not out or not all(_NAME.fullmatch(k) and _VALUE.fullmatch(v) for k, v in out.items()):
        raise VerificationError("registers", "no registers that an event log could explain")
    if len({name[:3] for name in out}) > 1:
        raise VerificationError("registers", "RTMRs and PCRs are explained by logs of their own")
    return out


def _bank(registers: Mapping[str, str]) -> str:
    sizes = {len(v) for v in registers.values()}
    bank = _BANKS.get(sizes.pop()) if len(sizes) == 1 else None
    if bank is None or ("rtmr0" in registers and bank != "sha384"):
        raise VerificationError("bank", "the registers are not of one accepted hash")
    return bank


def _register_of(number: int, rtmr: bool) -> str | None:
    """The name of register `number` of a binary log; None for one that never extends."""
    if rtmr:
        return f"rtmr{number - 1}" if 1 <= number <= 4 else None
    return f"pcr{number}" if number <= _HIGHEST_PCR else None


def _unknown(index: int, number: int) -> VerificationError:
    return VerificationError("register", f"event {index} extends register {number}")


def _tcg_events(
    log: TcgEventLog, reported: Mapping[str, str], bank: str
) -> Iterator[VerifiedEvent]:
    rtmr = "pcr" not in next(iter(reported))
    for index, event in enumerate(log.events):
        if event.event_type == EventType.NO_ACTION:
            continue
        register = _register_of(event.register, rtmr)
        if register is None:
            raise _unknown(index, event.register)
        if register not in reported:
            continue
        digest = event.digest(bank)
        if digest is None:
            raise VerificationError("bank", f"event {index} has no {bank} digest")
        yield VerifiedEvent(
            index=index,
            register=register,
            event_type=event.event_type,
            digest=digest,
            data=event.data,
            measured=measured_bytes(event.event_type, event.data, digest),
        )


def _rtmr_digest(event: RtmrEvent) -> tuple[bytes, bytes | None]:
    if event.is_runtime:
        return runtime_digest(event)
    digest = event.digest or b""
    return digest, measured_bytes(event.event_type, event.payload, digest)


def _rtmr_events(log: RtmrEventLog, reported: Mapping[str, str]) -> Iterator[VerifiedEvent]:
    if "pcr" in next(iter(reported)):
        raise VerificationError("registers", "a log of RTMRs cannot explain PCRs")
    for index, event in enumerate(log.events):
        register = f"rtmr{event.imr}"
        if not _NAME.fullmatch(register):
            raise _unknown(index, event.imr)
        if event.event_type == EventType.NO_ACTION or register not in reported:
            continue
        digest, measured = _rtmr_digest(event)
        yield VerifiedEvent(
            index=index,
            register=register,
            event_type=event.event_type,
            digest=digest,
            data=event.payload,
            measured=measured,
            name=event.event if event.is_runtime else "",
        )


def _locality(log: EventLog) -> int:
    """Where TPM2_Startup came from. PCR0 starts with it, so a lie does not replay."""
    if isinstance(log, RtmrEventLog):
        return 0
    stated = [
        locality
        for event in log.events
        if event.event_type == EventType.NO_ACTION and event.register == 0
        if (locality := startup_locality(event.data)) is not None
    ]
    if len(stated) > 1 or not _LOCALITIES.issuperset(stated):
        raise VerificationError("startup_locality", f"{stated} is not one of 0, 3 and 4")
    return stated[0] if stated else 0


def replay(digests: Iterator[bytes] | Sequence[bytes], bank: str, initial: bytes) -> bytes:
    """The register's value after extending `initial` with each digest in turn."""
    value = initial
    for digest in digests:
        value = hashlib.new(bank, value + digest).digest()
    return value


def _initial(register: str, size: int, locality: int) -> bytes:
    if register in _DYNAMIC_PCRS:
        return b"\xff" * size
    return bytes(size - 1) + bytes((locality if register == "pcr0" else 0,))


def _check_replay(
    register: str, events: Sequence[VerifiedEvent], bank: str, value: str, locality: int
) -> bool:
    """True when the register is explained; False when nothing is said about it.

    Raises VerificationError named after the register when what is said does not fit.
    """
    initial = _initial(register, len(value) // 2, locality)
    replayed = replay([e.digest for e in events], bank, initial).hex()
    if replayed == value:
        return True
    if events:
        raise VerificationError(register, f"the log replays to {replayed}, the report has {value}")
    return False


def verify_events(
    log: bytes | EventLog,
    registers: VerifiedReport | Mapping[str, str],
    *,
    required: Collection[str] = (),
) -> VerifiedEvents:
    """The log is what extended the registers, complete and in order for each it mentions.

    `registers` is a verified report, or names (`rtmr0`.. or `pcr0`..) with the values a
    verified quote vouches for, lowercase hex of one hash. Entries of registers that are not
    among them are left out. `required` names registers the log must explain. Pure. Raises
    MalformedEvidence when the bytes are no event log, VerificationError otherwise: a step
    named after the register whose replay differs, or `event_digest`, `register`,
    `registers`, `bank`, `startup_locality`, `runtime_events`, `coverage`.
    """
    reported = _reported(registers)
    bank = _bank(reported)
    parsed = parse_event_log(log) if isinstance(log, bytes) else log
    if isinstance(parsed, TcgEventLog):
        found = list(_tcg_events(parsed, reported, bank))
    else:
        found = list(_rtmr_events(parsed, reported))
    locality = _locality(parsed)
    grouped = {r: tuple(e for e in found if e.register == r) for r in sorted(reported)}
    explained = {
        r: reported[r]
        for r, events in grouped.items()
        if _check_replay(r, events, bank, reported[r], locality)
    }
    missing = sorted(set(required) - explained.keys())
    if missing:
        raise VerificationError("coverage", f"the log does not explain {', '.join(missing)}")
    return VerifiedEvents(
        bank=bank,
        registers=MappingProxyType(explained),
        events=MappingProxyType({r: grouped[r] for r in explained}),
        unexplained=tuple(r for r in grouped if r not in explained),
        runtime=read_runtime_events(grouped.get("rtmr3", ())),
        seal=_SEAL,
    )
