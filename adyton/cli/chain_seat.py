"""`adyton chain seat`: have a node's receipts checked for less. Anyone may."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.chain_options import KeyOptions, address, chain_options, connected, key_options
from adyton.cli.failures import NotDone
from adyton.cli.options import json_option
from adyton.cli.output import Steps, print_json, print_simulated

if TYPE_CHECKING:
    from attestation.onchain.client import RegistryClient
    from attestation.onchain.sender import Mined

ALL_TAKEN: Final = "nodes that count have all of the policy's seats"


def seat_if_free(registry: RegistryClient, signer: str, policy: str) -> tuple[bool, Mined | None]:
    """Whether the node has a seat now, and the transaction where it took one."""
    if registry.is_seated(signer, policy):
        return True, None
    mined = registry.take_seat(signer, policy)
    return mined is not None, mined


def seat_facts(seated: bool, mined: Mined | None) -> dict[str, Any]:
    """The JSON form of what `seat_if_free` found."""
    return {
        "seated": seated,
        "seat_gas": None if mined is None else mined.gas_used,
        "seat_transaction": None if mined is None else mined.tx_hash,
    }


def tell_seat(steps: Steps, seated: bool, mined: Mined | None) -> None:
    if mined is not None:
        steps.ok("seated", f"{mined.gas_used:,} gas")
    elif seated:
        steps.ok("has a seat already")
    else:
        steps.note(f"no seat: {ALL_TAKEN}; its receipts count all the same", warn=True)


def _signer(ctx: click.Context, param: click.Parameter, value: str) -> str | None:
    return address(ctx, param, value)


@click.command(name="seat")
@click.argument("signer", metavar="ADDRESS", callback=_signer)
@chain_options
@key_options
@click.option(
    "--under",
    metavar="ADDRESS",
    callback=address,
    help="A seat of this policy contract instead of the deployment's.",
)
@json_option
def seat(
    *,
    signer: str,
    rpc_url: str,
    deployment_file: Path,
    under: str | None,
    as_json: bool,
    **key: Any,
) -> None:
    """Give the registered node with this signing ADDRESS one of the policy's 256 seats.

    Contracts check a seated node's receipts in one storage slot instead of two. The seat is its
    own until its registration runs out or the policy ends its epoch; renewing keeps it.
    """
    with connected(rpc_url, deployment_file) as (rpc, deployment):
        from attestation.onchain.client import RegistryClient

        policy = under or deployment.measurement_policy
        registry = RegistryClient(rpc, deployment.node_registry, KeyOptions(**key).sender(rpc))
        seated, mined = seat_if_free(registry, signer, policy)
    if not seated:
        raise NotDone(f"{ALL_TAKEN}: try again when one of them has run out")
    if as_json:
        told = {"verdict": "accept", "reason": None, "signer": signer, "policy": policy}
        print_json(told | seat_facts(seated, mined) | {"simulated": deployment.simulated})
        return
    tell_seat(Steps(quiet=False), seated, mined)
    if deployment.simulated:
        print_simulated()
