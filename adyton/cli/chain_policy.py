"""`adyton chain allow` and `disallow`: what a measurement policy's owner accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.chain_options import KeyOptions, chain_options, connected, key_options
from adyton.cli.options import build_trust, json_option, trust_options
from adyton.cli.output import Steps, print_json, print_simulated
from adyton.cli.quote import read_quote
from adyton.cli.verify import utc

if TYPE_CHECKING:
    from attestation.onchain.deployment import Deployment
    from attestation.onchain.sender import Mined

POLICY: Final = "MeasurementPolicy"
_ID: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


def id_of_quote(quote: bytes) -> bytes:
    """The id of everything a quote (as devices make it) says was measured."""
    from attestation.onchain.policy import measurement_id, report_body
    from attestation.onchain.quote import compact_quote

    return measurement_id(report_body(compact_quote(quote)))


def _id(
    measurement: str | None,
    quote: str | None,
    url: str | None,
    trust: dict[str, Any],
    *,
    json: bool,
) -> bytes:
    """The id that exactly one of the three names. A node at a URL is verified first."""
    if sum(x is not None for x in (measurement, quote, url)) != 1:
        raise click.UsageError("name one of MEASUREMENT, --quote and --url")
    if measurement is not None:
        found = _ID.fullmatch(measurement)
        if found is None:
            raise click.UsageError(
                "MEASUREMENT is the id of all that is measured, 64 hex digits; --quote and --url "
                "compute it"
            )
        return bytes.fromhex(found[1])
    if quote is not None:
        return id_of_quote(read_quote(quote))
    return _id_of_node(str(url), trust, json=json)


def _id_of_node(url: str, trust: dict[str, Any], *, json: bool) -> bytes:
    from adyton.cli.verify import run_verification

    established = run_verification(url, build_trust(**trust), Steps(quiet=json))
    evidence = established.report["attestation"]["evidence"]
    return id_of_quote(bytes.fromhex(evidence["quote"]))


def _told(
    what: str,
    identity: bytes,
    mined: Mined,
    deployment: Deployment,
    since: int | None,
    *,
    json: bool,
) -> None:
    if json:
        print_json(
            {
                "verdict": "accept",
                "reason": None,
                "measurement_id": identity.hex(),
                "policy": deployment.measurement_policy,
                "allowed_from": since,
                "gas": mined.gas_used,
                "transaction": mined.tx_hash,
                "simulated": deployment.simulated,
            }
        )
        return
    Steps(quiet=False).ok(what, f"0x{identity.hex()}\n{mined.gas_used:,} gas")
    if deployment.simulated:
        print_simulated()


@click.command(name="allow")
@click.argument("id_", metavar="[MEASUREMENT]", required=False)
@chain_options
@key_options
@click.option("--quote", metavar="FILE", help="Allow what this quote measures.")
@click.option("--url", metavar="URL", help="Allow what this node runs, once it is verified.")
@trust_options
@json_option
def allow(
    *,
    id_: str | None,
    rpc_url: str,
    deployment_file: Path,
    quote: str | None,
    url: str | None,
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    as_json: bool,
    **key: Any,
) -> None:
    """Have the policy accept nodes with this MEASUREMENT: an id over everything measured.

    Only the policy's owner may. It counts once the policy's delay has passed.
    """
    trust = {"root": root, "policy": policy, "measurement": measurement}
    with connected(rpc_url, deployment_file) as (rpc, deployment):
        identity = _id(id_, quote, url, trust, json=as_json)
        mined = _send(KeyOptions(**key), rpc, deployment, "allow", identity)
        since = rpc.read(POLICY, deployment.measurement_policy, "allowedFrom", identity)
    _told(f"allowed from {utc(since)}", identity, mined, deployment, since, json=as_json)


@click.command(name="disallow")
@click.argument("id_", metavar="MEASUREMENT")
@chain_options
@key_options
@json_option
def disallow(*, id_: str, rpc_url: str, deployment_file: Path, as_json: bool, **key: Any) -> None:
    """Stop accepting this MEASUREMENT, at once.

    Only the policy's owner may. Every registration under the policy ends: nodes that it
    still allows must be registered again.
    """
    with connected(rpc_url, deployment_file) as (rpc, deployment):
        identity = _id(id_, None, None, {}, json=as_json)
        mined = _send(KeyOptions(**key), rpc, deployment, "disallow", identity)
    _told("no longer allowed", identity, mined, deployment, None, json=as_json)


def _send(
    key: KeyOptions, rpc: Any, deployment: Deployment, function: str, identity: bytes
) -> Mined:
    from attestation.onchain.artifacts import artifact

    data = artifact(POLICY).interface.call(function, identity)
    return key.sender(rpc).send(deployment.measurement_policy, data)
