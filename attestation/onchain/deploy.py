"""Putting the contracts on a chain. What is pinned here can never be changed afterwards."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import CollateralError
from attestation.onchain.abi import checksummed
from attestation.onchain.artifacts import artifact
from attestation.onchain.deployment import P256, Deployment
from attestation.onchain.faults import MinedInVain
from attestation.onchain.sender import Mined, Sender
from attestation.roots import INTEL_SGX_ROOT
from attestation.x509 import Certificate, read_certificate

PRECOMPILE: Final = "0x" + "100".zfill(40)
"""Where P256VERIFY is: EIP-7951."""
UP_TO_DATE: Final = 1 << 0
"""The bit mask of TCB statuses with nothing but UpToDate in it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One contract as it was put there, and the gas it took."""

    contract: str
    address: str
    mined: Mined


def point(certificate: Certificate) -> tuple[int, int]:
    """The coordinates of a certificate's P-256 key. Raises CollateralError without one."""
    key = certificate.key
    if key is None or not isinstance(key.curve, ec.SECP256R1):
        raise CollateralError(f"{certificate.window.name}: its key is not on P-256")
    numbers = key.public_numbers()
    return numbers.x, numbers.y


def deploy_contract(sender: Sender, name: str, *arguments: object) -> Step:
    """A contract of this name exists with these constructor arguments.

    Raises ContractRefused when its constructor refuses them, before anything is paid.
    """
    mined = sender.send(None, artifact(name).creation(*arguments))
    if mined.contract is None:
        raise MinedInVain(f"{mined.tx_hash} was mined, but made no contract")
    return Step(name, checksummed(mined.contract), mined)


def deploy(
    sender: Sender,
    *,
    root: bytes = INTEL_SGX_ROOT,
    p256: P256 = "precompile",
    min_evaluation: int = 0,
    policy_delay_s: int = 0,
    tcb_statuses: int = UP_TO_DATE,
) -> tuple[Deployment, list[Step]]:
    """The verifier, the registry and a policy owned by the sender, which allows nothing yet.

    `root` (DER) is pinned in the verifier, as is `min_evaluation`, the least
    tcbEvaluationDataNumber it takes. `p256` says who checks P-256 signatures: a chain without
    the precompile refuses the deployment (P256 errors), and software is taken only when asked
    for, since each check then costs forty times as much. `tcb_statuses` is a bit mask.
    """
    x, y = point(read_certificate("root", root))
    steps = []
    if p256 == "software":
        steps.append(deploy_contract(sender, "SoftwareP256"))
    checker = steps[0].address if steps else PRECOMPILE
    quotes = deploy_contract(sender, "QuoteVerifier", x, y, checker, min_evaluation)
    registry = deploy_contract(sender, "NodeRegistry", quotes.address)
    policy = deploy_contract(
        sender,
        "MeasurementPolicy",
        sender.address,
        registry.address,
        policy_delay_s,
        tcb_statuses,
        min_evaluation,
    )
    steps += [quotes, registry, policy]
    deployment = Deployment(
        chain_id=sender.rpc.chain_id,
        block=steps[0].mined.block_number,
        quote_verifier=quotes.address,
        node_registry=registry.address,
        measurement_policy=policy.address,
        root_sha256=hashlib.sha256(root).hexdigest(),
        simulated=root != INTEL_SGX_ROOT,
        software_p256=checker if p256 == "software" else None,
    )
    return deployment, steps
