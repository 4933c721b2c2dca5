"""Attestation reports: how a node states who it is, and how a client comes to believe it.

Spec: ACI section 4 (the document) and 9.1 (the checks). Our `evidence` carries `quote`
(hex: a DCAP quote, or an SEV-SNP report), `collateral` (the fields of dcap-qvl's
QuoteCollateralV3, or `{vek, chain, crl?}`), `simulated` (for people) and `key_custody`
(`{"kind": "generated" | "sealed" | "released"}`, asserted by the measured code). Beside them
may stand `event_log`, `vm_config`, `app_compose`, `ccel` and `gpus`: attestation.beside.
docs/spec/policy.md lists the steps that can fail.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from attestation.beside import GpuReferences, verify_boot, verify_gpus
from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import (
    CollateralError,
    Finding,
    MalformedEvidence,
    VerificationError,
)
from attestation.issuers.base import SEV_SNP, GpuEvidence, IssuedEvidence
from attestation.keyset import Keyset
from attestation.policy import Appraisal, Policy, evaluate
from attestation.statement import report_data
from attestation.verify.cpu import read_endorsements_json, verify_cpu

if TYPE_CHECKING:
    from attestation.verify.dstack import DstackFacts
    from attestation.verify.events import VerifiedEvents
    from attestation.verify.nvidia_gpu import VerifiedGpu

API_VERSION: Final = "aci/1"
MAX_KEYSET_LIFETIME_S: Final = 400 * 86400
"""A keyset that claims to be good for longer than this is refused (ACI 3.1, 3.4)."""

_MAX_QUOTE_HEX: Final = 2 << 16
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_TEE_TYPES: Final = {"sev-snp": SEV_SNP}
"""ACI's names of the kinds of evidence that go by another name here. ACI 4.2."""
_PROVENANCE: Final = ("repo_url", "repo_commit", "image_digest", "image_provenance")


def build_report(
    *,
    keyset: Keyset,
    nonce: str | None,
    evidence: IssuedEvidence,
    key_custody: Mapping[str, Any],
    gpus: Sequence[GpuEvidence] = (),
    source_provenance: Mapping[str, Any] | None = None,
    serving: str = "direct",
    supported_e2ee_versions: Sequence[str] = (),
) -> dict[str, Any]:
    """The report a node serves for `nonce`; `evidence` was issued over its report data, and
    `gpus` for the nonce made from it.

    `source_provenance` may leave members out: they are served as null, unknown.
    """
    given = source_provenance or {}
    quote: dict[str, Any] = {
        "quote": evidence.quote.hex(),
        "simulated": evidence.simulated,
        "key_custody": dict(key_custody),
    }
    if evidence.collateral is not None:
        quote["collateral"] = evidence.collateral.to_json()
    if evidence.boot is not None:
        quote |= evidence.boot.to_json()
    if gpus:
        quote["gpus"] = [gpu.to_json() for gpu in gpus]
    return {
        "api_version": API_VERSION,
        "workload_keyset_digest": keyset.digest,
        "attestation": {
            "tee_type": evidence.tee_type,
            "workload_keyset": dict(keyset.document),
            "report_data": report_data(keyset.digest, nonce)[:32].hex(),
            "source_provenance": {name: given.get(name) for name in _PROVENANCE},
            "evidence": quote,
        },
        "service_capabilities": {
            "supported_e2ee_versions": list(supported_e2ee_versions),
            "serving": serving,
        },
    }


@dataclass(frozen=True, slots=True)
class AttestedNode:
    """A node whose keyset is bound to evidence that a policy wants.

    `serving` is `direct` or `aggregator` (anything unknown counts as the latter).
    `fresh` says that the caller's own nonce is in the quote; without one, binding is
    proven but not when. `events`, `dstack` and `gpus` are what stood beside the quote and
    held; None and empty where nothing did.
    """

    keyset: Keyset
    appraisal: Appraisal
    serving: str
    simulated: bool
    fresh: bool
    report: Mapping[str, Any] = field(repr=False, compare=False)
    events: VerifiedEvents | None = field(default=None, repr=False)
    dstack: DstackFacts | None = None
    gpus: tuple[VerifiedGpu, ...] = field(default=(), repr=False)


def _object(parent: Mapping[str, Any], where: str, name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    if not isinstance(value, Mapping):
        raise MalformedEvidence(f"{where}.{name}", "must be an object")
    return value


def _text(parent: Mapping[str, Any], where: str, name: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str):
        raise MalformedEvidence(f"{where}.{name}", "must be a string")
    return value


def _quote(evidence: Mapping[str, Any]) -> bytes:
    text = _text(evidence, "report.attestation.evidence", "quote")
    if len(text) > _MAX_QUOTE_HEX:
        raise MalformedEvidence("report.attestation.evidence.quote", "too long")
    if not _HEX.fullmatch(text):
        raise MalformedEvidence("report.attestation.evidence.quote", "not hex")
    return bytes.fromhex(text)


def _endorsements(
    quote: bytes, evidence: Mapping[str, Any], given: Collateral | SnpEndorsements | None
) -> Collateral | SnpEndorsements:
    """The caller's collateral, which may be newer, else the report's own."""
    if given is not None:
        return given
    if evidence.get("collateral") is None:
        raise CollateralError("the report carries no collateral and the caller gave none")
    return read_endorsements_json(quote, evidence["collateral"])


def _check_keyset(keyset: Keyset, now: int) -> None:
    if now >= keyset.not_after:
        raise VerificationError("keyset.not_after", f"the keyset expired at {keyset.not_after}")
    if keyset.not_after - now > MAX_KEYSET_LIFETIME_S:
        raise VerificationError(
            "keyset.not_after", f"{keyset.not_after} is implausibly far in the future"
        )


def _check_equal(step: str, expected: str, actual: str) -> None:
    if not hmac.compare_digest(expected.encode(), actual.encode("utf-8", "replace")):
        raise VerificationError(step, f"{actual[:80]!r} is not {expected}")


def _custody_findings(evidence: Mapping[str, Any], policy: Policy) -> list[Finding]:
    if policy.key_custody is None:
        return []
    custody = evidence.get("key_custody")
    kind = custody.get("kind") if isinstance(custody, Mapping) else None
    if kind in policy.key_custody:
        return []
    wanted = "one of " + ", ".join(policy.key_custody)
    return [Finding("key_custody.kind", wanted, "nothing" if kind is None else repr(kind)[:64])]


def _provenance(attestation: Mapping[str, Any]) -> dict[str, Any]:
    """The stated source, each member well-formed or null. Raises MalformedEvidence."""
    where = "report.attestation.source_provenance"
    stated = attestation.get("source_provenance")
    if stated is None:
        return {}
    if not isinstance(stated, Mapping):
        raise MalformedEvidence(where, "must be an object or null")
    for name in ("repo_url", "repo_commit", "image_digest"):
        value = stated.get(name)
        if value is not None and not isinstance(value, str):
            raise MalformedEvidence(f"{where}.{name}", "must be a string or null")
    commit, image = stated.get("repo_commit"), stated.get("image_digest")
    if commit is not None and not _COMMIT.fullmatch(commit):
        raise MalformedEvidence(f"{where}.repo_commit", "must be a full commit id")
    if image is not None and not _DIGEST.fullmatch(image):
        raise MalformedEvidence(f"{where}.image_digest", "must be sha256:<64 hex>")
    return dict(stated)


def _provenance_findings(stated: Mapping[str, Any], policy: Policy) -> list[Finding]:
    wanted = policy.source
    out = []
    named = stated.get("image_digest") or (stated.get("repo_url") and stated.get("repo_commit"))
    if wanted.required and not named:
        out.append(
            Finding("source_provenance", "repo_url with repo_commit, or image_digest", "neither")
        )
    for name in ("repo_url", "repo_commit", "image_digest"):
        expected, actual = getattr(wanted, name), stated.get(name)
        if expected is not None and actual != expected:
            out.append(Finding(f"source_provenance.{name}", expected, str(actual)[:256]))
    return out


def appraise_report(
    report: Any,
    *,
    nonce: str | None,
    roots: Sequence[bytes],
    policy: Policy,
    now: int,
    collateral: Collateral | SnpEndorsements | None = None,
    gpu_rims: Sequence[bytes] = (),
    gpu_rim_roots: Sequence[bytes] = (),
    gpu_revocation: Sequence[bytes] = (),
) -> AttestedNode:
    """The node behind `report` is one `policy` wants, and these are its keys.

    `nonce` is the one the caller chose for this report, or None when it chose none. Event
    logs and GPUs that the report shows must hold: `gpu_rims` are NVIDIA's reference values
    (XML), signed under one of `gpu_rim_roots` (DER); `gpu_revocation` OCSP responses and
    CRLs (DER). They are read only where a GPU is shown.
    ACI 9.1 checks 1 to 5; check 6, the channel, is the caller's: compare the observed TLS
    key with `keyset.tls_public_keys`. Raises MalformedEvidence, CollateralError,
    VerificationError naming the step, or PolicyError with every finding.
    """
    if not isinstance(report, Mapping):
        raise MalformedEvidence("report", "must be an object")
    if report.get("api_version") != API_VERSION:
        raise VerificationError("api_version", f"is not {API_VERSION}")
    attestation = _object(report, "report", "attestation")
    evidence = _object(attestation, "report.attestation", "evidence")
    tee_type = _text(attestation, "report.attestation", "tee_type")
    stated_data = _text(attestation, "report.attestation", "report_data")
    stated_digest = _text(report, "report", "workload_keyset_digest")

    keyset = Keyset.from_json(attestation.get("workload_keyset"))
    _check_equal("workload_keyset_digest", keyset.digest, stated_digest)
    expected = report_data(keyset.digest, nonce)
    _check_equal("report_data", expected[:32].hex(), stated_data)
    _check_keyset(keyset, now)

    quote = _quote(evidence)
    verified = verify_cpu(quote, _endorsements(quote, evidence, collateral), roots, now)
    if tee_type != _TEE_TYPES.get(verified.tee, verified.tee):
        raise VerificationError("tee_type", f"{tee_type[:32]!r}, but the quote is {verified.tee}")
    if not hmac.compare_digest(verified.report_data, expected):
        raise VerificationError("report_data", "the quote is not over this keyset and nonce")
    boot = verify_boot(evidence, verified)
    references = GpuReferences(gpu_rims, gpu_rim_roots, gpu_revocation)
    gpus = verify_gpus(evidence, expected, roots, now, references)

    appraisal = evaluate(
        verified,
        policy,
        report_data=expected,
        now=now,
        gpus=gpus,
        events=boot.events,
        dstack=boot.dstack,
        other_findings=(
            *_custody_findings(evidence, policy),
            *_provenance_findings(_provenance(attestation), policy),
        ),
    )
    capabilities = report.get("service_capabilities")
    serving = capabilities.get("serving") if isinstance(capabilities, Mapping) else None
    return AttestedNode(
        keyset=keyset,
        appraisal=appraisal,
        serving="direct" if serving == "direct" else "aggregator",
        simulated=verified.simulated or evidence.get("simulated") is True,
        fresh=nonce is not None,
        report=report,
        events=boot.events,
        dstack=boot.dstack,
        gpus=gpus,
    )
