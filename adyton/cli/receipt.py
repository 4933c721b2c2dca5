"""`adyton receipt`: fetch a receipt over a verified channel; judge one offline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adyton.cli.failures import NotDone
from adyton.cli.options import (
    READABLE,
    api_key_option,
    build_trust,
    gpu_options,
    json_option,
    trust_options,
    url_option,
)
from adyton.cli.output import Steps, print_json, print_simulated
from adyton.cli.verify import REPORT_FORMAT, utc

if TYPE_CHECKING:
    from adyton.bundle import Bundle
    from attestation.receipts import Receipt
    from attestation.report import AttestedNode


@click.group(name="receipt")
def receipt() -> None:
    """Fetch receipts, and verify them offline."""


def receipt_json(checked: Receipt, node: AttestedNode) -> dict[str, Any]:
    """What a verified receipt says, as `--json` prints it."""
    report = node.appraisal.report
    return {
        "verdict": "accept",
        "reason": None,
        "receipt_id": checked.receipt_id,
        "chat_id": checked.chat_id,
        "model": checked.model,
        "model_digest": checked.model_digest,
        "endpoint": checked.endpoint,
        "served_at": checked.served_at,
        "truncated": checked.truncated,
        "checked_request": checked.checked_request,
        "checked_response": checked.checked_response,
        "keyset_digest": checked.keyset_digest,
        "tee": report.tee,
        "simulated": node.simulated,
        "tcb_status": report.tcb_status,
        "measurement": report.measurement,
        "policy": node.appraisal.policy_name,
        "inspection_only": node.appraisal.inspection_only,
    }


@receipt.command(name="get")
@click.argument("receipt_id", metavar="ID")
@url_option
@trust_options
@gpu_options
@api_key_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the bundle here instead of stdout.",
)
@json_option
def get(
    *,
    receipt_id: str,
    url: str,
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    rim: tuple[Path, ...],
    revocation: tuple[Path, ...],
    api_key: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Fetch receipt ID from a verified node, check its signature, print it as a bundle.

    The API key must be the one that made the request.
    """
    from adyton.bundle import Bundle, write_private
    from adyton.endpoint import Endpoint
    from adyton.receipts import ReceiptLog
    from adyton.transport import VerifyingTransport
    from adyton.trust import parse_object
    from attestation.receipts import verify_receipt

    trust = build_trust(root, policy, measurement, rim=rim, revocation=revocation)
    log = ReceiptLog("off", folder=None, bodies=False)
    transport = VerifyingTransport(Endpoint.parse(url), trust, log)
    try:
        answer, established = transport.fetch_receipt(receipt_id, api_key)
    finally:
        transport.close()
    if answer.status in (401, 404):
        raise NotDone(
            "the node has no such receipt for this API key"
            if answer.status == 404
            else "the receipt belongs to an API key; give it with --api-key"
        )
    if answer.status != 200:
        raise NotDone(f"the node answered HTTP {answer.status}")
    document = parse_object(answer.body, "receipt")
    checked = verify_receipt(document, established.keyset)
    if receipt_id not in {checked.receipt_id, checked.chat_id}:
        raise NotDone("the node answered with a receipt of another exchange")
    bundle = Bundle(
        report=established.report,
        nonce=established.nonce,
        receipt=document,
        received_at=established.verified_at_unix,
    )
    if out is not None:
        write_private(out, bundle.to_json())
        if as_json:
            print_json(receipt_json(checked, established.node) | {"file": str(out)})
        else:
            _narrate(checked, established.node)
            click.echo(f"  written to {out}")
    else:
        print_json(bundle.to_json())


def _read_bundle(file: Path, report: Path | None, nonce: str | None) -> Bundle:
    """The bundle in `file`, or one put together from a bare receipt and a report."""
    from adyton.bundle import FORMAT, Bundle, read_json
    from adyton.errors import MalformedResponse

    document = read_json(file, "receipt")
    if not isinstance(document, Mapping):
        raise MalformedResponse("receipt", "must be a JSON object")
    bundle = Bundle.from_json(document) if document.get("format") == FORMAT else None
    if report is None:
        if bundle is None:
            raise click.UsageError(f"{file} is a bare receipt: name the report with --report")
        return bundle
    kept = read_json(report, "report")
    if not isinstance(kept, Mapping):
        raise MalformedResponse("report", "must be a JSON object")
    if kept.get("format") in (REPORT_FORMAT, FORMAT):
        kept, nonce = kept.get("report", {}), kept.get("nonce") if nonce is None else nonce
    return Bundle.from_json(
        {
            **({"receipt": document} if bundle is None else bundle.to_json()),
            "format": FORMAT,
            "report": kept,
            "nonce": nonce,
        }
    )


@receipt.command(name="verify")
@click.argument("file", type=READABLE)
@click.option("--report", type=READABLE, help="The node's report, where FILE does not hold one.")
@click.option("--nonce", metavar="HEX", help="The nonce of a bare --report; default: none.")
@click.option("--request", type=READABLE, help="The exact request body to check.")
@click.option("--response", type=READABLE, help="The exact response body to check.")
@trust_options
@gpu_options
@click.option(
    "--at", type=click.IntRange(min=0), metavar="UNIX", help="Judge at this time, not now."
)
@json_option
def verify(
    *,
    file: Path,
    report: Path | None,
    nonce: str | None,
    request: Path | None,
    response: Path | None,
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    rim: tuple[Path, ...],
    revocation: tuple[Path, ...],
    at: int | None,
    as_json: bool,
) -> None:
    """Verify FILE, a bundle or a bare receipt, offline.

    The report's evidence is judged as it was then: for an old receipt give --at, a time
    at which its keyset and collateral were valid.
    """
    from dataclasses import replace

    trust = build_trust(root, policy, measurement, rim=rim, revocation=revocation)
    bundle = _read_bundle(file, report, nonce)
    if request is not None:
        bundle = replace(bundle, request_body=request.read_bytes())
    if response is not None:
        bundle = replace(bundle, response_body=response.read_bytes())
    node, checked = bundle.verify(trust, now=int(time.time()) if at is None else at)
    if as_json:
        print_json(receipt_json(checked, node))
    else:
        _narrate(checked, node)


def _narrate(checked: Receipt, node: AttestedNode) -> None:
    steps = Steps(quiet=False)
    report = node.appraisal.report
    steps.ok("keyset is attested", f"{report.tee}, measurement {report.measurement}")
    steps.ok("receipt is signed by it", f"receipt {checked.receipt_id}, key {checked.key_id}")
    for name, done in (
        ("request", checked.checked_request),
        ("response", checked.checked_response),
    ):
        if done:
            steps.ok(f"{name} bytes are the ones in the receipt")
        else:
            steps.note(f"{name} bytes not given, so not checked", warn=True)
    steps.note(
        f"served {utc(checked.served_at)} by {checked.model}, weights {checked.model_digest}"
    )
    if checked.truncated is not None:
        steps.note(f"the response was cut short: {checked.truncated}", warn=True)
    if node.simulated:
        print_simulated()
    if node.appraisal.inspection_only:
        steps.note("inspection only: this policy accepts any workload", warn=True)
