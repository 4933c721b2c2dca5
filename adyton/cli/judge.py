"""One kind of evidence, judged offline: what to read beside it, and which verifier decides.

Each judge reads the files its kind needs from `Given`, verifies, asks the policy, and
returns a `Judgement` or raises the error that says why not. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from adyton.cli.output import tcb_line
from attestation.evidence.kind import EvidenceKind

if TYPE_CHECKING:
    from attestation.collateral.model import Collateral
    from attestation.policy import Appraisal, Policy
    from attestation.policy.appraisal import Claim
    from attestation.verify import DcapReport, VerifiedReport
    from attestation.verify.snp_report import SnpReport

MAX_FILE_BYTES: Final = 8 << 20
NRAS_ISSUER: Final = "https://nras.attestation.nvidia.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a person gave beside the evidence. Files are read when a judge needs them."""

    policy: Policy
    roots: tuple[bytes, ...]
    named_roots: bool
    now: int
    report_data: bytes | None = None
    nonce: bytes | None = None
    collateral: Path | None = None
    endorsement: Path | None = None
    chain: tuple[Path, ...] = ()
    crl: Path | None = None
    cert_chain: Path | None = None
    rims: tuple[Path, ...] = ()
    revocation: tuple[Path, ...] = ()
    jwks: Path | None = None
    issuer: str = NRAS_ISSUER
    signature: Path | None = None
    pcrs: Path | None = None
    app_compose: Path | None = None

    def read(self, option: str) -> bytes:
        """The contents of the file given as `option`. Raises UsageError when none was."""
        path: Path | None = getattr(self, option.replace("-", "_"))
        if path is None:
            hint = "; `adyton collateral fetch` gets it" if option == "collateral" else ""
            raise click.UsageError(f"this kind of evidence needs --{option} FILE{hint}")
        return read_file(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Evidence that is authentic and wanted, as it is told. `lines` are (check, detail)."""

    tee: str
    facts: Mapping[str, Any]
    claims: Mapping[str, Claim] = field(default_factory=dict)
    lines: tuple[tuple[str, str], ...]
    simulated: bool = False


def read_file(path: Path) -> bytes:
    """The contents of a file a person named. Raises UsageError when it is not a sane one."""
    try:
        with path.open("rb") as f:
            data = f.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise click.UsageError(f"{path}: {e.strerror or e}") from None
    if len(data) > MAX_FILE_BYTES:
        raise click.UsageError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    return data


def report_facts(report: VerifiedReport) -> dict[str, Any]:
    """What verification found of CPU evidence, for the JSON output."""
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


@contextmanager
def _carrying(facts: Mapping[str, Any]) -> Iterator[None]:
    """A policy's refusal within still tells what was found to be authentic."""
    from attestation.errors import PolicyError

    try:
        yield
    except PolicyError as e:
        e.__dict__["json_extra"] = dict(facts)
        raise


def _judged(report: VerifiedReport, given: Given) -> Judgement:
    from attestation.policy import evaluate

    with _carrying(report_facts(report)):
        appraisal = evaluate(report, given.policy, report_data=given.report_data, now=given.now)
    return _told(appraisal)


def _told(appraisal: Appraisal) -> Judgement:
    report = appraisal.report
    return Judgement(
        tee=report.tee,
        facts=report_facts(report),
        claims=appraisal.claims,
        lines=(
            ("authentic", f"{report.tee} evidence, root sha256 {report.root_sha256}"),
            ("platform TCB", tcb_line(report)),
            (
                f"policy {appraisal.policy_name}",
                f"{report.measurement_name} {report.measurement}",
            ),
        ),
        simulated=report.simulated,
    )


def _collateral(quote: bytes, given: Given) -> Collateral:
    from attestation.collateral.bundle import collateral_for

    return collateral_for(given.read("collateral"), quote)


def _dcap(data: bytes, given: Given) -> Judgement:
    from attestation.verify import verify_quote

    return _judged(verify_quote(data, _collateral(data, given), given.roots, given.now), given)


def _snp(data: bytes, given: Given) -> Judgement:
    from attestation.collateral.snp import SnpEndorsements
    from attestation.verify.snp import verify_snp

    if given.collateral is not None:
        from attestation.collateral.bundle import endorsements_for

        endorsements = endorsements_for(given.read("collateral"), data)
    else:
        chain = b"\n".join(read_file(path) for path in given.chain)
        crl = None if given.crl is None else read_file(given.crl)
        endorsements = SnpEndorsements.from_files(given.read("endorsement"), chain, crl)
    return _judged(verify_snp(data, endorsements, given.roots, given.now), given)


def _nitro(data: bytes, given: Given) -> Judgement:
    from attestation.verify.nitro import verify_nitro

    return _judged(verify_nitro(data, given.roots, given.now, nonce=given.nonce), given)


def _rim_roots(given: Given) -> tuple[bytes, ...]:
    """Reference values chain to a root of their own, which vouches for no evidence."""
    from attestation.roots import NVIDIA_RIM_ROOT

    return given.roots if given.named_roots else (NVIDIA_RIM_ROOT,)


def _revocation(given: Given) -> tuple[bytes, ...]:
    return tuple(read_file(path) for path in given.revocation)


def _nvidia(data: bytes, given: Given) -> Judgement:
    from attestation.policy.evaluate import evaluate_gpus
    from attestation.verify.nvidia import verify_gpu
    from attestation.verify.nvidia_rim import verify_rim

    revocation = _revocation(given)
    rims = [
        verify_rim(read_file(path), _rim_roots(given), given.now, revocation=revocation)
        for path in given.rims
    ]
    gpu = verify_gpu(
        data,
        given.read("cert-chain"),
        given.roots,
        given.now,
        nonce=given.nonce,
        rims=rims,
        revocation=revocation,
    )
    facts = {"tee": gpu.kind, "simulated": False, **gpu.facts()}
    with _carrying(facts):
        evaluate_gpus([gpu], given.policy, nonce=given.nonce, now=given.now)
    return Judgement(
        tee=gpu.kind,
        facts=facts,
        lines=(
            ("authentic", f"{gpu.kind} {gpu.hwmodel}, root sha256 {gpu.root_sha256}"),
            ("nonce", "checked" if gpu.nonce_checked else "not known, so not checked"),
            ("firmware", "compared with signed reference values" if gpu.measured else "unknown"),
            (f"policy {given.policy.name}", f"driver {gpu.driver_version}"),
        ),
    )


def _rim(data: bytes, given: Given) -> Judgement:
    from attestation.verify.nvidia_rim import verify_rim

    rim = verify_rim(data, _rim_roots(given), given.now, revocation=_revocation(given))
    facts = {
        "tee": "nvidia-rim",
        "simulated": False,
        "sha256": rim.sha256,
        "root_sha256": rim.root_sha256,
        "endorsements_not_before": rim.endorsements_not_before,
        "endorsements_not_after": rim.endorsements_not_after,
        "revocation_checked": rim.revocation_checked,
        "held": list(rim.held),
    }
    line = ("authentic", f"reference values, root sha256 {rim.root_sha256}")
    return Judgement(tee="nvidia-rim", facts=facts, lines=(line,))


def _eat(data: bytes, given: Given) -> Judgement:
    from attestation.policy.evaluate import evaluate_gpus
    from attestation.verify.nras import verify_nras

    devices = verify_nras(
        data,
        given.read("jwks"),
        given.issuer,
        given.now,
        nonce=given.nonce,
        roots=given.roots if given.named_roots else (),
    )
    facts = {
        "tee": "nvidia-eat",
        "simulated": False,
        "devices": [{"name": device.name, **device.facts()} for device in devices],
    }
    with _carrying(facts):
        evaluate_gpus(devices, given.policy, nonce=given.nonce, now=given.now)
    lines = tuple((f"{d.name} accepted by {d.issuer}", d.hwmodel) for d in devices)
    return Judgement(tee="nvidia-eat", facts=facts, lines=lines)


def _tpm(data: bytes, given: Given) -> Judgement:
    """A TPM quote alone: its key's certificates vouch for it, up to a root a person names."""
    from attestation.canonical import loads_strict
    from attestation.verify.tpm import verify_tpm
    from attestation.verify.tpm_key import certified_key
    from attestation.x509 import read_chain

    if not given.named_roots:
        raise click.UsageError("a TPM's key is certified by a CA of your choice: name its --root")
    chain = [c.der for c in read_chain("cert-chain", given.read("cert-chain"))]
    key = certified_key(chain, given.roots, given.now)
    pcrs = _registers(loads_strict(given.read("pcrs"), "pcrs"))
    report = verify_tpm(data, given.read("signature"), pcrs, key, given.now, nonce=given.nonce)
    return _judged(report, given)


def _registers(document: Any) -> dict[int, bytes]:
    """PCR values from `{"0": hex, ..}`. Raises MalformedEvidence."""
    from attestation.errors import MalformedEvidence

    try:
        return {int(name): bytes.fromhex(value) for name, value in document.items()}
    except (AttributeError, TypeError, ValueError):
        raise MalformedEvidence("pcrs", 'must be {"<index>": "<hex>"}') from None


def _json(data: bytes, given: Given) -> Judgement:
    """A bundle that holds evidence: Azure's, or a dstack guest's answer to GetQuote."""
    from attestation.canonical import loads_strict
    from attestation.errors import MalformedEvidence

    document = loads_strict(data, "evidence")
    members = set(document) if isinstance(document, dict) else set()
    if members & {"hcl_report", "report"} and members & {"tpm_quote", "quote"}:
        return _azure(data, given)
    if {"quote", "event_log"} <= members:
        return _dstack(document, given)
    raise MalformedEvidence("evidence", "is JSON of no kind known here", 0)


def _azure(data: bytes, given: Given) -> Judgement:
    from attestation.collateral.snp import SnpEndorsements
    from attestation.evidence.azure import AzureBundle
    from attestation.evidence.hcl import HclReport
    from attestation.verify.azure import verify_azure_vtpm
    from attestation.verify.dcap import verify_quote
    from attestation.verify.snp import verify_snp

    bundle = AzureBundle.read(data)
    hardware: SnpReport | DcapReport
    if bundle.td_quote is not None:
        collateral = _collateral(bundle.td_quote, given)
        hardware = verify_quote(bundle.td_quote, collateral, given.roots, given.now)
    else:
        chain = b"\n".join(read_file(path) for path in given.chain)
        crl = None if given.crl is None else read_file(given.crl)
        endorsements = SnpEndorsements.from_files(bundle.vcek or b"", chain, crl)
        report = HclReport.read(bundle.hcl_report).hardware_report
        hardware = verify_snp(report, endorsements, given.roots, given.now)
    return _judged(verify_azure_vtpm(bundle, hardware, given.now, nonce=given.nonce), given)


def _dstack(document: Mapping[str, Any], given: Given) -> Judgement:
    from attestation.errors import MalformedEvidence
    from attestation.policy import evaluate
    from attestation.verify.dcap import verify_quote
    from attestation.verify.dstack import verify_dstack
    from attestation.verify.events import verify_events

    try:
        quote = bytes.fromhex(document["quote"])
    except (TypeError, ValueError):
        raise MalformedEvidence("evidence.quote", "not hex") from None
    log = document["event_log"]
    if not isinstance(log, str):
        raise MalformedEvidence("evidence.event_log", "must be a string of JSON")
    report = verify_quote(quote, _collateral(quote, given), given.roots, given.now)
    events = verify_events(log.encode(), report)
    config = document.get("vm_config")
    facts = verify_dstack(
        report,
        events,
        app_compose=None if given.app_compose is None else read_file(given.app_compose),
        vm_config=config if isinstance(config, str) else None,
    )
    known = {
        **report_facts(report),
        "event_registers": dict(events.registers),
        "app_id": facts.app_id,
        "compose_hash": facts.compose_hash,
        "instance_id": facts.instance_id,
        "os_image_hash": facts.os_image_hash,
    }
    with _carrying(known):
        appraisal = evaluate(
            report,
            given.policy,
            report_data=given.report_data,
            now=given.now,
            events=events,
            dstack=facts,
        )
    told = _told(appraisal)
    lines = (*told.lines, ("event log", f"explains {', '.join(events.registers)}"))
    return replace(told, facts=known, lines=(*lines, ("dstack app", facts.app_id)))


def _ratls(data: bytes, given: Given) -> Judgement:
    from attestation.collateral.bundle import read_collateral_file
    from attestation.collateral.model import Collateral
    from attestation.ratls import appraise_certificate, certificate_der

    own = None if given.collateral is None else read_collateral_file(given.read("collateral"))
    if own is not None and not isinstance(own, Collateral):
        raise click.UsageError("--collateral: a certificate needs one collateral, not a bundle")
    peer = appraise_certificate(
        certificate_der(data),
        roots=given.roots,
        policy=given.policy,
        now=given.now,
        collateral=own,
        nonce=given.nonce,
    )
    told = _told(peer.appraisal)
    return replace(
        told,
        facts={**told.facts, "spki_sha256": peer.spki_sha256, "not_after": peer.not_after},
        lines=(*told.lines, ("key", f"sha256 {peer.spki_sha256} is bound by the evidence")),
    )


JUDGES: Final[dict[EvidenceKind, Callable[[bytes, Given], Judgement]]] = {
    EvidenceKind.SGX: _dcap,
    EvidenceKind.TDX: _dcap,
    EvidenceKind.SEV_SNP: _snp,
    EvidenceKind.NITRO: _nitro,
    EvidenceKind.NVIDIA: _nvidia,
    EvidenceKind.NVIDIA_RIM: _rim,
    EvidenceKind.NVIDIA_EAT: _eat,
    EvidenceKind.TPM: _tpm,
    EvidenceKind.RATLS: _ratls,
    EvidenceKind.JSON: _json,
}
