"""Many receipts under one signature: a batch passed whole, or a log's checkpoint.

A batch costs a contract one signature check for all its receipts, whose struct hashes are all
passed along; a checkpoint lets a contract look up any receipt of a log later. Both are structs
of the receipts' EIP-712 domain, signed by the same key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.errors import MalformedEvidence, VerificationError
from attestation.onchain import merkle
from attestation.onchain.errors import NotProvable
from attestation.onchain.receipt import (
    EvmReceipt,
    keccak,
    recover_digest,
    sign_digest,
    typed_digest,
)

MAX_RECEIPTS: Final = 4096
"""More would not fit into the gas that one transaction may use (EIP-7825)."""
_BATCH: Final = b"ReceiptBatch(bytes32 root,uint64 count,uint64 servedFrom,uint64 servedUntil)"
_CHECKPOINT: Final = b"LogCheckpoint(bytes32 origin,uint64 size,bytes32 root,uint64 time)"


def _word(name: str, value: bytes) -> bytes:
    if len(value) != 32:
        raise MalformedEvidence(name, "must be 32 bytes")
    return value


def _uint64(name: str, value: int) -> bytes:
    if isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise MalformedEvidence(name, "must be a uint64")
    return value.to_bytes(32, "big")


@dataclass(frozen=True, slots=True)
class ReceiptBatch:
    """What is signed for `count` receipts, all served between two times (Unix seconds, both in).

    `root` is the Keccak-256 RFC 9162 root over the receipts' struct hashes in their order.
    """

    root: bytes
    count: int
    served_from: int
    served_until: int

    @classmethod
    def of(cls, receipts: Sequence[EvmReceipt]) -> tuple[Self, list[bytes]]:
        """The batch of these receipts, and the leaves that a contract is given with it.

        Raises NotProvable for none, too many, or one receipt twice: a contract that pays for
        each leaf would pay twice.
        """
        leaves = [r.struct_hash for r in receipts]
        if not 0 < len(leaves) <= MAX_RECEIPTS:
            raise NotProvable("batch", f"holds 1 to {MAX_RECEIPTS} receipts, not {len(leaves)}")
        if len(set(leaves)) != len(leaves):
            raise NotProvable("batch", "holds a receipt twice")
        times = [r.served_at for r in receipts]
        root = merkle.root(leaves, keccak)
        return cls(root, len(leaves), min(times), max(times)), leaves

    @property
    def struct_hash(self) -> bytes:
        """EIP-712 `hashStruct`."""
        words = _word("batch.root", self.root) + _uint64("batch.count", self.count)
        times = _uint64("batch.servedFrom", self.served_from)
        times += _uint64("batch.servedUntil", self.served_until)
        return keccak(keccak(_BATCH) + words + times)

    @property
    def digest(self) -> bytes:
        """The 32 bytes that the node's key signs."""
        return typed_digest(self.struct_hash)

    def sign(self, private_key: bytes) -> bytes:
        """r || s || v by a 32-byte secp256k1 key."""
        return sign_digest(self.digest, private_key)


@dataclass(frozen=True, slots=True)
class LogCheckpoint:
    """What a node says of its log at `time` (Unix seconds): `size` leaves under `root` (SHA-256).

    `origin` is sha256 of the log's name, the origin line of its checkpoints without newline.
    """

    origin: bytes
    size: int
    root: bytes
    time: int

    @classmethod
    def of(cls, name: str, entries: Sequence[bytes], time: int) -> Self:
        """The checkpoint of a log of this name with these entries (sha256 of signed receipts)."""
        origin = hashlib.sha256(name.encode()).digest()
        return cls(origin, len(entries), merkle.root(entries, merkle.sha256), time)

    @property
    def values(self) -> tuple[Any, ...]:
        """The members in the order of the type, as an ABI encoder takes the struct."""
        return self.origin, self.size, self.root, self.time

    @property
    def struct_hash(self) -> bytes:
        """EIP-712 `hashStruct`."""
        words = _word("checkpoint.origin", self.origin) + _uint64("checkpoint.size", self.size)
        words += _word("checkpoint.root", self.root) + _uint64("checkpoint.time", self.time)
        return keccak(keccak(_CHECKPOINT) + words)

    @property
    def digest(self) -> bytes:
        """The 32 bytes that the node's key signs."""
        return typed_digest(self.struct_hash)

    def sign(self, private_key: bytes) -> bytes:
        """r || s || v by a 32-byte secp256k1 key."""
        return sign_digest(self.digest, private_key)


def verify_batch(batch: ReceiptBatch, receipts: Sequence[EvmReceipt], signature: bytes) -> str:
    """The address that signed exactly these receipts, in this order, as this batch.

    Raises VerificationError whose step is batch (other receipts, or times outside the batch's)
    or signature.
    """
    due, _ = ReceiptBatch.of(receipts)
    inside = batch.served_from <= due.served_from and due.served_until <= batch.served_until
    if (batch.root, batch.count) != (due.root, due.count) or not inside:
        raise VerificationError("batch", "is not of these receipts")
    return recover_digest(batch.digest, signature)
