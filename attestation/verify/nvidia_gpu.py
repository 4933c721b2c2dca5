"""What verification concludes about one GPU or NVSwitch: by its own evidence, or NVIDIA's word."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, Final, Literal

from attestation.errors import MalformedEvidence
from attestation.evidence.nvidia import DeviceFacts, NvidiaEvidence
from attestation.verify.model import _SEAL

DeviceKind = Literal["nvidia-gpu", "nvidia-switch"]
RimKind = Literal["driver", "vbios"]
_NONCE_DOMAIN: Final = b"adyton gpu nonce v1\0"
GPU_BINDING_BYTES: Final = 64
"""Report data that a GPU nonce is made from."""


def gpu_nonce(report_data: bytes) -> bytes:
    """The nonce (32 bytes) that binds GPU evidence to the CPU report with this report data.

    SHA-256 over `adyton gpu nonce v1`, a zero byte and the 64 bytes. Evidence made for
    another report has another nonce, so it cannot be shown beside this one.
    """
    if len(report_data) != GPU_BINDING_BYTES:
        raise MalformedEvidence("report_data", f"{len(report_data)} bytes, not {GPU_BINDING_BYTES}")
    return hashlib.sha256(_NONCE_DOMAIN + report_data).digest()


@dataclass(frozen=True, slots=True)
class RimMatch:
    """One file of reference values, all of whose active values the device gave.

    `compared` are the measurements compared, counted from 0; `sha256` is the file's.
    """

    kind: RimKind
    version: str
    sha256: str
    compared: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedGpu:
    """Evidence of one device whose signature and chain held at one moment.

    Made by `verify_gpu` only. Times are Unix seconds. `nonce_checked` is False where the
    caller knew no nonce: then nothing says that the evidence is fresh, or for this caller.
    `revocation_checked` says that some document covered every certificate between device
    key and root, and the signers of `rims`; `held` lists the serial numbers of those on
    hold, hex. `measurements` are counted from 0, lowercase hex.
    """

    evidence: NvidiaEvidence
    kind: DeviceKind
    architecture: str
    device_id: str
    serial: str
    ueid: str
    hwmodel: str
    verified_at: int
    endorsements_not_before: int
    endorsements_not_after: int
    root_sha256: str
    nonce_checked: bool
    measurements: Mapping[int, str]
    rims: tuple[RimMatch, ...]
    revocation_checked: bool
    held: tuple[str, ...]
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedGpu is made by attestation.verify only")

    @property
    def stated(self) -> DeviceFacts:
        """What the device says of itself."""
        return self.evidence.facts

    @property
    def nonce(self) -> bytes:
        """The nonce in the request that the device signed, 32 bytes."""
        return self.evidence.transcript.request.nonce

    @property
    def driver_version(self) -> str | None:
        return self.stated.driver_version

    @property
    def vbios_version(self) -> str:
        return self.stated.vbios_version

    @property
    def mode(self) -> str | None:
        """The confidential-compute mode; None where the firmware is too old to state it."""
        return self.stated.mode

    @property
    def measured(self) -> bool:
        """True when all the firmware was compared: VBIOS, and on a GPU also the driver."""
        needed = {"vbios"} if self.kind == "nvidia-switch" else {"vbios", "driver"}
        return needed <= {r.kind for r in self.rims}

    @property
    def debug(self) -> bool | None:
        """False when the firmware was found to be production's; None when nobody knows.

        The evidence has no flag for debugging or devtools mode: firmware in such a state
        gives other measurements, so only comparing them tells.
        """
        return False if self.measured else None

    def facts(self) -> dict[str, Any]:
        """The conclusions by stable names, as JSON values."""
        fwid = self.stated.fwid
        return {
            "kind": self.kind,
            "architecture": self.architecture,
            "device_id": self.device_id,
            "ueid": self.ueid,
            "hwmodel": self.hwmodel,
            "driver_version": self.driver_version,
            "vbios_version": self.vbios_version,
            "fwid": None if fwid is None else fwid.hex(),
            "mode": self.mode,
            "protected_pcie": self.stated.protected_pcie,
            "nonce": self.nonce.hex(),
            "nonce_checked": self.nonce_checked,
            "measured": self.measured,
            "debug": self.debug,
            "rims": [{"kind": r.kind, "version": r.version, "sha256": r.sha256} for r in self.rims],
            "revocation_checked": self.revocation_checked,
            "held": list(self.held),
            "root_sha256": self.root_sha256,
            "endorsements_not_after": self.endorsements_not_after,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedGpuToken:
    """One device as NVIDIA's service judged it; made by `verify_nras` only.

    Times are Unix seconds. `name` is the device's place in the bundle (`GPU-0`). The
    service compared all firmware, found no debugging and asked for revocation: otherwise
    there is no such value.
    """

    name: str
    kind: DeviceKind
    architecture: str
    ueid: str
    hwmodel: str
    driver_version: str | None
    vbios_version: str
    verified_at: int
    endorsements_not_before: int
    endorsements_not_after: int
    issuer: str
    key_id: str
    nonce: bytes
    nonce_checked: bool
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedGpuToken is made by attestation.verify only")

    def facts(self) -> dict[str, Any]:
        """The conclusions by stable names, as JSON values."""
        return {
            "kind": self.kind,
            "architecture": self.architecture,
            "ueid": self.ueid,
            "hwmodel": self.hwmodel,
            "driver_version": self.driver_version,
            "vbios_version": self.vbios_version,
            "nonce": self.nonce.hex(),
            "nonce_checked": self.nonce_checked,
            "issuer": self.issuer,
            "key_id": self.key_id,
            "endorsements_not_after": self.endorsements_not_after,
        }
