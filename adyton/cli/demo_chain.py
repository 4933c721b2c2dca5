"""The demonstration's last act: a contract that pays for an answer only if it is genuine.

The chain is a local one. It is put together as anybody would: contracts, then the
collateral, then what the owner allows, then the node, then a question with money on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.anvil import LocalChain, find_anvil, running_anvil
from adyton.cli.failures import NotDone

if TYPE_CHECKING:
    from adyton.bundle import Bundle
    from adyton.cli.demo import Demo
    from adyton.evm import VerifiedEvmReceipt
    from adyton.receipts import VerifiedReceipt
    from adyton.trust import Established, Trust
    from attestation.onchain.client import RegistryClient
    from attestation.onchain.deployment import Deployment
    from attestation.onchain.sender import Mined, Sender

EXAMPLE: Final = "PaidAnswer"
NEEDED: Final = ("QuoteVerifier", "NodeRegistry", "MeasurementPolicy", EXAMPLE)
PRICE_WEI: Final = 10**15
PROVIDER: Final = "0x" + "b0b".rjust(40, "0")
DEADLINE_S: Final = 3600


class Accepted(click.ClickException):
    """A contract took what it had to refuse, or refused it for another reason."""


class Stopped(click.ClickException):
    """What comes next rests on a check that failed."""


def require_chain() -> None:
    """Everything the chain's part needs is here. Raises LibraryMissing, NotDone saying what not."""
    from adyton.cli.chain_options import require_onchain
    from attestation.onchain import artifacts

    require_onchain()
    find_anvil()
    absent = sorted(set(NEEDED) - set(artifacts.names()))
    if absent:
        raise NotDone(f"this installation carries no compiled {', '.join(absent)}: --no-chain")


@dataclass
class ChainAct:
    """What the acts of the chain share, in the order they become known."""

    demo: Demo
    node_url: str
    trust: Trust
    api_key: str
    chain: LocalChain
    sender: Sender
    deployment: Deployment
    registry: RegistryClient

    # --- small helpers ------------------------------------------------------------------------

    @property
    def policy(self) -> str:
        return self.deployment.measurement_policy

    def paid(self, what: str, mined: Mined, detail: list[str]) -> None:
        self.demo.gas[what] = mined.gas_used
        detail.append(f"{mined.gas_used:,} gas")

    def send(self, contract: str, at: str, function: str, *arguments: Any, value: int = 0) -> Mined:
        from attestation.onchain.artifacts import artifact

        data = artifact(contract).interface.call(function, *arguments)
        return self.sender.send(at, data, value=value)

    def refused(self, name: str, error: str, attempt: Callable[[], object]) -> None:
        """Count one check: `attempt` must be refused by a contract with exactly this error."""
        from attestation.onchain.faults import ContractRefused

        with self.demo.check(name) as detail:
            try:
                attempt()
            except ContractRefused as e:
                if e.name != error:
                    raise Accepted(f"refused with {e}, not with {error}") from e
                detail.append(str(e)[:300])
            else:
                raise Accepted("it was accepted")

    @contextmanager
    def needed(self, name: str) -> Generator[list[str]]:
        """Count one check, and stop the chain's part where it does not hold."""
        with needed(self.demo, name) as detail:
            yield detail

    # --- the acts -------------------------------------------------------------------------------

    def collateral(self, established: Established) -> None:
        """Intel's part, or here the simulator's: pushed from the node's own report."""
        from attestation.collateral.model import Collateral
        from attestation.onchain.upkeep import CollateralClient

        client = CollateralClient(self.chain.rpc, self.deployment.quote_verifier, self.sender)
        document = Collateral.from_json(established.report["attestation"]["evidence"]["collateral"])
        with self.needed("the collateral is on the chain, part by part") as detail:
            for pushed in client.push(document):
                self.paid(pushed.before.part, pushed.mined, [])
                detail.append(pushed.before.part)
            due = [s.part for s in client.standings(document) if s.due]
            if due:
                raise Accepted(f"still due: {', '.join(due)}")

    def register_node(self) -> Mined:
        """Ask the node for a quote bound to this chain, and submit it."""
        from adyton.cli.chain_nodes import registration_of

        self.chain.mine()
        block = self.registry.latest_block()
        return self.registry.register(
            registration_of(self.node_url, self.registry, block), self.policy
        )

    def registration(self, identity: bytes, signer: str) -> None:
        self.refused(
            "a node whose measurement nobody allowed is refused",
            "MeasurementNotAllowed",
            self.register_node,
        )
        with self.needed("the policy's owner allows the node's measurement") as detail:
            detail.append(f"0x{identity.hex()}")
            mined = self.send("MeasurementPolicy", self.policy, "allow", identity)
            self.paid("allow a measurement", mined, detail)
        with self.needed("the node is registered: its quote holds on the chain") as detail:
            mined = self.register_node()
            self.paid("register the node, and remember its platform", mined, detail)
            self.require_counting(signer)
            detail.append(signer)
        with self.demo.check("and again, for less, as its platform is known") as detail:
            mined = self.register_node()
            self.paid("renew its registration, its platform known", mined, detail)
        with self.demo.check("it takes a seat, so that its receipts cost less") as detail:
            self.take_seat(signer, detail)

    def take_seat(self, signer: str, detail: list[str]) -> None:
        mined = self.registry.take_seat(signer, self.policy)
        if mined is None or not self.registry.is_seated(signer, self.policy):
            raise Accepted(f"{signer} has no seat")
        self.paid("take a seat", mined, detail)

    def require_counting(self, signer: str) -> None:
        self.chain.mine()
        if not self.registry.counts(signer, self.policy):
            raise Accepted(f"{signer} does not count")

    def ask(self, model: str, weights: bytes) -> tuple[str, bytes, bytes]:
        """A question with money on it: the contract's address, its id, and the exact request."""
        from attestation.onchain.deploy import deploy_contract

        example = deploy_contract(
            self.sender, EXAMPLE, self.deployment.node_registry, self.policy
        ).address
        request = json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": "Name a colour."}],
                "max_tokens": 16,
                "seed": 7,
                "temperature": 0,
            }
        ).encode()
        deadline = self.chain.rpc.block().time + DEADLINE_S
        mined = self.send(
            EXAMPLE, example, "ask", request, weights, PROVIDER, deadline, value=PRICE_WEI
        )
        number = mined.block_number
        asked = next(self.chain.rpc.events(EXAMPLE, example, "Asked", number, number))
        return example, asked["id"], request

    def answer(self, request: bytes, context: bytes) -> tuple[VerifiedReceipt, VerifiedEvmReceipt]:
        """The node's answer to exactly these bytes, its receipt in both forms verified."""
        import httpx2

        from adyton.endpoint import Endpoint
        from adyton.evm import verify_evm
        from adyton.receipts import ReceiptLog
        from adyton.transport import VerifyingTransport

        log = ReceiptLog("each", folder=None, bodies=True)
        endpoint = Endpoint.parse(self.node_url)
        transport = VerifyingTransport(endpoint, self.trust, log)
        headers = {
            "authorization": f"Bearer {self.api_key}",
            "content-type": "application/json",
            "x-adyton-context": context.hex(),
        }
        with httpx2.Client(transport=transport) as client:
            url = f"{endpoint.base_url}/chat/completions"
            client.post(url, content=request, headers=headers).raise_for_status()
            verified = log.kept[-1]
            fetched = transport.fetch_evm_receipt(verified)
        return verified, verify_evm(fetched.status, fetched.body, verified)

    def paid_answer(self, bundle: Bundle) -> VerifiedEvmReceipt:
        from attestation.onchain.receipt import EvmReceipt

        weights = EvmReceipt.from_document(bundle.receipt).model_digest
        with self.needed("a contract asks, and offers money for the answer") as detail:
            example, question, request = self.ask(str(bundle.receipt["model"]), weights)
            detail.append(f"question 0x{question.hex()}")
            verified, evm = self.answer(request, question)
            answered = json.loads(verified.response_body)["choices"][0]["message"]["content"]
            detail.append(f"< {answered}")
        with self.demo.check("the registry accepts the answer's receipt") as detail:
            self.wait_for_time(evm.receipt.served_at)
            signer = self.registry.verify_receipt(evm.receipt, evm.signature, self.policy)
            detail.append(f"signed by {signer}")
            arguments = (evm.receipt.values, evm.r, evm.vs, self.policy)
            at = self.deployment.node_registry
            mined = self.send("NodeRegistry", at, "verifyReceipt", *arguments)
            self.paid("check a receipt, as a transaction of its own", mined, detail)
        self.lies(example, question, verified, evm)
        with self.demo.check("the contract pays for the genuine answer") as detail:
            self.deliver_paid(example, question, verified.response_body, evm, detail)
        self.refused(
            "and for no answer twice",
            "NoSuchQuestion",
            lambda: self.deliver(example, question, verified.response_body, evm),
        )
        return evm

    def wait_for_time(self, served_at: int) -> None:
        """Contracts take no answer from the future: let the chain's clock pass it."""
        while self.chain.rpc.block().time < served_at:
            time.sleep(0.2)
            self.chain.mine()

    def deliver(self, example: str, question: bytes, body: bytes, evm: VerifiedEvmReceipt) -> Mined:
        arguments = (evm.receipt.values, evm.r, evm.vs, question, evm.salt, body)
        return self.send(EXAMPLE, example, "answer", *arguments)

    def deliver_paid(
        self,
        example: str,
        question: bytes,
        body: bytes,
        evm: VerifiedEvmReceipt,
        detail: list[str],
    ) -> None:
        before = self.balance()
        self.paid("pay for an answer", self.deliver(example, question, body, evm), detail)
        if self.balance() - before != PRICE_WEI:
            raise Accepted("the provider was not paid")

    def balance(self) -> int:
        from attestation.onchain.rpc import quantity

        method = "eth_getBalance"
        return quantity(self.chain.rpc.request(method, PROVIDER, "latest"), method)

    def lies(
        self, example: str, question: bytes, verified: VerifiedReceipt, evm: VerifiedEvmReceipt
    ) -> None:
        from adyton.cli.demo import flipped

        self.refused(
            "one flipped bit in the answer reverts",
            "CommitmentMismatch",
            lambda: self.deliver(example, question, flipped(verified.response_body), evm),
        )
        forged = replace(evm.receipt, served_at=evm.receipt.served_at - 1)
        self.refused(
            "a receipt changed after it was signed reverts",
            "NodeUnknown",
            lambda: self.deliver(
                example, question, verified.response_body, replace(evm, receipt=forged)
            ),
        )

    def end(self, identity: bytes, evm: VerifiedEvmReceipt) -> None:
        """The owner changes their mind."""
        with self.demo.check("the owner stops allowing the measurement") as detail:
            mined = self.send("MeasurementPolicy", self.policy, "disallow", identity)
            self.paid("disallow a measurement", mined, detail)
        self.refused(
            "the node's receipts no longer count",
            "EpochEnded",
            lambda: self.registry.verify_receipt(evm.receipt, evm.signature, self.policy),
        )
        self.refused(
            "and it cannot be registered again", "MeasurementNotAllowed", self.register_node
        )


@contextmanager
def needed(demo: Demo, name: str) -> Generator[list[str]]:
    failed = demo.steps.failed
    with demo.check(name) as detail:
        yield detail
    if demo.steps.failed != failed:
        raise Stopped("the rest of the chain's part rests on this")


def _deployed(demo: Demo, sender: Sender, root: bytes) -> Deployment:
    from attestation.onchain.deploy import deploy

    with needed(demo, "the contracts are deployed, with the simulator's root") as detail:
        deployment, steps = deploy(sender, root=root)
        for step in steps:
            demo.gas[f"deploy {step.contract}"] = step.mined.gas_used
            detail.append(f"{step.contract} {step.address}")
    return deployment


def run_chain(
    demo: Demo, node_url: str, trust: Trust, api_key: str, told: tuple[Established, Bundle]
) -> None:
    """All of it, on a chain that is gone afterwards. `told` is what the node said before."""
    from adyton.cli.chain_policy import id_of_quote
    from attestation.onchain.client import RegistryClient
    from attestation.onchain.sender import Sender

    established, bundle = told
    demo.steps.title("Having contracts check it, on a local chain")
    with running_anvil(demo.folder) as chain:
        demo.steps.ok("a chain is running", chain.url)
        sender = Sender(chain.rpc, chain.account, poll_s=0.05)
        deployment = _deployed(demo, sender, trust.roots[0])
        registry = RegistryClient(chain.rpc, deployment.node_registry, sender)
        act = ChainAct(demo, node_url, trust, api_key, chain, sender, deployment, registry)
        evidence = established.report["attestation"]["evidence"]
        identity = id_of_quote(bytes.fromhex(evidence["quote"]))
        act.collateral(established)
        act.registration(identity, _signer(established))
        evm = act.paid_answer(bundle)
        act.end(identity, evm)
        for what, used in demo.gas.items():
            demo.steps.note(f"{used:>10,} gas  {what}")


def _signer(established: Established) -> str:
    """The address whose receipts contracts will take, as the verified keyset lists it."""
    from attestation.onchain.abi import checksummed
    from attestation.onchain.receipt import ALGO

    keys = established.keyset.receipt_signing_keys
    return next(checksummed(key.public_key) for key in keys if key.algo == ALGO)
