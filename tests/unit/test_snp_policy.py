"""What a policy refuses of genuine SEV-SNP reports, and how it says so."""

from __future__ import annotations

from typing import Any

import pytest
import snp_pki as pki
from snp_pki import DAY, NOW

from attestation.collateral.snp import SnpEndorsements
from attestation.errors import Finding, PolicyError
from attestation.evidence.snp import FirmwareVersion, GuestPolicy, PlatformInfo, TcbVersion
from attestation.policy import Policy, evaluate, load_policy
from attestation.verify.snp import verify_snp
from attestation.verify.snp_report import SnpReport


def verified(
    kind: str = "vcek", product: str = "Milan", *, crl: bool = True, **fields: Any
) -> SnpReport:
    own = pki.endorsements(kind, product)
    bare = SnpEndorsements(own.vek, own.chain)
    report = pki.report(kind, product, **fields)
    return verify_snp(report, own if crl else bare, pki.roots(), NOW)


def policy(**snp: Any) -> Policy:
    """A strict policy that wants the test workload and `snp`."""
    return load_policy(
        {
            "version": 1,
            "name": "test",
            "measurements": {"sev-snp": [{"measurement": "a5" * 48}]},
            "snp": snp,
        }
    )


def findings(
    report: SnpReport, wanted: Policy, data: bytes | None = pki.REPORT_DATA, now: int = NOW
) -> dict[str, Finding]:
    with pytest.raises(PolicyError) as e:
        evaluate(report, wanted, report_data=data, now=now)
    return {f.field: f for f in e.value.findings}


def only(field: str, report: SnpReport, wanted: Policy, **given: Any) -> Finding:
    found = findings(report, wanted, **given)
    assert set(found) == {field}
    return found[field]


def accepted(report: SnpReport, wanted: Policy) -> bool:
    appraisal = evaluate(report, wanted, report_data=pki.REPORT_DATA, now=NOW)
    return appraisal.report is report


@pytest.mark.parametrize("kind", pki.KINDS)
@pytest.mark.parametrize("product", pki.PRODUCTS)
def test_healthy_guest_is_accepted_by_a_strict_policy(kind: str, product: str) -> None:
    report = verified(kind, product)
    assert accepted(report, load_policy("strict").with_measurement(report.measurement))
    appraisal = evaluate(report, policy(), report_data=pki.REPORT_DATA, now=NOW)
    assert appraisal.claims["tee_attested"].status == "asserted"
    assert appraisal.claims["tcb_up_to_date"].status == "unknown", "AMD gives no verdict"
    assert appraisal.extra["product"] == product


def test_strict_with_nothing_pinned_shows_what_to_pin() -> None:
    finding = only("measurements.sev-snp.measurement", verified(), load_policy("strict"))
    assert finding.actual == "a5" * 48


def test_genuine_accepts_whatever_is_authentic() -> None:
    report = verified(
        crl=False,
        vmpl=3,
        version=2,
        policy=GuestPolicy(0x30000 | 1 << 18),
        platform_info=PlatformInfo(1 << 40),
        current_version=FirmwareVersion(9, 9, 9),
    )
    assert evaluate(report, load_policy("genuine"), report_data=None, now=NOW).inspection_only


def test_pitfall_8_vmpl_is_not_ignored() -> None:
    finding = only("snp.vmpl", verified(vmpl=1), policy())
    assert (finding.expected, finding.actual) == ("one of 0", "1")
    assert accepted(verified(vmpl=1), policy(vmpl=[0, 1]))


def test_pitfall_8_report_data_mismatch_is_more_than_a_warning() -> None:
    finding = only("report_data", verified(), policy(), data=bytes(64))
    assert finding.actual == pki.REPORT_DATA.hex()
    assert "report_data" in findings(verified(), policy(), data=None)


def test_migration_agent_is_refused_unless_wanted() -> None:
    report = verified(policy=GuestPolicy(0x30000 | 1 << 18))
    finding = only("snp.guest_policy.migrate_ma", report, policy())
    assert (finding.expected, finding.actual) == ("clear", "set")
    assert accepted(report, policy(guest_policy={"migrate_ma": "any"}))


def test_platform_that_never_checked_for_memory_aliases() -> None:
    report = verified(platform_info=PlatformInfo(0b100))
    finding = only("snp.platform_info.alias_check_complete", report, policy())
    assert (finding.expected, finding.actual) == ("set", "clear")
    assert accepted(report, policy(platform_info={"alias_check_complete": "any"}))


def test_platform_bits_nobody_knows() -> None:
    report = verified(platform_info=PlatformInfo(0b100101 | 1 << 8))
    assert "0x100" in only("snp.platform_info", report, policy()).actual
    assert accepted(report, policy(dangerous_allow_unknown_platform_info=True))


@pytest.mark.parametrize("flag", ["smt", "single_socket", "cxl_allow", "ciphertext_hiding"])
def test_bits_of_the_launch_policy_can_be_demanded_either_way(flag: str) -> None:
    report = verified()
    is_set = getattr(report.report.policy, flag)
    word, other = ("set", "clear") if is_set else ("clear", "set")
    assert accepted(report, policy(guest_policy={flag: word}))
    assert only(f"snp.guest_policy.{flag}", report, policy(guest_policy={flag: other}))


def test_bits_of_the_platform_can_be_demanded_either_way() -> None:
    report = verified()
    assert accepted(report, policy(platform_info={"smt_en": "set", "tsme_en": "clear"}))
    wanted = policy(platform_info={"smt_en": "clear", "ciphertext_hiding_en": "set"})
    assert set(findings(report, wanted)) == {
        "snp.platform_info.smt_en",
        "snp.platform_info.ciphertext_hiding_en",
    }


def test_minimum_levels_are_part_by_part() -> None:
    report = verified()
    assert accepted(report, policy(min_tcb={"Milan": {"snp": 24, "microcode": 219}}))
    found = findings(report, policy(min_tcb={"Milan": {"snp": 25, "microcode": 219}}))
    assert set(found) == {"snp.tcb.snp", "snp.launch_tcb.snp"}
    assert (found["snp.tcb.snp"].expected, found["snp.tcb.snp"].actual) == ("at least 25", "24")


def test_guest_that_was_launched_by_older_firmware() -> None:
    old = TcbVersion(bytes([4, 0, 0, 0, 0, 0, 20, 219]))
    wanted = policy(min_tcb={"Milan": {"snp": 24}})
    assert only("snp.launch_tcb.snp", verified(launch_tcb=old), wanted).actual == "20"


def test_a_high_level_of_one_part_does_not_pay_for_a_low_one() -> None:
    """As a comparison of whole 64-bit TCB versions would have it."""
    wanted = policy(min_tcb={"Milan": {"bootloader": 5, "microcode": 1}})
    assert "snp.tcb.bootloader" in findings(verified(), wanted)


def test_fmc_is_a_level_of_turin_only() -> None:
    turin = policy(min_tcb={"Turin": {"fmc": 1}})
    assert accepted(verified("vcek", "Turin"), turin)
    found = findings(verified(), policy(min_tcb={"Milan": {"fmc": 0}}))
    assert found["snp.tcb.fmc"].actual == "no such part"


def test_product_without_minimum_levels_is_refused_once_any_are_set() -> None:
    wanted = policy(min_tcb={"Genoa": {"snp": 1}})
    assert only("snp.tcb", verified(), wanted).actual == "Milan"


def test_products() -> None:
    assert only("snp.product", verified(), policy(products=["Turin"])).actual == "Milan"
    assert accepted(verified(), policy(products=["Turin", "Milan"]))


def test_provisional_firmware_is_refused_unless_wanted() -> None:
    version = verified(current_version=FirmwareVersion(1, 56, 0))
    level = verified(current_tcb=TcbVersion(bytes([4, 0, 0, 0, 0, 0, 24, 220])))
    assert "1.56.0" in only("snp.provisional_firmware", version, policy()).actual
    assert "microcode 220" in only("snp.provisional_firmware", level, policy()).actual
    turin = pki.tcb(pki.LEVELS["Turin"]).raw
    ahead = verified("vcek", "Turin", current_tcb=TcbVersion(turin[:7] + b"\x50"))
    assert "fmc 1" in only("snp.provisional_firmware", ahead, policy()).actual
    for report in (version, level):
        assert accepted(report, policy(dangerous_allow_provisional_firmware=True))


def test_firmware_version() -> None:
    finding = only("snp.firmware", verified(), policy(min_firmware=[1, 56, 0]))
    assert (finding.expected, finding.actual) == ("at least 1.56.0", "1.55.29")
    assert accepted(verified(), policy(min_firmware=[1, 55, 29]))


def test_firmware_abi_that_the_guest_itself_demands() -> None:
    report = verified(policy=GuestPolicy(0x30000 | 1 << 8 | 51))
    assert accepted(report, policy(min_abi=[1, 51]))
    finding = only("snp.guest_policy.abi", report, policy(min_abi=[1, 52]))
    assert (finding.expected, finding.actual) == ("at least 1.52", "1.51")
    assert only("snp.guest_policy.abi", verified(), policy(min_abi=[0, 1])).actual == "0.0"


def test_guest_svn() -> None:
    assert only("snp.guest_svn", verified(), policy(min_guest_svn=3)).actual == "2"
    assert accepted(verified(), policy(min_guest_svn=2))


def test_unchecked_revocation_is_refused_unless_wanted() -> None:
    assert only("snp.revocation", verified(crl=False), policy())
    assert accepted(verified(crl=False), policy(require_revocation=False))


def test_signing_keys_and_providers() -> None:
    assert only("snp.signing_key", verified("vlek"), policy(signing_keys=["vcek"]))
    assert accepted(verified("vlek"), policy(csp_ids=[pki.CSP_ID]))
    assert only("snp.csp_id", verified("vlek"), policy(csp_ids=["CN=other"])).actual == pki.CSP_ID
    assert only("snp.csp_id", verified(), policy(csp_ids=[pki.CSP_ID])).actual == "none"


def test_chips() -> None:
    chip = pki.chip_id().hex()
    assert accepted(verified(), policy(chips=[chip]))
    assert accepted(verified(chip_id=bytes(64), mask_chip_key=True), policy(chips=[chip]))
    assert only("snp.chip", verified(), policy(chips=["00" * 64])).actual == chip
    assert only("snp.chip", verified("vlek"), policy(chips=["00" * 64])).actual == "none"


def test_identity_and_author_keys() -> None:
    assert accepted(verified(), policy(id_key_digests=["1d" * 48], author_key_digests=["aa" * 48]))
    wanted = policy(id_key_digests=["00" * 48], author_key_digests=["00" * 48])
    assert set(findings(verified(), wanted)) == {"snp.id_key_digest", "snp.author_key_digest"}
    nobody = verified(author_key_en=False)
    found = only("snp.author_key_digest", nobody, policy(author_key_digests=["aa" * 48]))
    assert found.actual == "none", "a digest counts only where the report says there is a key"


def test_endorsements_that_have_run_out_since() -> None:
    late = only("snp.endorsements_window", verified(), policy(), now=NOW + 2 * DAY)
    assert str(NOW + DAY) in late.actual


def test_registers_beside_the_measurement() -> None:
    report = verified(host_data=b"\x01" * 32)
    document = {
        "version": 1,
        "name": "test",
        "measurements": {"sev-snp": [{"measurement": "a5" * 48, "host_data": "00" * 32}]},
    }
    assert only("measurements.sev-snp.host_data", report, load_policy(document))


def test_tdx_measurement_admits_no_snp_guest_of_another_measurement() -> None:
    wanted = load_policy("strict").with_measurement("ab" * 48)
    assert only("measurements.sev-snp.measurement", verified(), wanted).expected == "ab" * 48
