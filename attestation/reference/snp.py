"""The launch digest an SEV-SNP guest will report, from its firmware and settings.

The digests are sev-snp-measure's work (PAGE_INFO chaining of AMD 56860, SNP_LAUNCH_UPDATE;
kernel hashes as QEMU lays them out; VMSA of the virtual machine monitor). Around it stand
bounds on the files and refusals where the library would leave something unmeasured.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from attestation.errors import CollateralError, MalformedEvidence

PAGE_BYTES: Final = 4096
MAX_FIRMWARE_BYTES: Final = 1 << 26
MAX_SECTIONS_BYTES: Final = 1 << 28
MAX_VCPUS: Final = 1024
_MODULES: Final = ("guest", "ovmf", "vcpu_types", "vmm_types")
_VMMS: Final = {"qemu": "QEMU", "ec2": "ec2", "gce": "gce"}

Vmm = Literal["qemu", "ec2", "gce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpLaunch:
    """How a guest is launched; each field changes the digest.

    `ovmf` is the firmware file. `vcpu_type` is one of QEMU's models ("EPYC-Milan", ...).
    `kernel`, `initrd` and `append` are those QEMU loads directly and measures through the
    firmware; firmware without a table for kernel hashes is refused then, since it would
    start any kernel under this digest. `guest_features` is SEV_FEATURES of the VMSA.
    """

    ovmf: Path
    vcpus: int
    vcpu_type: str
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    guest_features: int = 1
    vmm: Vmm = "qemu"

    def __post_init__(self) -> None:
        if not 0 < self.vcpus <= MAX_VCPUS:
            raise MalformedEvidence("launch.vcpus", f"{self.vcpus} is not 1 to {MAX_VCPUS}")
        if not 0 <= self.guest_features < 1 << 64:
            raise MalformedEvidence("launch.guest_features", "not 64 bits")
        if self.vmm not in _VMMS:
            raise MalformedEvidence("launch.vmm", f"not one of {', '.join(_VMMS)}")
        if self.kernel is None and (self.initrd is not None or self.append):
            raise MalformedEvidence("launch.kernel", "initrd and append are measured with one only")
        if "\0" in self.append:
            raise MalformedEvidence("launch.append", "a zero byte would end the command line")


def _library() -> tuple[Any, ...]:
    """The library's modules, which have no types. Imported here, since only this needs them."""
    try:
        return tuple(import_module(f"sevsnpmeasure.{name}") for name in _MODULES)
    except ImportError:
        raise CollateralError("measuring needs sev-snp-measure: install adyton[measure]") from None


def _check_firmware(path: Path) -> None:
    size = path.stat().st_size
    if not 0 < size <= MAX_FIRMWARE_BYTES or size % PAGE_BYTES:
        raise MalformedEvidence(
            "ovmf", f"{size} bytes are not whole pages up to {MAX_FIRMWARE_BYTES}"
        )


def _check_sections(firmware: Any, kernel: bool) -> None:
    """The firmware has SNP metadata, of bounded size, with a place for kernel hashes if needed."""
    sections = [(s.section_type().name, s.gpa, s.size) for s in firmware.metadata_items()]
    names = [name for name, _, _ in sections]
    if "CPUID" not in names or "SNP_SECRETS" not in names:
        raise MalformedEvidence("ovmf.metadata", "not firmware for SEV-SNP guests")
    if kernel and "SNP_KERNEL_HASHES" not in names:
        raise MalformedEvidence("ovmf.metadata", "no place for kernel hashes: any kernel would run")
    if any(gpa % PAGE_BYTES or size % PAGE_BYTES for _, gpa, size in sections):
        raise MalformedEvidence("ovmf.metadata", "a section is not whole pages")
    if sum(size for _, _, size in sections) > MAX_SECTIONS_BYTES:
        raise MalformedEvidence("ovmf.metadata", f"sections exceed {MAX_SECTIONS_BYTES} bytes")


def expected_measurement(launch: SnpLaunch) -> str:
    """The `measurement` a guest launched like this reports, 96 lowercase hex characters.

    Reads the files. Raises OSError where one cannot be read, MalformedEvidence where the
    firmware or a setting is not one that can be measured, CollateralError where the library
    is not installed.
    """
    guest, ovmf, vcpu_types, vmm_types = _library()
    signature = vcpu_types.CPU_SIGS.get(launch.vcpu_type)
    if signature is None:
        known = ", ".join(sorted(vcpu_types.CPU_SIGS))
        raise MalformedEvidence("launch.vcpu_type", f"not one of {known}")
    _check_firmware(launch.ovmf)
    try:
        _check_sections(ovmf.OVMF(str(launch.ovmf)), launch.kernel is not None)
        digest: bytes = guest.snp_calc_launch_digest(
            launch.vcpus,
            signature,
            str(launch.ovmf),
            str(launch.kernel or ""),
            str(launch.initrd or ""),
            launch.append,
            launch.guest_features,
            "",
            vmm_types.VMMType[_VMMS[launch.vmm]],
        )
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as e:
        # The library's own errors have no common root.
        raise MalformedEvidence("ovmf", f"cannot be measured ({e})") from None
    return digest.hex()
