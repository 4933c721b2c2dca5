"""A kept exchange in one file: the report, the receipt and, when wanted, both bodies.

With the node's root and a policy, a bundle can be judged years later and offline. The
format is described in docs/spec/verification.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from adyton.errors import MalformedResponse, ReceiptError
from attestation.canonical import loads_strict
from attestation.errors import MalformedEvidence

if TYPE_CHECKING:
    from adyton.receipts import VerifiedReceipt
    from adyton.trust import Trust
    from attestation.receipts import Receipt
    from attestation.report import AttestedNode

FORMAT: Final = "adyton-receipt-bundle/1"
MAX_BUNDLE_BYTES: Final = 64 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9._~-]{1,200}")


@dataclass(frozen=True)
class Bundle:
    """`report` was served under `nonce`; bodies are the exact bytes on the wire, or None."""

    report: Mapping[str, Any]
    nonce: str | None
    receipt: Mapping[str, Any]
    received_at: int | None = None
    request_body: bytes | None = None
    response_body: bytes | None = None

    @classmethod
    def of(cls, verified: VerifiedReceipt, *, bodies: bool) -> Self:
        """The bundle of an exchange; without `bodies` it holds no plaintext."""
        established = verified.established
        return cls(
            report=established.report,
            nonce=established.nonce,
            receipt=verified.document,
            received_at=established.verified_at_unix,
            request_body=verified.request_body if bodies else None,
            response_body=verified.response_body if bodies else None,
        )

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read the JSON form. Raises MalformedResponse naming the member at fault."""
        if not isinstance(obj, Mapping) or obj.get("format") != FORMAT:
            raise MalformedResponse("bundle.format", f"must be {FORMAT}")
        for name in ("report", "receipt"):
            if not isinstance(obj.get(name), Mapping):
                raise MalformedResponse(f"bundle.{name}", "must be an object")
        nonce, received_at = obj.get("nonce"), obj.get("received_at")
        if nonce is not None and not isinstance(nonce, str):
            raise MalformedResponse("bundle.nonce", "must be a string or null")
        if received_at is not None and (
            isinstance(received_at, bool) or not isinstance(received_at, int)
        ):
            raise MalformedResponse("bundle.received_at", "must be an integer or null")
        return cls(
            report=obj["report"],
            nonce=nonce,
            receipt=obj["receipt"],
            received_at=received_at,
            request_body=_body(obj, "request_b64"),
            response_body=_body(obj, "response_b64"),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file. Raises MalformedResponse for its content; OSError is the caller's."""
        return cls.from_json(read_json(path, "bundle"))

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "format": FORMAT,
            "report": self.report,
            "nonce": self.nonce,
            "receipt": self.receipt,
            "received_at": self.received_at,
        }
        for name, body in (
            ("request_b64", self.request_body),
            ("response_b64", self.response_body),
        ):
            if body is not None:
                out[name] = base64.b64encode(body).decode("ascii")
        return out

    def save(self, folder: Path) -> Path:
        """Write `<receipt id>.json` into `folder`, readable by its owner only."""
        receipt_id = self.receipt.get("receipt_id")
        if not isinstance(receipt_id, str) or not _NAME.fullmatch(receipt_id):
            raise MalformedResponse("receipt.receipt_id", "cannot name a file")
        folder.mkdir(parents=True, exist_ok=True)
        # A name of dots alone would be a folder; the suffix keeps it a file.
        path = folder / f"{receipt_id}.json"
        write_private(path, self.to_json())
        return path

    def verify(self, trust: Trust, *, now: int) -> tuple[AttestedNode, Receipt]:
        """Judge report and receipt offline at time `now`. Raises as the online checks do.

        The bodies are checked where the bundle has them.
        """
        return verify_receipt_offline(
            report=self.report,
            nonce=self.nonce,
            receipt=self.receipt,
            trust=trust,
            now=now,
            request_body=self.request_body,
            response_body=self.response_body,
        )


def verify_receipt_offline(
    *,
    report: Mapping[str, Any],
    nonce: str | None,
    receipt: Mapping[str, Any],
    trust: Trust,
    now: int,
    request_body: bytes | None,
    response_body: bytes | None,
) -> tuple[AttestedNode, Receipt]:
    """The node and the receipt, when the receipt is that node's. Opens no socket.

    Raises what `appraise_report` raises for the report; ReceiptError for the receipt.
    """
    from attestation.errors import VerificationError
    from attestation.receipts import verify_receipt

    node = trust.appraise(report, nonce=nonce, now=now)
    try:
        checked = verify_receipt(
            receipt, node.keyset, request_body=request_body, response_body=response_body
        )
    except VerificationError as e:
        raise ReceiptError(e.step, e.detail) from e
    return node, checked


def _body(obj: Mapping[str, Any], name: str) -> bytes | None:
    value = obj.get(name)
    if value is None:
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise MalformedResponse(f"bundle.{name}", "must be standard base64") from None


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file of bounded size. Raises MalformedResponse."""
    with path.open("rb") as f:
        data = f.read(MAX_BUNDLE_BYTES + 1)
    if len(data) > MAX_BUNDLE_BYTES:
        raise MalformedResponse(what, f"longer than {MAX_BUNDLE_BYTES} bytes")
    try:
        return loads_strict(data, what)
    except MalformedEvidence as e:
        raise MalformedResponse(e.field, e.detail, e.offset) from None


def write_private(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON to `path` in one step, mode 0600: it may hold a conversation."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as f:
        json.dump(document, f, indent=1, ensure_ascii=False)
        f.write("\n")
    temporary.replace(path)
