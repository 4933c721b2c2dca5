"""What a policy may want of TPM quotes beside their registers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from attestation.errors import Finding
from attestation.policy.values import one_of
from attestation.verify.tpm import TpmReport


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmPolicy:
    """What may vouch for a TPM's key: `hardware`, `certificate`, `enrolled`.

    Only hardware of a confidential VM says that the machine's owner cannot read its memory.
    """

    bindings: tuple[str, ...] = ("hardware",)

    @classmethod
    def from_json(cls, tpm: Mapping[str, Any]) -> Self:
        """The section a document means, once it is known to satisfy the schema."""
        return cls(bindings=tuple(tpm.get("bindings", ("hardware",))))


def tpm_findings(report: TpmReport, tpm: TpmPolicy, now: int) -> Iterator[Finding]:
    """Every way in which this quote is not what the section wants, at `now`.

    The report of the hardware behind it is judged by the section of its own kind.
    """
    if report.binding not in tpm.bindings:
        yield Finding("tpm.binding", one_of(tpm.bindings), report.binding)
    if not report.endorsements_not_before <= now <= report.endorsements_not_after:
        yield Finding(
            "tpm.key_window",
            f"valid at {now}",
            f"valid {report.endorsements_not_before} to {report.endorsements_not_after}",
        )
