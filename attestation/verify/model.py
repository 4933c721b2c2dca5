"""What verification concludes. Nothing outside `attestation.verify` can make one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, Final

SIMULATOR_MARK: Final = b"adyton-simulator"
"""Stands in a measured field of simulated evidence, so that people can be told."""

_SEAL: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReport(ABC):
    """CPU evidence whose signatures, chains and endorsements all held at one moment.

    It says the evidence is authentic, not that it is wanted: that is policy. Times are Unix
    seconds. One subclass for each kind of evidence adds what only that kind states.
    `endorsements_not_before` and `endorsements_not_after` bound when everything that was
    used to judge it may be used.
    """

    verified_at: int
    endorsements_not_before: int
    endorsements_not_after: int
    root_sha256: str
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedReport is made by attestation.verify only")

    @property
    @abstractmethod
    def tee(self) -> str:
        """The kind, as policies name it: `sgx`, `tdx`, `sev-snp`, `nitro` or `tpm`."""

    @property
    @abstractmethod
    def debug(self) -> bool:
        """True when somebody outside may read the workload's memory."""

    @property
    @abstractmethod
    def report_data(self) -> bytes:
        """The bytes the workload chose: 64, except where the kind's own docstring says so."""

    @property
    @abstractmethod
    def tcb_status(self) -> str | None:
        """The vendor's verdict on the platform's firmware; None where the vendor gives none."""

    @property
    @abstractmethod
    def measurement_name(self) -> str:
        """The register that names the workload: `mr_td`, `mr_enclave`, `measurement`, `pcr0`."""

    @property
    @abstractmethod
    def measurements(self) -> Mapping[str, str]:
        """Every register a policy may pin, lowercase hex."""

    @property
    @abstractmethod
    def simulated(self) -> bool:
        """True when the evidence itself says it is simulated. For display, never for trust."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What only this kind states, by stable names, as JSON values."""

    @property
    def measurement(self) -> str:
        """The value of the register that names the workload, lowercase hex."""
        return self.measurements[self.measurement_name]
