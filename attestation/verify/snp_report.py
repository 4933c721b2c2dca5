"""What verification concludes about an SEV-SNP report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from attestation.evidence.snp import AttestationReport
from attestation.evidence.snp_fields import GuestPolicy, PlatformInfo, TcbParts
from attestation.verify.model import SIMULATOR_MARK, VerifiedReport
from attestation.verify.snp_vek import VekKind

_REGISTERS: Final = (
    "measurement",
    "host_data",
    "id_key_digest",
    "author_key_digest",
    "report_id",
    "family_id",
    "image_id",
    "chip_id",
)
POLICY_FLAGS: Final = (
    "smt",
    "migrate_ma",
    "debug",
    "single_socket",
    "cxl_allow",
    "mem_aes_256_xts",
    "rapl_dis",
    "ciphertext_hiding",
    "page_swap_disable",
)
PLATFORM_FLAGS: Final = (
    "smt_en",
    "tsme_en",
    "ecc_en",
    "rapl_dis",
    "ciphertext_hiding_en",
    "alias_check_complete",
    "iommu_write_safe",
    "tio_en",
)


def _flags(value: GuestPolicy | PlatformInfo, names: tuple[str, ...]) -> dict[str, bool]:
    return {name: getattr(value, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport(VerifiedReport):
    """A report whose signature, chain, chip and firmware levels all held at one moment.

    `chip` is the identity of the chip (64 bytes): from the VCEK, where one signed; else what
    the report states, or None where the host masked it. `csp_id` names the cloud provider a
    VLEK was loaded for. `revocation_checked` is False when no CRL was given.
    """

    report: AttestationReport
    product: str
    signing_key: VekKind
    current_tcb: TcbParts
    reported_tcb: TcbParts
    committed_tcb: TcbParts
    launch_tcb: TcbParts
    chip: bytes | None
    csp_id: str | None
    revocation_checked: bool
    registers: Mapping[str, str] = field(init=False)

    def __post_init__(self, seal: object) -> None:
        # The two-argument form of super() is what a dataclass with slots needs.
        super(SnpReport, self).__post_init__(seal)
        registers = {name: getattr(self.report, name).hex() for name in _REGISTERS}
        object.__setattr__(self, "registers", MappingProxyType(registers))

    @property
    def tee(self) -> Literal["sev-snp"]:
        return "sev-snp"

    @property
    def debug(self) -> bool:
        """Always False: verification refuses guests that the host may decrypt."""
        return self.report.policy.debug

    @property
    def report_data(self) -> bytes:
        """The 64 bytes the guest chose."""
        return self.report.report_data

    @property
    def tcb_status(self) -> None:
        """None: AMD publishes levels, not verdicts. Ask the policy for minimum levels."""
        return None

    @property
    def measurement_name(self) -> Literal["measurement"]:
        return "measurement"

    @property
    def measurements(self) -> Mapping[str, str]:
        return self.registers

    @property
    def simulated(self) -> bool:
        """True when the mark stands in `host_data`, which the signature covers."""
        return self.report.host_data.startswith(SIMULATOR_MARK)

    def facts(self) -> dict[str, Any]:
        report = self.report
        return {
            "product": self.product,
            "report_version": report.version,
            "vmpl": report.vmpl,
            "guest_svn": report.guest_svn,
            "signing_key": self.signing_key,
            "csp_id": self.csp_id,
            "chip_id": None if self.chip is None else self.chip.hex(),
            "guest_policy": {
                "abi_major": report.policy.abi_major,
                "abi_minor": report.policy.abi_minor,
                **_flags(report.policy, POLICY_FLAGS),
            },
            "platform_info": _flags(report.platform_info, PLATFORM_FLAGS),
            "tcb": {
                "current": asdict(self.current_tcb),
                "reported": asdict(self.reported_tcb),
                "committed": asdict(self.committed_tcb),
                "launch": asdict(self.launch_tcb),
            },
            "firmware": {
                "current": asdict(report.current_version),
                "committed": asdict(report.committed_version),
            },
            "mitigations": {
                "launch": report.launch_mit_vector,
                "current": report.current_mit_vector,
            },
            "revocation_checked": self.revocation_checked,
        }
