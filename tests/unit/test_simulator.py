"""The simulator's evidence is genuine under its own root, and under no other."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
import snp_pki
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import VerificationError
from attestation.evidence import parse_quote
from attestation.evidence.snp import GuestPolicy, TcbVersion
from attestation.evidence.tdx import TdReport10, TdReport15, TdxQuote
from attestation.issuers.base import IssuedEvidence, IssuerError
from attestation.issuers.simulator import (
    AmdAuthority,
    MeasuredState,
    SimulatedPlatform,
    SimulatedSnp,
    SimulatorIssuer,
    Standing,
    Window,
    load_or_create_seed,
)
from attestation.issuers.simulator.platform import DAY_S, EPOCH_S
from attestation.roots import PRODUCTION_ROOTS
from attestation.verify.snp import verify_snp
from attestation.verify.snp_report import SnpReport

SEED = hashlib.sha256(b"a seed for tests").digest()
STATE = MeasuredState(b"\x01" * 32, b"\x02" * 32, b"\x03" * 32)
REPORT_DATA = hashlib.sha512(b"report data").digest()
EPOCH = 700
START = EPOCH * EPOCH_S
NOW = START + 5 * DAY_S


def claims(
    quote: bytes, collateral: Collateral, root: bytes | None, now: int = NOW
) -> dict[str, Any]:
    """What dcap-qvl, which knows nothing of us, says about a quote."""
    verifier = dcap_qvl.QuoteVerifier(root)
    parsed = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral.to_json()))
    policy = dcap_qvl.QuotePolicy.claims_only(now)
    result: dict[str, Any] = json.loads(
        verifier.verify_with_policy(quote, parsed, now, policy).to_json()
    )
    return result


def platform(**facts: Any) -> SimulatedPlatform:
    return SimulatedPlatform(**{"seed": SEED, "now": NOW, **facts})


def issuer(tee: str, *, seed: bytes = SEED, state: MeasuredState = STATE) -> SimulatorIssuer:
    return SimulatorIssuer(tee, seed, state, now=lambda: NOW)


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_a_stranger_accepts_the_quote_under_the_printed_root(tee: str) -> None:
    node = issuer(tee)
    evidence = node.issue(REPORT_DATA)
    assert isinstance(evidence.collateral, Collateral)
    result = claims(evidence.quote, evidence.collateral, node.root_der)
    assert result["tcb"]["status"] == "UpToDate"
    assert result["tcb"]["advisory_ids"] == []
    assert evidence.tee_type == tee
    assert evidence.simulated


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_refused_under_intels_root_and_under_another_simulators(tee: str) -> None:
    evidence = issuer(tee).issue(REPORT_DATA)
    other = issuer(tee, seed=b"\xff" * 32)
    assert isinstance(evidence.collateral, Collateral)
    for root in (None, other.root_der):
        with pytest.raises(ValueError, match="Verification failed"):
            claims(evidence.quote, evidence.collateral, root)


@pytest.mark.parametrize("body", [TdReport10, TdReport15])
def test_version_5_quotes_are_accepted(body: type[TdReport10]) -> None:
    machine = platform()
    quote = machine.tdx_quote({"report_data": REPORT_DATA}, version=5, body=body)
    parsed = parse_quote(quote)
    assert isinstance(parsed, TdxQuote)
    assert type(parsed.body) is body
    result = claims(quote, machine.collateral("tdx"), machine.root_der)
    assert result["tcb"]["status"] == "UpToDate"


def test_quotes_carry_the_report_data_the_measurement_and_the_mark() -> None:
    tdx, sgx = issuer("tdx"), issuer("sgx")
    td: Any = parse_quote(tdx.issue(REPORT_DATA).quote)
    assert td.body.report_data == REPORT_DATA
    assert td.body.mr_td.hex() == tdx.measurement
    assert td.body.mr_owner_config == b"adyton-simulator" + bytes(32)
    assert td.body.mr_config_id == STATE.config_digest + bytes(16)
    assert not td.body.debug
    assert td.trailing == b""
    enclave: Any = parse_quote(sgx.issue(REPORT_DATA).quote)
    assert enclave.body.report_data == REPORT_DATA
    assert enclave.body.mr_enclave.hex() == sgx.measurement
    assert enclave.body.config_id == b"adyton-simulator" + bytes(48)
    assert not enclave.body.debug
    assert enclave.trailing == b""


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_same_seed_state_and_epoch_give_the_same_bytes(tee: str) -> None:
    first = SimulatorIssuer(tee, SEED, STATE, now=lambda: START)
    last = SimulatorIssuer(tee, SEED, STATE, now=lambda: START + EPOCH_S - 1)
    assert first.issue(REPORT_DATA) == last.issue(REPORT_DATA)
    assert first.root_der == last.root_der


def test_measurements_of_the_empty_state_are_those_of_the_specification() -> None:
    text = (Path(__file__).parents[2] / "docs/spec/simulator.md").read_text()
    empty = MeasuredState(bytes(32), bytes(32), bytes(32))
    for register in (empty.mr_td, empty.mr_enclave, empty.snp_measurement):
        assert f" {register.hex()}\n" in text


def test_another_seed_shares_nothing_secret() -> None:
    one, two = issuer("tdx"), issuer("tdx", seed=b"\xff" * 32)
    assert one.root_der != two.root_der
    assert one.sealing_key() != two.sealing_key()
    assert one.measurement == two.measurement


def test_a_running_node_renews_its_collateral_and_keeps_its_root() -> None:
    clock = [START + EPOCH_S - 1]
    node = SimulatorIssuer("tdx", SEED, STATE, now=lambda: clock[0])
    root, before = node.root_der, node.issue(REPORT_DATA)
    clock[0] += 1
    after = node.issue(REPORT_DATA)
    assert node.root_der == root
    assert after.quote == before.quote
    assert isinstance(before.collateral, Collateral)
    assert isinstance(after.collateral, Collateral)
    assert after.collateral.tcb_info != before.collateral.tcb_info
    claims(after.quote, after.collateral, root, clock[0])
    # What was fetched before the boundary is still good after it.
    claims(before.quote, before.collateral, root, clock[0])


@pytest.mark.parametrize("now", [START, START + EPOCH_S - 1])
@pytest.mark.parametrize("skew", [-DAY_S, 0, 30 * DAY_S])
def test_collateral_is_current_for_clocks_a_day_behind_or_a_month_ahead(
    now: int, skew: int
) -> None:
    machine = platform(now=now)
    quote = machine.tdx_quote({})
    claims(quote, machine.collateral("tdx"), machine.root_der, now + skew)


@pytest.mark.parametrize("now", [START - DAY_S - 1, START + 2 * EPOCH_S + 1])
def test_collateral_is_refused_outside_its_window(now: int) -> None:
    machine = platform()
    with pytest.raises(ValueError, match=r"(?i)future|expired|crl|not valid"):
        claims(machine.tdx_quote({}), machine.collateral("tdx"), machine.root_der, now)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"crl_window": Window(NOW - 9, NOW - 1)}, "CrlExpired"),
        ({"tcb_info_window": Window(NOW - 9, NOW - 1)}, "TCBInfo expired"),
        ({"tcb_info_window": Window(NOW + 1, NOW + 9)}, "TCBInfo issue date is in the future"),
        ({"qe_identity_window": Window(NOW - 9, NOW - 1)}, "QE Identity expired"),
        ({"qe_identity_window": Window(NOW + 1, NOW + 9)}, "QE Identity issue date"),
    ],
)
def test_a_platform_with_one_part_out_of_date_is_refused(facts: Any, reason: str) -> None:
    machine = platform(**facts)
    with pytest.raises(ValueError, match=reason):
        claims(machine.tdx_quote({}), machine.collateral("tdx"), machine.root_der)


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
@pytest.mark.parametrize("fact", ["pck_revoked", "pck_ca_revoked", "tcb_signing_revoked"])
def test_revocation_is_seen(tee: str, fact: str) -> None:
    machine = platform(**{fact: True})
    quote = machine.tdx_quote({}) if tee == "tdx" else machine.sgx_quote({})
    with pytest.raises(ValueError, match="certificate chain"):
        claims(quote, machine.collateral(tee), machine.root_der)


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
@pytest.mark.parametrize(
    ("part", "status"),
    [
        ("tcb_standing", "SWHardeningNeeded"),
        ("tcb_standing", "ConfigurationNeeded"),
        ("tcb_standing", "ConfigurationAndSWHardeningNeeded"),
        ("tcb_standing", "OutOfDate"),
        ("tcb_standing", "OutOfDateConfigurationNeeded"),
        ("qe_standing", "OutOfDate"),
    ],
)
def test_statuses_and_advisories_reach_the_verifier(tee: str, part: str, status: str) -> None:
    machine = platform(**{part: Standing(status, ("INTEL-SA-00000",))})
    quote = machine.tdx_quote({}) if tee == "tdx" else machine.sgx_quote({})
    result = claims(quote, machine.collateral(tee), machine.root_der)
    assert result["tcb"]["status"] == status
    assert result["tcb"]["advisory_ids"] == ["INTEL-SA-00000"]


def test_the_tdx_module_is_judged_apart() -> None:
    machine = platform(tdx_module_standing=Standing("OutOfDate"))
    result = claims(machine.tdx_quote({}), machine.collateral("tdx"), machine.root_der)
    assert result["tcb"]["status"] == "OutOfDate"


def test_a_revoked_tcb_is_refused() -> None:
    machine = platform(tcb_standing=Standing("Revoked"))
    with pytest.raises(ValueError, match="Revoked"):
        claims(machine.sgx_quote({}), machine.collateral("sgx"), machine.root_der)


@pytest.mark.parametrize(
    ("facts", "fields", "reason"),
    [
        ({}, {"td_attributes": bytes.fromhex("0100001000000000")}, "Debug"),
        ({}, {"td_attributes": bytes(8)}, "SEPT_VE_DISABLE"),
        ({}, {"mr_signer_seam": b"\x01" * 48}, "TDX module identity"),
        ({}, {"seam_attributes": b"\x01" + bytes(7)}, "TDX module identity"),
        ({"tcb_info_fmspc": bytes(6)}, {}, "Fmspc"),
        ({"qe_auth_data": bytes(31)}, {}, "auth data"),
        ({"qe_attributes": bytes.fromhex("17" + "00" * 7 + "e7" + "00" * 7)}, {}, "QE report"),
        ({"certificates": Window(NOW + 1, NOW + 9)}, {}, "certificate chain"),
    ],
)
def test_odd_platforms_are_made_and_refused(facts: Any, fields: Any, reason: str) -> None:
    machine = platform(**facts)
    with pytest.raises(ValueError, match=reason):
        claims(machine.tdx_quote(fields), machine.collateral("tdx"), machine.root_der)


def test_a_debug_enclave_is_refused() -> None:
    machine = platform()
    quote = machine.sgx_quote({"attributes": bytes.fromhex("0700000000000000e700000000000000")})
    with pytest.raises(ValueError, match="Debug"):
        claims(quote, machine.collateral("sgx"), machine.root_der)


@pytest.mark.parametrize("flag", [None, False, True])
def test_platform_flags_stand_in_the_pck_certificate(flag: bool | None) -> None:
    machine = platform(dynamic_platform=flag, cached_keys=flag, smt_enabled=flag)
    result = claims(machine.tdx_quote({}), machine.collateral("tdx"), machine.root_der)
    pck = result["platform"]["pck"]
    expected = {None: "Undefined", False: "False", True: "True"}[flag]
    assert {pck["dynamic_platform"], pck["cached_keys"], pck["smt_enabled"]} == {expected}


def test_pck_and_tcb_info_may_name_different_pces() -> None:
    machine = platform(pceid=b"\x00\x01", tcb_info_pceid=b"\x00\x02")
    collateral = machine.collateral("sgx")
    assert json.loads(collateral.tcb_info)["pceId"] == "0002"
    result = claims(machine.sgx_quote({}), collateral, machine.root_der)
    assert result["platform"]["pck"]["pce_id"] == [0, 1]


def test_a_header_may_be_odd_and_still_signed() -> None:
    machine = platform()
    quote = machine.tdx_quote({}, header={"qe_vendor_id": bytes(16)})
    with pytest.raises(ValueError, match="vendor"):
        claims(quote, machine.collateral("tdx"), machine.root_der)


def test_every_certificate_says_that_it_is_simulated() -> None:
    machine = platform()
    chain = x509.load_pem_x509_certificates(
        (machine.collateral("tdx").pck_crl_issuer_chain + machine.tcb_signing.pem).encode()
    )
    for certificate in [*chain, machine.pck.certificate]:
        assert "SIMULATED" in certificate.subject.rfc4514_string()
    assert chain[1].public_bytes(Encoding.DER) == machine.root_der


# --- SEV-SNP -------------------------------------------------------------------------


@lru_cache
def authority() -> AmdAuthority:
    return AmdAuthority.of(snp_pki.rsa_key("ark"), snp_pki.rsa_key("ask"))


def snp(**facts: Any) -> SimulatedSnp:
    return SimulatedSnp(**{"seed": SEED, "authority": authority(), "now": NOW, **facts})


def snp_issuer(
    now: Callable[[], int] = lambda: NOW, seed: bytes = SEED, state: MeasuredState = STATE
) -> SimulatorIssuer:
    return SimulatorIssuer("sev-snp", seed, state, now=now, authority=authority())


def verified(evidence: IssuedEvidence, root: bytes, now: int = NOW) -> SnpReport:
    assert isinstance(evidence.collateral, SnpEndorsements)
    return verify_snp(evidence.quote, evidence.collateral, [root], now)


def test_snp_report_is_accepted_under_the_printed_root_and_no_other() -> None:
    node = snp_issuer()
    evidence = node.issue(REPORT_DATA)
    report = verified(evidence, node.root_der)
    assert report.report_data == REPORT_DATA
    assert report.measurement == node.measurement
    assert report.simulated, "the mark stands in host_data"
    assert report.report.host_data == b"adyton-simulator" + bytes(16)
    assert report.revocation_checked
    assert (node.tee_type, evidence.tee_type, evidence.simulated) == ("sev_snp", "sev_snp", True)
    other = AmdAuthority.of(snp_pki.rsa_key("other"), snp_pki.rsa_key("ask"))
    for root in (*PRODUCTION_ROOTS, platform().root_der, other.root_der):
        with pytest.raises(VerificationError) as e:
            verified(evidence, root)
        assert e.value.step == "root"


def test_snp_certificates_are_accepted_by_openssl(tmp_path: Path) -> None:
    """A stranger walks the chain: OpenSSL, which knows RSASSA-PSS and nothing of AMD."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl command here")
    endorsements = snp().endorsements()
    documents = (endorsements.vek, *endorsements.chain)
    for name, der in zip(("vcek", "ask", "ark"), documents, strict=True):
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        (tmp_path / name).write_bytes(pem)
    command = ["openssl", "verify", "-CAfile", "ark", "-untrusted", "ask", "vcek"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "vcek: OK\n", done.stderr


def test_snp_same_seed_state_and_report_data_give_the_same_report() -> None:
    first, again = (snp_issuer().issue(REPORT_DATA).quote for _ in range(2))
    assert first == again
    assert snp_issuer(seed=b"\xff" * 32).issue(REPORT_DATA).quote != first
    other = MeasuredState(b"\x01" * 32, b"\x02" * 32, b"\x04" * 32)
    assert snp_issuer(state=other).measurement != snp_issuer().measurement
    assert snp_issuer().sealing_key() != issuer("tdx").sealing_key()


def test_snp_node_renews_its_revocation_list_and_keeps_its_root() -> None:
    clock = [START + EPOCH_S - 1]
    node = snp_issuer(lambda: clock[0])
    root, before = node.root_der, node.issue(REPORT_DATA)
    clock[0] += 1
    after = node.issue(REPORT_DATA)
    assert node.root_der == root
    assert after.quote == before.quote
    for evidence in (before, after):
        verified(evidence, root, clock[0])
    with pytest.raises(VerificationError) as e:
        verified(before, root, START + 2 * EPOCH_S + 1)
    assert e.value.step == "expired"
    verified(after, root, START + 2 * EPOCH_S + 1)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_snp_report_versions(version: int) -> None:
    machine = snp(version=version)
    report = verify_snp(machine.report({}), machine.endorsements(), [machine.root_der], NOW)
    assert report.report.version == version


@pytest.mark.parametrize(
    ("facts", "fields", "step"),
    [
        ({"ask_revoked": True}, {}, "revoked"),
        ({"crl_window": Window(NOW - 9, NOW - 1)}, {}, "expired"),
        ({"crl_window": Window(NOW + 1, NOW + 9)}, {}, "not_yet_valid"),
        ({"certified_chip_id": b"\x01" * 64}, {}, "chip_id"),
        ({"certified_tcb": TcbVersion(bytes(8))}, {}, "tcb"),
        ({}, {"policy": GuestPolicy(0xA0133)}, "debug"),
        ({}, {"signing_key": 1}, "signing_key"),
        ({}, {"vmpl": 0xFFFFFFFF}, "vmpl"),
    ],
)
def test_snp_odd_machines_are_made_and_refused(facts: Any, fields: Any, step: str) -> None:
    machine = snp(**facts)
    with pytest.raises(VerificationError) as e:
        verify_snp(machine.report(fields), machine.endorsements(), [machine.root_der], NOW)
    assert e.value.step == step


def test_snp_certificates_say_that_they_are_simulated() -> None:
    endorsements = snp().endorsements()
    for der in (endorsements.vek, *endorsements.chain):
        subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
        assert "SIMULATED" in subject


@pytest.mark.parametrize(
    "fields", [{"measurement": bytes(47)}, {"no_such_field": b""}, {"vmpl": b""}, {"host_data": 1}]
)
def test_snp_field_that_does_not_fit_is_refused(fields: Any) -> None:
    with pytest.raises(IssuerError, match=next(iter(fields))):
        snp().report(fields)


def test_without_an_authority_a_new_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AmdAuthority, "generate", authority)
    node = SimulatorIssuer("sev-snp", SEED, STATE, now=lambda: NOW)
    assert verified(node.issue(REPORT_DATA), authority().root_der)


def test_the_authority_is_kept_private_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "state" / "simulator-amd.pem"
    made = AmdAuthority.load_or_create(path)
    assert made.ark_key.key_size == made.ask_key.key_size == 4096
    assert made.ark_key.public_key() != made.ask_key.public_key()
    again = AmdAuthority.load_or_create(path)
    assert again.chain == made.chain
    assert again.to_pem() == path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["simulator-amd.pem"]


def test_a_damaged_authority_is_refused_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "simulator-amd.pem"
    whole = authority().to_pem()
    one = whole[: len(whole) // 2]
    swapped = AmdAuthority(
        authority().ask_key, authority().ark, authority().ark_key, authority().ask
    ).to_pem()
    for content in (b"", b"half", whole[:-40], one, one + one + whole, swapped, bytes(1 << 17)):
        path.write_bytes(content)
        with pytest.raises(IssuerError, match=r"simulator-amd\.pem"):
            AmdAuthority.load_or_create(path)
        assert path.read_bytes() == content


def test_an_authority_is_never_printed() -> None:
    assert "AmdAuthority" in repr(authority())
    assert "key" not in repr(authority()).lower()
    assert "authority" not in repr(snp())


# --- arguments and files -----------------------------------------------------------------


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(IssuerError, match="'snp'"):
        issuer("snp")
    with pytest.raises(IssuerError, match="seed"):
        issuer("tdx", seed=b"short")
    with pytest.raises(IssuerError, match="64 bytes"):
        issuer("tdx").issue(bytes(63))
    with pytest.raises(IssuerError, match="mr_td"):
        platform().tdx_quote({"mr_td": bytes(47)})
    with pytest.raises(IssuerError, match="no_such_field"):
        platform().sgx_quote({"no_such_field": bytes(1)})


def test_repr_shows_no_secret() -> None:
    assert SEED.hex() not in repr(issuer("tdx"))
    assert repr(SEED)[2:-1] not in repr(issuer("tdx"))
    assert repr(SEED)[2:-1] not in repr(platform())


def test_the_seed_is_kept_private_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "state" / "simulator.seed"
    seed = load_or_create_seed(path)
    assert len(seed) == 32
    assert load_or_create_seed(path) == seed
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["simulator.seed"]


def test_a_damaged_seed_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "simulator.seed"
    path.write_bytes(b"half")
    with pytest.raises(IssuerError, match="4 bytes"):
        load_or_create_seed(path)
    assert path.read_bytes() == b"half"


def test_an_unwritable_seed_is_an_issuer_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IssuerError, match=r"simulator\.seed"):
        load_or_create_seed(tmp_path / "file" / "simulator.seed")
