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

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")
DEFAULT_COLLATERAL_AGE_S: Final = 30 * 86400
Registers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mask:
    """`actual & mask == value & mask`, over equally long byte strings."""

    mask: bytes
    value: bytes

    def admits(self, actual: bytes) -> bool:
        return all((a ^ v) & m == 0 for a, v, m in zip(actual, self.value, self.mask, strict=True))

    def __str__(self) -> str:
        return f"{self.value.hex()} under mask {self.mask.hex()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbPolicy:
    """How up to date the platform and what is known about it must be."""

    statuses: tuple[str, ...] = ("UpToDate",)
    allowed_advisories: frozenset[str] | None = None
    refused_advisories: frozenset[str] = frozenset()
    min_evaluation_data_number: int = 0
    max_collateral_age_s: int = DEFAULT_COLLATERAL_AGE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPolicy:
    """What a TD and its TDX module must be, beside the measurements."""

    td_attributes: Mask | None = None
    xfam: Mask | None = None
    min_tee_tcb_svn: bytes = bytes(16)
    dangerous_allow_custom_seam: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxPolicy:
    """What an enclave must be, beside the measurements; None accepts every value."""

    attributes: Mask | None = None
    mr_signer: tuple[str, ...] | None = None
    isv_prod_id: tuple[int, ...] | None = None
    min_isv_svn: int = 0


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
    """

    name: str
    description: str = ""
    inspection_only: bool = False
    tcb: TcbPolicy = TcbPolicy()
    measurements: Mapping[str, tuple[Registers, ...]] | None = field(
        default_factory=lambda: MappingProxyType({})
    )
    tdx: TdxPolicy = TdxPolicy()
    sgx: SgxPolicy = SgxPolicy()
    denied_flags: tuple[str, ...] = ()
    dangerous_allow_unbound_report_data: bool = False
    key_custody: tuple[str, ...] | None = ("generated", "sealed")
    source: SourcePolicy = SourcePolicy()
    roots: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.measurements is None and not self.inspection_only:
            raise MalformedEvidence("policy.measurements", "`any` needs inspection_only: true")

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The policy a document means, once it is known to satisfy the schema."""
        tcb, tdx, sgx = (document.get(k, {}) for k in ("tcb", "tdx", "sgx"))
        advisories = tcb.get("advisories", {})
        allowed = advisories.get("allow")
        custody = document.get("key_custody", ["generated", "sealed"])
        roots = document.get("roots")
        return cls(
            name=document["name"],
            description=document.get("description", ""),
            inspection_only=document.get("inspection_only", False),
            tcb=TcbPolicy(
                statuses=tuple(tcb.get("statuses", ("UpToDate",))),
                allowed_advisories=None if allowed is None else frozenset(allowed),
                refused_advisories=frozenset(advisories.get("refuse", ())),
                min_evaluation_data_number=int(tcb.get("min_evaluation_data_number", 0)),
                max_collateral_age_s=int(tcb.get("max_collateral_age_s", DEFAULT_COLLATERAL_AGE_S)),
            ),
            measurements=_measurements(document.get("measurements", {})),
            tdx=TdxPolicy(
                td_attributes=_mask(tdx.get("td_attributes")),
                xfam=_mask(tdx.get("xfam")),
                min_tee_tcb_svn=bytes.fromhex(tdx.get("min_tee_tcb_svn", "00" * 16)),
                dangerous_allow_custom_seam=tdx.get("dangerous_allow_custom_seam", False),
            ),
            sgx=SgxPolicy(
                attributes=_mask(sgx.get("attributes")),
                mr_signer=_optional_tuple(sgx.get("mr_signer")),
                isv_prod_id=_optional_tuple(sgx.get("isv_prod_id")),
                min_isv_svn=int(sgx.get("min_isv_svn", 0)),
            ),
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

        96 hex characters are a TDX `mr_td`, 64 an SGX `mr_enclave`. Raises
        MalformedEvidence on anything else.
        """
        value = measurement.lower()
        size = len(value) // 2 if _HEX.fullmatch(value) else 0
        match size:
            case 48:
                tee, register = "tdx", "mr_td"
            case 32:
                tee, register = "sgx", "mr_enclave"
            case _:
                raise MalformedEvidence("measurement", "must be 96 (mr_td) or 64 (mr_enclave) hex")
        pinned = dict(self.measurements or {})
        pinned[tee] = (*pinned.get(tee, ()), MappingProxyType({register: value}))
        return replace(self, measurements=MappingProxyType(pinned))


def _mask(value: Mapping[str, str] | None) -> Mask | None:
    if value is None:
        return None
    return Mask(bytes.fromhex(value["mask"]), bytes.fromhex(value["value"]))


def _optional_tuple(value: list[Any] | None) -> tuple[Any, ...] | None:
    return None if value is None else tuple(value)


def _measurements(value: Any) -> Mapping[str, tuple[Registers, ...]] | None:
    if value == "any":
        return None
    return MappingProxyType(
        {
            tee: tuple(MappingProxyType(dict(registers)) for registers in alternatives)
            for tee, alternatives in value.items()
        }
    )
