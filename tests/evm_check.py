"""An EVM receipt checked with `eth_account` and `json` alone, none of our own code."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from eth_utils import keccak

try:
    from eth_account import Account
    from eth_account.messages import encode_typed_data
finally:
    # py_ecc, which eth_account brings, allows 100,000 nested calls; the interpreter's stack
    # does not, and json is among those who would find out.
    sys.setrecursionlimit(1000)

TYPE = [
    *(("bytes32", f"{what}Digest") for what in ("keyset", "model", "adapter")),
    *(("bytes32", f"{what}Hash") for what in ("request", "response", "receipt")),
    ("bytes32", "context"),
    ("uint64", "servedAt"),
]
HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2


def jcs(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_evm(
    evm: dict[str, Any],
    receipt: dict[str, Any],
    keyset: dict[str, Any],
    *,
    request: bytes,
    response: bytes,
    context: str = "00" * 32,
    public: bool = False,
) -> dict[str, Any]:
    """The eight members, when they say what the ACI receipt and both bodies say, under a key
    of the keyset."""
    salt = bytes.fromhex(evm["salt"][2:])
    assert len(salt) == 32 and public == (salt == bytes(32))
    events = {e["type"]: e for e in receipt["event_log"]}
    unsigned = {k: v for k, v in receipt.items() if k != "signature"}
    model = events.get("model.loaded", {}).get("model_digest", "00" * 32)
    expected = {
        "keysetDigest": hashlib.sha256(jcs(keyset)).hexdigest(),
        "modelDigest": model.removeprefix("sha256:"),
        "adapterDigest": "00" * 32,
        "requestHash": keccak(salt + hashlib.sha256(request).digest()).hex(),
        "responseHash": keccak(salt + hashlib.sha256(response).digest()).hex(),
        "receiptHash": hashlib.sha256(jcs(unsigned)).hexdigest(),
        "context": context,
    }
    members = {**{k: "0x" + v for k, v in expected.items()}, "servedAt": receipt["served_at"]}
    assert evm["receipt"] == members and evm["receipt_id"] == receipt["receipt_id"]

    message = encode_typed_data(
        domain_data={"name": "Adyton", "version": "1"},
        message_types={"Receipt": [{"type": kind, "name": name} for kind, name in TYPE]},
        message_data={k: bytes.fromhex(v) for k, v in expected.items()}
        | {"servedAt": receipt["served_at"]},
    )
    assert encode_typed_data(full_message=evm["typed_data"]) == message
    signature = bytes.fromhex(evm["signature"][2:])
    signer = Account.recover_message(message, signature=signature).lower()
    entry = next(k for k in keyset["receipt_signing_keys"] if k["key_id"] == evm["key_id"])
    assert entry["algo"] == "eip712-secp256k1" and "0x" + entry["public_key"] == signer
    assert evm["signer"] == signer

    r, s, v = signature[:32], int.from_bytes(signature[32:64], "big"), signature[64]
    assert len(signature) == 65 and 0 < s <= HALF_ORDER and v in (27, 28)
    assert evm["r"] == "0x" + r.hex()
    assert int(evm["vs"], 16) == s | (v - 27) << 255 and len(evm["vs"]) == 66
    return members
