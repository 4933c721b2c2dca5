"""A whole node on a real chain: it registers itself, and contracts take what it signs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from chain import ARTEFACTS, Chain

from attestation.collateral import Collateral
from attestation.issuers.base import IssuedEvidence
from attestation.issuers.simulator import SimulatorIssuer
from attestation.onchain import artifacts
from attestation.onchain.account import Account
from attestation.onchain.artifacts import artifact
from attestation.onchain.client import RegistryClient
from attestation.onchain.deploy import deploy
from attestation.onchain.deployment import Deployment
from attestation.onchain.faults import ContractRefused
from attestation.onchain.policy import measurement_id, report_body
from attestation.onchain.quote import compact_quote
from attestation.onchain.receipt import EvmReceipt
from attestation.onchain.rpc import Rpc
from attestation.onchain.sender import Sender
from attestation.onchain.upkeep import CollateralClient
from gateway.metrics import Metrics
from gateway.registrar import Registrar
from gateway.settings import ChainChoice

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from gateway_fakes import FakeNode, chat, fake_node

OWNER = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
GAS = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
"""Accounts that anvil gives every test chain; worth nothing anywhere else."""
PATH = "/v1/chat/completions"
CONTEXT = "c0" * 32


@pytest.fixture(scope="module", autouse=True)
def contracts() -> Iterator[None]:
    """The contracts that the other tests here are about, also where they were just compiled."""
    with pytest.MonkeyPatch.context() as patched:
        if len(ARTEFACTS) == 1 or not artifacts.names():
            patched.setattr(artifacts, "FOLDER", ARTEFACTS[-1])
        for cached in (artifacts.artifact, artifacts.errors, artifacts._read):
            cached.cache_clear()
        yield


@pytest.fixture
def chain() -> Iterator[Chain]:
    with Chain() as chain:
        yield chain


class Place:
    """A chain with the contracts, the node's collateral and a policy that allows it."""

    def __init__(
        self, chain: Chain, fake: FakeNode, *, allowed: bool = True, current: bool = True
    ) -> None:
        assert isinstance(fake.node.issuer, SimulatorIssuer)
        self.issuer = fake.node.issuer
        self.owner = Sender(Rpc(chain.url), Account(bytes.fromhex(OWNER)), poll_s=0.05)
        self.deployed, _ = deploy(self.owner, root=self.issuer.root_der)
        evidence = self.issuer.issue(bytes(64))
        assert isinstance(evidence.collateral, Collateral)
        verifier = CollateralClient(self.owner.rpc, self.deployed.quote_verifier, self.owner)
        if current:
            verifier.push(evidence.collateral, root=self.issuer.root_der)
        if allowed:
            self.allow(evidence)
        self.registry = RegistryClient(self.owner.rpc, self.deployed.node_registry)

    def allow(self, evidence: IssuedEvidence) -> None:
        identity = measurement_id(report_body(compact_quote(evidence.quote)))
        call = artifact("MeasurementPolicy").interface.call("allow", identity)
        self.owner.send(self.deployed.measurement_policy, call)


def choice(rpc: str, deployed: Deployment, folder: Path, *, push: bool, seat: bool) -> ChainChoice:
    key = folder / "gas.key"
    key.write_text(GAS)
    key.chmod(0o600)
    return ChainChoice(rpc, deployed.node_registry, deployed.measurement_policy, key, push, seat)


def registrar_of(
    fake: FakeNode, place: Place, folder: Path, *, push: bool = False, seat: bool = False
) -> Registrar:
    chosen = choice(place.owner.rpc._url, place.deployed, folder, push=push, seat=seat)
    fake.node.settings = replace(fake.node.settings, chain=chosen)
    fake.node.registrar = registrar = fake.node.make_registrar()
    assert registrar is not None
    return registrar


async def receipt_of(
    chain: Chain, fake: FakeNode, answer: httpx.Response
) -> tuple[EvmReceipt, bytes]:
    """The answer's EVM receipt, on a chain whose time has come to when it was served."""
    path = f"/v1/aci/receipts/{answer.headers['x-receipt-id']}/evm"
    told = (await fake.client.get(path)).json()
    receipt = EvmReceipt.from_json(told["receipt"])
    if int(chain.block["timestamp"], 16) < receipt.served_at:
        chain.at(receipt.served_at)
    return receipt, bytes.fromhex(told["signature"][2:])


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
async def test_what_a_node_signs_counts_once_it_registered_itself(
    chain: Chain, tmp_path: Path, tee: str
) -> None:
    async with fake_node(tmp_path / "state", sim_tee=tee) as fake:
        place = Place(chain, fake)
        registrar = registrar_of(fake, place, tmp_path)
        registrar.glance()
        assert fake.node.on_chain is not None
        assert fake.node.on_chain["state"] == "registered", fake.node.on_chain
        signer = fake.node.ring.current.keys.evm_address
        policy = place.deployed.measurement_policy
        record = place.registry.node_of(signer, policy)
        assert record is not None and place.registry.counts(signer, policy)
        assert fake.node.on_chain["registered_until"] == record.expiry

        answer = await fake.client.post(
            PATH, json=chat(stream=True), headers={"X-Adyton-Context": CONTEXT}
        )
        receipt, signature = await receipt_of(chain, fake, answer)
        found = place.registry.verify_receipt(receipt, signature, policy)
        assert found.lower() == signer
        lie = replace(receipt, response_hash=bytes(32))
        with pytest.raises(ContractRefused):
            place.registry.verify_receipt(lie, signature, policy)


async def test_new_keys_are_registered_and_the_old_ones_receipts_still_count(
    chain: Chain, tmp_path: Path
) -> None:
    async with fake_node(tmp_path / "state") as fake:
        place = Place(chain, fake)
        policy = place.deployed.measurement_policy
        registrar = registrar_of(fake, place, tmp_path)
        registrar.glance()
        old = await receipt_of(chain, fake, await fake.client.post(PATH, json=chat()))
        await fake.node.renew_keys()
        between = await receipt_of(chain, fake, await fake.client.post(PATH, json=chat()))
        with pytest.raises(ContractRefused):
            place.registry.verify_receipt(*between, policy)
        registrar.glance()
        new = fake.node.ring.current.keys.evm_address
        assert place.registry.counts(new, policy)
        place.registry.verify_receipt(*old, policy)


async def test_code_the_policy_does_not_allow_is_not_registered_and_costs_nothing(
    chain: Chain, tmp_path: Path
) -> None:
    async with fake_node(tmp_path / "state") as fake:
        place = Place(chain, fake, allowed=False)
        registrar = registrar_of(fake, place, tmp_path)
        registrar.glance()
        assert fake.node.on_chain is not None
        assert fake.node.on_chain["state"] == "not_registered"
        assert "problem" in fake.node.on_chain
        account = Account(bytes.fromhex(GAS)).address
        assert chain.rpc("eth_getTransactionCount", account, "latest") == "0x0"
        place.allow(place.issuer.issue(bytes(64)))
        registrar._due = 0.0
        registrar.glance()
        assert fake.node.on_chain["state"] == "registered"


async def test_a_node_brings_its_collateral_where_it_is_asked_to(
    chain: Chain, tmp_path: Path
) -> None:
    async with fake_node(tmp_path / "state") as fake:
        place = Place(chain, fake, current=False)
        alone = registrar_of(fake, place, tmp_path)
        alone.glance()
        assert fake.node.on_chain is not None
        assert fake.node.on_chain["state"] == "not_registered"
        fake.node.metrics = Metrics()  # a second registrar in one process is for tests only
        registrar_of(fake, place, tmp_path, push=True).glance()
        assert fake.node.on_chain["state"] == "registered", fake.node.on_chain
        account = Account(bytes.fromhex(GAS)).address
        sent = int(chain.rpc("eth_getTransactionCount", account, "latest"), 16)
        fake.node.metrics = Metrics()
        again = registrar_of(fake, place, tmp_path, push=True)
        await fake.node.renew_keys()
        again.glance()
        assert fake.node.on_chain["state"] == "registered"
        now = int(chain.rpc("eth_getTransactionCount", account, "latest"), 16)
        assert now == sent + 1, "what is current is not paid for again"


async def test_a_node_takes_a_seat_and_again_after_its_policys_epoch_ended(
    chain: Chain, tmp_path: Path
) -> None:
    async with fake_node(tmp_path / "state") as fake:
        place = Place(chain, fake)
        policy = place.deployed.measurement_policy
        registrar = registrar_of(fake, place, tmp_path, seat=True)
        registrar.glance()
        assert fake.node.on_chain is not None and fake.node.on_chain["seated"] is True
        signer = fake.node.ring.current.keys.evm_address
        assert [s.signer.lower() for s in place.registry.seated_nodes(policy)] == [signer]
        receipt = await receipt_of(chain, fake, await fake.client.post(PATH, json=chat()))
        place.registry.verify_receipt(*receipt, policy)

        end = artifact("MeasurementPolicy").interface.call("endEpoch")
        place.owner.send(policy, end)
        with pytest.raises(ContractRefused, match="EpochEnded"):
            place.registry.verify_receipt(*receipt, policy)
        assert place.registry.seated_nodes(policy) == []
        chain.rpc("anvil_mine", "0x3", "0x2")
        registrar._due = 0.0
        registrar.glance()
        assert fake.node.on_chain["state"] == "registered", fake.node.on_chain
        assert fake.node.on_chain["seated"] is True
        assert place.registry.is_seated(signer, policy)
