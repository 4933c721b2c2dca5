"""Receipts, kept so that whoever saw an id can fetch what it stands for.

A row is durable before the response's headers leave, and its signed document before the
last byte does. A row without document after a crash is an answer that was cut; the node
signs that when it starts again. Rows hold hashes and names, never text. The receipt's form
for contracts follows from its document, context and salt; only its signature is kept, made
on the writer's thread, so that nobody's answer waits for it.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, or_, select, update

from gateway.storage.database import Database
from gateway.storage.errors import StorageError
from gateway.storage.models import receipts

_PURGE_STEP = 500  # rows a transaction, so that requests need not wait for a purge
_MAX_ID = 128

EvmSign = Callable[[], bytes | None]
"""The EVM signature of a document, None where it has no form for contracts. The same always."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What an exchange's form for contracts is bound to, 32 bytes each.

    `context` is the caller's choice; `salt` hides the bodies behind their commitments.
    """

    context: bytes
    salt: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """One answer. `document` is the signed receipt, None while the answer is under way.

    `binding` is None for what an older version began, `evm_signature` where the receipt has
    no form for contracts.
    """

    receipt_id: str
    chat_id: str | None
    owner: bytes | None
    request_hash: str
    endpoint: str
    model: str
    keyset_digest: str
    started_at: int
    finished_at: int | None
    draft: Mapping[str, Any]
    document: Mapping[str, Any] | None
    binding: Binding | None
    evm_signature: bytes | None

    def visible_to(self, caller: bytes | None) -> bool:
        """Whether `caller`, the digest of an API key, made the request.

        The receipt of a request without key is for anyone who knows its random id.
        """
        if self.owner is None:
            return True
        return caller is not None and hmac.compare_digest(self.owner, caller)


class ReceiptStore:
    """Every method raises StorageError; then nothing was recorded."""

    def __init__(self, database: Database, *, now: Callable[[], int] | None = None) -> None:
        self._database = database
        self._now = now or (lambda: int(time.time()))

    async def open_receipt(
        self,
        receipt_id: str,
        *,
        owner: bytes | None,
        request_hash: str,
        endpoint: str,
        model: str,
        keyset_digest: str,
        started_at: int,
        chat_id: str | None = None,
        draft: Mapping[str, Any] | None = None,
        binding: Binding | None = None,
    ) -> None:
        """Record that an answer is under way. `draft` is what signing it later needs.

        Raises StorageError (refused) when the id is taken.
        """
        values = {
            "receipt_id": receipt_id,
            "chat_id": chat_id,
            "owner": owner,
            "request_hash": request_hash,
            "endpoint": endpoint,
            "model": model[:256],
            "keyset_digest": keyset_digest,
            "started_at": started_at,
            "draft": _to_json(draft or {}),
            **_binding_columns(binding),
        }
        await self._database.write(lambda connection: _insert(connection, values))

    async def finish(
        self,
        receipt_id: str,
        chat_id: str | None,
        document: Mapping[str, Any],
        *,
        evm_sign: EvmSign = lambda: None,
    ) -> None:
        """Give a pending row its signed document. A document never changes afterwards.

        `evm_sign` is called on the writer's thread. Raises StorageError (refused) when the row
        is unknown or already has another.
        """
        text = _to_json(document)
        values: dict[str, Any] = {"document": text, "finished_at": self._now()}
        if chat_id is not None:
            values["chat_id"] = chat_id
        statement = update(receipts).where(
            receipts.c.receipt_id == receipt_id, receipts.c.document.is_(None)
        )

        def work(connection: Connection) -> None:
            signed = {**values, "evm_signature": evm_sign()}
            if connection.execute(statement, signed).rowcount == 1:
                return
            stored = connection.execute(
                select(receipts.c.document).where(receipts.c.receipt_id == receipt_id)
            ).scalar()
            if stored != text:
                raise StorageError("refused", "the receipt is unknown or already final")

        await self._database.write(work)

    async def record(
        self,
        receipt_id: str,
        *,
        owner: bytes | None,
        request_hash: str,
        endpoint: str,
        model: str,
        keyset_digest: str,
        started_at: int,
        document: Mapping[str, Any],
        chat_id: str | None = None,
        binding: Binding | None = None,
        evm_sign: EvmSign = lambda: None,
    ) -> None:
        """Store a receipt that is final at once, such as that of a refusal: one write.

        `evm_sign` is called on the writer's thread.
        """
        values = {
            "receipt_id": receipt_id,
            "chat_id": chat_id,
            "owner": owner,
            "request_hash": request_hash,
            "endpoint": endpoint,
            "model": model[:256],
            "keyset_digest": keyset_digest,
            "started_at": started_at,
            "finished_at": self._now(),
            "draft": "{}",
            "document": _to_json(document),
            **_binding_columns(binding),
        }
        await self._database.write(
            lambda connection: _insert(connection, {**values, "evm_signature": evm_sign()})
        )

    async def get(self, receipt_or_chat_id: str) -> StoredReceipt | None:
        """The receipt with this id, or the newest for this chat id. The caller's right to
        see it is `visible_to`'s answer."""
        if not 0 < len(receipt_or_chat_id) <= _MAX_ID:
            return None
        statement = (
            select(receipts)
            .where(
                or_(
                    receipts.c.receipt_id == receipt_or_chat_id,
                    receipts.c.chat_id == receipt_or_chat_id,
                )
            )
            .order_by(
                (receipts.c.receipt_id == receipt_or_chat_id).desc(),
                receipts.c.started_at.desc(),
                receipts.c.receipt_id.desc(),
            )
            .limit(1)
        )
        row = await self._database.read(lambda connection: connection.execute(statement).first())
        return None if row is None else _stored(row)

    async def pending(self, limit: int = 1000) -> list[StoredReceipt]:
        """Answers without document, oldest first. At start these were cut by a crash."""
        statement = (
            select(receipts)
            .where(receipts.c.document.is_(None))
            .order_by(receipts.c.started_at, receipts.c.receipt_id)
            .limit(limit)
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [_stored(row) for row in rows]

    async def purge(self, *, before: int | None = None, max_rows: int | None = None) -> int:
        """Forget final receipts begun before `before`, and all but the newest `max_rows`.

        Returns how many went. Pending rows stay: someone still owes them a document.
        """
        final = receipts.c.document.is_not(None)
        newest_first = (receipts.c.started_at.desc(), receipts.c.receipt_id.desc())
        ids = select(receipts.c.receipt_id).where(final)
        removed = 0
        if before is not None:
            old = ids.where(receipts.c.started_at < before)
            removed += await self._delete(old.limit(_PURGE_STEP))
        if max_rows is not None:
            surplus = ids.order_by(*newest_first)
            removed += await self._delete(surplus.limit(_PURGE_STEP).offset(max_rows))
        return removed

    async def _delete(self, ids: Any) -> int:
        statement = delete(receipts).where(receipts.c.receipt_id.in_(ids))
        removed = 0
        while True:
            step = await self._database.write(lambda c: int(c.execute(statement).rowcount))
            removed += step
            if step < _PURGE_STEP:
                return removed


def _insert(connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(insert(receipts), dict(values))


def _binding_columns(binding: Binding | None) -> dict[str, bytes]:
    if binding is None:
        return {}
    return {"evm_context": binding.context, "evm_salt": binding.salt}


def _to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _stored(row: Row[Any]) -> StoredReceipt:
    fields = dict(row._mapping)
    for name in ("draft", "document"):
        fields[name] = None if fields[name] is None else _from_json(fields[name])
    context, salt = fields.pop("evm_context"), fields.pop("evm_salt")
    binding = None if salt is None else Binding(context, salt)
    return StoredReceipt(**fields, binding=binding)


def _from_json(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise StorageError("damaged", "a stored receipt is not JSON")
    return value
