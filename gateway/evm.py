"""Receipts as contracts read them: what a request asks for, and the document that is served.

The EVM receipt follows from the ACI receipt, the caller's context and the salt
(attestation.onchain.receipt). A salt is random unless the caller declares the exchange
public, because on a public chain the bare hash of a short prompt can be guessed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers

from attestation.onchain.errors import NotProvable
from attestation.onchain.receipt import NO_SALT, EvmReceipt, compact, recover
from enclave.keys import EVM_KEY_ID, NodeKeys
from gateway.errors import invalid, not_found
from gateway.storage import Binding, EvmSign, StoredReceipt

CONTEXT_HEADER: Final = "X-Adyton-Context"
SALT_HEADER: Final = "X-Adyton-Salt"
FORMAT: Final = "adyton-evm-receipt/1"
_NO_CONTEXT: Final = "00" * 32
_WORD: Final = re.compile(r"[0-9a-f]{64}")


def read_binding(headers: Headers) -> Binding:
    """What this request's EVM receipt is to be bound to. Raises ApiError 400."""
    context = _one(headers, CONTEXT_HEADER)
    if context is not None and not _WORD.fullmatch(context):
        raise invalid(CONTEXT_HEADER, f"{CONTEXT_HEADER} must be 64 lowercase hex characters.")
    salt = _one(headers, SALT_HEADER)
    if salt not in (None, "none"):
        raise invalid(SALT_HEADER, f"{SALT_HEADER} must be 'none' where it is given.")
    return Binding(
        context=bytes.fromhex(context or _NO_CONTEXT),
        salt=secrets.token_bytes(32) if salt is None else NO_SALT,
    )


def _one(headers: Headers, name: str) -> str | None:
    values = headers.getlist(name)
    if len(values) > 1:
        raise invalid(name, f"{name} may be given once.")
    return values[0] if values else None


def evm_sign(keys: NodeKeys, document: Mapping[str, Any], binding: Binding | None) -> EvmSign:
    """A function that signs the EVM receipt of `document`, for a thread that has the time.

    It gives None where there is none: what is bound to nothing failed, or was begun by an
    older version, and an answer that was cut short has no form for contracts.
    """

    def sign() -> bytes | None:
        if binding is None:
            return None
        try:
            receipt = _receipt(document, binding)
        except NotProvable:
            return None
        return keys.sign_evm(receipt)

    return sign


def evm_document(stored: StoredReceipt) -> dict[str, Any]:
    """What is served for a stored receipt. Raises ApiError 404 where it has no EVM form.

    The signer is recovered rather than remembered: keys may have been renewed since.
    """
    document, binding, signature = stored.document, stored.binding, stored.evm_signature
    if document is None or binding is None or signature is None:
        raise not_found("This receipt has no form for contracts.")
    receipt = _receipt(document, binding)
    r, vs = compact(signature)
    return {
        "format": FORMAT,
        "receipt_id": stored.receipt_id,
        "key_id": EVM_KEY_ID,
        "signer": recover(receipt, signature),
        "receipt": receipt.to_json(),
        "salt": _hex(binding.salt),
        "signature": _hex(signature),
        "r": _hex(r),
        "vs": _hex(vs),
        "typed_data": receipt.typed_data(),
    }


def _receipt(document: Mapping[str, Any], binding: Binding) -> EvmReceipt:
    return EvmReceipt.from_document(document, salt=binding.salt, context=binding.context)


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
