"""What the client refuses, each by name. All are AttestationErrors: one `except` stops all.

None of them is a transport error of the HTTP library, so nothing retries a refusal or
hides it behind "connection error".
"""

from __future__ import annotations

from attestation.errors import AttestationError, MalformedEvidence, VerificationError


class UnsafeUrl(AttestationError):  # noqa: N818 - reads as the fact it states
    """The URL cannot lead to an attested channel: not https, or it carries credentials."""


class NodeUnreachable(AttestationError):  # noqa: N818 - reads as the fact it states
    """No TLS connection to the node, or it broke before the report was complete."""


class NodeRefused(AttestationError):  # noqa: N818 - reads as the fact it states
    """The node answered a verification request with an error status instead of a report."""

    def __init__(self, what: str, status: int) -> None:
        super().__init__(f"{what}: the node answered HTTP {status}")
        self.status = status


class MalformedResponse(MalformedEvidence):
    """The node's answer is not the JSON document it has to be."""


class ChannelError(VerificationError):
    """The TLS channel does not end in the node that was attested; nothing was sent on it."""


class PinMismatch(ChannelError):  # noqa: N818 - reads as the fact it states
    """The peer's certificate key is not in the established keyset."""


class RedirectRefused(ChannelError):  # noqa: N818 - reads as the fact it states
    """The response points to another origin, which nobody attested."""


class LibraryMissing(AttestationError):  # noqa: N818 - reads as the fact it states
    """An optional library that this needs is not installed; the message names the extra."""


class ReceiptError(VerificationError):
    """The node did not commit to exactly this exchange; the response must not be relied on."""

    def __init__(self, step: str, detail: str, receipt_id: str | None = None) -> None:
        super().__init__(step, detail)
        self.receipt_id = receipt_id


class TruncatedStream(ReceiptError):  # noqa: N818 - reads as the fact it states
    """A streamed answer ended before its terminator."""
