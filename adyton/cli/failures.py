"""One table, error class to exit code, so that scripts can tell forged from offline."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

import click

from adyton.cli import chain_refusals
from adyton.errors import NodeRefused, NodeUnreachable, UnsafeUrl
from attestation.errors import (
    AttestationError,
    CollateralError,
    MalformedEvidence,
    PolicyError,
    VerificationError,
)
from attestation.onchain.errors import NotProvable
from attestation.onchain.faults import AccountError, ChainError, ContractRefused

EXIT_OTHER: Final = 1
EXIT_USAGE: Final = 2
EXIT_MALFORMED: Final = 3
EXIT_NOT_AUTHENTIC: Final = 4
EXIT_POLICY: Final = 5
EXIT_NETWORK: Final = 6

EXIT_CODES: Final[tuple[tuple[type[BaseException], int, str], ...]] = (
    (click.UsageError, EXIT_USAGE, "usage"),
    (UnsafeUrl, EXIT_USAGE, "usage"),
    (AccountError, EXIT_USAGE, "usage"),
    (MalformedEvidence, EXIT_MALFORMED, "malformed"),
    (PolicyError, EXIT_POLICY, "refused by policy"),
    (NotProvable, EXIT_POLICY, "not provable to a contract"),
    (VerificationError, EXIT_NOT_AUTHENTIC, "not authentic"),
    (CollateralError, EXIT_NETWORK, "collateral"),
    (ChainError, EXIT_NETWORK, "chain"),
    (NodeUnreachable, EXIT_NETWORK, "network"),
    (NodeRefused, EXIT_NETWORK, "network"),
    (AttestationError, EXIT_OTHER, "error"),
    (click.ClickException, EXIT_OTHER, "error"),
    (OSError, EXIT_OTHER, "error"),
)
"""First match wins. A class not listed is "anything else"."""


class NotDone(click.ClickException):
    """The command could not do its work, for a reason that says nothing about trust."""


@dataclass(frozen=True)
class Failure:
    """An error as the CLI tells it; `extra` joins the JSON form."""

    error: str
    reason: str
    headline: str
    exit_code: int
    hints: tuple[str, ...]
    extra: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"error": self.error, "reason": self.reason, **self.extra}


def _openai_failure(error: BaseException) -> tuple[int, str] | None:
    """Errors of the openai package, judged only if something has loaded it."""
    openai = sys.modules.get("openai")
    if openai is None:
        return None
    if isinstance(error, openai.APIConnectionError):
        return EXIT_NETWORK, "network"
    if isinstance(error, openai.OpenAIError):
        return EXIT_OTHER, "the node answered"
    return None


def exit_code_of(error: BaseException) -> tuple[int, str]:
    """(exit code, headline) for an error."""
    if isinstance(error, ContractRefused):
        return chain_refusals.code_of(error)
    for kind, code, headline in EXIT_CODES:
        if isinstance(error, kind):
            return code, headline
    return _openai_failure(error) or (EXIT_OTHER, "error")


def _reason(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    text = str(error) or type(error).__name__
    if error.__cause__ is not None and type(error).__name__ == "APIConnectionError":
        text = f"{text} ({error.__cause__})"
    return text


def failure_of(error: BaseException) -> Failure:
    """How to tell `error`, with its findings and, from any `hints` it carries, what to try."""
    code, headline = exit_code_of(error)
    extra: dict[str, Any] = dict(getattr(error, "json_extra", {}))
    hints = [str(h) for h in getattr(error, "hints", ())]
    reason = _reason(error)
    if isinstance(error, PolicyError):
        extra["findings"] = [
            {"field": f.field, "expected": f.expected, "actual": f.actual} for f in error.findings
        ]
        if len(error.findings) > 1:
            reason = f"{len(error.findings)} findings"
            hints = [*(str(f) for f in error.findings), *hints]
            extra["reason"] = str(error)
    elif isinstance(error, VerificationError):
        extra["step"] = error.step
    elif isinstance(error, ContractRefused):
        extra |= {"contract_error": error.name, "arguments": error.shown_arguments}
        hints += chain_refusals.hints_of(error)
    return Failure(
        error=type(error).__name__,
        reason=reason,
        headline=headline,
        exit_code=code,
        hints=tuple(hints),
        extra=extra,
    )
