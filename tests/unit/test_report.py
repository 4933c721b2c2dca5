"""A report is believed only as a whole: evidence, keyset, nonce, time and policy agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import attested
import pytest
import snp_pki
from attested import NONCE, NOW, changed, platform, report

from attestation.collateral.snp import SnpEndorsements
from attestation.errors import (
    CollateralError,
    Finding,
    MalformedEvidence,
    PolicyError,
    VerificationError,
)
from attestation.evidence.snp import GuestPolicy
from attestation.issuers.base import IssuedEvidence
from attestation.issuers.simulator import AmdAuthority, SimulatedSnp
from attestation.issuers.simulator.snp import HEALTHY_POLICY
from attestation.keyset import KeyEntry
from attestation.policy import Policy, load_policy
from attestation.report import MAX_KEYSET_LIFETIME_S, AttestedNode, appraise_report, build_report
from attestation.roots import PRODUCTION_ROOTS
from attestation.statement import report_data

GENUINE = load_policy("genuine")
SOURCE = {
    "repo_url": "https://example.com/repo",
    "repo_commit": "ab" * 20,
    "image_digest": "sha256:" + "cd" * 32,
}


def pinned(tee: str = "tdx") -> Policy:
    raw = attested.verify("sgx-v3" if tee == "sgx" else "tdx-v4")
    return load_policy("strict").with_measurement(raw.measurement)


def appraise(document: Any, **options: Any) -> AttestedNode:
    return appraise_report(
        document,
        **{
            "nonce": NONCE,
            "roots": [platform().root_der],
            "policy": pinned(),
            "now": NOW,
            **options,
        },
    )


def refused(step: str, document: Any, **options: Any) -> None:
    with pytest.raises(VerificationError) as e:
        appraise(document, **options)
    assert e.value.step == step


def unwanted(document: Any, **options: Any) -> set[str]:
    with pytest.raises(PolicyError) as e:
        appraise(document, **options)
    return {f.field for f in e.value.findings}


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_served_report_is_believed_under_strict(tee: str) -> None:
    served = json.loads(json.dumps(report(tee)))
    node = appraise(served, policy=pinned(tee))
    assert node.keyset == attested.keyset()
    assert node.appraisal.report.tee == tee
    assert node.appraisal.claims["tee_attested"].status == "asserted"
    assert (node.serving, node.fresh, node.simulated) == ("direct", True, True)
    assert node.report is served


def test_the_document_has_exactly_the_members_of_the_specification() -> None:
    document = report(source_provenance=SOURCE, supported_e2ee_versions=("2",))
    assert set(document) == {
        "api_version",
        "workload_keyset_digest",
        "attestation",
        "service_capabilities",
    }
    assert set(document["attestation"]) == {
        "tee_type",
        "workload_keyset",
        "report_data",
        "source_provenance",
        "evidence",
    }
    assert document["attestation"]["source_provenance"] == {**SOURCE, "image_provenance": None}
    assert len(document["attestation"]["report_data"]) == 64
    assert set(document["attestation"]["evidence"]) == {
        "quote",
        "collateral",
        "simulated",
        "key_custody",
    }
    assert document["service_capabilities"] == {
        "supported_e2ee_versions": ["2"],
        "serving": "direct",
    }


def test_unchallenged_report_proves_binding_but_no_freshness() -> None:
    node = appraise(report(nonce=None), nonce=None)
    assert not node.fresh


def test_replayed_report_does_not_answer_a_new_nonce() -> None:
    refused("report_data", report(), nonce="11" * 32)
    refused("report_data", report(nonce=None))
    refused("report_data", report(), nonce=None)


def test_restated_report_data_does_not_help_an_old_quote() -> None:
    fresh = report_data(attested.keyset().digest, "11" * 32)[:32].hex()
    replayed = changed(report(), "attestation.report_data", fresh)
    refused("report_data", replayed, nonce="11" * 32)


def test_keys_beside_the_quote_are_not_believed() -> None:
    swapped = attested.keyset(receipt_signing_keys=(KeyEntry("receipt-1", "ed25519", "ab" * 32),))
    document = changed(report(), "attestation.workload_keyset", dict(swapped.document))
    refused("workload_keyset_digest", document)
    consistent = changed(document, "workload_keyset_digest", swapped.digest)
    refused("report_data", consistent)
    data = report_data(swapped.digest, NONCE)[:32].hex()
    refused("report_data", changed(consistent, "attestation.report_data", data))


def test_member_slipped_into_the_keyset_changes_its_digest() -> None:
    refused("workload_keyset_digest", changed(report(), "attestation.workload_keyset.extra", 1))


def test_expired_keyset_is_refused() -> None:
    keys = attested.keyset(not_after=NOW)
    refused("keyset.not_after", report(keys=keys))
    assert appraise(report(keys=keys), now=NOW - 1)


def test_keyset_that_never_expires_is_refused() -> None:
    limit = NOW + MAX_KEYSET_LIFETIME_S
    assert appraise(report(keys=attested.keyset(not_after=limit)))
    refused("keyset.not_after", report(keys=attested.keyset(not_after=limit + 1)))


def test_evidence_of_one_tee_does_not_pass_for_another() -> None:
    refused("tee_type", changed(report("sgx"), "attestation.tee_type", "tdx"), policy=GENUINE)
    refused("tee_type", changed(report("tdx"), "attestation.tee_type", "sev_snp"), policy=GENUINE)


def test_simulated_node_is_refused_under_production_roots() -> None:
    refused("root", report(), roots=PRODUCTION_ROOTS)


def test_other_protocol_version_is_refused() -> None:
    refused("api_version", changed(report(), "api_version", "aci/2"))
    refused("api_version", changed(report(), "api_version", ...))


def test_wrong_measurement_is_refused_under_strict() -> None:
    policy = load_policy("strict").with_measurement("ab" * 48)
    assert unwanted(report(), policy=policy) == {"measurements.tdx.mr_td"}


def test_a_person_is_told_of_simulation_by_word_or_by_measurement() -> None:
    silent = changed(report(), "attestation.evidence.simulated", False)
    assert not appraise(silent).simulated
    evidence = IssuedEvidence(
        "tdx",
        attested.quote(
            "tdx-v4",
            mr_owner_config=b"adyton-simulator".ljust(48, b"\0"),
            report_data=report_data(attested.keyset().digest, NONCE),
        ),
        attested.collateral("tdx"),
        simulated=False,
    )
    assert appraise(report(evidence=evidence)).simulated, "the measured mark cannot be unsaid"


@pytest.mark.parametrize(
    ("capabilities", "serving"),
    [
        ({"serving": "direct"}, "direct"),
        ({"serving": "aggregator"}, "aggregator"),
        ({"serving": "something new"}, "aggregator"),
        ({}, "aggregator"),
        (None, "aggregator"),
    ],
)
def test_unknown_serving_mode_counts_as_aggregator(capabilities: Any, serving: str) -> None:
    assert appraise(changed(report(), "service_capabilities", capabilities)).serving == serving


# --- custody -------------------------------------------------------------------------------------


@pytest.mark.parametrize("custody", [{"kind": "generated"}, {"kind": "sealed", "more": 1}])
def test_keys_made_in_or_sealed_to_the_tee_are_accepted(custody: dict[str, Any]) -> None:
    assert appraise(report(key_custody=custody))


@pytest.mark.parametrize(
    "custody", [None, {}, {"kind": "released"}, {"kind": None}, {"kind": ["generated"]}, "sealed"]
)
def test_other_or_unstated_custody_is_refused(custody: Any) -> None:
    document = changed(report(), "attestation.evidence.key_custody", custody)
    assert unwanted(document) == {"key_custody.kind"}
    assert appraise(document, policy=GENUINE)


# --- provenance ----------------------------------------------------------------------------------


def wanting_source(**source: Any) -> Policy:
    measurement = attested.verify().measurement
    document = {"version": 1, "name": "test", "source_provenance": source}
    return load_policy(document).with_measurement(measurement)


@pytest.mark.parametrize(
    "stated",
    [
        SOURCE,
        {"image_digest": SOURCE["image_digest"]},
        {"repo_url": SOURCE["repo_url"], "repo_commit": SOURCE["repo_commit"]},
    ],
)
def test_source_that_can_be_found_satisfies_a_policy_that_requires_one(
    stated: dict[str, str],
) -> None:
    assert appraise(report(source_provenance=stated), policy=wanting_source(required=True))


@pytest.mark.parametrize(
    "stated", [{}, {"repo_url": SOURCE["repo_url"]}, {"repo_commit": SOURCE["repo_commit"]}]
)
def test_source_nobody_can_find_is_refused_where_one_is_required(stated: dict[str, str]) -> None:
    document = report(source_provenance=stated)
    assert unwanted(document, policy=wanting_source(required=True)) == {"source_provenance"}


@pytest.mark.parametrize("name", SOURCE)
def test_another_source_than_the_wanted_one_is_refused(name: str) -> None:
    policy = wanting_source(**{name: SOURCE[name]})
    assert appraise(report(source_provenance=SOURCE), policy=policy)
    other = {"repo_url": "x", "repo_commit": "cd" * 20, "image_digest": "sha256:" + "00" * 32}
    document = report(source_provenance={**SOURCE, name: other[name]})
    assert unwanted(document, policy=policy) == {f"source_provenance.{name}"}
    assert unwanted(report(), policy=policy) == {f"source_provenance.{name}"}


@pytest.mark.parametrize("absent", [None, ...])
def test_provenance_may_be_absent_where_no_policy_asks(absent: Any) -> None:
    assert appraise(changed(report(), "attestation.source_provenance", absent))


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        ([], "source_provenance"),
        ({"repo_url": 1}, "repo_url"),
        ({"repo_commit": "main"}, "repo_commit"),
        ({"image_digest": "ab" * 32}, "image_digest"),
    ],
)
def test_misshapen_provenance_is_malformed(stated: Any, field: str) -> None:
    with pytest.raises(MalformedEvidence) as e:
        appraise(changed(report(), "attestation.source_provenance", stated))
    assert e.value.field.endswith(field)


# --- collateral ----------------------------------------------------------------------------------


def test_callers_newer_collateral_replaces_the_reports() -> None:
    stale = changed(report(), "attestation.evidence.collateral", {"garbage": True})
    assert appraise(stale, collateral=attested.collateral("tdx"))


@pytest.mark.parametrize("absent", [None, ...])
def test_report_without_collateral_needs_the_callers(absent: Any) -> None:
    document = changed(report(), "attestation.evidence.collateral", absent)
    with pytest.raises(CollateralError, match="no collateral"):
        appraise(document)
    assert appraise(document, collateral=attested.collateral("tdx"))


def test_issuer_without_collateral_leaves_it_out() -> None:
    raw = attested.quote("tdx-v4")
    document = report(evidence=IssuedEvidence("tdx", raw, None, simulated=False))
    assert "collateral" not in document["attestation"]["evidence"]


@pytest.mark.parametrize("value", [[], "x", {}, {"tcb_info": 1}])
def test_unreadable_collateral_is_a_collateral_error(value: Any) -> None:
    with pytest.raises(CollateralError):
        appraise(changed(report(), "attestation.evidence.collateral", value))


# --- SEV-SNP -------------------------------------------------------------------------------------


@lru_cache
def amd() -> SimulatedSnp:
    authority = AmdAuthority.of(snp_pki.rsa_key("ark"), snp_pki.rsa_key("ask"))
    return SimulatedSnp(seed=attested.SEED, authority=authority, now=NOW)


@lru_cache
def endorsements() -> SnpEndorsements:
    return amd().endorsements()


def snp_report(nonce: str | None = NONCE, **fields: Any) -> dict[str, Any]:
    """What a healthy SNP node serves for `nonce`."""
    data = report_data(attested.keyset().digest, nonce)
    raw = amd().report({"measurement": b"\x0a" * 48, "report_data": data, **fields})
    evidence = IssuedEvidence("sev_snp", raw, endorsements(), simulated=True)
    return report(evidence=evidence, nonce=nonce)


STRICT_SNP = load_policy(
    {
        "version": 1,
        "name": "one workload",
        "measurements": {"sev-snp": [{"measurement": "0a" * 48}]},
    }
)


def appraise_snp(document: Any, **options: Any) -> AttestedNode:
    return appraise(document, **{"roots": [amd().root_der], "policy": STRICT_SNP, **options})


def snp_refused(step: str, document: Any, **options: Any) -> None:
    with pytest.raises(VerificationError) as e:
        appraise_snp(document, **options)
    assert e.value.step == step


def test_snp_report_is_believed_under_acis_own_name() -> None:
    served = json.loads(json.dumps(snp_report()))
    assert served["attestation"]["tee_type"] == "sev_snp"
    assert set(served["attestation"]["evidence"]["collateral"]) == {"vek", "chain", "crl"}
    node = appraise_snp(served)
    assert node.appraisal.report.tee == "sev-snp"
    assert node.appraisal.claims["tee_attested"].status == "asserted"
    assert (node.fresh, node.simulated) == (True, True)


def test_snp_node_is_refused_under_production_roots_and_another_measurement() -> None:
    snp_refused("root", snp_report(), roots=PRODUCTION_ROOTS)
    assert "measurements.sev-snp.measurement" in {
        f.field for f in snp_findings(snp_report(measurement=b"\x0b" * 48))
    }


def snp_findings(document: Any) -> Sequence[Finding]:
    with pytest.raises(PolicyError) as e:
        appraise_snp(document)
    return e.value.findings


@pytest.mark.parametrize("stated", ["tdx", "sgx", "sev-snp", "SEV_SNP", ""])
def test_snp_evidence_under_another_name_is_refused(stated: str) -> None:
    snp_refused("tee_type", changed(snp_report(), "attestation.tee_type", stated))


def test_quote_under_snps_name_is_refused() -> None:
    refused("tee_type", changed(report(), "attestation.tee_type", "sev_snp"), policy=GENUINE)


def test_the_evidence_itself_chooses_its_verifier() -> None:
    """Neither the stated name nor the collateral beside it can send a report to another one."""
    swapped = snp_report()
    swapped["attestation"]["evidence"]["quote"] = report()["attestation"]["evidence"]["quote"]
    with pytest.raises(CollateralError):
        appraise_snp(swapped)
    other = changed(report(), "attestation.evidence.quote", snp_report_hex())
    with pytest.raises(CollateralError):
        appraise(other)


def snp_report_hex() -> str:
    return str(snp_report()["attestation"]["evidence"]["quote"])


def test_snp_report_replayed_or_restated_is_refused() -> None:
    snp_refused("report_data", snp_report(), nonce="11" * 32)
    snp_refused("report_data", snp_report(report_data=bytes(64)))
    half = report_data(attested.keyset().digest, NONCE)[:32] + b"\x01" * 32
    snp_refused("report_data", snp_report(report_data=half))


def test_snp_report_with_a_flipped_bit_is_refused() -> None:
    raw = bytes.fromhex(snp_report_hex())
    for bit in (0x90 * 8, 0x50 * 8, 0x2A0 * 8):
        flipped = attested.flip(raw, bit).hex()
        document = changed(snp_report(), "attestation.evidence.quote", flipped)
        snp_refused("signature", document)


def test_snp_guest_that_the_host_may_debug_is_refused() -> None:
    snp_refused("debug", snp_report(policy=GuestPolicy(HEALTHY_POLICY.value | 1 << 19)))


def test_callers_newer_endorsements_replace_the_reports() -> None:
    stale = changed(snp_report(), "attestation.evidence.collateral", {"garbage": True})
    assert appraise_snp(stale, collateral=endorsements())
    with pytest.raises(CollateralError, match="vek"):
        appraise_snp(stale)


def test_endorsements_of_the_other_vendor_are_refused() -> None:
    with pytest.raises(CollateralError, match="AMD's endorsements, not DCAP"):
        appraise_snp(snp_report(), collateral=attested.collateral("tdx"))
    with pytest.raises(CollateralError, match="DCAP collateral, not AMD"):
        appraise(report(), collateral=endorsements())


@pytest.mark.parametrize("absent", [None, ...])
def test_snp_report_without_endorsements_needs_the_callers(absent: Any) -> None:
    document = changed(snp_report(), "attestation.evidence.collateral", absent)
    with pytest.raises(CollateralError, match="no collateral"):
        appraise_snp(document)
    assert appraise_snp(document, collateral=endorsements())


# --- not a report --------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [None, [], "report", 1])
def test_report_must_be_an_object(document: Any) -> None:
    with pytest.raises(MalformedEvidence, match="must be an object"):
        appraise(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("attestation", []),
        ("attestation", ...),
        ("attestation.evidence", None),
        ("attestation.tee_type", 1),
        ("attestation.report_data", None),
        ("attestation.workload_keyset", "x"),
        ("attestation.workload_keyset", ...),
        ("workload_keyset_digest", 7),
        ("attestation.evidence.quote", None),
        ("attestation.evidence.quote", "xyz"),
        ("attestation.evidence.quote", ""),
        ("attestation.evidence.quote", "04 00 02 00"),
        ("attestation.evidence.quote", "00" * 70_000),
        ("attestation.evidence.quote", "é"),
    ],
)
def test_missing_or_wrong_members_are_malformed(path: str, value: Any) -> None:
    with pytest.raises(MalformedEvidence):
        appraise(changed(report(), path, value))


def test_a_bad_nonce_of_our_own_is_never_sent() -> None:
    with pytest.raises(MalformedEvidence, match="nonce"):
        build_report(
            keyset=attested.keyset(),
            nonce="short",
            evidence=IssuedEvidence("tdx", b"", None, simulated=False),
            key_custody={},
        )
