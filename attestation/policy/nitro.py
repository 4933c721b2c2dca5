"""What a policy may want of AWS Nitro documents beside their registers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.errors import Finding
from attestation.policy.values import one_of, optional_tuple
from attestation.verify.nitro import NitroReport

DEFAULT_AGE_S: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroPolicy:
    """How fresh a document must be, and from where; `module_ids` None accepts every module."""

    max_age_s: int = DEFAULT_AGE_S
    require_nonce: bool = True
    module_ids: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, nitro: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        return cls(
            max_age_s=int(nitro.get("max_age_s", DEFAULT_AGE_S)),
            require_nonce=nitro.get("require_nonce", True),
            module_ids=optional_tuple(nitro.get("module_ids")),
        )


def nitro_findings(report: NitroReport, nitro: NitroPolicy, now: int) -> Iterator[Finding]:
    """Every way in which this document is not what the section wants, at `now`."""
    document = report.document
    age = now - document.timestamp_ms // 1000
    if age > nitro.max_age_s:
        yield Finding("nitro.age", f"at most {nitro.max_age_s} s", f"{age} s")
    if not report.endorsements_not_before <= now <= report.endorsements_not_after:
        yield Finding(
            "nitro.certificates_window",
            f"valid at {now}",
            f"valid {report.endorsements_not_before} to {report.endorsements_not_after}",
        )
    if nitro.require_nonce and not report.nonce_checked:
        stated = "none" if document.nonce is None else f"{document.nonce.hex()}, unchecked"
        yield Finding("nitro.nonce", "a nonce the caller chose", stated)
    if nitro.module_ids is not None and document.module_id not in nitro.module_ids:
        yield Finding("nitro.module_id", one_of(nitro.module_ids), document.module_id)
