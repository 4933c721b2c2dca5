"""What a policy may want of the boot that an event log proves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from attestation.errors import Finding
from attestation.policy.values import one_of
from attestation.verify import VerifiedReport

if TYPE_CHECKING:
    from attestation.verify.events import VerifiedEvents

_IMAGES: Final = {"rtmr": ("rtmr1",), "pcr": ("pcr2", "pcr4")}
_COMMAND_LINES: Final = {"rtmr": ("rtmr2",), "pcr": ("pcr8", "pcr9", "pcr12")}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsPolicy:
    """What must be proven about the boot; None and empty ask nothing.

    What a boot loader measures is as true as the boot loader: rules about command lines and
    files need `boot_applications` beside them. Both lists are digests (hex, of the
    registers' hash): of all that may be started as an EFI image, and of all that a boot
    loader may measure without its bytes standing in the log. `cmdlines` are whole kernel
    command lines; `cmdline_required` words each of them must have; `cmdline_forbidden` text
    none may contain.
    """

    required: bool = False
    registers: tuple[str, ...] = ()
    secure_boot: bool = False
    boot_applications: frozenset[str] | None = None
    boot_files: frozenset[str] | None = None
    cmdlines: tuple[str, ...] | None = None
    cmdline_required: tuple[str, ...] = ()
    cmdline_forbidden: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, events: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        cmdline = events.get("cmdline", {})
        accepted = cmdline.get("accepted")
        return cls(
            required=events.get("required", False),
            registers=tuple(events.get("registers", ())),
            secure_boot=events.get("secure_boot", False),
            boot_applications=_digests(events.get("boot_applications")),
            boot_files=_digests(events.get("boot_files")),
            cmdlines=None if accepted is None else tuple(accepted),
            cmdline_required=tuple(cmdline.get("required", ())),
            cmdline_forbidden=tuple(cmdline.get("forbidden", ())),
        )

    @property
    def judges_command_line(self) -> bool:
        return bool(self.cmdline_required or self.cmdline_forbidden or self.cmdlines is not None)

    @property
    def wants_events(self) -> bool:
        """True when evidence without an event log cannot satisfy this section."""
        return self != type(self)()


def _digests(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def _not_of_report(report: VerifiedReport, events: VerifiedEvents) -> Iterator[Finding]:
    """Events verified against other registers say nothing about this report."""
    for register, value in events.registers.items():
        name = register.replace("rtmr", "rt_mr") if report.tee == "tdx" else register
        actual = report.measurements.get(name)
        if actual != value:
            yield Finding(f"events.{register}", f"of this report, {actual}", value)


def _unexplained(events: VerifiedEvents, registers: tuple[str, ...]) -> Iterator[Finding]:
    for register in registers:
        if register not in events.registers:
            yield Finding("events.registers", register, "not explained by the log")


def _needed(events: VerifiedEvents, registers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    kind = "pcr" if any(r.startswith("pcr") for r in events.registers) else "rtmr"
    return registers[kind]


def _boot_applications(events: VerifiedEvents, accepted: frozenset[str]) -> Iterator[Finding]:
    yield from _unexplained(events, _needed(events, _IMAGES))
    for digest in events.boot_application_digests:
        if digest not in accepted:
            expected = one_of(sorted(accepted)) if accepted else "a boot loader you list"
            yield Finding("events.boot_applications", expected, digest)


def _boot_files(events: VerifiedEvents, wanted: EventsPolicy) -> Iterator[Finding]:
    """Whatever was measured without being shown is one of the files, or a command line.

    A command line that somebody hid behind another label would be among them.
    """
    lines = wanted.cmdlines or ()
    accepted = {events.load_options_digest(line) for line in lines}
    accepted |= wanted.boot_files or frozenset()
    yield from _unexplained(events, _needed(events, _COMMAND_LINES))
    for digest in events.boot_file_digests:
        if digest not in accepted:
            yield Finding("events.boot_files", "a file you list", digest)


def _command_lines(events: VerifiedEvents, wanted: EventsPolicy) -> Iterator[Finding]:
    accepted = wanted.cmdlines
    lines = dict.fromkeys(events.command_lines)
    lines |= dict.fromkeys(line for line in accepted or () if events.boots_with(line))
    if not lines:
        yield Finding("events.cmdline", "a known command line", "none")
    for line in lines:
        if accepted is not None and line not in accepted:
            yield Finding("events.cmdline.accepted", one_of(accepted), line)
        for word in wanted.cmdline_required:
            if word not in line.split():
                yield Finding("events.cmdline.required", word, line)
        for text in wanted.cmdline_forbidden:
            if text in line:
                yield Finding("events.cmdline.forbidden", f"no {text}", line)


def events_findings(
    report: VerifiedReport, events: VerifiedEvents | None, wanted: EventsPolicy
) -> Iterator[Finding]:
    """Every way in which the boot of this report is not what the section wants.

    `events` are what `verify_events` made of the log and this report, None without a log.
    """
    if events is None:
        if wanted.wants_events:
            yield Finding("events", "an event log", "none")
        return
    yield from _not_of_report(report, events)
    yield from _unexplained(events, wanted.registers)
    if wanted.secure_boot and events.secure_boot is not True:
        actual = "not proven" if events.secure_boot is None else "off"
        yield Finding("events.secure_boot", "on", actual)
    judges_files = wanted.judges_command_line or wanted.boot_files is not None
    if wanted.boot_applications is not None or judges_files:
        yield from _boot_applications(events, wanted.boot_applications or frozenset())
    if judges_files:
        yield from _boot_files(events, wanted)
    if wanted.judges_command_line:
        yield from _command_lines(events, wanted)
