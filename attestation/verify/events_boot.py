"""What replayed events say about the boot, read so that labels decide nothing.

An entry's kind, its place in a list of names and whatever it says about itself are written
by whoever writes the log; only digests are held to the register. So each reading goes by
proven bytes and by order: Secure Boot counts only before the first separator's digest,
which nobody can move; every opaque digest where images are measured counts as an image; and
whatever text could be a command line is one, under any label.

Spec: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4 (PCR usage) and 10.4;
UEFI 2.10, table 38.5 (PCRs as RTMRs); UAPI Linux TPM PCR Registry.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attestation.evidence.eventlog_data import (
    EFI_GLOBAL_VARIABLE,
    UefiVariable,
    grub_text,
    utf16_text,
)
from attestation.verify.events_digest import VerifiedEvent, has_digest

IMAGE_REGISTERS: Final = ("pcr2", "pcr4", "rtmr1")
COMMAND_LINE_REGISTERS: Final = ("pcr8", "pcr9", "pcr12", "rtmr2")
SECURE_BOOT_REGISTERS: Final = ("pcr7", "rtmr0")
_SECURE_BOOT: Final = {
    value: UefiVariable(EFI_GLOBAL_VARIABLE, "SecureBoot".encode("utf-16-le"), value).write()
    for value in (b"", b"\0", b"\x01")
}
_ACTIONS: Final = (
    b"Calling EFI Application from Boot Option",
    b"Returning from EFI Application from Boot Option",
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
    b"Exit Boot Services Returned with Failure",
)
_MAX_ACTION_BYTES: Final = 128
_GPT_SIGNATURE: Final = b"EFI PART"

Events = Mapping[str, Sequence[VerifiedEvent]]


def _in(events: Events, registers: Sequence[str]) -> Iterator[VerifiedEvent]:
    for register in registers:
        yield from events.get(register, ())


def pre_boot(events: Sequence[VerifiedEvent]) -> Sequence[VerifiedEvent]:
    """Those of one register that firmware measured before it started anything else.

    Empty where the register has no separator: then nothing says where firmware ended.
    """
    for i, event in enumerate(events):
        if event.is_separator:
            return events[:i]
    return ()


def secure_boot(events: Events) -> bool | None:
    """Whether firmware measured Secure Boot as on; None where it did not say so once.

    Told by digest, so also from logs without event data. A variable that does not exist is
    measured as empty, and means off.
    """
    states = [
        value == b"\x01"
        for register in SECURE_BOOT_REGISTERS
        for event in pre_boot(events.get(register, ()))
        for value, variable in _SECURE_BOOT.items()
        if has_digest(variable, event.digest)
    ]
    return states[0] if len(states) == 1 else None


def _is_no_image(event: VerifiedEvent) -> bool:
    """True for what cannot be an image: separators, short actions, partition tables.

    Proven bytes are not enough: an image's own bytes could stand in the log as data.
    """
    measured = event.measured
    if event.is_separator or any(has_digest(a, event.digest) for a in _ACTIONS):
        return True
    if measured is None:
        return False
    short_text = len(measured) <= _MAX_ACTION_BYTES and all(0x20 <= b < 0x7F for b in measured)
    return short_text or measured.startswith(_GPT_SIGNATURE)


def image_digests(events: Events) -> tuple[str, ...]:
    """Digests of everything that may be an EFI application or driver, hex, in order."""
    return tuple(e.digest.hex() for e in _in(events, IMAGE_REGISTERS) if not _is_no_image(e))


def command_line_of(event: VerifiedEvent) -> str | None:
    """The text of this event if it could be a kernel command line, else None.

    GRUB hashes the kernel's path, which is absolute, and its arguments; systemd-stub hashes
    a NUL-terminated UTF-16 string. Bytes that are not text become U+FFFD.
    """
    measured = event.measured or b""
    if measured[:1] in (b"/", b"("):
        return measured.removesuffix(b"\0").decode("utf-8", "replace")
    return utf16_text(measured)


def command_lines(events: Events) -> tuple[str, ...]:
    """Every text that could be the kernel's command line, in order."""
    lines = (command_line_of(e) for e in _in(events, COMMAND_LINE_REGISTERS))
    return tuple(line for line in lines if line is not None)


def boot_texts(events: Events) -> tuple[str, ...]:
    """Every proven byte string where boot loaders measure commands, as text."""
    measured = (e.measured for e in _in(events, COMMAND_LINE_REGISTERS))
    return tuple(
        utf16_text(m) or m.removesuffix(b"\0").decode("utf-8", "replace")
        for m in measured
        if m is not None
    )


def opaque_digests(events: Events) -> tuple[str, ...]:
    """Digests where boot loaders measure whose bytes the log does not hold: files, hex."""
    return tuple(
        e.digest.hex()
        for e in _in(events, COMMAND_LINE_REGISTERS)
        if e.measured is None and not e.is_separator
    )


def grub_commands(events: Events) -> tuple[str, ...]:
    """GRUB's commands as the log labels them, for people: the labels prove nothing."""
    return tuple(
        e.measured.removesuffix(b"\0").decode("utf-8", "replace")
        for e in _in(events, COMMAND_LINE_REGISTERS)
        if e.measured is not None and grub_text(e.data or b"") == e.measured.removesuffix(b"\0")
    )


def load_options_digest(command_line: str, bank: str) -> bytes:
    """What the Linux EFI stub extends for `command_line`: UTF-16LE with a NUL, hashed."""
    return hashlib.new(bank, (command_line + "\0").encode("utf-16-le")).digest()


def boots_with(events: Events, command_line: str, bank: str) -> bool:
    """True when `command_line` was measured, as text or as the EFI stub's load options."""
    digest = load_options_digest(command_line, bank)
    return command_line in command_lines(events) or any(
        hmac.compare_digest(e.digest, digest) for e in _in(events, COMMAND_LINE_REGISTERS)
    )
