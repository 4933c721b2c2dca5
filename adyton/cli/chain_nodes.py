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
from adyton.cli.chain_seat import seat_facts, seat_if_free, tell_seat
from adyton.cli.options import json_option, url_option
from adyton.cli.output import Steps, print_json, print_simulated
from adyton.cli.verify import utc

if TYPE_CHECKING:
    from attestation.onchain.client import NodeRecord, RegistryClient
    from attestation.onchain.registration import Registration
    from attestation.onchain.rpc import Block
    from attestation.onchain.sender import Mined


def registration_of(
    url: str, registry: RegistryClient, block: Block, *, once: bool = False
) -> Registration:
    """What the node at `url` answers when it is asked to prove its keys to the registry.

    `once` as in `RegistryClient.prepare`.

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
    return registration_from(parse_object(answer.body, "report"), registry, block, once=once)


def registration_from(
    report: Mapping[str, Any], registry: RegistryClient, block: Block, *, once: bool = False
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
    return registry.prepare(quote, collateral, keyset, block, once=once)


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
@click.option(
    "--once",
    is_flag=True,
    help="Do not remember the platform: less gas now, more for each renewal.",
)
@click.option(
    "--seat",
    "wants_seat",
    is_flag=True,
    help="Take one of the policy's seats too, so that the node's receipts are checked for less.",
)
@json_option
def register(
    *,
    url: str,
    rpc_url: str,
    deployment_file: Path,
    under: str | None,
    once: bool,
    wants_seat: bool,
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
        registration = registration_of(url, registry, registry.latest_block(), once=once)
        mined = registry.register(registration, policy)
        record = registry.node_of(registration.signer, policy)
        if record is None:
            raise MalformedResponse("nodeOf", "the registry has no record of what it registered")
        seat = seat_if_free(registry, registration.signer, policy) if wants_seat else None
    told = _document(registration, mined, record, policy)
    if as_json:
        seated = {} if seat is None else seat_facts(*seat)
        print_json(told | seated | {"simulated": deployment.simulated})
        return
    _narrate(told)
    if seat is not None:
        tell_seat(Steps(quiet=False), *seat)
    if deployment.simulated:
        print_simulated()


def _document(
    registration: Registration, mined: Mined, record: NodeRecord, policy: str
) -> dict[str, Any]:
    return {
        "verdict": "accept",
        "reason": None,
        "signer": registration.signer,
        "policy": policy,
        "measurement_id": registration.measurement.hex(),
        "served_from": record.served_from,
        "expiry": record.expiry,
        "gas": mined.gas_used,
        "transaction": mined.tx_hash,
    }


def _narrate(told: Mapping[str, Any]) -> None:
    steps = Steps(quiet=False)
    steps.ok("registered", f"{told['signer']}\n{told['gas']:,} gas")
    steps.note(f"answers count from {utc(told['served_from'])} until {utc(told['expiry'])}")
