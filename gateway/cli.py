"""`python -m gateway`: run a node, manage its API keys."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from attestation.errors import AttestationError
from attestation.issuers.nvidia import GPU_MODES
from enclave.errors import EnclaveError
from gateway import logs
from gateway.errors import GatewayError
from gateway.settings import (
    DATABASE_FILE,
    SIMULATED_TEES,
    TEES,
    ChainChoice,
    GivenKey,
    Limits,
    ModelChoice,
    Provenance,
    Settings,
)
from gateway.storage import (
    ApiKeyStore,
    Database,
    KeyRefused,
    StorageError,
    given_key,
    key_digest,
    new_key,
)

T = TypeVar("T")
_FAILURES = (GatewayError, EnclaveError, AttestationError, StorageError, KeyRefused, OSError)


def _fail(error: Exception) -> NoReturn:
    """One line on stderr and exit code 1."""
    text = str(error) or type(error).__name__
    click.echo(f"error: {' '.join(text.split())}", err=True)
    sys.exit(1)


class _Model(click.ParamType[ModelChoice]):
    name = "[ID=]PATH"

    def convert(self, value: Any, *_: Any) -> ModelChoice:
        id, separator, path = str(value).partition("=")
        return ModelChoice(Path(path), id) if separator else ModelChoice(Path(id))


class _GivenKey(click.ParamType[GivenKey]):
    name = "NAME=SHA256"

    def convert(self, value: Any, *context: Any) -> GivenKey:
        name, _, digest = str(value).partition("=")
        try:
            key = given_key(name, bytes.fromhex(digest))
        except (ValueError, KeyRefused) as e:
            self.fail(f"{value!r}: {e}", *context)
        return GivenKey(key.name, key.digest)


_STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("adyton-state"),
    show_default=True,
    help="Where the node keeps keys and receipts.",
)
_DATABASE = click.option(
    "--database-url", help="A PostgreSQL database of this node's own, instead of SQLite."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.group()
def main() -> None:
    """Run an Adyton node and manage its API keys."""


@main.command()
@click.option(
    "--tee",
    type=click.Choice(TEES),
    required=True,
    help="Where evidence comes from; auto is the TEE this machine has, never the simulator.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8443, show_default=True)
@_STATE_DIR
@click.option("--model", "models", type=_Model(), multiple=True, help="A GGUF file or folder.")
@click.option("--embedding-model", "embedders", type=_Model(), multiple=True)
@click.option("--rows", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option("--context", type=click.IntRange(64, 1 << 20), default=2048, show_default=True)
@click.option("--threads", type=click.IntRange(1, 256), default=2, show_default=True)
@click.option("--hostname", "hostnames", multiple=True, help="Names for the certificate.")
@click.option("--subject", help="Name the keyset carries.")
@click.option("--keyset-days", type=click.FloatRange(0.001, 366), default=30, show_default=True)
@click.option("--receipt-days", type=click.FloatRange(0.001, 36500), default=30, show_default=True)
@click.option(
    "--collateral",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Collateral to hand out with evidence, kept fresh by the operator.",
)
@click.option(
    "--collateral-url", help="A PCCS (SGX, TDX) or KDS (SEV-SNP) to take collateral from."
)
@click.option(
    "--collateral-cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where it is kept; default: STATE_DIR/collateral.",
)
@_DATABASE
@click.option(
    "--sim-tee",
    type=click.Choice(SIMULATED_TEES),
    default="tdx",
    show_default=True,
    help="What the simulator simulates.",
)
@click.option(
    "--gpu",
    type=click.Choice(GPU_MODES),
    default="auto",
    show_default=True,
    help="Evidence of NVIDIA GPUs: auto where the driver protects them, require fails without.",
)
@click.option(
    "--no-event-log",
    is_flag=True,
    help="Hand out no event log; for guests that extend their registers after boot.",
)
@click.option(
    "--chain",
    "chain_rpc",
    metavar="RPC",
    envvar="ADYTON_CHAIN",
    help="Register the node on the chain behind this JSON-RPC URL, and keep it registered.",
)
@click.option(
    "--registry",
    metavar="ADDRESS",
    envvar="ADYTON_REGISTRY",
    help="The NodeRegistry contract to register with.",
)
@click.option(
    "--measurement-policy",
    metavar="ADDRESS",
    envvar="ADYTON_MEASUREMENT_POLICY",
    help="The policy contract to register under.",
)
@click.option(
    "--chain-key",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="ADYTON_CHAIN_KEY",
    help="File with the key that pays for gas, for its owner's eyes alone; no identity.",
)
@click.option(
    "--chain-collateral",
    is_flag=True,
    envvar="ADYTON_CHAIN_COLLATERAL",
    help="Push the node's own collateral to the registry's verifier, where it is due.",
)
@click.option(
    "--chain-seat",
    is_flag=True,
    envvar="ADYTON_CHAIN_SEAT",
    help="Take one of the policy's seats, so that contracts check the node's receipts for less.",
)
@click.option("--source-repo", help="Public repository of this code.")
@click.option("--source-commit")
@click.option("--image-digest", help="sha256:<hex> of the image that runs.")
@click.option("--requests-per-minute", type=click.IntRange(1), default=1200, show_default=True)
@click.option("--concurrent-requests", type=click.IntRange(1), default=96, show_default=True)
@click.option("--generation-timeout", type=click.FloatRange(0.1), default=600, show_default=True)
@click.option("--body-timeout", type=click.FloatRange(0.1), default=30, show_default=True)
@click.option("--drain-timeout", type=click.FloatRange(0), default=20, show_default=True)
@click.option(
    "--api-key-digest",
    "api_keys",
    type=_GivenKey(),
    multiple=True,
    metavar="NAME=SHA256",
    help="Admit the API key with this sha256. For nodes whose state nobody can reach.",
)
@click.option("--log-level", type=click.Choice(["INFO", "WARNING", "ERROR"]), default="INFO")
@_JSON
def serve(as_json: bool, log_level: str, **options: Any) -> None:
    """Run a node until it is told to stop (SIGTERM or Ctrl-C); SIGHUP renews its keys."""
    from gateway.serve import run

    logs.configure(log_level)
    console = Console(stderr=True)

    def progress(step: str) -> None:
        if console.is_terminal:
            console.print(f"[dim]... {step}[/dim]")
        logs.event("starting", step=step)

    def ready(facts: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(facts))
        else:
            _introduce(facts)

    try:
        run(_settings(options), progress=progress, ready=ready)
    except _FAILURES as e:
        _fail(e)


def _chain(o: dict[str, Any]) -> ChainChoice | None:
    """Where to register, None for nowhere. Raises UsageError for half an answer."""
    names = ("chain_rpc", "registry", "measurement_policy", "chain_key")
    given = [o[name] for name in names]
    if not any(given) and not o["chain_collateral"] and not o["chain_seat"]:
        return None
    if not all(given):
        raise click.UsageError(
            "--chain, --registry, --measurement-policy and --chain-key go together"
        )
    rpc, registry, policy, key_file = given
    return ChainChoice(
        rpc,
        registry,
        policy,
        key_file,
        push_collateral=o["chain_collateral"],
        take_seat=o["chain_seat"],
    )


def _settings(o: dict[str, Any]) -> Settings:
    return Settings(
        tee=o["tee"],
        state_dir=o["state_dir"],
        host=o["host"],
        port=o["port"],
        chat_models=o["models"],
        embedding_models=o["embedders"],
        rows=o["rows"],
        context=o["context"],
        threads=o["threads"],
        hostnames=o["hostnames"],
        subject=o["subject"],
        keyset_days=o["keyset_days"],
        receipt_days=o["receipt_days"],
        collateral=o["collateral"],
        collateral_url=o["collateral_url"],
        collateral_cache=o["collateral_cache"],
        database_url=o["database_url"],
        sim_tee=o["sim_tee"],
        gpu=o["gpu"],
        event_log=not o["no_event_log"],
        api_keys=o["api_keys"],
        chain=_chain(o),
        provenance=Provenance(o["source_repo"], o["source_commit"], o["image_digest"]),
        limits=Limits(
            requests_per_minute=o["requests_per_minute"],
            concurrent_requests=o["concurrent_requests"],
            generation_timeout_s=float(o["generation_timeout"]),
            body_timeout_s=float(o["body_timeout"]),
            drain_timeout_s=float(o["drain_timeout"]),
        ),
    )


def _introduce(facts: dict[str, Any]) -> None:
    """Say what runs where, and first of all whether it is only simulated."""
    console = Console()
    if facts["simulated"]:
        console.print(
            Panel(
                "There is no TEE behind this node. Its evidence is genuine in form and worth\n"
                "nothing as proof; trust its root for testing only.",
                title="SIMULATED",
                border_style="bold red",
            )
        )
    shown = {**facts, "models": ", ".join(facts["models"])}
    for name in ("url", "tee_type", "measurement", "keyset_digest", "root", "tls_cert", "models"):
        if shown[name] is not None:
            # Whole on one line, however narrow the terminal: these are copied.
            text = Text.assemble((f"{name:<15}", "bold"), str(shown[name]))
            console.print(text, soft_wrap=True)
    console.print(
        "Make an API key:  adyton keys create NAME --state-dir " + facts["state_dir"],
        highlight=False,
    )


@main.group()
def keys() -> None:
    """Make, list and revoke API keys, also while the node runs."""


def _with_keys(
    state_dir: Path, database_url: str | None, work: Callable[[ApiKeyStore], Awaitable[T]]
) -> T:
    async def run(database: Database) -> T:
        try:
            return await work(ApiKeyStore(database))
        finally:
            await database.close()

    try:
        return asyncio.run(run(Database.open(database_url or state_dir / DATABASE_FILE)))
    except _FAILURES as e:
        _fail(e)


@keys.command()
@click.argument("name")
@_STATE_DIR
@_DATABASE
@click.option("--requests-per-minute", type=click.IntRange(1))
@click.option("--concurrent-requests", type=click.IntRange(1))
@_JSON
def create(
    *,
    name: str,
    state_dir: Path,
    database_url: str | None,
    requests_per_minute: int | None,
    concurrent_requests: int | None,
    as_json: bool,
) -> None:
    """Make a key and show it, this once."""
    key = _with_keys(
        state_dir,
        database_url,
        lambda store: store.create(
            name, rate_per_minute=requests_per_minute, max_concurrency=concurrent_requests
        ),
    )
    if as_json:
        click.echo(json.dumps({"key": key, "name": name}))
    else:
        click.echo(key)
        click.echo("Keep it: only its digest is stored.", err=True)


@keys.command()
@_JSON
def generate(*, as_json: bool) -> None:
    """Make a key without storing it: for a node started with --api-key-digest."""
    key = new_key()
    digest = key_digest(key).hex()
    if as_json:
        click.echo(json.dumps({"key": key, "sha256": digest}))
    else:
        click.echo(key)
        click.echo(f"Admit it with: --api-key-digest NAME={digest}", err=True)


@keys.command("list")
@_STATE_DIR
@_DATABASE
@_JSON
def list_(state_dir: Path, database_url: str | None, as_json: bool) -> None:
    """Every key ever made, by name and id."""
    known = _with_keys(state_dir, database_url, lambda store: store.list())
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "created_at": key.created_at,
            "revoked_at": key.revoked_at,
            "requests_per_minute": key.rate_per_minute,
            "concurrent_requests": key.max_concurrency,
        }
        for key in known
    ]
    if as_json:
        click.echo(json.dumps({"keys": rows}))
    else:
        _print_keys(rows)


def _print_keys(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("id", "name", "state")
    for row in rows:
        table.add_row(row["id"], row["name"], "active" if row["revoked_at"] is None else "revoked")
    Console().print(table)


@keys.command()
@click.argument("name_or_id")
@_STATE_DIR
@_DATABASE
@_JSON
def revoke(name_or_id: str, state_dir: Path, database_url: str | None, as_json: bool) -> None:
    """End a key, from now on."""
    key = _with_keys(state_dir, database_url, lambda store: store.revoke(name_or_id))
    if as_json:
        click.echo(json.dumps({"id": key.id, "name": key.name, "revoked": True}))
    else:
        click.echo(f"revoked {key.name} ({key.id})", err=True)
