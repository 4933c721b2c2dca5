"""What a node remembers across kill -9: receipts and API keys, in one database.

Never a prompt, never an answer: receipts carry hashes, keys are kept as digests.
"""

from __future__ import annotations

from gateway.storage.api_keys import ApiKey, ApiKeyStore, given_key, key_digest, new_key
from gateway.storage.database import Database
from gateway.storage.errors import KeyRefused, StorageError
from gateway.storage.receipts import Binding, EvmSign, ReceiptStore, StoredReceipt

__all__ = [
    "ApiKey",
    "ApiKeyStore",
    "Binding",
    "Database",
    "EvmSign",
    "KeyRefused",
    "ReceiptStore",
    "StorageError",
    "StoredReceipt",
    "given_key",
    "key_digest",
    "new_key",
]
