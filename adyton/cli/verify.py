"""`adyton verify`: every check of ACI section 9.1 on one node, each as a line."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.options import build_trust, gpu_options, json_option, trust_options
from adyton.cli.output import Steps, print_json, print_simulated, tcb_line
from attestation.errors import (
    AttestationError,
    MalformedEvidence,
    PolicyError,
    VerificationError,
)

if TYPE_CHECKING:
    from adyton.trust import Established, Trust
    from attestation.report import AttestedNode
    from attestation.verify.dstack import DstackFacts

REPORT_FORMAT: Final = "adyton-report/1"


def utc(seconds: int) -> str:
    """Unix seconds for people; the number itself where no calendar reaches."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def established_json(established: Established) -> dict[str, Any]:
    """What was established, as `adyton verify --json` prints it."""
    node = established.node
    appraisal = node.appraisal
    report = appraisal.report
    return {
        "verdict": "accept",
        "reason": None,
        "tee": report.tee,
        "simulated": node.simulated,
        "tcb_status": report.tcb_status,
        "measurement": report.measurement,
        "measurements": dict(report.measurements),
        "keyset_digest": established.keyset_digest,
        "not_after": established.keyset.not_after,
        "subject": established.keyset.subject,
        "tls_spki_sha256": established.spki_sha256,
        "nonce": established.nonce,
        "serving": node.serving,
        "claims": {k: c.to_json() for k, c in appraisal.claims.items()},
        "findings": [],
        "policy": appraisal.policy_name,
        "inspection_only": appraisal.inspection_only,
        "root_sha256": report.root_sha256,
        "event_registers": {} if node.events is None else dict(node.events.registers),
        "dstack": None if node.dstack is None else _dstack_json(node.dstack),
        "gpus": [gpu.facts() for gpu in node.gpus],
        **report.facts(),
    }


def _dstack_json(facts: DstackFacts) -> dict[str, Any]:
    return {
        "app_id": facts.app_id,
        "app_id_is_compose_hash": facts.app_id_is_compose_hash,
        "compose_hash": facts.compose_hash,
        "instance_id": facts.instance_id,
        "os_image_hash": facts.os_image_hash,
    }


def _narrate_beside(steps: Steps, node: AttestedNode) -> None:
    """What stood beside the quote, and held."""
    if node.events is not None and node.events.registers:
        steps.ok("event log was replayed", f"it explains {', '.join(node.events.registers)}")
    elif node.events is not None:
        steps.note("the event log explains no register of the evidence", warn=True)
    if node.dstack is not None:
        app, compose = node.dstack.app_id, node.dstack.compose_hash
        steps.ok("dstack application", f"{app}, compose hash {compose}")
    for i, gpu in enumerate(node.gpus):
        firmware = "compared with signed values" if gpu.measured else "not compared"
        revoked = "checked" if gpu.revocation_checked else "not checked"
        steps.ok(
            f"GPU {i} answered for this report",
            f"{gpu.hwmodel} {gpu.device_id}, driver {gpu.driver_version}\n"
            f"firmware {firmware}; revocation {revoked}; root sha256 {gpu.root_sha256}",
        )


def narrate(steps: Steps, established: Established) -> None:
    """One line for each check that held."""
    node = established.node
    report, keyset = node.appraisal.report, established.keyset
    steps.ok(
        "evidence is authentic",
        f"{report.tee} evidence, signed up to root sha256 {report.root_sha256}",
    )
    steps.ok("platform TCB", tcb_line(report))
    steps.ok("report is fresh", f"our nonce {established.nonce} is in the signed report data")
    _narrate_beside(steps, node)
    steps.ok("keyset is the attested one", established.keyset_digest)
    steps.ok("keyset is current", f"until {utc(keyset.not_after)}")
    steps.ok(
        f"policy {node.appraisal.policy_name} is met",
        f"{report.measurement_name} {report.measurement}",
    )
    steps.ok(
        "channel ends in the attested node",
        f"TLS key sha256 {established.spki_sha256} is in the keyset",
    )


def narrate_refusal(steps: Steps, error: AttestationError) -> None:
    """The line for the check that did not hold; what came after it was not looked at."""
    if isinstance(error, PolicyError):
        # Policy looks at nothing before the quote, the keyset and the nonce have held.
        steps.ok("evidence is authentic")
        steps.ok("report is fresh and binds the keyset")
        for finding in error.findings:
            steps.fail(
                f"policy: {finding.field}", f"expected {finding.expected}\ngot {finding.actual}"
            )
    elif isinstance(error, VerificationError):
        steps.fail(f"check failed: {error.step}", error.detail)
    elif isinstance(error, MalformedEvidence):
        steps.fail(f"malformed: {error.field}", error.detail)
    else:
        steps.fail("could not be judged", str(error))


def hints_for(error: AttestationError, trust: Trust, body: bytes) -> tuple[str, ...]:
    """What a person may have overlooked. Reads the unverified report, and says no more."""
    from attestation.canonical import loads_strict

    hints = []
    if isinstance(error, VerificationError) and error.step == "root":
        try:
            evidence = loads_strict(body)["attestation"]["evidence"]
            simulated = evidence.get("simulated") is True
        except (MalformedEvidence, KeyError, TypeError, AttributeError):
            simulated = False
        if simulated:
            hints.append(
                "the node calls itself SIMULATED; a simulator is believed only under the root "
                "you name with --root"
            )
    if isinstance(error, PolicyError) and any(
        f.field.startswith("measurements.") for f in error.findings
    ):
        hints.append(
            "pin the measurement you expect with --measurement, or look first with --policy genuine"
        )
    if isinstance(error, PolicyError) and any(
        f.field.startswith("gpu[") and f.field.endswith((".rim", ".revocation"))
        for f in error.findings
    ):
        hints.append(
            "give NVIDIA's signed reference values with --rim and its OCSP responses or CRLs "
            "with --revocation"
        )
    return tuple(hints)


def save_report(path: Path, established: Established) -> None:
    """Keep the report and the nonce it answers, for `adyton receipt verify --report`."""
    from adyton.bundle import write_private

    write_private(
        path,
        {
            "format": REPORT_FORMAT,
            "report": established.report,
            "nonce": established.nonce,
            "verified_at": established.verified_at_unix,
        },
    )


def run_verification(url: str, trust: Trust, steps: Steps) -> Established:
    """Fetch and judge, telling each step. Raises AttestationError, with hints for people."""
    from adyton.endpoint import Endpoint
    from adyton.fetch import fetch_report
    from adyton.pinning import spki_sha256
    from adyton.trust import fresh_nonce, judge_report

    endpoint = Endpoint.parse(url)
    steps.title(f"Verifying {endpoint.origin}")
    nonce = fresh_nonce()
    started = time.monotonic()
    try:
        answer = fetch_report(endpoint, nonce)
    except AttestationError as e:
        steps.fail("no report", str(e))
        raise
    key = spki_sha256(answer.certificate_der)
    steps.ok(
        "report received",
        f"{len(answer.body)} bytes over {answer.tls_version}; TLS key sha256 {key}",
        took_s=time.monotonic() - started,
    )
    try:
        established = judge_report(
            trust,
            endpoint,
            status=answer.status,
            body=answer.body,
            nonce=nonce,
            certificate_der=answer.certificate_der,
        )
    except AttestationError as e:
        narrate_refusal(steps, e)
        e.__dict__["hints"] = hints_for(e, trust, answer.body)
        raise
    narrate(steps, established)
    return established


@click.command(name="verify")
@click.argument("url", metavar="URL")
@trust_options
@gpu_options
@click.option(
    "--save-report",
    "report_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Keep the verified report, for verifying receipts offline.",
)
@click.option(
    "--save-cert",
    "cert_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Keep the node's certificate (PEM), for other clients to pin.",
)
@json_option
def verify(
    *,
    url: str,
    root: tuple[Path, ...],
    policy: str,
    measurement: str | None,
    rim: tuple[Path, ...],
    revocation: tuple[Path, ...],
    report_file: Path | None,
    cert_file: Path | None,
    as_json: bool,
) -> None:
    """Verify the node at URL: its hardware evidence, its keys, and this channel.

    Nothing is sent to the node but a random nonce.
    """
    import ssl

    steps = Steps(quiet=as_json)
    trust = build_trust(root, policy, measurement, rim=rim, revocation=revocation)
    established = run_verification(url, trust, steps)
    if report_file is not None:
        save_report(report_file, established)
    if cert_file is not None:
        cert_file.write_text(ssl.DER_cert_to_PEM_cert(established.certificate_der), "ascii")
    if as_json:
        print_json(established_json(established) | {"url": url})
        return
    node = established.node
    click.echo()
    if node.simulated:
        print_simulated()
    if node.appraisal.inspection_only:
        steps.note(
            f"inspection only: policy {node.appraisal.policy_name} accepts any workload; to rely "
            "on this node, read its code, then pin what you read:",
            warn=True,
        )
        steps.note(f"--measurement {node.appraisal.report.measurement}")
    click.secho("  verified", fg="green", bold=True)
