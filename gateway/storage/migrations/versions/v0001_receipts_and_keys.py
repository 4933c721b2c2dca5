"""Receipts and API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    op.create_table(
        "receipts",
        sa.Column("receipt_id", sa.String(64), primary_key=True),
        sa.Column("chat_id", sa.String(128)),
        sa.Column("owner", sa.LargeBinary(32)),
        sa.Column("request_hash", sa.String(80), nullable=False),
        sa.Column("endpoint", sa.String(128), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("keyset_digest", sa.String(80), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("draft", sa.Text, nullable=False),
        sa.Column("document", sa.Text),
    )
    op.create_index("ix_receipts_chat_id", "receipts", ["chat_id"])
    op.create_index("ix_receipts_started_at", "receipts", ["started_at"])
    pending = sa.text("document IS NULL")
    op.create_index(
        "ix_receipts_pending",
        "receipts",
        ["started_at"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("rate_per_minute", sa.Integer),
        sa.Column("max_concurrency", sa.Integer),
    )
    active = sa.text("revoked_at IS NULL")
    op.create_index(
        "ux_api_keys_name",
        "api_keys",
        ["name"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
