"""The tables. The schema's history is in `migrations`; this is its present state."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

receipts = Table(
    "receipts",
    metadata,
    Column("receipt_id", String(64), primary_key=True),
    Column("chat_id", String(128), index=True),
    Column("owner", LargeBinary(32)),  # sha256 of the API key; NULL: the request had none
    Column("request_hash", String(80), nullable=False),
    Column("endpoint", String(128), nullable=False),
    Column("model", String(256), nullable=False),
    Column("keyset_digest", String(80), nullable=False),
    Column("started_at", BigInteger, nullable=False, index=True),  # Unix seconds
    Column("finished_at", BigInteger),
    Column("draft", Text, nullable=False),  # JSON: what a receipt needs if the node dies now
    Column("document", Text),  # the signed receipt, JSON; NULL while the answer is under way
    Column("evm_context", LargeBinary(32)),  # both NULL: begun by a version without EVM receipts
    Column("evm_salt", LargeBinary(32)),
    Column("evm_signature", LargeBinary(65)),  # NULL: the receipt has no form for contracts
)
Index(
    "ix_receipts_pending",
    receipts.c.started_at,
    sqlite_where=receipts.c.document.is_(None),
    postgresql_where=receipts.c.document.is_(None),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(16), primary_key=True),  # the digest's first 12 hex digits
    Column("name", String(64), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("rate_per_minute", Integer),
    Column("max_concurrency", Integer),
)
Index(
    "ux_api_keys_name",
    api_keys.c.name,
    unique=True,
    sqlite_where=api_keys.c.revoked_at.is_(None),
    postgresql_where=api_keys.c.revoked_at.is_(None),
)
