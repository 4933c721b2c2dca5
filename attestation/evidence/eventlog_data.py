"""What stands inside event data: UEFI variables, tagged events, GRUB lines, start locality.

Each reader answers None where the bytes are not that structure. Event data is what somebody
wrote into a log; whether it was measured is for `attestation.verify` to say.

Spec: TCG PC Client Platform Firmware Profile 1.06, sections 10.2.6, 10.2.7 and 10.4.5.3;
GRUB 2.12 manual, "Measuring boot components"; Linux `drivers/firmware/efi/libstub`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from attestation.errors import MalformedEvidence
from attestation.wire import Cursor, u32, u64

EFI_GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
TAG_INITRD: Final = 0x8F3B22EC
TAG_LOAD_OPTIONS: Final = 0x8F3B22ED
STARTUP_LOCALITY: Final = b"StartupLocality\0"
GRUB_PREFIXES: Final = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")
GRUB_KERNEL_CMDLINE: Final = b"kernel_cmdline: "
_MAX_NAME_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class UefiVariable:
    """UEFI_VARIABLE_DATA. `name` keeps its UTF-16LE bytes, as they are measured."""

    vendor: UUID
    name: bytes
    value: bytes

    @property
    def text(self) -> str:
        """The name for people and comparison; unpaired surrogates become U+FFFD."""
        return self.name.decode("utf-16-le", "replace")

    @classmethod
    def read(cls, data: bytes) -> Self | None:
        """The variable in all of `data`, or None."""
        c = Cursor("variable", data)
        try:
            vendor = UUID(bytes_le=c.take("vendor", 16))
            characters, size = c.u64("name_length"), c.u64("data_length")
            if characters > _MAX_NAME_CHARACTERS:
                return None
            name, value = c.take("name", 2 * characters), c.take("data", size)
            c.finish()
        except MalformedEvidence:
            return None
        return cls(vendor, name, value)

    def write(self) -> bytes:
        """The bytes `read` reads."""
        sizes = u64(len(self.name) // 2) + u64(len(self.value))
        return self.vendor.bytes_le + sizes + self.name + self.value


@dataclass(frozen=True, slots=True)
class TaggedEvent:
    """TCG_PCClientTaggedEvent: what an EV_EVENT_TAG entry carries.

    The Linux EFI stub tags load options and initrd; the digest is then of those bytes, not
    of this structure.
    """

    tag: int
    data: bytes

    @classmethod
    def read(cls, data: bytes) -> Self | None:
        """The event in all of `data`, or None."""
        c = Cursor("tagged_event", data)
        try:
            event = cls(c.u32("tag"), c.take("data", c.u32("data_size")))
            c.finish()
        except MalformedEvidence:
            return None
        return event

    def write(self) -> bytes:
        """The bytes `read` reads."""
        return u32(self.tag) + u32(len(self.data)) + self.data


def grub_text(data: bytes) -> bytes | None:
    """What GRUB hashed for a command or command line: the text behind the label.

    The final NUL is in the log and not in the digest. None where `data` is no such line.
    """
    for prefix in GRUB_PREFIXES:
        if data.startswith(prefix):
            return data[len(prefix) :].removesuffix(b"\0")
    return None


def utf16_text(data: bytes) -> str | None:
    """The text of a NUL-terminated UTF-16LE string without NUL inside, or None."""
    try:
        text = data.decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    body = text.removesuffix("\0")
    return body if body and body != text and "\0" not in body else None


def startup_locality(data: bytes) -> int | None:
    """The locality TPM2_Startup came from, or None where `data` does not state one."""
    if len(data) == len(STARTUP_LOCALITY) + 1 and data.startswith(STARTUP_LOCALITY):
        return data[-1]
    return None
