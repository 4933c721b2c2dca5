"""Which bytes a log entry's digest covers: recomputed, never believed.

For most kinds the log holds what was hashed, whole or in part; such an entry is refused when
nothing it holds has its digest. For the others (images, tables, files) the digest is all
there is, and `measured` is None. The kind itself is never hashed: only `measured` bytes may
be read as meaning something, and even they only say that somebody measured these bytes.

Spec: TCG PC Client Platform Firmware Profile 1.06, section 10.4 (what each event type
measures).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from attestation.errors import VerificationError
from attestation.evidence.eventlog import EventType
from attestation.evidence.eventlog_data import UefiVariable, grub_text, utf16_text
from attestation.evidence.eventlog_json import RtmrEvent, runtime_preimage

SEPARATORS: Final = (bytes(4), b"\xff" * 4, b"\x01\0\0\0")
"""Ends of pre-boot measurement: two forms of success, and the error mark."""

_WHOLE: Final = frozenset(
    {
        EventType.SEPARATOR,
        EventType.ACTION,
        EventType.S_CRTM_VERSION,
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EFI_VARIABLE_BOOT,
        EventType.EFI_VARIABLE_BOOT2,
        EventType.EFI_GPT_EVENT,
        EventType.EFI_ACTION,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvent:
    """One extension of a register whose replay matched.

    `index` counts entries of the log. `data` is what the log holds, None where it left it
    out. `measured` are the bytes proven to have the digest: all of `data`, the part of it
    that is hashed, or None where the log does not hold them. `name` and `version` are those
    of dstack runtime events; for them `data` is the payload.
    """

    index: int
    register: str
    event_type: int
    digest: bytes
    data: bytes | None
    measured: bytes | None
    name: str = ""

    @property
    def data_verified(self) -> bool:
        """True when the bytes behind the digest are known."""
        return self.measured is not None

    @property
    def is_separator(self) -> bool:
        """True when the digest is that of a separator, whatever the entry is labelled."""
        return any(has_digest(s, self.digest) for s in SEPARATORS)


def has_digest(data: bytes, digest: bytes) -> bool:
    """True when `digest` is that of `data`, by the hash whose length it has."""
    name = _HASHES.get(len(digest))
    return name is not None and hmac.compare_digest(hashlib.new(name, data).digest(), digest)


_HASHES: Final = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}


def _candidates(event_type: int, data: bytes) -> Iterator[bytes]:
    """The parts of `data` that this kind of event may have hashed, likeliest first."""
    yield data
    if event_type == EventType.EFI_VARIABLE_BOOT:
        # EDK2 hashes the value only, in keeping with PFP before 1.05.
        variable = UefiVariable.read(data)
        if variable is not None:
            yield variable.value
    elif event_type == EventType.IPL:
        text = grub_text(data)
        if text is not None:
            yield text
            yield text + b"\0"  # GRUB before 2.04
        section = utf16_text(data)
        if section is not None and section.isascii():
            yield section.encode() + b"\0"  # systemd-stub: the section's name


def measured_bytes(event_type: int, data: bytes | None, digest: bytes) -> bytes | None:
    """The bytes in `data` that have `digest`, None where this kind need not hold them.

    Raises VerificationError `event_digest` where it must and does not.
    """
    if data is None:
        return None
    for candidate in _candidates(event_type, data):
        if has_digest(candidate, digest):
            return candidate
    if event_type in _WHOLE or (event_type == EventType.IPL and grub_text(data) is not None):
        raise VerificationError(
            "event_digest", f"an event of type {event_type:#x} does not have its digest"
        )
    return None


def runtime_digest(event: RtmrEvent) -> tuple[bytes, bytes]:
    """The digest dstack extends for this runtime event, and the bytes it hashes.

    Raises VerificationError `event_digest` where the log states another digest or preimage.
    """
    preimage = runtime_preimage(event.event, event.payload or b"", event.version)
    digest = hashlib.sha384(preimage).digest()
    if event.digest not in (None, digest) or event.preimage not in (None, preimage):
        raise VerificationError("event_digest", f"{event.event!r} does not have its digest")
    return digest, preimage
