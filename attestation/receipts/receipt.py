"""Inference receipts: signed, per-request event logs. Spec: ACI section 7 and 9.3.

The signature is Ed25519 over the JCS form of the document without its `signature`. Our
own events are described in docs/spec/receipts.md.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from attestation.canonical import digest, jcs
from attestation.errors import MalformedEvidence, VerificationError
from attestation.keyset import ED25519, Keyset

API_VERSION: Final = "aci/1"
REQUEST_RECEIVED: Final = "request.received"
REQUEST_FORWARDED: Final = "request.forwarded"
UPSTREAM_VERIFIED: Final = "upstream.verified"
RESPONSE_RETURNED: Final = "response.returned"
MODEL_LOADED: Final = "model.loaded"
STREAM_TRUNCATED: Final = "stream.truncated"
NODE_RESTARTED: Final = "node_restarted"
"""Reason of a cut whose response bytes nobody is left to know: the node itself died."""

_ONCE: Final = (REQUEST_RECEIVED, REQUEST_FORWARDED, RESPONSE_RETURNED, STREAM_TRUNCATED)
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_HEX128: Final = re.compile(r"[0-9a-f]{128}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_EVENTS: Final = 1024
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(y)
    for y in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""y coordinates of the points of order 1 to 8, in every encoding, sign bit cleared.

Under such a key anybody can make signatures that verify, so it signs nothing.
"""

Event = Mapping[str, Any]


def _body_event(kind: str, body_sha256: str) -> dict[str, str]:
    if not _HEX64.fullmatch(body_sha256):
        raise MalformedEvidence(f"{kind}.body_hash", "must be 64 lowercase hex characters")
    return {"type": kind, "body_hash": f"sha256:{body_sha256}"}


def request_received(body_sha256: str) -> dict[str, str]:
    """The request body as it came off the wire (bare hex SHA-256)."""
    return _body_event(REQUEST_RECEIVED, body_sha256)


def request_forwarded(body_sha256: str) -> dict[str, str]:
    """The exact bytes inference ran on, after any rewrite (bare hex SHA-256)."""
    return _body_event(REQUEST_FORWARDED, body_sha256)


def response_returned(body_sha256: str) -> dict[str, str]:
    """The exact response bytes emitted, SSE framing included (bare hex SHA-256)."""
    return _body_event(RESPONSE_RETURNED, body_sha256)


def model_loaded(model_digest: str, adapter_digest: str | None = None) -> dict[str, str]:
    """The weights that answered; digests are `sha256:<hex>`."""
    event = {"type": MODEL_LOADED, "model_digest": model_digest}
    if adapter_digest is not None:
        event["adapter_digest"] = adapter_digest
    for name in event.keys() - {"type"}:
        if not _DIGEST.fullmatch(event[name]):
            raise MalformedEvidence(f"{MODEL_LOADED}.{name}", "must be sha256:<64 hex>")
    return event


def stream_truncated(reason: str) -> dict[str, str]:
    """The response ended before it was complete, and why."""
    return {"type": STREAM_TRUNCATED, "reason": reason}


def receipt_payload(
    *,
    receipt_id: str,
    chat_id: str | None,
    model: str | None,
    keyset_digest: str,
    endpoint: str,
    method: str,
    served_at: int,
    events: Sequence[Event],
) -> dict[str, Any]:
    """A receipt document ready for `sign_receipt`; `served_at` is Unix seconds."""
    return {
        "api_version": API_VERSION,
        "receipt_id": receipt_id,
        "chat_id": chat_id,
        "model": model,
        "workload_keyset_digest": keyset_digest,
        "endpoint": endpoint,
        "method": method,
        "served_at": served_at,
        "event_log": [dict(e) for e in events],
    }


def sign_receipt(
    payload: Mapping[str, Any], key_id: str, private_key: Ed25519PrivateKey
) -> dict[str, Any]:
    """`payload` with `key_id` and the `signature` over both."""
    document = {k: v for k, v in payload.items() if k != "signature"}
    document["key_id"] = key_id
    document["signature"] = private_key.sign(jcs(document)).hex()
    return document


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt whose signature and structure held under one keyset.

    `checked_request` and `checked_response` say which bodies were compared with it.
    """

    receipt_id: str
    chat_id: str | None
    model: str | None
    endpoint: str
    method: str
    served_at: int
    key_id: str
    keyset_digest: str
    events: tuple[Event, ...]
    checked_request: bool
    checked_response: bool
    document: Mapping[str, Any] = field(repr=False, compare=False)

    def event(self, kind: str) -> Event | None:
        """The first event of this type."""
        return next((e for e in self.events if e["type"] == kind), None)

    @property
    def truncated(self) -> str | None:
        """Why the response was cut short, or None when it was not."""
        event = self.event(STREAM_TRUNCATED)
        return None if event is None else str(event.get("reason", ""))

    @property
    def model_digest(self) -> str | None:
        """The digest of the weights that answered, when the receipt states it."""
        event = self.event(MODEL_LOADED)
        return None if event is None else event.get("model_digest")


def _member(document: Mapping[str, Any], name: str, kind: type, *, optional: bool = False) -> Any:
    value = document.get(name)
    if value is None and optional:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedEvidence(f"receipt.{name}", f"must be {kind.__name__}")
    return value


def _events(document: Mapping[str, Any]) -> tuple[Event, ...]:
    log = _member(document, "event_log", list)
    if len(log) > _MAX_EVENTS:
        raise MalformedEvidence("receipt.event_log", f"more than {_MAX_EVENTS} events")
    for i, event in enumerate(log):
        if not isinstance(event, Mapping) or not isinstance(event.get("type"), str):
            raise MalformedEvidence(f"receipt.event_log[{i}]", "must be an object with a type")
    return tuple(log)


def _check_signature(document: Mapping[str, Any], key_id: str, keyset: Keyset) -> None:
    signature = _member(document, "signature", str)
    entry = keyset.receipt_key(key_id)
    if entry is None:
        raise VerificationError("key_id", f"{key_id[:64]!r} is not a receipt key of the keyset")
    if entry.algo != ED25519:
        raise VerificationError("signature", f"algorithm {entry.algo[:64]!r} is not supported")
    if not _HEX128.fullmatch(signature) or not _HEX64.fullmatch(entry.public_key):
        raise VerificationError("signature", "signature or key is not lowercase hex")
    public = bytes.fromhex(entry.public_key)
    if public[:-1] + bytes([public[-1] & 0x7F]) in _SMALL_ORDER:
        raise VerificationError("signature", f"{key_id[:64]!r} is a key anybody can sign with")
    signed = jcs({k: v for k, v in document.items() if k != "signature"})
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), signed)
    except (InvalidSignature, ValueError):
        raise VerificationError("signature", f"does not verify under {key_id[:64]!r}") from None


def _check_log(events: tuple[Event, ...]) -> None:
    """The log has the shape ACI fixes: what must be there is, and once."""
    kinds = [e["type"] for e in events]
    if not kinds or kinds[0] != REQUEST_RECEIVED:
        raise VerificationError(REQUEST_RECEIVED, "is not the first event")
    for kind in _ONCE:
        if kinds.count(kind) > 1:
            raise VerificationError(kind, "appears more than once")
    if RESPONSE_RETURNED not in kinds:
        truncated = next((e for e in events if e["type"] == STREAM_TRUNCATED), {})
        if truncated.get("reason") != NODE_RESTARTED:
            raise VerificationError(RESPONSE_RETURNED, "is missing")


def _check_body(events: tuple[Event, ...], kind: str, body: bytes | None) -> bool:
    if body is None:
        return False
    stated = next((e.get("body_hash") for e in events if e["type"] == kind), None)
    if not isinstance(stated, str) or not hmac.compare_digest(
        stated.encode("utf-8", "replace"), digest(body).encode()
    ):
        raise VerificationError(kind, "body_hash is not the hash of these bytes")
    return True


def verify_receipt(
    document: Any,
    keyset: Keyset,
    *,
    request_body: bytes | None = None,
    response_body: bytes | None = None,
) -> Receipt:
    """The receipt was signed by `keyset` and describes these exact bytes, where given.

    Raises MalformedEvidence when the document is not a receipt, VerificationError whose
    step is one of key_id, signature, api_version, workload_keyset_digest, served_at, or
    the type of the event at fault. Whether `keyset` itself is to be believed was settled
    by whoever established it.
    """
    if not isinstance(document, Mapping):
        raise MalformedEvidence("receipt", "must be an object")
    key_id = _member(document, "key_id", str)
    _check_signature(document, key_id, keyset)
    if document.get("api_version") != API_VERSION:
        raise VerificationError("api_version", f"is not {API_VERSION}")
    if document.get("workload_keyset_digest") != keyset.digest:
        raise VerificationError("workload_keyset_digest", "is not the established keyset's")
    served_at = _member(document, "served_at", int)
    if served_at > keyset.not_after:
        raise VerificationError("served_at", "is after the keyset expired")
    events = _events(document)
    _check_log(events)
    return Receipt(
        receipt_id=_member(document, "receipt_id", str),
        chat_id=_member(document, "chat_id", str, optional=True),
        model=_member(document, "model", str, optional=True),
        endpoint=_member(document, "endpoint", str),
        method=_member(document, "method", str),
        served_at=served_at,
        key_id=key_id,
        keyset_digest=keyset.digest,
        events=events,
        checked_request=_check_body(events, REQUEST_RECEIVED, request_body),
        checked_response=_check_body(events, RESPONSE_RETURNED, response_body),
        document=document,
    )
