"""The node registry as seen from outside: which nodes count, and whether a receipt does.

Reading needs an RPC node and nothing else. What the RPC node says is not proved: whoever
must not be lied to by it asks a node of their own, or lets a contract ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from attestation.onchain.abi import checksummed
from attestation.onchain.artifacts import artifact
from attestation.onchain.faults import ChainError, ContractRefused
from attestation.onchain.rpc import Block, Rpc
from attestation.onchain.sender import Mined, Sender

if TYPE_CHECKING:
    from attestation.collateral.model import Collateral
    from attestation.keyset import Keyset
    from attestation.onchain.quote import Proof
    from attestation.onchain.receipt import EvmReceipt
    from attestation.onchain.registration import Registration

REGISTRY: Final = "NodeRegistry"
VERIFIER: Final = "QuoteVerifier"
SEATS: Final = 256
"""How many seats a policy has: contracts/src/NodeRecords.sol."""
_SEAT_TRIES: Final = 4
"""How often another node may be first to the seat that was found free."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A signing key's registration under a policy; Unix seconds. Answers count from
    `served_from` until before `expiry`, unless the policy ended its epoch after `renewed_at`.
    """

    served_from: int
    renewed_at: int
    expiry: int


@dataclass(frozen=True, slots=True)
class Seat:
    """Who has a seat of a policy; from `expiry` (Unix seconds) on another node may take it."""

    signer: str
    expiry: int


class RegistryClient:
    """One node registry. `sender` is needed only to register, and to take seats."""

    def __init__(self, rpc: Rpc, registry: str, sender: Sender | None = None) -> None:
        self.rpc, self.registry, self._sender = rpc, registry, sender

    def latest_block(self, depth: int = 1) -> Block:
        """The newest block to bind a registration to: `depth` below the chain's head.

        A contract knows the hash of no block before the next one, and nodes estimate gas as
        if in the head itself, so the head is one block too new.
        """
        head = self.rpc.block()
        return head if depth == 0 or head.number == 0 else self.rpc.block(head.number - depth)

    def node_of(self, signer: str, policy: str) -> NodeRecord | None:
        """The record of a signing key under a policy, whether it still counts or not."""
        found = self._read("nodeOf", signer, policy)
        if found["renewedAt"] == 0:
            return None
        return NodeRecord(found["servedFrom"], found["renewedAt"], found["expiry"])

    def epoch_ended_at(self, policy: str) -> int:
        """Records renewed at or before this time (Unix seconds) no longer count; 0 for never."""
        return int(self._read("epochEndedAt", policy))

    def counts(self, signer: str, policy: str) -> bool:
        """True when an answer that the node gives now would be accepted."""
        record = self.node_of(signer, policy)
        if record is None or record.renewed_at <= self.epoch_ended_at(policy):
            return False
        return self.rpc.block().time < record.expiry

    def seated_nodes(self, policy: str) -> list[Seat]:
        """Who has the policy's seats, the first seat first. Their receipts cost less to check."""
        found = self._read("seatedNodes", policy)
        return [Seat(checksummed(seat["signer"]), seat["expiry"]) for seat in found]

    def is_seated(self, signer: str, policy: str) -> bool:
        """True when the signer has one of the policy's seats."""
        return checksummed(signer) in (seat.signer for seat in self.seated_nodes(policy))

    def verify_receipt(self, receipt: EvmReceipt, signature: bytes, policy: str) -> str:
        """The registry accepts the receipt; returns who signed it (checksummed).

        `signature` is 65 bytes. Raises ContractRefused with the error of the check that
        failed, VerificationError when the signature has no form that a contract takes.
        """
        from attestation.onchain.receipt import compact

        r, vs = compact(signature)
        return checksummed(self._read("verifyReceipt", receipt.values, r, vs, policy))

    def nonce(self, block: Block) -> str:
        """What to ask a node for a quote over, to register it here: 64 lowercase hex."""
        from attestation.onchain.registration import registration_nonce

        return registration_nonce(self.rpc.chain_id, self.registry, block.number, block.hash)

    def prepare(
        self,
        quote: bytes,
        collateral: Collateral,
        keyset: Keyset,
        block: Block,
        *,
        once: bool = False,
    ) -> Registration:
        """The registration that a quote over `nonce(block)` makes, in its cheapest form.

        `once` is for a platform that will not register again: it is not remembered, which
        costs a slot less now, and a signature more every time after. Raises NotProvable and
        VerificationError where the registry is sure to refuse it.
        """
        from attestation.onchain.quote import prove
        from attestation.onchain.registration import Registration

        proof = prove(quote, collateral)
        return Registration.build(
            quote=proof.quote,
            platform=self.platform_of(proof, once=once),
            keyset=keyset,
            chain_id=self.rpc.chain_id,
            registry=self.registry,
            block_number=block.number,
            block_hash=block.hash,
            now=self.rpc.block().time,
        )

    def platform_of(self, proof: Proof, *, once: bool = False) -> bytes:
        """The platform in the cheapest form that the registry's verifier takes now."""
        verifier = checksummed(self._read("quotes"))
        leaf = (proof.leaf.issuer_id, proof.leaf.serial)
        until = self.rpc.read(VERIFIER, verifier, "platformNotAfter", *leaf)
        if until >= self.rpc.block().time:
            return proof.registered_platform
        return proof.passing_platform if once else proof.platform

    def register(self, registration: Registration, policy: str) -> Mined:
        """The node behind `registration` counts under `policy`. Anyone may do this, and again.

        Raises ContractRefused before anything is paid, and what `Sender.send` raises.
        """
        return self._send(registration.calldata(policy))

    def take_seat(self, signer: str, policy: str) -> Mined | None:
        """The registered node has a seat; None when nodes that count have all of them.

        The seats of nodes that ran out come first: what a policy pays for ending its epoch
        grows with the seats it has given out. Anyone may do this. Raises ContractRefused before
        anything is paid (AlreadySeated where it has one), and what `Sender.send` raises.
        """
        for tried in range(1, _SEAT_TRIES + 1):
            seat = self._free_seat(policy)
            if seat is None:
                return None
            try:
                call = artifact(REGISTRY).interface.call("takeSeat", signer, policy, seat)
                return self._send(call)
            except ContractRefused as e:
                if e.name not in ("SeatTaken", "NoSuchSeat") or tried == _SEAT_TRIES:
                    raise
        raise AssertionError("unreachable")

    def _free_seat(self, policy: str) -> int | None:
        now, seats = self.rpc.block().time, self.seated_nodes(policy)
        for number, seat in enumerate(seats):
            if seat.expiry <= now:
                return number
        return len(seats) if len(seats) < SEATS else None

    def _send(self, data: bytes) -> Mined:
        if self._sender is None:
            raise ChainError("this needs an account that pays for the transaction")
        return self._sender.send(self.registry, data)

    def _read(self, function: str, *arguments: Any) -> Any:
        return self.rpc.read(REGISTRY, self.registry, function, *arguments)
