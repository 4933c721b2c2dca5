"""What a policy may want of the GPUs and NVSwitches beside the CPU's TEE."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.errors import Finding, MalformedEvidence
from attestation.policy.values import one_of, optional_tuple
from attestation.verify.nvidia_gpu import VerifiedGpu, VerifiedGpuToken

_DRIVER: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){1,3}")
_VBIOS: Final = re.compile(r"[0-9A-Fa-f]{2}(?:\.[0-9A-Fa-f]{2}){4}")

GpuResult = VerifiedGpu | VerifiedGpuToken


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPolicy:
    """What the devices must be; None accepts every value.

    `required` wants evidence of at least one GPU, `min_count` of that many. The other
    fields judge every device that is shown, wanted or not. `require_nonce` false is for
    inspection only: evidence under an unknown nonce may be anybody's, from any time.
    """

    required: bool = False
    min_count: int = 0
    architectures: tuple[str, ...] | None = None
    driver_versions: tuple[str, ...] | None = None
    min_driver_version: str | None = None
    vbios_versions: tuple[str, ...] | None = None
    min_vbios_version: str | None = None
    modes: tuple[str, ...] | None = None
    require_rim: bool = True
    require_revocation: bool = True
    require_nonce: bool = True
    accept_nras: bool = False
    dangerous_allow_certificate_hold: bool = False

    @classmethod
    def from_json(cls, gpu: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        return cls(
            required=gpu.get("required", False),
            min_count=int(gpu.get("min_count", 0)),
            architectures=optional_tuple(gpu.get("architectures")),
            driver_versions=optional_tuple(gpu.get("driver_versions")),
            min_driver_version=gpu.get("min_driver_version"),
            vbios_versions=optional_tuple(gpu.get("vbios_versions")),
            min_vbios_version=gpu.get("min_vbios_version"),
            modes=optional_tuple(gpu.get("modes")),
            require_rim=gpu.get("require_rim", True),
            require_revocation=gpu.get("require_revocation", True),
            require_nonce=gpu.get("require_nonce", True),
            accept_nras=gpu.get("accept_nras", False),
            dangerous_allow_certificate_hold=gpu.get("dangerous_allow_certificate_hold", False),
        )

    def check_inspection(self, inspection_only: bool) -> None:
        """A policy that asks for no nonce is for looking. Raises MalformedEvidence."""
        if not self.require_nonce and not inspection_only:
            raise MalformedEvidence("policy.gpu.require_nonce", "false needs inspection_only: true")


def _driver(text: str) -> tuple[int, ...] | None:
    return tuple(int(p) for p in text.split(".")) if _DRIVER.fullmatch(text) else None


def _vbios(text: str) -> tuple[int, ...] | None:
    return tuple(int(p, 16) for p in text.split(".")) if _VBIOS.fullmatch(text) else None


def _versions(name: str, gpu: GpuResult, wanted: GpuPolicy) -> Iterator[Finding]:
    rules = [(_vbios, "vbios", gpu.vbios_version, wanted.vbios_versions, wanted.min_vbios_version)]
    if gpu.driver_version is not None:
        driver = gpu.driver_version
        rules.append((_driver, "driver", driver, wanted.driver_versions, wanted.min_driver_version))
    for order, what, actual, pinned, least in rules:
        field = f"{name}.{what}_version"
        if pinned is not None and actual.upper() not in {p.upper() for p in pinned}:
            yield Finding(field, one_of(pinned), actual)
        if least is not None:
            have, want = order(actual), order(least)
            if have is None or want is None or have < want:
                yield Finding(field, f"at least {least}", actual)


def _nonce(name: str, gpu: GpuResult, wanted: GpuPolicy, nonce: bytes | None) -> Iterator[Finding]:
    if nonce is not None and gpu.nonce != nonce:
        yield Finding(f"{name}.nonce", nonce.hex(), gpu.nonce.hex())
    elif wanted.require_nonce and (nonce is None or not gpu.nonce_checked):
        yield Finding(f"{name}.nonce", "one the caller knows", f"{gpu.nonce.hex()}, unchecked")


def _own_evidence(name: str, gpu: VerifiedGpu, wanted: GpuPolicy) -> Iterator[Finding]:
    """What only the device's own evidence leaves open; NVIDIA's service has settled it."""
    if wanted.require_rim and not gpu.measured:
        have = ", ".join(sorted(r.kind for r in gpu.rims)) or "none"
        yield Finding(f"{name}.rim", "all firmware compared with NVIDIA's values", have)
    if wanted.require_revocation and not gpu.revocation_checked:
        yield Finding(f"{name}.revocation", "checked for every certificate", "not checked")
    if gpu.held and not wanted.dangerous_allow_certificate_hold:
        yield Finding(f"{name}.held", "no certificate on hold", ", ".join(gpu.held))


def _mode(name: str, gpu: GpuResult, wanted: GpuPolicy) -> Iterator[Finding]:
    if wanted.modes is None or gpu.kind == "nvidia-switch":
        return
    mode = gpu.mode if isinstance(gpu, VerifiedGpu) else None
    if mode not in wanted.modes:
        yield Finding(f"{name}.mode", one_of(wanted.modes), mode or "not stated")


def _one(
    name: str, gpu: GpuResult, wanted: GpuPolicy, nonce: bytes | None, now: int
) -> Iterator[Finding]:
    if wanted.architectures is not None and gpu.architecture not in wanted.architectures:
        yield Finding(f"{name}.architecture", one_of(wanted.architectures), gpu.architecture)
    yield from _versions(name, gpu, wanted)
    yield from _mode(name, gpu, wanted)
    yield from _nonce(name, gpu, wanted, nonce)
    if isinstance(gpu, VerifiedGpu):
        yield from _own_evidence(name, gpu, wanted)
    elif not wanted.accept_nras:
        yield Finding(f"{name}.source", "the device's own evidence", f"verdict of {gpu.issuer}")
    first, last = gpu.endorsements_not_before, gpu.endorsements_not_after
    if not first <= now <= last:
        yield Finding(f"{name}.window", f"valid at {now}", f"valid {first} to {last}")


def gpu_findings(
    gpus: Sequence[GpuResult], wanted: GpuPolicy, *, nonce: bytes | None, now: int
) -> Iterator[Finding]:
    """Every way in which these devices are not what the section wants.

    `nonce` is what every device must have answered (`gpu_nonce` of the CPU's report data),
    None where the caller knows none.
    """
    least = max(wanted.min_count, 1 if wanted.required else 0)
    count = sum(g.kind == "nvidia-gpu" for g in gpus)
    if count < least:
        yield Finding("gpu.count", f"at least {least}", str(count))
    # New firmware gives a device a new key and number, but not a new name.
    named = [g.device_id for g in gpus if isinstance(g, VerifiedGpu)]
    if len({g.ueid for g in gpus}) < len(gpus) or len(set(named)) < len(named):
        yield Finding("gpu.devices", "each device once", "one is shown twice")
    for i, gpu in enumerate(gpus):
        yield from _one(f"gpu[{i}]", gpu, wanted, nonce, now)
