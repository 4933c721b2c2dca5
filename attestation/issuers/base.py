"""What every evidence issuer offers, whatever machine is behind it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final, Protocol

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import AttestationError

SEV_SNP: Final = "sev_snp"
"""ACI's name for SEV-SNP. ACI 4.2."""
NVIDIA: Final = "nvidia"
"""The kind of GPU evidence in a report; there is one so far."""


class IssuerError(AttestationError):
    """This machine did not give evidence: no such device, busy, or refused. Says which."""


@dataclass(frozen=True, slots=True)
class BootEvidence:
    """What explains the quote's registers, each as the platform gave it; None where it has none.

    `event_log` is dstack's JSON, `ccel` the firmware's binary log (never both). `app_compose`
    is the exact text that was measured, `vm_config` the host's description of the machine.
    None of it is believed before it replays to the registers.
    """

    event_log: str | None = None
    vm_config: str | None = None
    app_compose: str | None = None
    ccel: bytes | None = None

    def to_json(self) -> dict[str, str]:
        """The members of a report's `evidence`; what there is none of is left out. ACI 4.2."""
        ccel = None if self.ccel is None else base64.b64encode(self.ccel).decode("ascii")
        members = {
            "event_log": self.event_log,
            "vm_config": self.vm_config,
            "app_compose": self.app_compose,
            "ccel": ccel,
        }
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """One NVIDIA device's answer: SPDM request and response end to end, and its chain (PEM)."""

    evidence: bytes
    cert_chain: str

    def to_json(self) -> dict[str, str]:
        """One entry of a report's `evidence.gpus`."""
        return {
            "kind": NVIDIA,
            "evidence": self.evidence.hex(),
            "cert_chain": self.cert_chain,
        }


@dataclass(frozen=True, slots=True)
class IssuedEvidence:
    """One quote over the caller's report data, with what is needed to judge it.

    `tee_type` is ACI's name: `tdx`, `sev_snp`, and our `sgx`. `quote` is a DCAP quote or an
    SEV-SNP report, and `collateral` what endorses that kind, None where the issuer has none
    to give. `simulated` says what a person must be told; verifiers never read it. `boot` is
    what explains its registers.
    """

    tee_type: str
    quote: bytes
    collateral: Collateral | SnpEndorsements | None
    simulated: bool
    boot: BootEvidence | None = None


class Issuer(Protocol):
    """A source of evidence. Implementations may block on a device; call from a thread."""

    @property
    def name(self) -> str:
        """What a person types after `--tee`."""
        ...

    @property
    def tee_type(self) -> str: ...

    @property
    def simulated(self) -> bool: ...

    @property
    def measurement(self) -> str:
        """The register that names the workload, lowercase hex.

        `mr_td`, `mr_enclave`, or `measurement` of an SEV-SNP report.
        """
        ...

    def issue(self, report_data: bytes) -> IssuedEvidence:
        """A quote over exactly these 64 bytes. Raises IssuerError."""
        ...

    def sealing_key(self) -> bytes | None:
        """32 secret bytes that nobody but this workload on this platform can derive, or None.

        What "this workload" means is the platform's: one measurement (Gramine, the
        simulator), or an application id in its key management's hands (dstack). None where
        the platform derives no such key (TDX by itself). Raises IssuerError.
        """
        ...
