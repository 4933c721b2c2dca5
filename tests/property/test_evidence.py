"""Quote parsers: total, exact, and honest about where the bytes stop being a quote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import attested
import pytest
from attested import KINDS, flip, verify
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, MalformedEvidence, VerificationError
from attestation.evidence import (
    CertificationData,
    EcdsaSignatureData,
    QuoteHeader,
    SgxQuote,
    SgxReportBody,
    TdReport10,
    TdReport15,
    TdReport15Ex,
    TdxQuote,
    parse_quote,
)
from attestation.evidence.header import INTEL_QE_VENDOR_ID, TEE_SGX, TEE_TDX
from attestation.wire import Cursor

GENUINE = {kind: attested.quote(kind) for kind in KINDS}
kinds = st.sampled_from(KINDS)


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def uint(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


def headers(version: int, tee_type: int) -> st.SearchStrategy[QuoteHeader]:
    return st.builds(
        QuoteHeader,
        version=st.just(version),
        attestation_key_type=uint(16),
        tee_type=st.just(tee_type),
        qe_svn=uint(16),
        pce_svn=uint(16),
        qe_vendor_id=st.sampled_from([INTEL_QE_VENDOR_ID, bytes(16)]) | exactly(16),
        user_data=exactly(20),
    )


enclaves = st.builds(
    SgxReportBody,
    cpu_svn=exactly(16),
    misc_select=uint(32),
    isv_ext_prod_id=exactly(16),
    attributes=exactly(16),
    mr_enclave=exactly(32),
    mr_signer=exactly(32),
    config_id=exactly(64),
    isv_prod_id=uint(16),
    isv_svn=uint(16),
    config_svn=uint(16),
    isv_family_id=exactly(16),
    report_data=exactly(64),
)


def tds(kind: type[TdReport10], size: int) -> st.SearchStrategy[TdReport10]:
    return exactly(size).map(lambda data: kind.read(Cursor("td", data)))


@st.composite
def signatures(draw: st.DrawFn, nested: bool) -> EcdsaSignatureData:
    report = draw(enclaves)
    return EcdsaSignatureData(
        signature=draw(exactly(64)),
        attestation_key=draw(exactly(64)),
        qe_report=report,
        qe_report_raw=report.write(),
        qe_report_signature=draw(exactly(64)),
        qe_auth_data=draw(st.binary(max_size=80)),
        certification=CertificationData(
            draw(st.sampled_from([1, 2, 3, 4, 5, 7])), draw(st.binary(max_size=200))
        ),
        nested=nested,
    )


sgx_quotes = st.builds(
    SgxQuote,
    header=headers(3, TEE_SGX),
    body=enclaves,
    signature=signatures(nested=False),
    trailing=st.binary(max_size=20),
    signed=st.just(b""),
)
tdx_quotes = st.one_of(
    *(
        st.builds(
            TdxQuote,
            header=headers(version, TEE_TDX),
            body=tds(kind, size),
            signature=signatures(nested=True),
            trailing=st.binary(max_size=20),
            signed=st.just(b""),
        )
        for version, kind, size in (
            (4, TdReport10, 584),
            (5, TdReport10, 584),
            (5, TdReport15, 648),
            (5, TdReport15Ex, 885),
        )
    )
)


@given(quote=sgx_quotes | tdx_quotes)
def test_read_after_write_is_identity(quote: Any) -> None:
    raw = quote.write()
    read = parse_quote(raw)
    assert read == quote
    assert read.write() == raw
    assert raw.startswith(read.signed)


@given(quote=sgx_quotes | tdx_quotes, data=st.data())
def test_every_cut_inside_the_declared_length_is_malformed(quote: Any, data: Any) -> None:
    raw = replace(quote, trailing=b"").write()
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(MalformedEvidence):
        parse_quote(raw[:cut])


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_of_a_genuine_quote_is_malformed(kind: str) -> None:
    raw = GENUINE[kind]
    certificates = len(parse_quote(raw).signature.certification.data)
    # Every cut of the fixed layout, and a sample of those inside the certificates.
    everywhere = len(raw) - certificates
    for cut in (*range(everywhere), *range(everywhere, len(raw), 97), len(raw) - 1):
        with pytest.raises(MalformedEvidence):
            parse_quote(raw[:cut])


@given(data=st.binary(max_size=6000))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        parse_quote(data)


@given(kind=kinds, at=st.integers(0, 5000), patch=st.binary(min_size=1, max_size=64))
@settings(max_examples=200)
def test_overwritten_quotes_parse_exactly_or_raise_only_our_errors(
    kind: str, at: int, patch: bytes
) -> None:
    raw = GENUINE[kind]
    at %= len(raw)
    damaged = (raw[:at] + patch + raw[at + len(patch) :])[: len(raw)]
    try:
        assert parse_quote(damaged).write() == damaged
    except MalformedEvidence as e:
        assert e.field.startswith("quote")


@given(kind=kinds, data=st.data())
@settings(max_examples=150)
def test_any_flipped_bit_of_the_signed_span_is_refused(kind: str, data: Any) -> None:
    raw = GENUINE[kind]
    span = len(parse_quote(raw).signed) * 8
    bit = data.draw(st.integers(0, span - 1))
    with pytest.raises((MalformedEvidence, VerificationError)):
        verify(kind, raw=flip(raw, bit))


@given(kind=kinds, data=st.data())
@settings(max_examples=150)
def test_any_flipped_bit_after_the_signed_span_is_refused(kind: str, data: Any) -> None:
    """Signatures, keys, QE report, lengths, and the certificates with their unsigned armour."""
    raw = GENUINE[kind]
    start, end = len(parse_quote(raw).signed) * 8, len(raw) * 8
    bit = data.draw(st.integers(start, end - 1))
    with pytest.raises((MalformedEvidence, VerificationError)):
        verify(kind, raw=flip(raw, bit))


@given(kind=kinds, at=st.integers(0, 5000), patch=st.binary(min_size=1, max_size=32))
@settings(max_examples=150)
def test_verifying_damaged_quotes_raises_only_our_errors(kind: str, at: int, patch: bytes) -> None:
    raw = GENUINE[kind]
    at %= len(raw)
    damaged = raw[:at] + patch + raw[at + len(patch) :]
    try:
        report = verify(kind, raw=damaged)
    except AttestationError:
        return
    # Only the text around the certificates may differ in what still verifies.
    assert report.quote.signed == parse_quote(raw).signed
