"""dstack's own measurements in RTMR3, read so that nobody after boot can add to them.

Anyone in the guest can extend RTMR3 later, under any name. What counts is what stands before
`system-ready`, each name once. Three rules make that hold: where one runtime event is, every
extension of that register must be one, because a label is not measured and an honest event
could be hidden behind another; a name of the boot may not come again, not even later; and
names hold no colon, or two readings of one version 1 digest would exist.

Spec: Dstack-TEE/dstack, dstack-attest `attestation.rs` (`find_event`), `system_setup.rs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from attestation.errors import VerificationError
from attestation.evidence.eventlog import EventType
from attestation.verify.events_digest import VerifiedEvent

SYSTEM_READY: Final = "system-ready"
REPEATABLE: Final = frozenset({"init-script-hash"})
BOOT_EVENTS: Final = frozenset(
    {
        "system-preparing",
        "app-id",
        "compose-hash",
        "gpu-policy-hash",
        "gpu-attestation",
        "instance-id",
        "boot-mr-done",
        "os-image-hash",
        "rootfs-hash",
        "mr-kms",
        "key-provider",
        "storage-fs",
        SYSTEM_READY,
    }
)


@dataclass(frozen=True, slots=True)
class RuntimeEvents:
    """What dstack measured. `boot` maps names up to `system-ready` to payloads.

    `init_scripts` are the payloads of `init-script-hash`, in order. `later` are name and
    payload of what the application extended afterwards. `ready` is False for a quote from
    before the end of boot.
    """

    boot: Mapping[str, bytes]
    init_scripts: tuple[bytes, ...]
    later: tuple[tuple[str, bytes], ...]
    ready: bool


def _refuse(detail: str) -> VerificationError:
    return VerificationError("runtime_events", detail)


def _split(events: Sequence[VerifiedEvent]) -> int:
    """How many events belong to boot, `system-ready` included."""
    for i, event in enumerate(events):
        if event.name == SYSTEM_READY:
            return i + 1
    return len(events)


def read_runtime_events(events: Sequence[VerifiedEvent]) -> RuntimeEvents | None:
    """dstack's events among those of one register, None where there is none.

    Raises VerificationError `runtime_events`.
    """
    kinds = {e.event_type == EventType.DSTACK_RUNTIME for e in events}
    if True not in kinds:
        return None
    if False in kinds:
        raise _refuse("something else than runtime events extends their register")
    end = _split(events)
    boot: dict[str, bytes] = {}
    init_scripts = []
    for event in events[:end]:
        payload = event.data or b""
        if ":" in event.name:
            raise _refuse(f"{event.name!r} can be read in two ways")
        if event.name in REPEATABLE:
            init_scripts.append(payload)
        elif event.name in boot:
            raise _refuse(f"{event.name!r} is measured twice")
        else:
            boot[event.name] = payload
    later = tuple((e.name, e.data or b"") for e in events[end:])
    again = {name for name, _ in later} & (BOOT_EVENTS | REPEATABLE | boot.keys())
    if again:
        raise _refuse(f"{min(again)!r} is measured again after the system was ready")
    return RuntimeEvents(
        boot=MappingProxyType(boot),
        init_scripts=tuple(init_scripts),
        later=later,
        ready=SYSTEM_READY in boot,
    )
