"""The ten lines that docs/onchain.md gives a protocol do what it says they do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain import ROOT, Chain, Contract
from evm_receipts import (
    MODEL,
    NOW,
    RESPONSE,
    SALT,
    STRANGER,
    evm_receipt,
    policies,
    registered,
    signed,
    word,
)
from onchain_world import compiled

from attestation.onchain.abi import keccak
from attestation.onchain.receipt import EvmReceipt

NAME = "UsesAnswers"


def guide() -> str:
    found = re.findall(
        r"^```solidity\n(.*?)^```", (ROOT / "docs/onchain.md").read_text(), re.M | re.S
    )
    assert len(found) == 1
    return f"// SPDX-License-Identifier: Apache-2.0\npragma solidity 0.8.37;\n{found[0]}"


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(timestamp=NOW) as chain:
        yield chain


@pytest.fixture(scope="module")
def example(chain: Chain) -> Contract:
    verifier = registered(chain)

    def add(sources: Path) -> None:
        (sources / f"{NAME}.sol").write_text(guide())

    return chain.create(compiled(NAME, add), verifier.address, policies(chain)[0], MODEL)


def mine(chain: Chain, example: Contract) -> bytes:
    """keccak256(abi.encode(block.chainid, the contract, the caller))."""
    chain_id = int(chain.rpc("eth_chainId"), 16)
    return keccak(
        chain_id.to_bytes(32, "big")
        + b"".join(bytes(12) + bytes.fromhex(a[2:]) for a in (example.address, chain.account))
    )


def use(
    chain: Chain, example: Contract, receipt: EvmReceipt, body: bytes = RESPONSE, **by: bytes
) -> None:
    chain.send(example, "use", *signed(receipt, **by), SALT, body)


def test_a_verified_answer_is_used_once(chain: Chain, example: Contract) -> None:
    receipt = evm_receipt(context=mine(chain, example))
    with chain.undone():
        use(chain, example, receipt)
        with chain.refused("AlreadyConsumed"):
            use(chain, example, receipt)


def test_nothing_else_is_used(chain: Chain, example: Contract) -> None:
    context = mine(chain, example)
    with chain.refused("WrongContext"):
        use(chain, example, evm_receipt())
    with chain.refused("NodeUnknown"):
        use(chain, example, evm_receipt(context=context), key=STRANGER)
    with chain.refused("CommitmentMismatch"):
        use(chain, example, evm_receipt(context=context), RESPONSE.replace(b"Yes", b"No."))
    with chain.refused("0x"):  # the guide's own `require`, which says nothing
        use(chain, example, evm_receipt(context=context, model_digest=word("another model")))
