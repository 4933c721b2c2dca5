"""A chain with a node registry on it, and genuine registrations to submit or to damage.

The quotes are the simulator's; a stand-in takes them for genuine, since verifying them is the
quote verifier's business and has its own tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import attested
from chain import Chain, Contract

from attestation.canonical import digest
from attestation.keyset import KeyEntry, Keyset
from attestation.onchain.quote import compact_quote
from attestation.onchain.registration import Registration, registration_nonce
from attestation.statement import report_data

KINDS = ("sgx-v3", "tdx-v4", "tdx-v5", "tdx-v5-td15")
SIGNER = "0x" + "a1b2c3d4e5" * 4
KEY = KeyEntry("evm-1", "eip712-secp256k1", SIGNER[2:])
RECEIPT = KeyEntry("receipt-1", "ed25519", "07" * 32)
PLATFORM = b"\x01" + bytes(166)
MONTH = 30 * 86400
ZERO = "0x" + "00" * 20


def keyset(**members: Any) -> Keyset:
    return attested.keyset(
        **{
            "receipt_signing_keys": (RECEIPT, KEY),
            "not_after": attested.NOW + 20 * 86400,
            **members,
        }
    )


@dataclass
class World:
    """A chain with a registry whose verifier believes what `believe` names."""

    chain: Chain
    quotes: Contract
    registry: Contract
    anything: Contract

    @property
    def number(self) -> int:
        return int(self.chain.block["number"], 16)

    @property
    def time(self) -> int:
        return int(self.chain.block["timestamp"], 16)

    def nonce(self, height: int, registry: Contract | None = None) -> str:
        block = self.chain.rpc("eth_getBlockByNumber", hex(height), False)
        return registration_nonce(
            int(self.chain.rpc("eth_chainId"), 16),
            (registry or self.registry).address,
            height,
            bytes.fromhex(block["hash"][2:]),
        )

    def registration(
        self,
        keys: Keyset | None = None,
        *,
        kind: str = "tdx-v4",
        height: int | None = None,
        expiry: int = attested.NOW + MONTH,
        platform: bytes = PLATFORM,
    ) -> Registration:
        """A genuine one, bound to a block as young as can be."""
        keys = keys or keyset()
        height = self.number - 1 if height is None else height
        data = report_data(keys.digest, self.nonce(height))
        block = self.chain.rpc("eth_getBlockByNumber", hex(height), False)
        made = Registration.build(
            quote=compact_quote(attested.quote(kind, report_data=data)),
            platform=platform,
            keyset=keys,
            chain_id=int(self.chain.rpc("eth_chainId"), 16),
            registry=self.registry.address,
            block_number=height,
            block_hash=bytes.fromhex(block["hash"][2:]),
            now=0,
        )
        self.believe(made.quote, expiry, platform)
        return made

    def believe(self, quote: bytes, expiry: int, platform: bytes = PLATFORM) -> None:
        self.chain.send(self.quotes, "believe", quote, platform, (expiry, 1, 17))

    def register(self, made: Registration, policy: str | None = None, **how: Any) -> dict[str, Any]:
        return self.chain.send(
            self.registry, "register", *made.arguments(policy or self.anything.address), **how
        )

    def text(self, text: bytes, hints: int, height: int | None = None) -> tuple[Any, ...]:
        """Arguments of `register` for any bytes as a keyset, genuinely quoted."""
        height = self.number - 1 if height is None else height
        data = report_data(digest(text), self.nonce(height))
        quote = compact_quote(attested.quote("tdx-v4", report_data=data))
        self.believe(quote, attested.NOW + MONTH)
        return quote, PLATFORM, text, hints, height, self.anything.address

    def node(self, policy: str | None = None, signer: str = SIGNER) -> tuple[int, int, int]:
        found: tuple[int, int, int] = self.chain.call(
            self.registry, "nodeOf", signer, policy or self.anything.address
        )
        return found


def new_world(chain: Chain) -> World:
    """The registry, its verifier and a policy that allows anything, on a chain a few blocks old."""
    quotes = chain.deploy("FakeQuoteVerifier")
    registry = chain.deploy("NodeRegistry", quotes.address)
    anything = chain.deploy("AllowAllPolicy")
    chain.rpc("anvil_mine", "0x3")
    return World(chain, quotes, registry, anything)
