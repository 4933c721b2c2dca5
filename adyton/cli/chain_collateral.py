"""`adyton chain collateral`: bring what the verifier stores up to date. Anyone may."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adyton.cli.chain_options import KeyOptions, chain_options, connected, key_options
from adyton.cli.options import READABLE, json_option
from adyton.cli.output import Steps, print_json
from adyton.cli.quote import read_quote
from adyton.cli.sources import Sources, source_options
from adyton.cli.verify import utc

if TYPE_CHECKING:
    from attestation.collateral.model import Collateral
    from attestation.onchain.upkeep import Pushed, Standing


def _collateral(file: Path | None, quote: str | None, sources: dict[str, Any]) -> Collateral:
    """The collateral in a file, or what a quote needs, fetched and checked."""
    from attestation.collateral.bundle import collateral_for
    from attestation.collateral.model import Collateral as Value
    from attestation.errors import CollateralError

    if file is not None and quote is not None:
        return collateral_for(file.read_bytes(), read_quote(quote))
    if file is not None:
        from adyton.bundle import read_json

        return Value.from_json(read_json(file, "collateral"))
    if quote is None:
        raise click.UsageError("name --collateral FILE, --quote FILE, or both")
    value = Sources(**sources).for_evidence(read_quote(quote)).value
    if not isinstance(value, Value):
        raise CollateralError("the contracts check SGX and TDX quotes only")
    return value


def _root_of(roots: tuple[Path, ...]) -> bytes | None:
    from adyton.cli.options import read_roots

    return read_roots(roots)[0] if roots else None


@click.command(name="collateral")
@chain_options
@key_options
@click.option(
    "--collateral",
    "file",
    type=READABLE,
    help="JSON with the fields of QuoteCollateralV3; or, with --quote, a bundle.",
)
@click.option(
    "--quote", metavar="FILE", help="A quote of the platform in question: fetch what it needs."
)
@source_options
@click.option("--dry-run", is_flag=True, help="Say what would be pushed, and push nothing.")
@json_option
def collateral(
    *,
    rpc_url: str,
    deployment_file: Path,
    key_file: Path | None,
    password_file: Path | None,
    max_fee_gwei: float,
    confirmations: int,
    replace: str | None,
    file: Path | None,
    quote: str | None,
    dry_run: bool,
    as_json: bool,
    **sources: Any,
) -> None:
    """Push the collateral that the verifier lacks, or has in an older version.

    Only Intel's signatures count, so anyone may do this for everyone. What the verifier has
    already is left alone; a root revocation list that revokes something makes it push
    again whatever came before.
    """
    document = _collateral(file, quote, sources)
    root = _root_of(sources["root"])
    steps = Steps(quiet=as_json)
    with connected(rpc_url, deployment_file) as (rpc, deployment):
        from attestation.onchain.upkeep import CollateralClient

        if dry_run:
            client = CollateralClient(rpc, deployment.quote_verifier)
            standings = client.standings(document, root)
            _show(steps, standings)
            done: list[Pushed] = []
        else:
            key = KeyOptions(key_file, password_file, max_fee_gwei, confirmations, replace)
            client = CollateralClient(rpc, deployment.quote_verifier, key.sender(rpc))
            done = client.push(document, root, lambda pushed: _tell(steps, pushed))
            standings = client.standings(document, root)
    if as_json:
        print_json(_document(standings, done, deployment.simulated) | {"dry_run": dry_run})
    elif not dry_run:
        click.echo(f"  pushed {len(done)} of {len(standings)} parts")


def until(standing: Standing) -> str:
    """When a part ends, for people."""
    return "nothing stored" if standing.until is None else f"until {utc(standing.until)}"


def _show(steps: Steps, standings: list[Standing]) -> None:
    for standing in standings:
        if standing.due:
            steps.note(f"{standing.part}: {standing.state}, {until(standing)}", warn=True)
        else:
            steps.ok(standing.part, until(standing))


def _tell(steps: Steps, pushed: Pushed) -> None:
    steps.ok(pushed.before.part, f"was {pushed.before.state}; {pushed.mined.gas_used:,} gas")


def _document(standings: list[Standing], done: list[Pushed], simulated: bool) -> dict[str, Any]:
    return {
        "verdict": "accept",
        "reason": None,
        "simulated": simulated,
        "parts": [{"part": s.part, "state": str(s.state), "until": s.until} for s in standings],
        "pushed": [
            {
                "part": p.before.part,
                "was": str(p.before.state),
                "gas": p.mined.gas_used,
                "transaction": p.mined.tx_hash,
            }
            for p in done
        ],
    }
