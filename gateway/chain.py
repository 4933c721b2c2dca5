"""What registering a node on a chain takes: the contracts, and an account that pays for gas.

The paying account is no identity: a registration is proved by the node's quote, not by who
sends it. Whoever holds its key can spend what is on it, and that is all.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec
from typing import Final, Protocol

from attestation.collateral.model import Collateral
from attestation.errors import AttestationError
from attestation.issuers.base import IssuedEvidence
from attestation.keyset import Keyset
from attestation.onchain.abi import read_address
from attestation.onchain.account import Account
from attestation.onchain.client import REGISTRY, NodeRecord, RegistryClient
from attestation.onchain.errors import NotProvable
from attestation.onchain.faults import ChainError
from attestation.onchain.quote import prove
from attestation.onchain.registration import Registration, registration_nonce
from attestation.onchain.rpc import Block, Rpc
from attestation.onchain.sender import Mined, Sender
from attestation.onchain.upkeep import CollateralClient, Pushed
from gateway.errors import StartError
from gateway.logs import event
from gateway.settings import ChainChoice

PROVABLE: Final = ("sgx", "tdx")
RPC_TIMEOUT_S: Final = 15.0
_NEEDED: Final = {"eth_account": "eth-account", "Crypto": "pycryptodome", "coincurve": "coincurve"}


class Registry(Protocol):
    """One registry under one policy, as a node sees it. Every call may block for minutes.

    All raise AttestationError: ChainError, ContractRefused, NotProvable.
    """

    def latest_block(self) -> Block:
        """A block new enough to bind a quote to, and old enough for contracts to know it."""
        ...

    def nonce(self, block: Block) -> str:
        """What the node's evidence must be issued for, 64 lowercase hex."""
        ...

    def standing(self, signer: str) -> NodeRecord | None:
        """The signer's record while receipts of now would be accepted under it, else None."""
        ...

    def register(self, keyset: Keyset, evidence: IssuedEvidence, block: Block) -> Mined:
        """The node counts. `evidence` was issued over the keyset and the block's nonce."""
        ...

    def seat(self, signer: str) -> bool | None:
        """Whether the registered signer has a seat now; None where the operator wants none."""
        ...


class ChainRegistry:
    """The registry that the operator named, over their RPC node."""

    def __init__(
        self,
        client: RegistryClient,
        policy: str,
        *,
        pushing: Sender | None = None,
        seated: bool = False,
    ) -> None:
        """`pushing` pays for collateral; without it, others have to keep that current.

        `seated`: the node takes a seat, so that its receipts cost less to check.
        """
        self._client, self._policy, self._pushing = client, policy, pushing
        self._seated = seated

    @classmethod
    def open(cls, choice: ChainChoice, tee_type: str, stopping: threading.Event) -> ChainRegistry:
        """Read addresses and key; nothing is asked of the chain yet. Raises StartError.

        Once `stopping` is set, waiting for the chain ends in a ChainError.
        """
        if tee_type not in PROVABLE:
            raise StartError(
                f"contracts check evidence of {' and '.join(PROVABLE)}, not {tee_type}"
            )
        _require_libraries()
        try:
            registry, policy = read_address(choice.registry), read_address(choice.policy)
        except ValueError as e:
            raise StartError(f"--registry and --measurement-policy: {e}") from None

        def sleep(seconds: float) -> None:
            if stopping.wait(seconds):
                raise ChainError("the node is stopping")

        try:
            rpc = Rpc(choice.rpc, timeout_s=RPC_TIMEOUT_S, sleep=sleep)
            sender = Sender(rpc, Account.load(choice.key_file), sleep=sleep)
        except (AttestationError, ValueError) as e:
            raise StartError(f"--chain, --chain-key: {e}") from None
        event("chain", rpc=rpc.shown, registry=registry, policy=policy, account=sender.address)
        pushing = sender if choice.push_collateral else None
        client = RegistryClient(rpc, registry, sender)
        return cls(client, policy, pushing=pushing, seated=choice.take_seat)

    def latest_block(self) -> Block:
        return self._client.latest_block()

    def nonce(self, block: Block) -> str:
        return registration_nonce(
            self._client.rpc.chain_id, self._client.registry, block.number, block.hash
        )

    def standing(self, signer: str) -> NodeRecord | None:
        if not self._client.counts(signer, self._policy):
            return None
        return self._client.node_of(signer, self._policy)

    def register(self, keyset: Keyset, evidence: IssuedEvidence, block: Block) -> Mined:
        """The platform is remembered: a node renews, and its platform is known from then on."""
        if not isinstance(evidence.collateral, Collateral):
            raise NotProvable("collateral", "the evidence comes without DCAP collateral")
        proof = prove(evidence.quote, evidence.collateral)
        self._push(evidence.collateral)
        registration = Registration.build(
            quote=proof.quote,
            platform=self._client.platform_of(proof),
            keyset=keyset,
            chain_id=self._client.rpc.chain_id,
            registry=self._client.registry,
            block_number=block.number,
            block_hash=block.hash,
            now=block.time,
        )
        return self._client.register(registration, self._policy)

    def seat(self, signer: str) -> bool | None:
        if not self._seated:
            return None
        if self._client.is_seated(signer, self._policy):
            return True
        mined = self._client.take_seat(signer, self._policy)
        if mined is None:
            return False
        event("chain_seated", signer=signer, transaction=mined.tx_hash, gas=mined.gas_used)
        return True

    def _push(self, collateral: Collateral) -> None:
        """The verifier has this collateral or later, where we pay for that."""
        if self._pushing is not None:
            verifier = self._client.rpc.read(REGISTRY, self._client.registry, "quotes")
            store = CollateralClient(self._pushing.rpc, verifier, self._pushing)
            store.push(collateral, told=_pushed)


def _pushed(pushed: Pushed) -> None:
    event("chain_collateral", part=pushed.before.part, gas=pushed.mined.gas_used)


def _require_libraries() -> None:
    """What signs transactions is installed. Raises StartError."""
    absent = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if absent:
        raise StartError(f"--chain needs {', '.join(absent)}: pip install 'adyton[node,onchain]'")
