"""A registration of a node with a `NodeRegistry` contract, encoded and checked beforehand. Pure.

Spec: contracts/src/NodeRegistry.sol and contracts/src/lib/Keyset.sol. What the contract would
refuse and can be seen from here is refused here, before anybody pays for it; what it says of
collateral and of the policy is for the chain to answer.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final, Self

from attestation.canonical import jcs
from attestation.keyset import Keyset
from attestation.onchain.errors import NotProvable
from attestation.onchain.policy import measurement_id, report_body, report_data_of
from attestation.onchain.receipt import ALGO
from attestation.statement import report_data

EVM_KEY_ID: Final = "evm-1"
_DOMAIN: Final = b"adyton.register.v1"
_START: Final = b'{"e2ee_public_keys":['
_NOT_AFTER: Final = re.compile(rb'\],"not_after":([1-9][0-9]{9}),"receipt_signing_keys":\[')
_ENTRY: Final = re.compile(
    rb'\{"algo":"eip712-secp256k1","key_id":"evm-1","public_key":"([0-9a-f]{40})"\}'
)
_BRACKET: Final = re.compile(rb"[\[\]]")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")


def registration_nonce(chain_id: int, registry: str, block_number: int, block_hash: bytes) -> str:
    """The statement's nonce (64 lowercase hex) that binds a quote to one registry and block.

    `registry` is 0x and 40 hex digits, `block_hash` that block's on that chain. Raises
    NotProvable where one of them is not that, or a number no uint256.
    """
    if not _ADDRESS.fullmatch(registry):
        raise NotProvable("registry", "must be 0x and 40 hex digits")
    if len(block_hash) != 32:
        raise NotProvable("block_hash", "must be 32 bytes")
    packed = _DOMAIN + _word("chain_id", chain_id) + bytes.fromhex(registry[2:])
    return hashlib.sha256(packed + _word("block_number", block_number) + block_hash).hexdigest()


def _word(name: str, value: int) -> bytes:
    if not 0 <= value < 1 << 256:
        raise NotProvable(name, "must be a uint256")
    return value.to_bytes(32, "big")


@dataclass(frozen=True, slots=True)
class KeysetHints:
    """What the contract reads of a keyset, and the offsets (bytes) at which it does.

    `signer` is 0x and 40 lowercase hex digits, `not_after` Unix seconds.
    """

    signer: str
    not_after: int
    not_after_at: int
    key_at: int

    @property
    def packed(self) -> int:
        """The `hints` argument: two offsets of 48 bits, then the address."""
        return self.not_after_at << 208 | self.key_at << 160 | int(self.signer, 16)

    @classmethod
    def find(cls, text: bytes) -> Self:
        """Where a keyset's canonical text has what the contract looks for.

        Raises NotProvable naming the member that the contract would not find there.
        """
        if not text.startswith(_START):
            raise NotProvable("keyset", "a member comes before e2ee_public_keys")
        not_after_at = _first_bracket(text, len(_START))
        found = _NOT_AFTER.match(text, not_after_at)
        if found is None:
            raise NotProvable(
                "keyset.not_after",
                "must be a ten-digit number between the e2ee and receipt keys, with no other "
                "member beside it and no bracket in an e2ee key's id",
            )
        entry = _entry(text, found.end())
        signer = "0x" + entry[1].decode()
        if int(signer, 16) == 0:
            raise NotProvable("keyset.receipt_signing_keys", "the EVM key is the zero address")
        return cls(signer, int(found[1]), not_after_at, entry.start())


def _first_bracket(text: bytes, start: int) -> int:
    found = _BRACKET.search(text, start)
    return len(text) if found is None else found.start()


def _entry(text: bytes, start: int) -> re.Match[bytes]:
    """The EVM key's entry, directly in the list that begins at `start`."""
    entry = _ENTRY.search(text, start)
    if entry is None or entry.start() > _first_bracket(text, start):
        raise NotProvable(
            "keyset.receipt_signing_keys",
            f"lists no {ALGO} key {EVM_KEY_ID} of 40 lowercase hex digits alone in its "
            "entry, or one behind a bracket",
        )
    if entry.start() != start and text[entry.start() - 1 : entry.start()] != b",":
        raise NotProvable("keyset.receipt_signing_keys", "the EVM key is inside another entry")
    return entry


@dataclass(frozen=True, slots=True)
class Registration:
    """A quote, bound to a keyset, a registry and a block of its chain, ready to be submitted.

    `quote` is compact (contracts/src/lib/QuoteLayout.sol), `platform` what names or carries
    the PCK leaf, `keyset` the canonical text. `measurement` is the id that a policy must allow.
    """

    quote: bytes
    platform: bytes
    keyset: bytes
    hints: KeysetHints
    block_number: int
    measurement: bytes

    @classmethod
    def build(
        cls,
        *,
        quote: bytes,
        platform: bytes,
        keyset: Keyset,
        chain_id: int,
        registry: str,
        block_number: int,
        block_hash: bytes,
        now: int,
    ) -> Self:
        """What `register` takes, if the contract's own checks will hold at `now` (Unix seconds).

        Raises NotProvable naming what does not fit.
        """
        nonce = registration_nonce(chain_id, registry, block_number, block_hash)
        body = report_body(quote)
        if report_data_of(body) != report_data(keyset.digest, nonce):
            raise NotProvable("report_data", "the quote is of another keyset, registry or block")
        text = jcs(keyset.document)
        hints = KeysetHints.find(text)
        if hints.not_after <= now:
            raise NotProvable("keyset.not_after", f"the keyset expired at {hints.not_after}")
        return cls(quote, platform, text, hints, block_number, measurement_id(body))

    @property
    def signer(self) -> str:
        """The address that will be registered: 0x and 40 lowercase hex digits."""
        return self.hints.signer

    @property
    def not_after(self) -> int:
        """When the keyset ends, Unix seconds; the record ends no later."""
        return self.hints.not_after

    def arguments(self, policy: str) -> tuple[Any, ...]:
        """The arguments of `register`, in order. Raises NotProvable when no policy is named."""
        if not _ADDRESS.fullmatch(policy) or int(policy, 16) == 0:
            raise NotProvable("policy", "must be the address of a policy contract")
        packed = self.hints.packed
        return self.quote, self.platform, self.keyset, packed, self.block_number, policy

    def calldata(self, policy: str) -> bytes:
        """The call of `register` under this policy. Raises NotProvable as `arguments` does."""
        from attestation.onchain.artifacts import artifact

        arguments = self.arguments(policy)
        return artifact("NodeRegistry").interface.call("register", *arguments)
