"""What can go wrong between bytes and an appraisal: one root, four kinds.

They answer four different questions, so callers can tell a forgery from an outage:
the bytes are not the format; the format is right but the proof does not hold; the
proof holds but is not what we asked for; the proof could not be judged.
"""

from __future__ import annotations

from dataclasses import dataclass


class AttestationError(Exception):
    """Root of every error this package raises on purpose."""


class MalformedEvidence(AttestationError):  # noqa: N818 - the names are the design's
    """The bytes are not the format they claim to be.

    `field` names what was being read, `offset` is where (bytes from the start of the
    structure named in `field`'s first component), or None where offsets mean nothing.
    """

    def __init__(self, field: str, detail: str, offset: int | None = None) -> None:
        where = "" if offset is None else f" at offset {offset}"
        super().__init__(f"{field}{where}: {detail}")
        self.field = field
        self.detail = detail
        self.offset = offset


class VerificationError(AttestationError):
    """A signature, chain, TCB or binding check failed; `step` names the first one."""

    def __init__(self, step: str, detail: str) -> None:
        super().__init__(f"{step}: {detail}")
        self.step = step
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which genuine evidence is not what the policy asked for."""

    field: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.actual}"


class PolicyError(AttestationError):
    """The evidence is genuine but the policy refuses it; `findings` lists every reason."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("; ".join(str(f) for f in findings))
        self.findings = findings


class CollateralError(AttestationError):
    """Endorsements could not be obtained, could not be read, or are too old to judge by."""
