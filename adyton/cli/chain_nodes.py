"""`adyton chain register`: a running node's keys, proved to the registry. Anyone may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adyton.cli.chain_options import (
    KeyOptions,
    address,
    chain_options,
    connected,
    key_options,
)
from adyton.cli.options import json_option, url_option
from adyton.cli.output import Steps, print_json, print_simulated
from adyton.cli.verify import utc

if TYPE_CHECKING:
    from attestation.onchain.client import NodeRecord, RegistryClient
    from attestation.onchain.registration import Registration
    from attestation.onchain.rpc import Block
    from attestation.onchain.sender import Mined


def registration_of(url: str, registry: RegistryClient, block: Block) -> Registration:
    """What the node at `url` answers when it is asked to prove its keys to the registry.

    The node is not verified here: the registry does that, and refuses what it finds false.
    Raises NodeUnreachable, NodeRefused, MalformedResponse, NotProvable.
    """
    from adyton.endpoint import Endpoint
    from adyton.errors import NodeRefused
    from adyton.fetch import fetch_report
    from adyton.trust import parse_object

    answer = fetch_report(Endpoint.parse(url), registry.nonce(block))
    if answer.status != 200:
        raise NodeRefused("attestation report", answer.status)
    return registration_from(parse_object(answer.body, "report"), registry, block)


def registration_from(
    report: Mapping[str, Any], registry: RegistryClient, block: Block
) -> Registration:
    """The registration in a report served for `registry.nonce(block)`."""
    from adyton.errors import MalformedResponse
    from attestation.collateral.model import Collateral
    from attestation.keyset import Keyset

    attestation = report.get("attestation")
    evidence = attestation.get("evidence") if isinstance(attestation, Mapping) else None
    if not isinstance(attestation, Mapping) or not isinstance(evidence, Mapping):
        raise MalformedResponse("report.attestation.evidence", "must be an object")
    try:
        quote = bytes.fromhex(str(evidence.get("quote")))
    except ValueError:
        raise MalformedResponse("report.attestation.evidence.quote", "not hex") from None
    collateral = Collateral.from_json(evidence.get("collateral"))
    keyset = Keyset.from_json(attestation.get("workload_keyset"))
    return registry.prepare(quote, collateral, keyset, block)


@click.command(name="register")
@url_option
@chain_options
@key_options
@click.option(
    "--under",
    metavar="ADDRESS",
    callback=address,
    help="Register under this policy contract instead of the deployment's.",
)
@json_option
def register(
    *,
    url: str,
    rpc_url: str,
    deployment_file: Path,
    under: str | None,
    as_json: bool,
    **key: Any,
) -> None:
    """Register the node at URL, or renew its registration.

    The node is asked for a quote bound to a recent block of this chain. What counts is that
    proof alone, so anyone may bring it, and bring it again.
    """
    from adyton.errors import MalformedResponse

    with connected(rpc_url, deployment_file) as (rpc, deployment):
        from attestation.onchain.client import RegistryClient

        policy = under or deployment.measurement_policy
        registry = RegistryClient(rpc, deployment.node_registry, KeyOptions(**key).sender(rpc))
        registration = registration_of(url, registry, registry.latest_block())
        mined = registry.register(registration, policy)
        record = registry.node_of(registration.signer, policy)
    if record is None:
        raise MalformedResponse("nodeOf", "the registry has no record of what it just registered")
    _told(registration, mined, record, policy, deployment.simulated, as_json=as_json)


def _told(
    registration: Registration,
    mined: Mined,
    record: NodeRecord,
    policy: str,
    simulated: bool,
    *,
    as_json: bool,
) -> None:
    if as_json:
        print_json(
            {
                "verdict": "accept",
                "reason": None,
                "signer": registration.signer,
                "policy": policy,
                "measurement_id": registration.measurement.hex(),
                "served_from": record.served_from,
                "expiry": record.expiry,
                "gas": mined.gas_used,
                "transaction": mined.tx_hash,
                "simulated": simulated,
            }
        )
        return
    steps = Steps(quiet=False)
    steps.ok("registered", f"{registration.signer}\n{mined.gas_used:,} gas")
    steps.note(f"answers count from {utc(record.served_from)} until {utc(record.expiry)}")
    if simulated:
        print_simulated()
