"""TPM structures and Azure's reports: total parsing, exact writing, no bit that may change."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import snp_pki
import tpm_device
from attested import flip
from hypothesis import given, settings
from hypothesis import strategies as st
from nitro_pki import NOW

from attestation.errors import AttestationError, MalformedEvidence, VerificationError
from attestation.evidence.azure import AzureBundle
from attestation.evidence.hcl import SNP_VM_REPORT, TDX_VM_REPORT, HclReport
from attestation.evidence.tpm import (
    ALG_ECDSA,
    ALG_RSAPSS,
    ALG_RSASSA,
    ClockInfo,
    PcrSelection,
    QuoteInfo,
    TpmQuote,
    TpmSignature,
)
from attestation.evidence.tpm_public import ALG_ECC, ALG_RSA, TpmPublic
from attestation.verify.azure import vouched_key
from attestation.verify.snp import verify_snp
from attestation.verify.tpm import verify_tpm
from attestation.verify.tpm_key import certified_key

QUOTE = tpm_device.quoted().write()
SIGNATURE = tpm_device.signed(QUOTE).write()
KEY = tpm_device.bound()
CHAIN = tpm_device.chain()
HCL = tpm_device.hcl()
HARDWARE = verify_snp(HCL.hardware_report, snp_pki.endorsements(), snp_pki.roots(), snp_pki.NOW)


def uint(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


selections = st.builds(PcrSelection, uint(16), st.binary(min_size=1, max_size=4))
quotes = st.builds(
    TpmQuote,
    qualified_signer=st.binary(max_size=66),
    extra_data=st.binary(max_size=66),
    clock_info=st.builds(ClockInfo, uint(64), uint(32), uint(32), st.booleans()),
    firmware_version=uint(64),
    attested=st.builds(
        QuoteInfo, st.lists(selections, max_size=16).map(tuple), st.binary(max_size=64)
    ),
    signed=st.just(b""),
)
rsa_signatures = st.builds(
    TpmSignature,
    st.sampled_from([ALG_RSASSA, ALG_RSAPSS]),
    uint(16),
    st.tuples(st.binary(max_size=512)),
)
ecdsa_signatures = st.builds(
    TpmSignature,
    st.just(ALG_ECDSA),
    uint(16),
    st.tuples(st.binary(max_size=66), st.binary(max_size=66)),
)
null = st.just(b"\0\x10")
schemes = null | exactly(2).map(lambda h: b"\0\x14" + h)
common: dict[str, Any] = {
    "name_alg": st.sampled_from([4, 11, 12, 13]),
    "object_attributes": uint(32),
    "auth_policy": st.binary(max_size=64),
    "symmetric": null | exactly(4).map(lambda d: b"\0\6" + d),
    "scheme": schemes,
}
publics = st.builds(
    TpmPublic,
    type=st.just(ALG_RSA),
    key_bits=uint(16),
    exponent=uint(32),
    curve_id=st.just(0),
    kdf=st.just(b""),
    unique=st.tuples(st.binary(max_size=512)),
    **common,
) | st.builds(
    TpmPublic,
    type=st.just(ALG_ECC),
    key_bits=st.just(0),
    exponent=st.just(0),
    curve_id=uint(16),
    kdf=schemes,
    unique=st.tuples(st.binary(max_size=66), st.binary(max_size=66)),
    **common,
)
reports = st.builds(
    HclReport,
    version=st.sampled_from([1, 2]),
    status=uint(32),
    report_type=st.just(SNP_VM_REPORT),
    hash_type=st.sampled_from([1, 2, 3]),
    hardware_report=exactly(1184),
    runtime_claims=st.binary(max_size=300),
    padding=st.integers(0, 300),
)
tdx_reports = st.builds(
    lambda report, td: replace(report, report_type=TDX_VM_REPORT, hardware_report=td),
    reports,
    exactly(1024),
)


@given(quotes)
def test_quotes_are_read_as_written(quote: TpmQuote) -> None:
    raw = quote.write()
    assert TpmQuote.read(raw) == quote
    assert TpmQuote.read(raw).signed == raw


@given(rsa_signatures | ecdsa_signatures)
def test_signatures_are_read_as_written(signature: TpmSignature) -> None:
    assert TpmSignature.read(signature.write()) == signature


@given(publics)
def test_public_areas_are_read_as_written(public: TpmPublic) -> None:
    assert TpmPublic.read(public.write()) == public
    assert public.name[:2] == public.name_alg.to_bytes(2)


@given(reports | tdx_reports)
def test_hcl_reports_are_read_as_written(report: HclReport) -> None:
    assert HclReport.read(report.write()) == report


@given(quotes, rsa_signatures | ecdsa_signatures, publics, reports, st.data())
def test_every_cut_is_malformed(
    quote: TpmQuote,
    signature: TpmSignature,
    public: TpmPublic,
    report: HclReport,
    data: st.DataObject,
) -> None:
    for value in (quote, signature, public, replace(report, padding=0)):
        raw = value.write()
        cut = data.draw(st.integers(0, len(raw) - 1))
        with pytest.raises(MalformedEvidence):
            type(value).read(raw[:cut])


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\x54\x43\x47\x80\x18"]))
@settings(max_examples=300)
def test_arbitrary_bytes_raise_only_our_errors(data: bytes, head: bytes) -> None:
    for kind in (TpmQuote, TpmSignature, TpmPublic, HclReport, AzureBundle):
        try:
            kind.read(head + data)  # type: ignore[attr-defined]
        except MalformedEvidence:
            continue
        assert kind in {TpmSignature, TpmPublic}  # short enough to be met by chance


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_arbitrary_claims_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(AttestationError):
        vouched_key(replace(HCL, runtime_claims=data), HARDWARE)
    with pytest.raises(MalformedEvidence):
        replace(HCL, runtime_claims=data).attestation_key()


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(["version", "tpm_quote", "hcl_report", "vcek", "quote", "td_quote"]), values)
def test_arbitrary_bundles_raise_only_our_errors(name: str, value: Any) -> None:
    document = tpm_device.bundle_json() | {name: value}
    try:
        bundle = AzureBundle.read(json.dumps(document).encode())
    except MalformedEvidence:
        return
    assert isinstance(bundle.hcl_report, bytes)


@given(st.integers(0, len(QUOTE) * 8 - 1))
@settings(max_examples=150)
def test_any_flipped_bit_of_a_quote_is_refused(bit: int) -> None:
    with pytest.raises((MalformedEvidence, VerificationError)):
        verify_tpm(flip(QUOTE, bit), SIGNATURE, tpm_device.PCRS, KEY, NOW)


@given(st.integers(0, len(SIGNATURE) * 8 - 1))
@settings(max_examples=150)
def test_any_flipped_bit_of_a_signature_is_refused(bit: int) -> None:
    with pytest.raises((MalformedEvidence, VerificationError)):
        verify_tpm(QUOTE, flip(SIGNATURE, bit), tpm_device.PCRS, KEY, NOW)


@given(st.integers(0, len(CHAIN[0]) * 8 - 1))
@settings(max_examples=150)
def test_any_flipped_bit_of_a_certificate_is_refused(bit: int) -> None:
    with pytest.raises(VerificationError):
        certified_key((flip(CHAIN[0], bit), CHAIN[1]), CHAIN[1:], NOW)


@given(st.integers(0, len(HCL.runtime_claims) * 8 - 1))
def test_any_flipped_bit_of_the_claims_is_refused(bit: int) -> None:
    with pytest.raises(VerificationError) as e:
        vouched_key(replace(HCL, runtime_claims=flip(HCL.runtime_claims, bit)), HARDWARE)
    assert e.value.step == "runtime_claims"
