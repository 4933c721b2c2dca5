"""Checking one exchange against the receipt the node signed for it. No sockets here.

An `Exchange` sees the exact bytes that went out and came in, before any decoding, and
decides what may be handed on. The end of a streamed answer is held back until its
receipt has verified, so a reader that stops at `[DONE]` has not stopped too early.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from adyton.errors import MalformedResponse, ReceiptError, TruncatedStream
from adyton.trust import Established, parse_object
from attestation.errors import AttestationError, MalformedEvidence, VerificationError

if TYPE_CHECKING:
    from attestation.receipts import Receipt

PROMPT_PATHS: Final = ("/chat/completions", "/completions", "/embeddings")
"""Paths below the API base whose successful answers must come with a receipt."""

_RECEIPT_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_CONTEXT: Final = re.compile(r"[0-9a-f]{64}")
_DONE: Final = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\]")
_DONE_REACH: Final = 16
"""Bytes of the previous chunk that may hold the start of the terminator."""

FETCH_DELAYS_S: Final = (0.0, 0.05, 0.2, 0.75)
"""A receipt becomes final when the response does; a 404 is asked again after these."""


@dataclass(frozen=True)
class Asked:
    """What a request asked of its EVM receipt: the context to bind, and whether to salt."""

    context: bytes = bytes(32)
    public: bool = False

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """From the headers as sent; a context that is none is the node's to refuse."""
        context = headers.get("x-adyton-context", "")
        return cls(
            context=bytes.fromhex(context) if _CONTEXT.fullmatch(context) else bytes(32),
            public=headers.get("x-adyton-salt") == "none",
        )


@dataclass(frozen=True)
class VerifiedReceipt:
    """A receipt whose signature and body hashes hold for one exchange of ours.

    `authorization` is the credential that made the request, to which the receipt is bound.
    """

    receipt_id: str
    receipt: Receipt
    document: Mapping[str, Any] = field(repr=False)
    established: Established = field(repr=False)
    request_body: bytes = field(repr=False)
    response_body: bytes = field(repr=False)
    authorization: str | None = field(default=None, repr=False)
    asked: Asked = Asked()


ReceiptMode = Literal["each", "off"] | Callable[[VerifiedReceipt], None]


class ReceiptLog:
    """The last verified receipts, and what is done with each: a callback, a folder."""

    def __init__(
        self, mode: ReceiptMode, *, folder: Path | None, bodies: bool, keep: int = 256
    ) -> None:
        if not callable(mode) and mode not in ("each", "off"):
            raise TypeError("verify_receipts must be 'each', 'off' or a callable")
        self.enabled = mode != "off"
        self._callback = mode if callable(mode) else None
        self._folder = folder
        self._bodies = bodies
        self.kept: deque[VerifiedReceipt] = deque(maxlen=keep)

    def find(self, which: VerifiedReceipt | str) -> VerifiedReceipt:
        """The kept receipt with this id, or the newest of the response with this id.

        Raises ReceiptError where none is kept.
        """
        if not isinstance(which, str):
            return which
        for verified in reversed(self.kept):
            if which in (verified.receipt_id, verified.receipt.chat_id):
                return verified
        raise ReceiptError("unknown", "no receipt verified by this client has this id", which)

    def record(self, verified: VerifiedReceipt) -> None:
        """Keep it, save its bundle, tell the callback, in this order."""
        self.kept.append(verified)
        if self._folder is not None:
            from adyton.bundle import Bundle

            Bundle.of(verified, bodies=self._bodies).save(self._folder)
        if self._callback is not None:
            self._callback(verified)


class Exchange:
    """One request and its response as they were on the wire."""

    def __init__(
        self,
        *,
        method: str,
        path: str,
        base_path: str,
        request_body: bytes,
        authorization: str | None,
        check_receipt: bool,
        asked: Asked = Asked(),
    ) -> None:
        self.method = method
        self.path = path
        self.request_body = request_body
        self.authorization = authorization
        self._asked = asked
        self._is_prompt = method == "POST" and path in {base_path + p for p in PROMPT_PATHS}
        self._check = check_receipt and method == "POST"
        self._status = 0
        self._is_stream = False
        self._done_seen = False
        self._tail = b""
        self._body = bytearray()
        self._held: list[bytes] = []
        self.receipt_id: str | None = None

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Read the response head. Raises ReceiptError when a required receipt has no id."""
        self._status = status
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        self._is_stream = kind == "text/event-stream"
        self.receipt_id = headers.get("x-receipt-id")
        if not self._check:
            return
        if self.receipt_id is None:
            if self._is_prompt and 200 <= status < 300:
                raise ReceiptError("missing", "the node answered without a receipt id")
            self._check = False
        elif not _RECEIPT_ID.fullmatch(self.receipt_id):
            raise ReceiptError("id", "the receipt id is not a plain token")
        elif status in (401, 403):
            # The credential that would fetch this receipt is the one just refused.
            self._check = False

    def feed(self, chunk: bytes) -> bytes:
        """Take raw bytes in; returns what may be handed on now (possibly nothing)."""
        if self._check:
            self._body += chunk
        if not self._is_stream:
            return chunk
        if not self._done_seen:
            window = self._tail + chunk
            self._done_seen = _DONE.search(window) is not None
            self._tail = window[-_DONE_REACH:]
        if self._done_seen and self._check:
            self._held.append(chunk)
            return b""
        return chunk

    @property
    def needs_receipt(self) -> bool:
        """True when the receipt named by `receipt_id` has to be fetched and checked."""
        return self._check

    def end(self) -> None:
        """The body is complete as HTTP goes. Raises TruncatedStream when SSE's end is missing."""
        if (
            self._is_stream
            and self._is_prompt
            and 200 <= self._status < 300
            and not self._done_seen
        ):
            raise TruncatedStream(
                "stream", "the stream ended before its [DONE] line", self.receipt_id
            )

    def release(self) -> bytes:
        """What was held back, now that the receipt holds."""
        held = b"".join(self._held)
        self._held.clear()
        return held

    def verify(self, status: int, body: bytes, established: Established) -> VerifiedReceipt:
        """Judge the fetched receipt against this exchange. Raises ReceiptError."""
        from attestation.receipts import verify_receipt

        receipt_id = self.receipt_id or ""
        if status != 200:
            raise ReceiptError("fetch", f"the node answered HTTP {status}", receipt_id)
        try:
            document = parse_object(body, "receipt")
            self._check_place(document)
            receipt = verify_receipt(
                document,
                established.keyset,
                request_body=self.request_body,
                response_body=bytes(self._body),
            )
        except ReceiptError:
            raise
        except (MalformedResponse, MalformedEvidence) as e:
            raise ReceiptError("document", str(e), receipt_id) from e
        except VerificationError as e:
            raise ReceiptError(e.step, e.detail, receipt_id) from e
        except AttestationError as e:
            raise ReceiptError("receipt", str(e), receipt_id) from e
        if receipt.truncated is not None and 200 <= self._status < 300:
            raise TruncatedStream("stream", f"cut by the node: {receipt.truncated}", receipt_id)
        return VerifiedReceipt(
            receipt_id=receipt_id,
            receipt=receipt,
            document=document,
            established=established,
            request_body=self.request_body,
            response_body=bytes(self._body),
            authorization=self.authorization,
            asked=self._asked,
        )

    def _check_place(self, document: Mapping[str, Any]) -> None:
        """A genuine receipt of some other exchange is not a receipt of this one."""
        expected = {"receipt_id": self.receipt_id, "method": self.method}
        for name, value in expected.items():
            if document.get(name) != value:
                raise ReceiptError(name, f"the receipt's {name} is not ours", self.receipt_id)
        endpoint = document.get("endpoint")
        if not isinstance(endpoint, str) or not self.path.endswith(endpoint) or not endpoint:
            raise ReceiptError("endpoint", "the receipt is for another endpoint", self.receipt_id)
