"""`adyton verify-quote`: one quote, its collateral, a root and a time; no network."""

from __future__ import annotations

import binascii
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.options import READABLE, json_option, read_policy, read_roots, trust_options
from adyton.cli.output import Steps, print_json, print_simulated, tcb_line

if TYPE_CHECKING:
    from attestation.collateral.model import Collateral
    from attestation.policy import Appraisal
    from attestation.verify import VerifiedReport

MAX_QUOTE_BYTES: Final = 1 << 20
_HEX_TEXT: Final = re.compile(rb"(?:0x)?[0-9a-fA-F\s]+")


def read_quote(source: str) -> bytes:
    """The quote in a file or on stdin (`-`), binary or hex text."""
    try:
        if source == "-":
            data = sys.stdin.buffer.read(2 * MAX_QUOTE_BYTES + 1)
        else:
            with Path(source).open("rb") as f:
                data = f.read(2 * MAX_QUOTE_BYTES + 1)
    except OSError as e:
        raise click.UsageError(f"{source}: {e.strerror or e}") from None
    text = data.strip()
    # A binary quote starts with a version number below 0x20, so it is never hex text.
    if text and _HEX_TEXT.fullmatch(text):
        digits = b"".join(text.removeprefix(b"0x").split())
        try:
            return binascii.unhexlify(digits)
        except binascii.Error:
            return data
    return data


def read_collateral(path: Path) -> Collateral:
    """Read the JSON form of QuoteCollateralV3. Raises CollateralError."""
    from attestation.canonical import loads_strict
    from attestation.collateral.model import Collateral
    from attestation.errors import CollateralError, MalformedEvidence

    try:
        return Collateral.from_json(loads_strict(path.read_bytes(), "collateral"))
    except MalformedEvidence as e:
        raise CollateralError(str(e)) from None


def _report_data(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) not in (32, 64):
        raise click.UsageError("--report-data must be 32 or 64 bytes of hex")
    return data.ljust(64, b"\0")


def facts(report: VerifiedReport) -> dict[str, Any]:
    """What verification found, for the JSON output."""
    return {
        "tee": report.tee,
        "tcb_status": report.tcb_status,
        "simulated": report.simulated,
        "measurement": report.measurement,
        "measurements": dict(report.measurements),
        "report_data": report.report_data.hex(),
        "root_sha256": report.root_sha256,
        "endorsements_not_before": report.endorsements_not_before,
        "endorsements_not_after": report.endorsements_not_after,
        **report.facts(),
    }


def _tee_of(quote: bytes) -> str | None:
    """Which TEE the bytes claim to come from; None when they are not a quote."""
    from attestation.errors import MalformedEvidence
    from attestation.evidence import SgxQuote, parse_quote

    try:
        return "sgx" if isinstance(parse_quote(quote), SgxQuote) else "tdx"
    except MalformedEvidence:
        return None


def _print_accepted(report: VerifiedReport, appraisal: Appraisal) -> None:
    steps = Steps(quiet=False)
    steps.ok("authentic", f"{report.tee} quote, root sha256 {report.root_sha256}")
    steps.ok("platform TCB", tcb_line(report))
    steps.ok(f"policy {appraisal.policy_name}", f"measurement {report.measurement}")
    if report.simulated:
        print_simulated()
    if appraisal.inspection_only:
        steps.note("inspection only: this policy accepts any workload", warn=True)


@click.command(name="verify-quote")
@click.argument("quote", metavar="QUOTE")
@click.option(
    "--collateral", type=READABLE, required=True, help="JSON, fields of QuoteCollateralV3."
)
@trust_options
@click.option(
    "--at", type=click.IntRange(min=0), metavar="UNIX", help="Judge at this time, not now."
)
@click.option("--report-data", metavar="HEX", help="Demand these 64 (or 32, zero-padded) bytes.")
@json_option
def verify_quote(
    *,
    quote: str,
    collateral: Path,
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    at: int | None,
    report_data: str | None,
    as_json: bool,
) -> None:
    """Verify a DCAP quote (SGX v3, TDX v4 or v5) offline.

    QUOTE is a file, binary or hex, or - for stdin. Without --root, Intel's root is
    trusted.
    """
    from attestation.errors import AttestationError
    from attestation.policy import evaluate
    from attestation.verify import verify_quote as verify

    rules, roots = read_policy(policy, measurement), read_roots(root)
    expected = _report_data(report_data)
    data = read_quote(quote)
    now = int(time.time()) if at is None else at
    known: dict[str, Any] = {"tcb_status": None, "tee": None, "policy": rules.name}
    try:
        known["tee"] = _tee_of(data)
        report = verify(data, read_collateral(collateral), roots, now)
        known |= facts(report)
        appraisal = evaluate(report, rules, report_data=expected, now=now)
    except AttestationError as e:
        e.__dict__["json_extra"] = known
        raise
    if as_json:
        print_json(
            {
                "verdict": "accept",
                "reason": None,
                **known,
                "findings": [],
                "inspection_only": appraisal.inspection_only,
                "claims": {k: c.to_json() for k, c in appraisal.claims.items()},
            }
        )
    else:
        _print_accepted(report, appraisal)
