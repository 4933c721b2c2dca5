"""Genuine but unwanted: every mismatch is refused, and all are named at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import attested
import pytest
from attested import NOW, REPORT_DATA, platform, verify

from attestation.errors import Finding, PolicyError
from attestation.issuers.simulator.tcb import Standing
from attestation.policy import Appraisal, Policy, evaluate, load_policy
from attestation.verify import DcapReport


def wanting(report: DcapReport, **document: Any) -> Policy:
    """A policy that wants exactly this report's workload, plus what `document` says."""
    register = "mr_enclave" if report.tee == "sgx" else "mr_td"
    return load_policy(
        {
            "version": 1,
            "name": "test",
            "measurements": {report.tee: [{register: report.measurement}]},
            **document,
        }
    )


def findings(
    report: DcapReport,
    policy: Policy,
    report_data: bytes | None = REPORT_DATA,
    now: int = NOW,
    **more: Any,
) -> dict[str, Finding]:
    with pytest.raises(PolicyError) as e:
        evaluate(report, policy, report_data=report_data, now=now, **more)
    assert str(e.value) == "; ".join(map(str, e.value.findings))
    return {f.field: f for f in e.value.findings}


def accepted(report: DcapReport, policy: Policy) -> Appraisal:
    return evaluate(report, policy, report_data=REPORT_DATA, now=NOW)


@pytest.mark.parametrize("kind", attested.KINDS)
def test_the_wanted_workload_is_accepted(kind: str) -> None:
    report = verify(kind)
    appraisal = accepted(report, load_policy("strict").with_measurement(report.measurement))
    assert appraisal.report is report
    assert appraisal.policy_name == "strict"
    assert not appraisal.inspection_only


@pytest.mark.parametrize("kind", ["tdx-v4", "sgx-v3"])
def test_strict_with_nothing_pinned_refuses_and_shows_what_to_pin(kind: str) -> None:
    report = verify(kind)
    found = findings(report, load_policy("strict"))
    (finding,) = found.values()
    assert finding.actual == report.measurement
    assert finding.field.startswith(f"measurements.{report.tee}.mr_")


def test_pinning_one_tee_does_not_admit_the_other() -> None:
    policy = load_policy("strict").with_measurement(verify("sgx-v3").measurement)
    assert "measurements.tdx.mr_td" in findings(verify("tdx-v4"), policy)


def test_wrong_measurement_shows_expected_and_actual() -> None:
    report = verify()
    found = findings(report, load_policy("strict").with_measurement("ab" * 48))
    finding = found["measurements.tdx.mr_td"]
    assert (finding.expected, finding.actual) == ("ab" * 48, report.measurement)


def test_registers_of_two_alternatives_do_not_mix() -> None:
    report = verify(rt_mr1=b"\x01" * 48)
    good, bad = report.measurement, "ab" * 48
    policy = load_policy(
        {
            "version": 1,
            "name": "test",
            "measurements": {
                "tdx": [
                    {"mr_td": good, "rt_mr1": bad, "rt_mr2": bad},
                    {"mr_td": bad, "rt_mr1": "01" * 48},
                ]
            },
        }
    )
    found = findings(report, policy)
    assert set(found) == {"measurements.tdx.mr_td"}, "the nearest alternative is explained"


def test_one_matching_alternative_is_enough() -> None:
    report = verify()
    policy = load_policy("strict").with_measurement("ab" * 48).with_measurement(report.measurement)
    assert accepted(report, policy)


@pytest.mark.parametrize("status", ["OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded"])
def test_tcb_status_must_be_listed(status: str) -> None:
    report = verify(of=platform(tcb_standing=Standing(status)))
    finding = findings(report, wanting(report))["tcb.status"]
    assert (finding.expected, finding.actual) == ("one of UpToDate", status)
    assert accepted(report, wanting(report, tcb={"statuses": ["UpToDate", status]}))


@pytest.mark.parametrize("status", ["ConfigurationNeeded", "OutOfDateConfigurationNeeded"])
def test_a_quoting_enclave_status_that_the_merge_drops_is_judged_too(status: str) -> None:
    report = verify(of=platform(qe_standing=Standing(status)))
    assert report.tcb_status == "UpToDate"
    finding = findings(report, wanting(report))["tcb.qe_status"]
    assert (finding.expected, finding.actual) == ("one of UpToDate", status)
    assert accepted(report, wanting(report, tcb={"statuses": ["UpToDate", status]}))


def test_advisories_refused_by_name_or_by_not_being_allowed() -> None:
    ids = ("INTEL-SA-00614", "INTEL-SA-00615")
    report = verify(of=platform(tcb_standing=Standing("UpToDate", ids)))
    assert accepted(report, wanting(report))
    for advisories, expected in (
        ({"refuse": [ids[0]]}, ids[0]),
        ({"allow": [ids[0]]}, ids[1]),
        ({"allow": []}, ", ".join(ids)),
        ({"allow": list(ids), "refuse": [ids[1]]}, ids[1]),
    ):
        policy = wanting(report, tcb={"advisories": advisories})
        assert findings(report, policy)["tcb.advisories"].actual == expected
    assert accepted(report, wanting(report, tcb={"advisories": {"allow": list(ids)}}))


def test_collateral_rolled_back_before_a_recovery_event_is_refused() -> None:
    report = verify()
    policy = wanting(report, tcb={"min_evaluation_data_number": 18})
    finding = findings(report, policy)["tcb.evaluation_data_number"]
    assert (finding.expected, finding.actual) == ("at least 18", "17")
    assert accepted(report, wanting(report, tcb={"min_evaluation_data_number": 17}))


def test_collateral_may_be_valid_and_yet_too_old() -> None:
    report = verify()
    age = NOW - report.collateral_issued
    policy = wanting(report, tcb={"max_collateral_age_s": age - 1})
    assert findings(report, policy)["tcb.collateral_age"].actual == f"{age} s"
    assert accepted(report, wanting(report, tcb={"max_collateral_age_s": age}))


def test_report_verified_earlier_is_refused_once_its_collateral_has_expired() -> None:
    report = verify()
    policy = wanting(report, tcb={"max_collateral_age_s": 4294967295})
    late = report.endorsements_not_after + 1
    assert set(findings(report, policy, now=late)) == {"tcb.collateral_window"}
    early = report.endorsements_not_before - 1
    assert set(findings(report, policy, now=early)) == {"tcb.collateral_window"}


def test_masks_compare_only_their_bits() -> None:
    report = verify()
    on = {"mask": "0000001000000000", "value": "0000001000000000"}
    off = {"mask": "0000001000000000", "value": "0000000000000000"}
    nothing = {"mask": "00" * 8, "value": "ff" * 8}
    assert accepted(report, wanting(report, tdx={"td_attributes": on, "xfam": nothing}))
    found = findings(report, wanting(report, tdx={"td_attributes": off, "xfam": off}))
    assert "tdx.td_attributes" in found
    assert found["tdx.td_attributes"].actual == "0000001000000000"
    assert "0000001000000000" in found["tdx.td_attributes"].expected


def test_each_byte_of_the_module_svn_counts() -> None:
    report = verify()
    svn = report.measurements["tee_tcb_svn"]
    assert accepted(report, wanting(report, tdx={"min_tee_tcb_svn": svn}))
    higher = svn[:30] + "01"
    assert "tdx.tee_tcb_svn" in findings(report, wanting(report, tdx={"min_tee_tcb_svn": higher}))


@pytest.mark.parametrize("name", ["mr_signer_seam", "seam_attributes"])
def test_module_that_is_not_intels_needs_a_dangerous_switch(name: str) -> None:
    odd = platform(**{name: b"\x01" + bytes(47 if name == "mr_signer_seam" else 7)})
    report = verify(of=odd)
    assert set(findings(report, wanting(report))) == {f"tdx.{name}"}
    assert accepted(report, wanting(report, tdx={"dangerous_allow_custom_seam": True}))


def test_sgx_identity_is_compared() -> None:
    report = verify("sgx-v3", mr_signer=b"\x05" * 32, isv_prod_id=7, isv_svn=3)
    right = {
        "mr_signer": ["05" * 32],
        "isv_prod_id": [7],
        "min_isv_svn": 3,
        "attributes": {"mask": "02" + "00" * 15, "value": "00" * 16},
    }
    wrong = {
        "mr_signer": ["06" * 32],
        "isv_prod_id": [8],
        "min_isv_svn": 4,
        "attributes": {"mask": "01" + "00" * 15, "value": "00" * 16},
    }
    assert accepted(report, wanting(report, sgx=right))
    found = findings(report, wanting(report, sgx=wrong))
    assert set(found) == {"sgx.mr_signer", "sgx.isv_prod_id", "sgx.isv_svn", "sgx.attributes"}


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("smt", "smt_enabled"),
        ("dynamic_platform", "dynamic_platform"),
        ("cached_keys", "cached_keys"),
    ],
)
def test_denied_platform_flag_must_be_stated_false(flag: str, field: str) -> None:
    for stated, actual in ((True, "true"), (None, "not stated")):
        report = verify(of=platform(**{field: stated}))
        finding = findings(report, wanting(report, platform={flag: "deny"}))[f"platform.{flag}"]
        assert finding.actual == actual
        assert accepted(report, wanting(report, platform={flag: "allow"}))
    assert accepted(verify(), wanting(verify(), platform={flag: "deny"}))


def test_policy_may_name_its_roots() -> None:
    report = verify()
    assert accepted(report, wanting(report, roots=[report.root_sha256]))
    assert findings(report, wanting(report, roots=["ab" * 32]))["roots"].actual == (
        report.root_sha256
    )


def test_report_data_of_another_keyset_is_refused() -> None:
    report = verify()
    finding = findings(report, wanting(report), report_data=bytes(64))["report_data"]
    assert (finding.expected, finding.actual) == ("00" * 64, REPORT_DATA.hex())


def test_report_data_nobody_checks_needs_a_dangerous_switch() -> None:
    report = verify()
    assert "report_data" in findings(report, wanting(report), report_data=None)
    policy = wanting(report, dangerous_allow_unbound_report_data=True)
    appraisal = evaluate(report, policy, report_data=None, now=NOW)
    assert appraisal.claims["tee_attested"].to_json() == {"status": "unknown"}
    assert "report_data" in findings(report, policy, report_data=bytes(64))


def test_every_mismatch_is_reported_at_once() -> None:
    report = verify(of=platform(tcb_standing=Standing("OutOfDate"), smt_enabled=True))
    policy = load_policy(
        {
            "version": 1,
            "name": "test",
            "tcb": {"min_evaluation_data_number": 99, "max_collateral_age_s": 0},
            "platform": {"smt": "deny"},
            "roots": ["ab" * 32],
        }
    )
    other = (Finding("key_custody.kind", "generated", "nothing"),)
    found = findings(report, policy, report_data=bytes(64), other_findings=other)
    assert set(found) == {
        "tcb.status",
        "tcb.evaluation_data_number",
        "tcb.collateral_age",
        "measurements.tdx.mr_td",
        "platform.smt",
        "roots",
        "report_data",
        "key_custody.kind",
    }


# --- genuine -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded"])
@pytest.mark.parametrize("kind", ["tdx-v4", "sgx-v3"])
def test_genuine_takes_any_workload_and_says_it_only_looked(kind: str, status: str) -> None:
    report = verify(kind, of=platform(tcb_standing=Standing(status), smt_enabled=True))
    appraisal = evaluate(report, load_policy("genuine"), report_data=None, now=NOW)
    assert appraisal.inspection_only
    assert appraisal.claims["serving_software_known_good"].status == "unknown"
    expected = "asserted" if status == "UpToDate" else "refuted"
    assert appraisal.claims["tcb_up_to_date"].status == expected


def test_genuine_still_compares_report_data_it_is_given() -> None:
    assert "report_data" in findings(verify(), load_policy("genuine"), report_data=bytes(64))


# --- claims --------------------------------------------------------------------------------


def test_claims_are_acis_and_nothing_is_claimed_without_evidence() -> None:
    report = verify(mr_owner_config=b"adyton-simulator".ljust(48, b"\0"))
    appraisal = accepted(report, wanting(report))
    document = appraisal.claims_json()
    assert set(document) == {
        "tee_attested",
        "gpu_attested",
        "tcb_up_to_date",
        "os_known_good",
        "serving_software_known_good",
        "model_weights_provenance",
        "extra",
    }
    assert document["tee_attested"]["source"] == "hardware_proven"
    assert document["gpu_attested"] == {"status": "unknown"}
    assert document["os_known_good"] == {"status": "unknown"}
    assert document["serving_software_known_good"]["source"] == "verifier_derived"
    assert document["extra"]["tcb_status"] == "UpToDate"
    assert document["extra"]["measurements"]["mr_td"] == report.measurement
    assert document["extra"]["simulated"] is True


def test_nobody_else_can_make_an_appraisal() -> None:
    report = verify()
    with pytest.raises(TypeError, match=r"attestation\.policy only"):
        Appraisal(report=report, policy_name="x", inspection_only=False, claims={}, seal=object())
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(accepted(report, wanting(report)), inspection_only=False)
