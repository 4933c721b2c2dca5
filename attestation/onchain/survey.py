"""Everything a deployment holds, read from its contracts and their events.

Nothing here is taken from the deployment file but addresses, the first block and what people
are told of the root: whether a root is Intel's is asked of the contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestation.onchain.abi import checksummed
from attestation.onchain.client import REGISTRY, RegistryClient
from attestation.onchain.deploy import point
from attestation.onchain.deployment import Deployment
from attestation.onchain.rpc import Block, Rpc
from attestation.onchain.upkeep import VERIFIER, Standing, State
from attestation.roots import INTEL_SGX_ROOT
from attestation.x509 import read_certificate

POLICY: Final = "MeasurementPolicy"
_ROLES: Final = {1: "root certificate", 2: "PCK CA certificate", 3: "TCB signing certificate"}


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What the measurement policy accepts; `owner` None when nobody can change it any more.

    `allowed` maps each id (hex) to the Unix time it counts from.
    """

    owner: str | None
    delay_s: int
    statuses: int
    min_evaluation: int
    allowed: dict[str, int]


@dataclass(frozen=True, slots=True)
class NodeState:
    """One key that was ever registered under the policy; times are Unix seconds."""

    signer: str
    served_from: int
    expiry: int
    counts: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """A deployment as it stands at `block`."""

    block: Block
    simulated: bool
    collateral: list[Standing]
    policy: PolicyState
    nodes: list[NodeState]

    @property
    def healthy(self) -> bool:
        """True when all collateral counts, and there is some."""
        return bool(self.collateral) and not any(part.due for part in self.collateral)


def survey(rpc: Rpc, deployment: Deployment) -> Survey:
    """What the contracts hold now."""
    block = rpc.block()
    return Survey(
        block=block,
        simulated=is_simulated(rpc, deployment),
        collateral=list(_collateral(rpc, deployment, block)),
        policy=_policy(rpc, deployment, block),
        nodes=_nodes(rpc, deployment, block),
    )


def is_simulated(rpc: Rpc, deployment: Deployment) -> bool:
    """True when the key that the verifier trusts is not that of Intel's SGX root."""
    at = deployment.quote_verifier
    pinned = rpc.read(VERIFIER, at, "rootX"), rpc.read(VERIFIER, at, "rootY")
    return pinned != point(read_certificate("root", INTEL_SGX_ROOT))


def _collateral(rpc: Rpc, deployment: Deployment, block: Block) -> Iterator[Standing]:
    yield from _keys(rpc, deployment, block)
    yield from _crls(rpc, deployment, block)
    yield from _texts(rpc, deployment, block)


def _keys(rpc: Rpc, deployment: Deployment, block: Block) -> Iterator[Standing]:
    at = deployment.quote_verifier
    events = rpc.events(VERIFIER, at, "CertificateAdded", deployment.block, block.number)
    for key in dict.fromkeys(e["issuerId"] for e in events):
        role, until, current = rpc.read(VERIFIER, at, "keyOf", key)
        name = f"{_ROLES.get(role, 'certificate')} {key.hex()[:8]}"
        yield Standing(name, _state(until, block, current=current), until)


def _crls(rpc: Rpc, deployment: Deployment, block: Block) -> Iterator[Standing]:
    at = deployment.quote_verifier
    root = rpc.read(VERIFIER, at, "rootId")
    events = rpc.events(VERIFIER, at, "CrlUpdated", deployment.block, block.number)
    for issuer in dict.fromkeys((root, *(e["issuerId"] for e in events))):
        name = "root CRL" if issuer == root else f"PCK CRL {issuer.hex()[:8]}"
        _, until, _, current = rpc.read(VERIFIER, at, "crlOf", issuer)
        if until == 0:
            yield Standing(name, State.MISSING, None)
        else:
            yield Standing(name, _state(until, block, current=current), until)


def _texts(rpc: Rpc, deployment: Deployment, block: Block) -> Iterator[Standing]:
    at, first, last = deployment.quote_verifier, deployment.block, block.number
    infos = rpc.events(VERIFIER, at, "TcbInfoUpdated", first, last)
    for fmspc, tdx in dict.fromkeys((e["fmspc"], e["tdx"]) for e in infos):
        stored = rpc.read(VERIFIER, at, "tcbInfoOf", fmspc, tdx)
        name = f"{'TDX' if tdx else 'SGX'} TCB info of {fmspc.hex()}"
        yield _standing(name, stored, block)
    identities = rpc.events(VERIFIER, at, "QeIdentityUpdated", first, last)
    for tdx in dict.fromkeys(e["tdx"] for e in identities):
        stored = rpc.read(VERIFIER, at, "qeIdentityOf", tdx)
        name = "TDQE identity" if tdx else "QE identity"
        yield _standing(name, stored, block)


def _standing(name: str, stored: Mapping[str, Any], block: Block) -> Standing:
    until = stored["expiry"]
    return Standing(name, _state(until, block, current=stored["current"]), until)


def _state(until: int, block: Block, *, current: bool) -> State:
    if current:
        return State.CURRENT
    return State.EXPIRED if until < block.time else State.OUTDATED


def _policy(rpc: Rpc, deployment: Deployment, block: Block) -> PolicyState:
    at = deployment.measurement_policy
    events = rpc.events(POLICY, at, "Allowed", deployment.block, block.number)
    ids = dict.fromkeys(e["id"] for e in events)
    allowed = {i.hex(): rpc.read(POLICY, at, "allowedFrom", i) for i in ids}
    statuses, minimum = rpc.read(POLICY, at, "tcbRules")
    owner = checksummed(rpc.read(POLICY, at, "owner"))
    return PolicyState(
        owner=owner if int(owner, 16) else None,
        delay_s=rpc.read(POLICY, at, "delay"),
        statuses=statuses,
        min_evaluation=minimum,
        allowed={i: since for i, since in allowed.items() if since},
    )


def _nodes(rpc: Rpc, deployment: Deployment, block: Block) -> list[NodeState]:
    at, policy = deployment.node_registry, deployment.measurement_policy
    registry = RegistryClient(rpc, at)
    events = rpc.events(REGISTRY, at, "NodeRegistered", deployment.block, block.number)
    mine = (e["signer"] for e in events if checksummed(e["policy"]) == policy)
    ended = registry.epoch_ended_at(policy)
    nodes = []
    for signer in dict.fromkeys(map(checksummed, mine)):
        record = registry.node_of(signer, policy)
        if record is not None:
            counts = record.renewed_at > ended and block.time < record.expiry
            nodes.append(NodeState(signer, record.served_from, record.expiry, counts))
    return nodes
