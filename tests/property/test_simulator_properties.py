"""Whatever the report data, seed or state: accepted as made, refused when changed."""

from __future__ import annotations

import json
from typing import Any

import dcap_qvl
import pytest
import snp_pki
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.collateral import Collateral
from attestation.errors import MalformedEvidence, VerificationError
from attestation.evidence import parse_quote
from attestation.evidence.snp import SIGNED_BYTES
from attestation.issuers.simulator import (
    AmdAuthority,
    MeasuredState,
    SimulatedSnp,
    SimulatorIssuer,
)
from attestation.issuers.simulator.der import integer, octets, oid
from attestation.issuers.simulator.platform import EPOCH_S, Window
from attestation.verify.snp import verify_snp

NOW = 700 * EPOCH_S + 1
STATE = MeasuredState(b"\x01" * 32, b"\x02" * 32, b"\x03" * 32)
ISSUERS = {tee: SimulatorIssuer(tee, b"s" * 32, STATE, now=lambda: NOW) for tee in ("tdx", "sgx")}
EVIDENCE = {tee: issuer.issue(bytes(64)) for tee, issuer in ISSUERS.items()}
SNP = SimulatedSnp(
    seed=b"s" * 32,
    authority=AmdAuthority.of(snp_pki.rsa_key("ark"), snp_pki.rsa_key("ask")),
    now=NOW,
)
ENDORSEMENTS = SNP.endorsements()
tees = st.sampled_from(sorted(ISSUERS))
digests = st.binary(min_size=32, max_size=32)


def accept(tee: str, quote: bytes) -> dict[str, Any]:
    collateral = EVIDENCE[tee].collateral
    assert isinstance(collateral, Collateral)
    parsed = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral.to_json()))
    claims = dcap_qvl.QuoteVerifier(ISSUERS[tee].root_der).verify_with_policy(
        quote, parsed, NOW, dcap_qvl.QuotePolicy.claims_only(NOW)
    )
    result: dict[str, Any] = json.loads(claims.to_json())
    return result


@given(tee=tees, report_data=st.binary(min_size=64, max_size=64))
@settings(max_examples=60, deadline=None)
def test_any_report_data_is_carried_and_accepted(tee: str, report_data: bytes) -> None:
    quote = ISSUERS[tee].issue(report_data).quote
    assert accept(tee, quote)["tcb"]["status"] == "UpToDate"
    parsed: Any = parse_quote(quote)
    assert parsed.body.report_data == report_data
    assert parsed.write() == quote


@given(tee=tees, data=st.data())
@settings(max_examples=120, deadline=None)
def test_any_flipped_bit_of_the_signed_part_is_refused(tee: str, data: st.DataObject) -> None:
    quote = bytearray(EVIDENCE[tee].quote)
    signed = 48 + (584 if tee == "tdx" else 384)
    bit = data.draw(st.integers(0, signed * 8 - 1))
    quote[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match=r"Verification failed|quote"):
        accept(tee, bytes(quote))


@given(
    tee=tees, seed=st.binary(min_size=32, max_size=64), state=st.tuples(digests, digests, digests)
)
@settings(max_examples=20, deadline=None)
def test_every_seed_makes_a_working_platform(
    tee: str, seed: bytes, state: tuple[bytes, bytes, bytes]
) -> None:
    """Serial numbers and keys of any seed are valid: positive, in range, DER-minimal."""
    issuer = SimulatorIssuer(tee, seed, MeasuredState(*state), now=lambda: NOW)
    evidence = issuer.issue(bytes(64))
    assert isinstance(evidence.collateral, Collateral)
    parsed = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(evidence.collateral.to_json()))
    dcap_qvl.QuoteVerifier(issuer.root_der).verify_with_policy(
        evidence.quote, parsed, NOW, dcap_qvl.QuotePolicy.claims_only(NOW)
    )


@given(report_data=st.binary(min_size=64, max_size=64), state=st.tuples(digests, digests, digests))
@settings(max_examples=40, deadline=None)
def test_any_snp_report_is_accepted_and_reads_back(
    report_data: bytes, state: tuple[bytes, bytes, bytes]
) -> None:
    fields = MeasuredState(*state).snp_fields()
    raw = SNP.report({**fields, "report_data": report_data})
    report = verify_snp(raw, ENDORSEMENTS, [SNP.root_der], NOW)
    assert report.report_data == report_data
    assert report.measurement == fields["measurement"].hex()
    assert report.report.write() == raw


@given(bit=st.integers(0, SIGNED_BYTES * 8 - 1))
@settings(max_examples=120, deadline=None)
def test_any_flipped_bit_of_an_snp_reports_signed_part_is_refused(bit: int) -> None:
    raw = bytearray(SNP.report({}))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((VerificationError, MalformedEvidence)):
        verify_snp(bytes(raw), ENDORSEMENTS, [SNP.root_der], NOW)


@given(seed=st.binary(min_size=32, max_size=64))
@settings(max_examples=15, deadline=None)
def test_every_seed_makes_a_working_snp_machine(seed: bytes) -> None:
    machine = SimulatedSnp(seed=seed, authority=SNP.authority, now=NOW)
    report = verify_snp(machine.report({}), machine.endorsements(), [SNP.root_der], NOW)
    assert report.chip == machine.chip_id


@given(st.integers(0, 4_000_000_000))
def test_windows_contain_their_moment_with_a_month_to_spare(now: int) -> None:
    window = Window.at(now)
    assert window.start <= now
    assert window.end - now > EPOCH_S
    assert Window.at(now - now % EPOCH_S) == window


@given(value=st.integers(0, 2**160), data=st.binary(max_size=300))
def test_der_reads_back(value: int, data: bytes) -> None:
    encoded = integer(value)
    assert int.from_bytes(encoded[2:], "big", signed=True) == value
    assert encoded[1] == len(encoded) - 2
    wrapped = octets(data)
    assert wrapped.endswith(data)
    if len(data) >= 128:
        size = wrapped[1] & 0x7F
        assert int.from_bytes(wrapped[2 : 2 + size], "big") == len(data)


def test_der_oid_is_x690s_example() -> None:
    assert oid("1.2.840.113549").hex() == "06062a864886f70d"
    assert oid("2.999.3").hex() == "0603883703"
