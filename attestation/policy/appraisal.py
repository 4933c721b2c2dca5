"""What a policy concludes: the only thing keys, sessions and receipts accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, Final

from attestation.verify import VerifiedReport

_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Claim:
    """One typed claim; `source` and `reason` are None while `status` is unknown. ACI 8.3."""

    status: str
    source: str | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, str]:
        out = {"status": self.status}
        if self.source is not None and self.reason is not None:
            out |= {"source": self.source, "reason": self.reason}
        return out


UNKNOWN: Final = Claim("unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """Evidence that is genuine and that a policy wants; made by `evaluate` only.

    `inspection_only` says the policy looked without choosing a workload, so nothing secret
    should follow from it.
    """

    report: VerifiedReport
    policy_name: str
    inspection_only: bool
    claims: Mapping[str, Claim]
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("an Appraisal is made by attestation.policy only")

    @property
    def extra(self) -> dict[str, Any]:
        """The facts behind the claims, by stable names. ACI 8.3 `extra`."""
        r = self.report
        return {
            "tee": r.tee,
            "tcb_status": r.tcb_status,
            "measurements": dict(r.measurements),
            "root_sha256": r.root_sha256,
            "endorsements_not_after": r.endorsements_not_after,
            "simulated": r.simulated,
            **r.facts(),
        }

    def claims_json(self) -> dict[str, Any]:
        """The claims object of an attested session. ACI 8.3."""
        return {**{k: c.to_json() for k, c in self.claims.items()}, "extra": self.extra}
