"""`adyton chain deploy`: the contracts, with the root they will trust for ever."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adyton.cli.chain_options import KeyOptions, key_options, require_onchain, rpc_option
from adyton.cli.options import json_option
from adyton.cli.output import Steps, plain, print_json, print_simulated
from attestation.onchain.levels import STATUSES as ALL_STATUSES

if TYPE_CHECKING:
    from attestation.onchain.deploy import Step
    from attestation.onchain.deployment import Deployment

STATUSES = ALL_STATUSES[:-1]
"""TCB statuses by number that a policy may accept: all but Revoked."""


def status_mask(names: tuple[str, ...]) -> int:
    """Statuses as the bit mask that contracts take."""
    return sum(1 << STATUSES.index(name) for name in set(names))


def status_names(mask: int) -> list[str]:
    """The statuses in a bit mask."""
    return [name for bit, name in enumerate(STATUSES) if mask >> bit & 1]


def read_root(text: str) -> bytes:
    """The root that `--root` names, DER. A mistake in it is a usage error."""
    from attestation.errors import AttestationError
    from attestation.roots import INTEL_SGX_ROOT, load_root

    if text == "intel":
        return INTEL_SGX_ROOT
    try:
        return load_root(Path(text).read_bytes())
    except (AttestationError, OSError) as e:
        raise click.UsageError(f"--root: {e}") from None


@click.command(name="deploy")
@rpc_option
@key_options
@click.option(
    "--root",
    default="intel",
    show_default=True,
    metavar="FILE|intel",
    help="The root (DER or PEM) quotes must chain to. A simulator's makes proofs of nothing.",
)
@click.option(
    "--p256",
    type=click.Choice(["precompile", "software"]),
    default="precompile",
    show_default=True,
    help="Who checks P-256 signatures: the chain (EIP-7951), or a contract at far more gas.",
)
@click.option(
    "--min-evaluation",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    metavar="N",
    help="The least tcbEvaluationDataNumber the verifier will ever take.",
)
@click.option(
    "--policy-delay",
    "policy_delay_s",
    type=click.IntRange(0, 365 * 86400),
    default=0,
    show_default=True,
    metavar="S",
    help="Seconds between announcing and accepting a measurement.",
)
@click.option(
    "--accept-tcb",
    type=click.Choice(STATUSES),
    multiple=True,
    default=("UpToDate",),
    show_default=True,
    help="TCB status that the policy accepts. May be repeated.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    help="Write the addresses here, for the other commands.",
)
@json_option
def deploy(
    *,
    rpc_url: str,
    root: str,
    p256: str,
    min_evaluation: int,
    policy_delay_s: int,
    accept_tcb: tuple[str, ...],
    out: Path,
    as_json: bool,
    **key: Any,
) -> None:
    """Deploy the quote verifier, the node registry and a measurement policy.

    The root, the evaluation number and the way signatures are checked can never be changed.
    The policy belongs to the key's account and allows nothing yet.
    """
    require_onchain()
    _require_new(out)
    from attestation.onchain.deploy import deploy as put
    from attestation.onchain.rpc import Rpc

    with Rpc(rpc_url) as rpc:
        deployment, steps = put(
            KeyOptions(**key).sender(rpc),
            root=read_root(root),
            p256="software" if p256 == "software" else "precompile",
            min_evaluation=min_evaluation,
            policy_delay_s=policy_delay_s,
            tcb_statuses=status_mask(accept_tcb),
        )
    deployment.save(out)
    if as_json:
        print_json(_document(deployment, steps) | {"file": str(out)})
    else:
        _narrate(deployment, steps, out)


def _require_new(out: Path) -> None:
    """The file can be written, and no other deployment's addresses are lost by it."""
    if out.exists():
        raise click.UsageError(f"--out: {out} is there already")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise click.UsageError(f"--out: {out.parent} is no folder that can be written to")


def _document(deployment: Deployment, steps: list[Step]) -> dict[str, Any]:
    return {
        "verdict": "accept",
        "reason": None,
        **deployment.to_json(),
        "gas": {step.contract: step.mined.gas_used for step in steps},
    }


def _narrate(deployment: Deployment, steps: list[Step], out: Path) -> None:
    told = Steps(quiet=False)
    told.title(f"Chain {deployment.chain_id}")
    for step in steps:
        told.ok(step.contract, f"{step.address}\n{step.mined.gas_used:,} gas")
    if deployment.simulated:
        print_simulated()
    click.echo(f"  written to {plain(str(out))}")
