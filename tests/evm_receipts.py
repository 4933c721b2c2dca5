"""Receipts for tests of what chains accept: fixed keys, fixed times, hand-made signatures."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final

from chain import Chain, Contract
from coincurve import PrivateKey

from attestation.onchain.receipt import ORDER, EvmReceipt, address_of, commitment, compact, sign

NOW: Final = 1_780_000_000
DAY: Final = 86_400
EXPIRY: Final = NOW + 30 * DAY
KEY: Final = b"\x11" * 32
SIGNER: Final = address_of(KEY)
STRANGER: Final = b"\x22" * 32
SALT: Final = b"\x5a" * 32
MODEL: Final = hashlib.sha256(b"the model").digest()
REQUEST: Final = b'{"model":"m","messages":[{"role":"user","content":"Is it raining?"}]}'
RESPONSE: Final = b'{"choices":[{"message":{"content":"Yes."}}]}'


def word(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def evm_receipt(**changes: Any) -> EvmReceipt:
    """The receipt of one exchange, served a quarter of an hour after NOW."""
    receipt = EvmReceipt(
        keyset_digest=word("keyset"),
        model_digest=MODEL,
        adapter_digest=bytes(32),
        request_hash=commitment(SALT, hashlib.sha256(REQUEST).digest()),
        response_hash=commitment(SALT, hashlib.sha256(RESPONSE).digest()),
        receipt_hash=word("receipt"),
        context=word("context"),
        served_at=NOW + 900,
    )
    return replace(receipt, **changes)


def signed(receipt: EvmReceipt, key: bytes = KEY) -> tuple[Any, bytes, bytes]:
    """The first three arguments of whatever takes a receipt."""
    return (receipt.values, *compact(sign(receipt, key)))


def policies(chain: Chain) -> list[str]:
    """Addresses that can send: a policy ends its epoch by a transaction of its own."""
    accounts: list[str] = chain.rpc("eth_accounts")
    return accounts[5:]


def registered(chain: Chain) -> Contract:
    """A verifier with one node, registered at NOW under the first policy, half an hour ago."""
    verifier = chain.deploy("ReceiptHarness")
    chain.send(verifier, "put", SIGNER, policies(chain)[0], EXPIRY)
    chain.at(NOW + 1_800)
    return verifier


def signature_with(digest: bytes, key: bytes, nonce: int) -> tuple[int, int, int]:
    """(r, s, parity) of ECDSA with a nonce of our choice; s is not brought into either half."""
    point = PrivateKey(nonce.to_bytes(32, "big")).public_key.point()
    z, d = int.from_bytes(digest, "big"), int.from_bytes(key, "big")
    r = point[0] % ORDER
    return r, pow(nonce, -1, ORDER) * (z + r * d) % ORDER, point[1] & 1


def key_whose_s_is(digest: bytes, s: int, nonce: int = 7) -> tuple[bytes, int, int]:
    """(key, r, parity) such that signing `digest` with this nonce gives exactly `s`."""
    point = PrivateKey(nonce.to_bytes(32, "big")).public_key.point()
    r = point[0] % ORDER
    d = (s * nonce - int.from_bytes(digest, "big")) * pow(r, -1, ORDER) % ORDER
    return d.to_bytes(32, "big"), r, point[1] & 1


def vs(s: int, parity: int) -> bytes:
    return (s | parity << 255).to_bytes(32, "big")
