"""The receipt a contract can check: eight words, signed by the node's EVM key.

EIP-712 over the domain {name: "Adyton", version: "1"}: no chain and no contract, since what
happened happened wherever the node is registered. `context` binds a receipt to one request,
and using it once is the business of the contract that consumes it. Signatures are 65 bytes,
r || s || v with v 27 or 28 and s in the lower half of the order (EIP-2), or two words, r and
s with the parity of v in its highest bit (EIP-2098). Addresses are 0x and 40 lowercase digits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from attestation.canonical import jcs
from attestation.errors import MalformedEvidence, VerificationError
from attestation.keyset import KeyEntry, Keyset
from attestation.onchain.abi import keccak as keccak  # noqa: PLC0414 - also a name of this module
from attestation.onchain.errors import NotProvable
from attestation.receipts.receipt import (
    MODEL_LOADED,
    REQUEST_RECEIVED,
    RESPONSE_RETURNED,
    STREAM_TRUNCATED,
)

ALGO: Final = "eip712-secp256k1"
"""What `algo` says of a receipt key in a keyset; its `public_key` is the bare address."""
NO_SALT: Final = bytes(32)
"""The salt of an exchange that is meant to be public."""
ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The order of secp256k1 (SEC 2, section 2.4.1)."""

_DOMAIN: Final = {"name": "Adyton", "version": "1"}
_WORDS: Final = {
    "keyset_digest": "keysetDigest",
    "model_digest": "modelDigest",
    "adapter_digest": "adapterDigest",
    "request_hash": "requestHash",
    "response_hash": "responseHash",
    "receipt_hash": "receiptHash",
    "context": "context",
}
_TYPE: Final = "Receipt(" + ",".join(f"bytes32 {n}" for n in _WORDS.values()) + ",uint64 servedAt)"
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_WORD: Final = re.compile(r"0x[0-9a-f]{64}")
_ADDRESS: Final = re.compile(r"[0-9a-f]{40}")


def domain_separator() -> bytes:
    """The EIP-712 hash of our domain; every struct this node signs for contracts is under it."""
    kind = keccak(b"EIP712Domain(string name,string version)")
    return keccak(kind + keccak(_DOMAIN["name"].encode()) + keccak(_DOMAIN["version"].encode()))


def typed_digest(struct_hash: bytes) -> bytes:
    """What is signed for a struct of our domain. Spec: EIP-712, `encode`."""
    return keccak(b"\x19\x01" + domain_separator() + struct_hash)


def commitment(salt: bytes, body_sha256: bytes) -> bytes:
    """keccak256(salt || sha256(body)): nobody without the salt can test a guess of the body."""
    if len(salt) != 32 or len(body_sha256) != 32:
        raise NotProvable("commitment", "salt and body hash must be 32 bytes each")
    return keccak(salt + body_sha256)


def receipt_hash(document: Mapping[str, Any]) -> bytes:
    """sha256 over what the Ed25519 signature of an ACI receipt covers: both sign one content."""
    return hashlib.sha256(jcs({k: v for k, v in document.items() if k != "signature"})).digest()


@dataclass(frozen=True, slots=True)
class EvmReceipt:
    """Seven words of 32 bytes and `served_at` in Unix seconds; digests are zero where none is.

    Raises MalformedEvidence when a word is not 32 bytes or the time not a uint64.
    """

    keyset_digest: bytes
    model_digest: bytes
    adapter_digest: bytes
    request_hash: bytes
    response_hash: bytes
    receipt_hash: bytes
    context: bytes
    served_at: int

    def __post_init__(self) -> None:
        for name, shown in _WORDS.items():
            value = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != 32:
                raise MalformedEvidence(f"evm_receipt.{shown}", "must be 32 bytes")
        at = self.served_at
        if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < 1 << 64:
            raise MalformedEvidence("evm_receipt.servedAt", "must be a uint64")

    @classmethod
    def from_document(
        cls, document: Mapping[str, Any], *, salt: bytes = NO_SALT, context: bytes = bytes(32)
    ) -> Self:
        """The one EVM receipt that says what this ACI receipt says.

        Raises NotProvable where the document has no such receipt: an answer cut short (the eight
        words could not say so, and a contract would pay for it), bytes that nobody knows, or an
        event twice. Whether the document is authentic is another question.
        """
        if _event(document, STREAM_TRUNCATED) is not None:
            raise NotProvable("event_log", "the answer was cut short")
        request, response = _event(document, REQUEST_RECEIVED), _event(document, RESPONSE_RETURNED)
        if request is None or response is None:
            raise NotProvable("event_log", "the receipt does not know both bodies")
        model = _event(document, MODEL_LOADED) or {}
        return cls(
            keyset_digest=_digest(document, "workload_keyset_digest"),
            model_digest=_digest(model, "model_digest", optional=True),
            adapter_digest=_digest(model, "adapter_digest", optional=True),
            request_hash=commitment(salt, _digest(request, "body_hash")),
            response_hash=commitment(salt, _digest(response, "body_hash")),
            receipt_hash=receipt_hash(document),
            context=context,
            served_at=document.get("served_at", -1),
        )

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read what `to_json` wrote; a member missing, unknown or malformed is refused."""
        if not isinstance(obj, Mapping) or set(obj) != {*_WORDS.values(), "servedAt"}:
            raise MalformedEvidence("evm_receipt", "must be an object of exactly the eight members")
        for shown in _WORDS.values():
            if not isinstance(obj[shown], str) or not _WORD.fullmatch(obj[shown]):
                raise MalformedEvidence(f"evm_receipt.{shown}", "must be 0x and 64 lowercase hex")
        words = {name: bytes.fromhex(obj[shown][2:]) for name, shown in _WORDS.items()}
        return cls(**words, served_at=obj["servedAt"])

    def to_json(self) -> dict[str, Any]:
        """Members named as in the EIP-712 type: words as 0x hex, `servedAt` a number."""
        words = {shown: "0x" + getattr(self, name).hex() for name, shown in _WORDS.items()}
        return {**words, "servedAt": self.served_at}

    @property
    def values(self) -> tuple[Any, ...]:
        """The members in the order of the type, as an ABI encoder takes the struct."""
        return tuple(getattr(self, f.name) for f in fields(self))

    @property
    def struct_hash(self) -> bytes:
        """The EIP-712 `hashStruct` of the receipt: also its leaf in a batch."""
        words = b"".join(self.values[:-1])
        return keccak(keccak(_TYPE.encode()) + words + self.served_at.to_bytes(32, "big"))

    @property
    def digest(self) -> bytes:
        """The 32 bytes that the node's key signs."""
        return typed_digest(self.struct_hash)

    def typed_data(self) -> dict[str, Any]:
        """The whole EIP-712 message, as wallets and `eth_account` take it."""
        members = [{"name": n, "type": "bytes32"} for n in _WORDS.values()]
        domain = [{"name": n, "type": "string"} for n in _DOMAIN]
        return {
            "types": {
                "EIP712Domain": domain,
                "Receipt": [*members, {"name": "servedAt", "type": "uint64"}],
            },
            "primaryType": "Receipt",
            "domain": dict(_DOMAIN),
            "message": self.to_json(),
        }


def _event(document: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    log = document.get("event_log")
    if not isinstance(log, list) or not all(isinstance(e, Mapping) for e in log):
        raise MalformedEvidence("receipt.event_log", "must be a list of objects")
    found: list[Mapping[str, Any]] = [e for e in log if e.get("type") == kind]
    if len(found) > 1:
        raise NotProvable(f"event_log.{kind}", "appears more than once")
    return found[0] if found else None


def _digest(obj: Mapping[str, Any], name: str, *, optional: bool = False) -> bytes:
    if optional and name not in obj:
        return bytes(32)
    value = obj.get(name)
    match = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise MalformedEvidence(f"receipt.{name}", "must be sha256:<64 hex>")
    return bytes.fromhex(match[1])


def sign_digest(digest: bytes, private_key: bytes) -> bytes:
    """r || s || v over 32 bytes, deterministic (RFC 6979) and low-s."""
    signature = _private(private_key).sign_recoverable(digest, hasher=None)
    return bytes(signature[:64]) + bytes([27 + signature[64]])


def sign(receipt: EvmReceipt, private_key: bytes) -> bytes:
    """The receipt's 65-byte signature by a 32-byte secp256k1 key."""
    return sign_digest(receipt.digest, private_key)


def address_of(private_key: bytes) -> str:
    """The address whose signatures this key makes."""
    return _address(_private(private_key).public_key.format(compressed=False))


def key_entry(address: str, key_id: str = "evm-1") -> KeyEntry:
    """How a keyset lists this address among its `receipt_signing_keys`."""
    if not address.startswith("0x") or not _ADDRESS.fullmatch(address[2:].lower()):
        raise NotProvable("address", "must be 0x and 40 hex digits")
    return KeyEntry(key_id=key_id, algo=ALGO, public_key=address[2:].lower())


def compact(signature: bytes) -> tuple[bytes, bytes]:
    """(r, vs) of EIP-2098. Raises VerificationError("signature") as `recover` does."""
    r, s, v = _parts(signature)
    return r.to_bytes(32, "big"), (s | (v - 27) << 255).to_bytes(32, "big")


def recover_digest(digest: bytes, signature: bytes) -> str:
    """The address that signed 32 bytes. Raises VerificationError("signature") if none did."""
    from coincurve import PublicKey

    _, _, v = _parts(signature)
    raw = signature[:64] + bytes([v - 27])
    try:
        key = PublicKey.from_signature_and_message(raw, digest, hasher=None)
    except Exception:  # coincurve raises bare Exception where no point fits
        raise VerificationError("signature", "no key makes this signature") from None
    return _address(key.format(compressed=False))


def recover(receipt: EvmReceipt, signature: bytes) -> str:
    """The address that signed the receipt; the contracts recover the same, or refuse too."""
    return recover_digest(receipt.digest, signature)


def verify_receipt(
    receipt: EvmReceipt,
    signature: bytes,
    keyset: Keyset,
    *,
    document: Mapping[str, Any] | None = None,
    salt: bytes = NO_SALT,
    context: bytes | None = None,
) -> str:
    """An EVM key of `keyset` signed the receipt; returns its address.

    `document` is the ACI receipt of the same exchange, verified already
    (`attestation.receipts.verify_receipt`): given it, every word must be the one it implies
    under `salt`. Raises VerificationError whose step is signature, key, keyset_digest,
    served_at, context or document. Whether `keyset` is to be believed was settled before.
    """
    signer = recover(receipt, signature)
    if not any(k.algo == ALGO and k.public_key == signer[2:] for k in keyset.receipt_signing_keys):
        raise VerificationError("key", f"{signer} is not an EVM receipt key of the keyset")
    if f"sha256:{receipt.keyset_digest.hex()}" != keyset.digest:
        raise VerificationError("keyset_digest", "is not the established keyset's")
    if receipt.served_at > keyset.not_after:
        raise VerificationError("served_at", "is after the keyset expired")
    if context is not None and receipt.context != context:
        raise VerificationError("context", "is not the request's own")
    if document is not None:
        _check_document(receipt, document, salt)
    return signer


def _check_document(receipt: EvmReceipt, document: Mapping[str, Any], salt: bytes) -> None:
    due = EvmReceipt.from_document(document, salt=salt, context=receipt.context).to_json()
    wrong = [name for name, value in receipt.to_json().items() if due[name] != value]
    if wrong:
        raise VerificationError("document", f"implies another {', '.join(wrong)}")


def _private(private_key: bytes) -> Any:
    from coincurve import PrivateKey

    if len(private_key) != 32 or not 0 < int.from_bytes(private_key, "big") < ORDER:
        raise NotProvable("private_key", "must be 32 bytes below the order, not zero")
    return PrivateKey(private_key)


def _address(uncompressed: bytes) -> str:
    return "0x" + keccak(uncompressed[1:])[12:].hex()


def _parts(signature: bytes) -> tuple[int, int, int]:
    if len(signature) != 65:
        raise VerificationError("signature", "must be 65 bytes")
    r, s = (int.from_bytes(signature[i : i + 32], "big") for i in (0, 32))
    if not 0 < r < ORDER or not 0 < s < ORDER:
        raise VerificationError("signature", "r or s is out of range")
    if s > ORDER // 2:
        raise VerificationError("signature", "s is in the upper half of the order")
    if signature[64] not in (27, 28):
        raise VerificationError("signature", "v must be 27 or 28")
    return r, s, signature[64]
