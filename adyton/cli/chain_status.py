"""`adyton chain status`: what is stored, until when, and who may mend what is stale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adyton.cli.chain_collateral import until
from adyton.cli.chain_deploy import status_names
from adyton.cli.chain_options import chain_options, connected
from adyton.cli.failures import EXIT_NETWORK
from adyton.cli.options import json_option
from adyton.cli.output import Steps, print_json, print_simulated
from adyton.cli.verify import utc

if TYPE_CHECKING:
    from attestation.onchain.client import Seat
    from attestation.onchain.deployment import Deployment
    from attestation.onchain.survey import PolicyState, Survey


@click.command(name="status")
@chain_options
@json_option
def status(*, rpc_url: str, deployment_file: Path, as_json: bool) -> int:
    """Show collateral, policy and nodes of a deployment, and what has gone stale.

    Stale collateral stops new registrations; anyone may push newer. Exits with 6 when any is
    stale or none is there.
    """
    with connected(rpc_url, deployment_file) as (rpc, deployment):
        from attestation.onchain.client import RegistryClient
        from attestation.onchain.survey import survey

        found = survey(rpc, deployment)
        registry = RegistryClient(rpc, deployment.node_registry)
        seats = registry.seated_nodes(deployment.measurement_policy)
    if as_json:
        print_json(_document(found, seats, deployment))
    else:
        _narrate(found, seats, deployment)
    return 0 if found.healthy else EXIT_NETWORK


def _document(found: Survey, seats: list[Seat], deployment: Deployment) -> dict[str, Any]:
    policy, seated = found.policy, {seat.signer for seat in seats}
    return {
        "healthy": found.healthy,
        "chain_id": deployment.chain_id,
        "block": found.block.number,
        "at": found.block.time,
        "simulated": found.simulated,
        "quote_verifier": deployment.quote_verifier,
        "node_registry": deployment.node_registry,
        "collateral": [
            {"part": s.part, "state": str(s.state), "until": s.until, "refreshed_by": "anyone"}
            for s in found.collateral
        ],
        "policy": {
            "address": deployment.measurement_policy,
            "owner": policy.owner,
            "delay_s": policy.delay_s,
            "tcb_statuses": status_names(policy.statuses),
            "min_evaluation": policy.min_evaluation,
            "allowed": policy.allowed,
        },
        "nodes": [
            {
                "signer": n.signer,
                "served_from": n.served_from,
                "expiry": n.expiry,
                "counts": n.counts,
                "seated": n.signer in seated,
            }
            for n in found.nodes
        ],
        "seats": [{"signer": s.signer, "expiry": s.expiry} for s in seats],
    }


def _narrate(found: Survey, seats: list[Seat], deployment: Deployment) -> None:
    steps = Steps(quiet=False)
    block = found.block
    steps.title(f"Chain {deployment.chain_id}, block {block.number}, {utc(block.time)}")
    if found.simulated:
        print_simulated()
    steps.title("Collateral")
    for part in found.collateral:
        if part.due:
            steps.fail(part.part, f"{part.state}, {until(part)}")
        else:
            steps.ok(part.part, until(part))
    if not found.healthy:
        steps.note("anyone may bring it up to date: adyton chain collateral", warn=True)
    steps.title(f"Policy {deployment.measurement_policy}")
    _narrate_policy(steps, found.policy, block.time)
    _narrate_nodes(steps, found, seats)


def _narrate_nodes(steps: Steps, found: Survey, seats: list[Seat]) -> None:
    from attestation.onchain.client import SEATS

    steps.title(f"Nodes ({len(seats)} of {SEATS} seats taken)")
    seated = {seat.signer for seat in seats}
    for node in found.nodes:
        span = f"answers count from {utc(node.served_from)} until {utc(node.expiry)}"
        if node.counts:
            steps.ok(node.signer, span + ("; seated" if node.signer in seated else ""))
        else:
            steps.note(f"{node.signer}: no longer registered; {span}")
    if not found.nodes:
        steps.note("none registered; anyone may: adyton chain register")


def _narrate_policy(steps: Steps, policy: PolicyState, now: int) -> None:
    owner = policy.owner or "nobody: it can no longer be changed"
    steps.note(f"owner {owner}; delay {policy.delay_s} s")
    accepted = ", ".join(status_names(policy.statuses)) or "none"
    steps.note(f"TCB statuses {accepted}; evaluation {policy.min_evaluation} or later")
    for identity, since in policy.allowed.items():
        when = "allowed" if since <= now else f"will be allowed from {utc(since)}"
        steps.note(f"0x{identity}: {when}")
    if not policy.allowed:
        steps.note("allows nothing yet", warn=True)
