"""`adyton collateral`: fetch endorsements, bundle them for offline use, look into a file."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adyton.cli.failures import NotDone
from adyton.cli.options import READABLE, json_option, read_roots
from adyton.cli.output import Steps, plain, print_json, print_simulated
from adyton.cli.quote import read_quote
from adyton.cli.sources import Sources, source_options
from adyton.cli.verify import utc

if TYPE_CHECKING:
    from attestation.collateral.check import Checked
    from attestation.collateral.describe import Part
    from attestation.collateral.item import Platform


@click.group(name="collateral")
def collateral() -> None:
    """Fetch collateral, bundle it for offline use, and look into it.

    Quotes are judged with documents their vendor signs: firmware levels, revocation lists,
    certificates. Everything fetched is checked under --root before it is kept.
    """


def _checked_json(part: Checked) -> dict[str, Any]:
    return {
        "key": str(part.item.key),
        "number": part.version[0],
        "not_before": part.not_before,
        "not_after": part.not_after,
        "root_sha256": part.anchor_sha256,
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    """`path` holds the document whole, or what it held before."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def _narrate(parts: tuple[Checked, ...], silent: BaseException | None) -> None:
    steps = Steps(quiet=False)
    for part in parts:
        number = f", number {part.version[0]}" if part.version[0] else ""
        steps.ok(str(part.item.key), f"until {utc(part.not_after)}{number}")
    if silent is not None:
        steps.note(f"from the cache, because the service is silent: {silent}", warn=True)


@collateral.command(name="fetch")
@click.argument("evidence", metavar="QUOTE")
@source_options
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the collateral here instead of stdout.",
)
@click.option(
    "--endorsement", type=READABLE, help="The VLEK certificate of an SEV-SNP report (DER or PEM)."
)
@click.option(
    "--product",
    type=click.Choice(["Milan", "Genoa", "Turin"]),
    help="The processor of an SEV-SNP report that does not say.",
)
@json_option
def fetch(
    *,
    evidence: str,
    out: Path | None,
    endorsement: Path | None,
    product: str | None,
    as_json: bool,
    **sources: Any,
) -> None:
    """Fetch what verifying QUOTE needs, and check it.

    QUOTE is a DCAP quote (SGX or TDX) or an SEV-SNP report: a file, binary or hex, or - for
    stdin. The result is what `adyton verify-quote` takes. The service learns which platform
    or chip is being judged.
    """
    from attestation.collateral.snp import SnpEndorsements

    vlek = None
    if endorsement is not None:
        vlek = SnpEndorsements.from_files(endorsement.read_bytes()).vek
    obtained = Sources(**sources).for_evidence(read_quote(evidence), vlek, product)
    document = obtained.value.to_json()
    if out is None:
        print_json(document)
        return
    _write(out, document)
    if as_json:
        print_json(
            {
                "verdict": "accept",
                "reason": None,
                "file": str(out),
                "not_after": obtained.not_after,
                "due_at": obtained.due_at,
                "from_cache_because": None if obtained.silent is None else str(obtained.silent),
                "parts": [_checked_json(p) for p in obtained.parts],
            }
        )
    else:
        _narrate(obtained.parts, obtained.silent)
        click.echo(f"  written to {plain(str(out))}")


def _platform(text: str, update: str) -> Platform:
    from attestation.collateral.item import Platform
    from attestation.errors import CollateralError

    parts = text.lower().split(":")
    if len(parts) != 3:
        raise click.UsageError("--for is TEE:FMSPC:CA, as in tdx:00ad70000000:platform")
    try:
        return replace(Platform(*parts), update=update)
    except CollateralError as e:
        raise click.UsageError(f"--for: {e}") from None


@collateral.command(name="bundle")
@click.argument("evidence", metavar="[QUOTE]...", nargs=-1)
@click.option(
    "--for",
    "platforms",
    metavar="TEE:FMSPC:CA",
    multiple=True,
    help="A platform without a quote at hand: sgx or tdx, 12 hex digits, platform or processor.",
)
@source_options
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    help="The bundle.",
)
@json_option
def bundle(
    *,
    evidence: tuple[str, ...],
    platforms: tuple[str, ...],
    out: Path,
    as_json: bool,
    **sources: Any,
) -> None:
    """Fetch collateral for many platforms into one file.

    For every QUOTE (SGX, TDX or SEV-SNP) and every --for. The file serves
    `adyton verify-quote --collateral` for all of them, until its parts expire.
    """
    from attestation.collateral.bundle import Bundle

    if not evidence and not platforms:
        raise click.UsageError("name at least one QUOTE or --for")
    source = Sources(**sources)
    wanted = [_platform(text, source.update) for text in platforms]
    obtained = [source.for_evidence(read_quote(name)) for name in evidence]
    obtained += [source.for_platform(platform) for platform in wanted]
    parts = {part.item.key: part for one in obtained for part in one.parts}
    made = Bundle.of((part.item for part in parts.values()), at=source.now)
    made.check(source.roots, source.now)
    _write(out, made.to_json())
    not_after = min(one.not_after for one in obtained)
    if as_json:
        print_json(
            {
                "verdict": "accept",
                "reason": None,
                "file": str(out),
                "not_after": not_after,
                "parts": [_checked_json(p) for p in parts.values()],
            }
        )
    else:
        _narrate(tuple(parts.values()), next((o.silent for o in obtained if o.silent), None))
        click.echo(f"  written to {plain(str(out))}, usable until {utc(not_after)}")


@collateral.command(name="show")
@click.argument("file", type=READABLE)
@click.option(
    "--root",
    type=READABLE,
    multiple=True,
    help="Judge under this root (DER or PEM) instead of the built-in ones. May be repeated.",
)
@click.option(
    "--at", type=click.IntRange(min=0), metavar="UNIX", help="Judge at this time, not now."
)
@json_option
def show(*, file: Path, root: tuple[Path, ...], at: int | None, as_json: bool) -> None:
    """Show what FILE holds: each part, its numbers and dates, and whether it may be used now.

    FILE is collateral, a bundle, SEV-SNP endorsements or a file of the cache.
    """
    from attestation.collateral.bundle import MAX_BUNDLE_BYTES
    from attestation.collateral.describe import describe

    now = int(time.time()) if at is None else at
    with file.open("rb") as f:
        found = describe(f.read(MAX_BUNDLE_BYTES + 1), read_roots(root), now)
    if as_json:
        print_json(
            {
                "form": found.form,
                "at": now,
                "usable": found.usable,
                "parts": [p.to_json(now) for p in found.parts],
            }
        )
        return
    steps = Steps(quiet=False)
    steps.title(f"{file.name}: {found.form}")
    for part in found.parts:
        if part.problem is None:
            steps.ok(part.key, _lines(part, now))
        else:
            steps.fail(part.key, f"{_lines(part, now)}\n{part.problem}")


def _lines(part: Part, now: int) -> str:
    lines = [part.what]
    if part.number is not None:
        lines[0] += f", number {part.number}"
    if part.revoked is not None:
        lines[0] += f", {part.revoked} revoked"
    if part.not_before is not None and part.not_after is not None:
        left = part.days_left(now)
        lines.append(f"{utc(part.not_before)} to {utc(part.not_after)}: {left} days left")
    lines.append(f"sha256 {part.sha256}")
    return "\n".join(lines)


@collateral.command(name="serve")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the simulator's seed is, or will be: a simulated node's state directory.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8081, show_default=True)
@json_option
def serve(*, state_dir: Path, port: int, as_json: bool) -> None:
    """Serve the simulator's own collateral on loopback, as a PCCS and a KDS would.

    For trying everything without a network; needs adyton[node]. SEV-SNP is there where a
    node with --sim-tee sev-snp has run on this state directory. The roots are written beside
    the seed and trusted nowhere but where you name them.
    """
    from importlib.util import find_spec

    from attestation.issuers.simulator import pccs

    if find_spec("uvicorn") is None:
        raise NotDone("uvicorn is not installed: pip install 'adyton[node]'")

    def ready(url: str, roots: list[Path]) -> None:
        if as_json:
            print_json({"url": url, "roots": [str(r) for r in roots], "simulated": True})
            return
        print_simulated()
        click.echo(f"  {url}")
        for root in roots:
            click.echo(f"  trust it with --root {plain(str(root))}")

    pccs.serve(state_dir, port, ready)
