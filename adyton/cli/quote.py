"""`adyton verify-quote`: evidence of any kind, its endorsements, a root and a time; no network."""

from __future__ import annotations

import binascii
import re
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from adyton.cli.failures import failure_of
from adyton.cli.judge import JUDGES, NRAS_ISSUER, Given, Judgement
from adyton.cli.options import READABLE, json_option, read_policy, read_roots, trust_options
from adyton.cli.output import Steps, plain, print_json, print_simulated
from attestation.errors import AttestationError, MalformedEvidence
from attestation.evidence.kind import EvidenceKind, kind_of

MAX_QUOTE_BYTES: Final = 1 << 20
_HEX_TEXT: Final = re.compile(rb"(?:0x)?[0-9a-fA-F\s]+")


def read_quote(source: str) -> bytes:
    """The evidence in a file or on stdin (`-`), binary or hex text."""
    try:
        if source == "-":
            data = sys.stdin.buffer.read(2 * MAX_QUOTE_BYTES + 1)
        else:
            with Path(source).open("rb") as f:
                data = f.read(2 * MAX_QUOTE_BYTES + 1)
    except OSError as e:
        raise click.UsageError(f"{source}: {e.strerror or e}") from None
    text = data.strip()
    # Binary evidence has bytes below 0x20 near its start, so it is never hex text.
    if text and _HEX_TEXT.fullmatch(text):
        digits = b"".join(text.removeprefix(b"0x").split())
        try:
            return binascii.unhexlify(digits)
        except binascii.Error:
            return data
    return data


def _hex(option: str, text: str | None, sizes: tuple[int, ...]) -> bytes | None:
    if text is None:
        return None
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) not in sizes:
        allowed = " or ".join(map(str, sizes[:2])) if len(sizes) < 3 else f"1 to {sizes[-1]}"
        raise click.UsageError(f"--{option} must be {allowed} bytes of hex")
    return data


def _kind(data: bytes, told: str | None, given: Given) -> EvidenceKind:
    """What to judge `data` as. Raises MalformedEvidence when it looks like nothing known."""
    kind = EvidenceKind(told) if told is not None else kind_of(data)
    if kind is None and given.collateral is not None:
        kind = EvidenceKind.TDX  # whoever gives collateral means a quote; its parser says more
    if kind is None:
        raise MalformedEvidence("evidence", "is of no kind known here", 0)
    if kind not in JUDGES:
        raise click.UsageError(f"{kind}: shown by `adyton explain`, but proves nothing by itself")
    return kind


def judge(data: bytes, told: str | None, given: Given) -> Judgement:
    """The evidence is authentic and wanted. A refusal carries what is known in `json_extra`."""
    known: dict[str, Any] = {"tee": None, "tcb_status": None, "policy": given.policy.name}
    try:
        looks = told or kind_of(data)
        known["tee"] = None if looks == EvidenceKind.JSON else looks
        return JUDGES[_kind(data, told, given)](data, given)
    except AttestationError as e:
        e.__dict__["json_extra"] = known | e.__dict__.get("json_extra", {})
        raise


def _accepted_json(judgement: Judgement, given: Given) -> dict[str, Any]:
    return {
        "verdict": "accept",
        "reason": None,
        "tcb_status": None,
        "policy": given.policy.name,
        **judgement.facts,
        "findings": [],
        "inspection_only": given.policy.inspection_only,
        "claims": {k: c.to_json() for k, c in judgement.claims.items()},
    }


def _print_accepted(judgement: Judgement, given: Given) -> None:
    steps = Steps(quiet=False)
    for name, detail in judgement.lines:
        steps.ok(name, detail)
    if judgement.simulated:
        print_simulated()
    if given.policy.inspection_only:
        steps.note("inspection only: this policy accepts any workload", warn=True)


def _tell(judgement: Judgement, given: Given, *, as_json: bool) -> None:
    if as_json:
        print_json(_accepted_json(judgement, given))
    else:
        _print_accepted(judgement, given)


def _judge_each(files: tuple[str, ...], told: str | None, given: Given, *, as_json: bool) -> int:
    """Several files with the same options, one after the other; the first refusal's code."""
    code = 0
    for name in files:
        if not as_json:
            click.secho(plain(name), bold=True)
        try:
            _tell(judge(read_quote(name), told, given), given, as_json=as_json)
        except AttestationError as e:
            failure = failure_of(e)
            code = code or failure.exit_code
            if as_json:
                print_json({"verdict": "reject", "file": name, **failure.to_json()})
            else:
                Steps(quiet=False).fail(failure.headline, failure.reason)
    return code


@click.command(name="verify-quote")
@click.argument("evidence", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--evidence-type",
    type=click.Choice([k.value for k in JUDGES]),
    help="Judge it as this kind, whatever it looks like.",
)
@click.option(
    "--collateral",
    type=READABLE,
    help="For SGX and TDX: JSON with the fields of QuoteCollateralV3, or a bundle.",
)
@click.option("--endorsement", type=READABLE, help="For SEV-SNP: the VCEK or VLEK (DER or PEM).")
@click.option(
    "--chain", type=READABLE, multiple=True, help="For SEV-SNP: ASK and ARK (PEM). Repeatable."
)
@click.option("--crl", type=READABLE, help="For SEV-SNP: the ARK's revocation list.")
@click.option(
    "--cert-chain",
    type=READABLE,
    help="For NVIDIA and TPM: the certificate chain of the device's key (PEM).",
)
@click.option(
    "--rim",
    "rims",
    type=READABLE,
    multiple=True,
    help="For NVIDIA: signed reference values (XML). Repeatable.",
)
@click.option(
    "--revocation",
    type=READABLE,
    multiple=True,
    help="For NVIDIA: OCSP responses or CRLs (DER). Repeatable.",
)
@click.option("--jwks", type=READABLE, help="For NVIDIA's EAT: the service's key set (JSON).")
@click.option(
    "--issuer", default=NRAS_ISSUER, show_default=True, help="For NVIDIA's EAT: who signed it."
)
@click.option("--signature", type=READABLE, help="For TPM quotes: the TPMT_SIGNATURE.")
@click.option("--pcrs", type=READABLE, help='For TPM quotes: {"<index>": "<hex>"} (JSON).')
@click.option(
    "--app-compose", type=READABLE, help="For dstack: the app-compose.json that must be running."
)
@click.option("--nonce", metavar="HEX", help="Demand this nonce (NVIDIA, Nitro, TPM, RA-TLS).")
@trust_options
@click.option(
    "--at", type=click.IntRange(min=0), metavar="UNIX", help="Judge at this time, not now."
)
@click.option("--report-data", metavar="HEX", help="Demand these 64 (or 32, zero-padded) bytes.")
@json_option
def verify_quote(
    *,
    evidence: tuple[str, ...],
    evidence_type: str | None,
    collateral: Path | None,
    endorsement: Path | None,
    chain: tuple[Path, ...],
    crl: Path | None,
    cert_chain: Path | None,
    rims: tuple[Path, ...],
    revocation: tuple[Path, ...],
    jwks: Path | None,
    issuer: str,
    signature: Path | None,
    pcrs: Path | None,
    app_compose: Path | None,
    nonce: str | None,
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    at: int | None,
    report_data: str | None,
    as_json: bool,
) -> int:
    """Verify evidence of any kind offline.

    SGX and TDX quotes, SEV-SNP reports, AWS Nitro documents, TPM quotes, NVIDIA GPU and
    NVSwitch evidence, reference values and EAT tokens, RA-TLS certificates, and the bundles
    of Azure's confidential VMs and of dstack guests.

    FILE is binary or hex, or - for stdin; its kind is told by its content. Without --root
    the vendors' own roots are trusted. Several FILEs are judged one by one with the same
    options, and the exit code is that of the first refusal.
    """
    expected = _hex("report-data", report_data, (32, 64))
    given = Given(
        policy=read_policy(policy, measurement),
        roots=read_roots(root),
        named_roots=bool(root),
        now=int(time.time()) if at is None else at,
        report_data=None if expected is None else expected.ljust(64, b"\0"),
        collateral=collateral,
        endorsement=endorsement,
        chain=chain,
        crl=crl,
        cert_chain=cert_chain,
        rims=rims,
        revocation=revocation,
        jwks=jwks,
        issuer=issuer,
        signature=signature,
        pcrs=pcrs,
        app_compose=app_compose,
        nonce=_hex("nonce", nonce, tuple(range(1, 1025))),
    )
    if len(evidence) > 1:
        return _judge_each(evidence, evidence_type, given, as_json=as_json)
    _tell(judge(read_quote(evidence[0]), evidence_type, given), given, as_json=as_json)
    return 0
