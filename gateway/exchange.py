"""One prompt request as its receipt will tell it.

Hashes are taken here, over the bytes that were received and the bytes that were handed to
the transport; nothing a client says about them is used.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from attestation.canonical import sha256_hex
from attestation.receipts import (
    model_loaded,
    receipt_payload,
    request_forwarded,
    request_received,
    response_returned,
    stream_truncated,
)
from gateway.cut import Reason
from gateway.errors import StorageUnavailable
from gateway.evm import evm_sign
from gateway.identity import Identity
from gateway.logs import failure
from gateway.metrics import Metrics
from gateway.storage import Binding, EvmSign, ReceiptStore, StorageError

_DEFERRED: Final = 4096
METHOD: Final = "POST"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an exchange before it is answered. `owner` is its API key's digest."""

    receipt_id: str
    endpoint: str
    served_at: int
    request_sha256: str
    keyset_digest: str
    owner: bytes
    binding: Binding | None
    chat_id: str | None = None
    model: str | None = None

    def row(self) -> dict[str, Any]:
        """The columns under which a receipt is stored."""
        return {
            "owner": self.owner,
            "request_hash": f"sha256:{self.request_sha256}",
            "endpoint": self.endpoint,
            "model": self.model or "",
            "keyset_digest": self.keyset_digest,
            "started_at": self.served_at,
            "chat_id": self.chat_id,
        }


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed receipt, and what signs its form for contracts."""

    document: dict[str, Any]
    evm_sign: EvmSign


def sign(facts: Facts, identity: Identity, events: list[dict[str, str]]) -> Signed:
    """The signed document for this exchange under this identity's keys."""
    payload = receipt_payload(
        receipt_id=facts.receipt_id,
        chat_id=facts.chat_id,
        model=facts.model,
        keyset_digest=identity.digest,
        endpoint=facts.endpoint,
        method=METHOD,
        served_at=facts.served_at,
        events=events,
    )
    document = identity.keys.sign_receipt(payload)
    return Signed(document, evm_sign(identity.keys, document, facts.binding))


class ReceiptDesk:
    """Sees to it that receipts are stored: now, or when there is room again."""

    def __init__(self, store: ReceiptStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._deferred: deque[tuple[Facts, Signed, bool]] = deque(maxlen=_DEFERRED)

    async def open(self, facts: Facts) -> None:
        """Make the pending row durable. Raises StorageUnavailable."""
        draft = {"model": facts.model}
        try:
            await self._store.open_receipt(
                facts.receipt_id, **facts.row(), draft=draft, binding=facts.binding
            )
        except StorageError as e:
            failure("receipt_not_opened", e, reason=e.reason)
            raise StorageUnavailable(e.reason) from None

    async def close(self, facts: Facts, signed: Signed, *, opened: bool) -> None:
        """Make the signed receipt durable. Raises StorageUnavailable."""
        try:
            if opened:
                await self._store.finish(
                    facts.receipt_id, facts.chat_id, signed.document, evm_sign=signed.evm_sign
                )
            else:
                await self._store.record(
                    facts.receipt_id,
                    **facts.row(),
                    document=signed.document,
                    binding=facts.binding,
                    evm_sign=signed.evm_sign,
                )
        except StorageError as e:
            failure("receipt_not_stored", e, reason=e.reason)
            raise StorageUnavailable(e.reason) from None
        self._metrics.receipts.labels(outcome(signed.document)).inc()

    def defer(self, facts: Facts, signed: Signed, *, opened: bool) -> None:
        """Keep the receipt in memory for `retry`."""
        self._deferred.append((facts, signed, opened))

    async def retry(self) -> None:
        """Store what could not be stored before, until that fails again."""
        while self._deferred:
            facts, signed, opened = self._deferred[0]
            try:
                await self.close(facts, signed, opened=opened)
            except StorageUnavailable as e:
                if str(e) != "refused":
                    return  # and try again later; what the database refuses, it always will
            self._deferred.popleft()

    async def settle_restart(self, identity: Identity) -> int:
        """Sign, for every answer a crash cut short, a receipt that says so; returns how many.

        Nobody is left who knows which bytes were sent, so `response.returned` is absent.
        Called before the node serves: a pending row then belongs to its predecessor.
        Raises StorageError or StorageUnavailable.
        """
        settled = 0
        while rows := await self._store.pending():
            for row in rows:
                facts = Facts(
                    receipt_id=row.receipt_id,
                    endpoint=row.endpoint,
                    served_at=row.started_at,
                    request_sha256=row.request_hash.removeprefix("sha256:"),
                    keyset_digest=row.keyset_digest,
                    owner=row.owner or b"",
                    binding=row.binding,
                    chat_id=row.chat_id,
                    model=row.draft.get("model"),
                )
                events = [
                    request_received(facts.request_sha256),
                    stream_truncated(Reason.NODE_RESTARTED.value),
                ]
                await self.close(facts, sign(facts, identity, events), opened=True)
                settled += 1
        return settled


def outcome(document: Mapping[str, Any]) -> str:
    """How the exchange ended, as one of a few words."""
    log = {event["type"]: event for event in document["event_log"]}
    if "stream.truncated" in log:
        return str(log["stream.truncated"]["reason"])
    return "answered" if "request.forwarded" in log else "refused"


class Exchange:
    """From a request's exact bytes to its signed receipt, under the keys it began with."""

    def __init__(
        self,
        desk: ReceiptDesk,
        identity: Identity,
        *,
        endpoint: str,
        owner: bytes,
        body: bytes,
        binding: Binding,
    ) -> None:
        self._desk = desk
        self._identity = identity
        self._facts = Facts(
            receipt_id="rcpt-" + secrets.token_hex(16),
            endpoint=endpoint,
            served_at=int(time.time()),
            request_sha256=sha256_hex(body),
            keyset_digest=identity.digest,
            owner=owner,
            binding=binding,
        )
        self._returned = hashlib.sha256()
        self._forwarded_to: str | None = None
        self._failed = False
        self._opening: asyncio.Task[None] | None = None

    @property
    def receipt_id(self) -> str:
        return self._facts.receipt_id

    def name_model(self, model: str | None) -> None:
        """The client asked for this model, whether or not there is one."""
        self._facts = replace(self._facts, model=model)

    def forward(self, chat_id: str | None, model_digest: str) -> None:
        """The prompt goes to the engine as it came."""
        self._facts = replace(self._facts, chat_id=chat_id)
        self._forwarded_to = model_digest

    def fail(self) -> None:
        """What the model was asked ends in an error, so a contract must not pay for it.

        The receipt names the model all the same; the form for contracts is left unsigned.
        """
        self._failed = True

    async def open(self) -> None:
        """The pending row is durable, so the id may be told. Raises StorageUnavailable.

        Only a stream needs it: a whole answer's id goes out with a receipt already final.
        Called once the engine has the prompt, so that the disk works while the engine does.
        """
        self._opening = asyncio.create_task(self._desk.open(self._facts))
        await asyncio.shield(self._opening)

    def returned(self, chunk: bytes) -> None:
        """These bytes of the response body were handed to the transport."""
        self._returned.update(chunk)

    async def finish(self, final: bytes, reason: Reason | None) -> None:
        """The receipt is durable, counting `final` as returned. Raises StorageUnavailable."""
        if self._opening is not None:
            await self._opening
        signed = self._signed(final, reason)
        await self._desk.close(self._facts, signed, opened=self._opening is not None)

    def defer(self, final: bytes, reason: Reason) -> None:
        """Store what really happened once storage works again."""
        opening = self._opening
        opened = opening is not None and opening.done() and opening.exception() is None
        self._desk.defer(self._facts, self._signed(final, reason), opened=opened)

    def _signed(self, final: bytes, reason: Reason | None) -> Signed:
        returned = self._returned.copy()
        returned.update(final)
        events = [request_received(self._facts.request_sha256)]
        if self._forwarded_to is not None:
            events.append(request_forwarded(self._facts.request_sha256))
            events.append(model_loaded(self._forwarded_to))
        events.append(response_returned(returned.hexdigest()))
        if reason is not None:
            events.append(stream_truncated(reason.value))
        facts = replace(self._facts, binding=None) if self._failed else self._facts
        return sign(facts, self._identity, events)
