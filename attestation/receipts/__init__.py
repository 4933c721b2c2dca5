"""Receipts: what happened for one request, signed by a key the evidence vouches for."""

from __future__ import annotations

from attestation.receipts.receipt import (
    Receipt,
    model_loaded,
    receipt_payload,
    request_forwarded,
    request_received,
    response_returned,
    sign_receipt,
    stream_truncated,
    verify_receipt,
)

__all__ = [
    "Receipt",
    "model_loaded",
    "receipt_payload",
    "request_forwarded",
    "request_received",
    "response_returned",
    "sign_receipt",
    "stream_truncated",
    "verify_receipt",
]
