"""What a user imports: clients that verify before they send, and the errors they raise.

Names load on first use, so that importing this package, and the commands that need
little of it, stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adyton.bundle import Bundle
    from adyton.client import AsyncClient, Client
    from adyton.errors import (
        ChannelError,
        LibraryMissing,
        MalformedResponse,
        NodeRefused,
        NodeUnreachable,
        ReceiptError,
        TruncatedStream,
        UnsafeUrl,
    )
    from adyton.evm import VerifiedEvmReceipt
    from adyton.receipts import VerifiedReceipt
    from adyton.transport import VerifyingTransport
    from adyton.transport_async import AsyncVerifyingTransport
    from adyton.trust import Established, Trust
    from adyton.verify import verify_node
    from attestation.errors import (
        AttestationError,
        CollateralError,
        MalformedEvidence,
        PolicyError,
        VerificationError,
    )

_HOMES = {
    "AsyncClient": "adyton.client",
    "AsyncVerifyingTransport": "adyton.transport_async",
    "AttestationError": "attestation.errors",
    "Bundle": "adyton.bundle",
    "ChannelError": "adyton.errors",
    "Client": "adyton.client",
    "CollateralError": "attestation.errors",
    "Established": "adyton.trust",
    "LibraryMissing": "adyton.errors",
    "MalformedEvidence": "attestation.errors",
    "MalformedResponse": "adyton.errors",
    "NodeRefused": "adyton.errors",
    "NodeUnreachable": "adyton.errors",
    "PolicyError": "attestation.errors",
    "ReceiptError": "adyton.errors",
    "TruncatedStream": "adyton.errors",
    "Trust": "adyton.trust",
    "UnsafeUrl": "adyton.errors",
    "VerificationError": "attestation.errors",
    "VerifiedEvmReceipt": "adyton.evm",
    "VerifiedReceipt": "adyton.receipts",
    "VerifyingTransport": "adyton.transport",
    "verify_node": "adyton.verify",
}

__all__ = [
    "AsyncClient",
    "AsyncVerifyingTransport",
    "AttestationError",
    "Bundle",
    "ChannelError",
    "Client",
    "CollateralError",
    "Established",
    "LibraryMissing",
    "MalformedEvidence",
    "MalformedResponse",
    "NodeRefused",
    "NodeUnreachable",
    "PolicyError",
    "ReceiptError",
    "TruncatedStream",
    "Trust",
    "UnsafeUrl",
    "VerificationError",
    "VerifiedEvmReceipt",
    "VerifiedReceipt",
    "VerifyingTransport",
    "verify_node",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
