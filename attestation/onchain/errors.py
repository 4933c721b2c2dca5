"""Why something cannot be proved to a contract."""

from __future__ import annotations

from attestation.errors import AttestationError


class NotProvable(AttestationError):  # noqa: N818 - the names are the design's
    """The contracts take less than the verifier does, and this lies outside; `field` names it.

    Raised before anything is sent: a transaction that must revert is never paid for.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field, self.detail = field, detail
