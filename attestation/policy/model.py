"""A policy as a value: what genuine evidence must be to be wanted.

Every default refuses more than any value a file could give, except the platform flags,
which describe machines rather than weaken checks. docs/spec/policy.md is the reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self

from attestation.errors import MalformedEvidence
from attestation.policy.dcap import SgxPolicy, TcbPolicy, TdxPolicy
from attestation.policy.dstack import DstackPolicy
from attestation.policy.events import EventsPolicy
from attestation.policy.gpu import GpuPolicy
from attestation.policy.nitro import NitroPolicy
from attestation.policy.reference import Release
from attestation.policy.snp import SnpPolicy
from attestation.policy.tpm import TpmPolicy

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")
Registers = Mapping[str, str]

_WORKLOADS: Final = {
    48: {"tdx": "mr_td", "sev-snp": "measurement", "nitro": "pcr0"},
    32: {"sgx": "mr_enclave"},
}
"""By length in bytes, the register that names the workload in each kind of evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePolicy:
    """What the report must say about the source of the workload."""

    required: bool = False
    repo_url: str | None = None
    repo_commit: str | None = None
    image_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one relying party wants. `measurements` None means any, for inspection only.

    `denied_flags` are PCK certificate flags that must be stated and false. `key_custody`
    None accepts any, or none. `roots` None accepts whatever root the verifier was given.
    `references` are the releases of the reference values that a policy file names.
    """

    name: str
    description: str = ""
    inspection_only: bool = False
    tcb: TcbPolicy = field(default_factory=TcbPolicy)
    measurements: Mapping[str, tuple[Registers, ...]] | None = field(
        default_factory=lambda: MappingProxyType({})
    )
    tdx: TdxPolicy = field(default_factory=TdxPolicy)
    sgx: SgxPolicy = field(default_factory=SgxPolicy)
    gpu: GpuPolicy = field(default_factory=GpuPolicy)
    nitro: NitroPolicy = field(default_factory=NitroPolicy)
    snp: SnpPolicy = field(default_factory=SnpPolicy)
    tpm: TpmPolicy = field(default_factory=TpmPolicy)
    events: EventsPolicy = field(default_factory=EventsPolicy)
    dstack: DstackPolicy = field(default_factory=DstackPolicy)
    references: tuple[Release, ...] = ()
    denied_flags: tuple[str, ...] = ()
    dangerous_allow_unbound_report_data: bool = False
    key_custody: tuple[str, ...] | None = ("generated", "sealed")
    source: SourcePolicy = SourcePolicy()
    roots: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.measurements is None and not self.inspection_only:
            raise MalformedEvidence("policy.measurements", "`any` needs inspection_only: true")
        self.gpu.check_inspection(self.inspection_only)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The policy a document means, once it is known to satisfy the schema."""
        custody = document.get("key_custody", ["generated", "sealed"])
        roots = document.get("roots")
        return cls(
            name=document["name"],
            description=document.get("description", ""),
            inspection_only=document.get("inspection_only", False),
            tcb=TcbPolicy.from_json(document.get("tcb", {})),
            measurements=_measurements(document.get("measurements", {})),
            tdx=TdxPolicy.from_json(document.get("tdx", {})),
            sgx=SgxPolicy.from_json(document.get("sgx", {})),
            gpu=GpuPolicy.from_json(document.get("gpu", {})),
            nitro=NitroPolicy.from_json(document.get("nitro", {})),
            snp=SnpPolicy.from_json(document.get("snp", {})),
            tpm=TpmPolicy.from_json(document.get("tpm", {})),
            events=EventsPolicy.from_json(document.get("events", {})),
            dstack=DstackPolicy.from_json(document.get("dstack", {})),
            denied_flags=tuple(
                sorted(k for k, v in document.get("platform", {}).items() if v == "deny")
            ),
            dangerous_allow_unbound_report_data=document.get(
                "dangerous_allow_unbound_report_data", False
            ),
            key_custody=None if custody == "any" else tuple(custody),
            source=SourcePolicy(**document.get("source_provenance", {})),
            roots=None if roots is None else frozenset(roots),
        )

    def with_measurement(self, measurement: str) -> Self:
        """This policy, also accepting the workload of this measurement.

        96 hex characters are a TDX `mr_td`, an SEV-SNP `measurement` or a Nitro `pcr0`, and
        accepted as each: no two of them can be made equal. 64 are an SGX `mr_enclave`. Raises
        MalformedEvidence on anything else.
        """
        value = measurement.lower()
        size = len(value) // 2 if _HEX.fullmatch(value) else 0
        if size not in _WORKLOADS:
            raise MalformedEvidence("measurement", "must be 96 or 64 (SGX) hex characters")
        pinned = dict(self.measurements or {})
        for tee, register in _WORKLOADS[size].items():
            pinned[tee] = (*pinned.get(tee, ()), MappingProxyType({register: value}))
        return replace(self, measurements=MappingProxyType(pinned))


def _measurements(value: Any) -> Mapping[str, tuple[Registers, ...]] | None:
    if value == "any":
        return None
    return MappingProxyType(
        {
            tee: tuple(MappingProxyType(dict(registers)) for registers in alternatives)
            for tee, alternatives in value.items()
        }
    )
