"""SGX v3 quotes: what is read is what was written, and what is not the format is refused."""

from __future__ import annotations

from dataclasses import replace

import attested
import pytest

from attestation.errors import MalformedEvidence
from attestation.evidence import CertificationData, SgxQuote, parse_quote
from attestation.evidence.signature import PCK_CHAIN, QE_REPORT

RAW = attested.quote("sgx-v3", isv_prod_id=7, isv_svn=9, config_svn=3, config_id=b"c" * 64)


def parsed() -> SgxQuote:
    quote = parse_quote(RAW)
    assert isinstance(quote, SgxQuote)
    return quote


def test_fields_stand_where_intel_puts_them() -> None:
    quote = parsed()
    assert quote.header.version == 3
    assert quote.body.mr_enclave == RAW[48 + 64 : 48 + 96]
    assert quote.body.mr_signer == RAW[48 + 128 : 48 + 160]
    assert (quote.body.isv_prod_id, quote.body.isv_svn, quote.body.config_svn) == (7, 9, 3)
    assert quote.body.report_data == RAW[48 + 320 : 48 + 384] == attested.REPORT_DATA
    assert quote.signed == RAW[:432]
    assert quote.signature.pck_chain is not None
    assert quote.signature.pck_chain.startswith(b"-----BEGIN CERTIFICATE-----")
    assert quote.signature.qe_report_raw == quote.signature.qe_report.write()


def test_trailing_bytes_stay_visible() -> None:
    quote = parse_quote(RAW + b"left behind")
    assert quote.trailing == b"left behind"
    assert quote.write() == RAW + b"left behind"


@pytest.mark.parametrize(
    ("offset", "field"),
    [(20 + 48, "reserved1"), (96 + 48, "reserved2"), (160 + 48, "reserved3"), (350, "reserved4")],
)
def test_reserved_bytes_of_the_body_must_be_zero(offset: int, field: str) -> None:
    with pytest.raises(MalformedEvidence, match=field):
        parse_quote(attested.flip(RAW, offset * 8))


@pytest.mark.parametrize("version", [0, 1, 2, 4, 5, 6, 65535])
def test_sgx_quotes_of_other_versions_are_refused(version: int) -> None:
    with pytest.raises(MalformedEvidence) as e:
        parse_quote(version.to_bytes(2, "little") + RAW[2:])
    assert e.value.field == "quote.version"


def test_sgx_reader_refuses_a_tdx_header() -> None:
    with pytest.raises(MalformedEvidence, match=r"quote\.version"):
        SgxQuote.read(attested.quote("tdx-v4"))


def with_certification(certification: CertificationData) -> bytes:
    quote = parsed()
    return replace(quote, signature=replace(quote.signature, certification=certification)).write()


@pytest.mark.parametrize("kind", [0, 8, 65535])
def test_undefined_certification_types_are_refused(kind: int) -> None:
    with pytest.raises(MalformedEvidence, match="not defined"):
        parse_quote(with_certification(CertificationData(kind, b"")))


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 7])
def test_quotes_without_an_embedded_chain_are_read(kind: int) -> None:
    quote = parse_quote(with_certification(CertificationData(kind, b"x" * 36)))
    assert quote.signature.certification == CertificationData(kind, b"x" * 36)
    assert quote.signature.pck_chain is None


def test_qe_report_nested_where_v3_has_none_is_refused() -> None:
    with pytest.raises(MalformedEvidence, match="inside a QE report"):
        parse_quote(with_certification(CertificationData(QE_REPORT, b"")))


def test_certification_data_has_a_ceiling() -> None:
    with pytest.raises(MalformedEvidence, match="exceeds"):
        parse_quote(with_certification(CertificationData(PCK_CHAIN, bytes((1 << 16) + 1))))


def test_bytes_hidden_after_the_certification_data_are_refused() -> None:
    quote = parsed()
    size = len(quote.signature.write())
    grown = RAW[:432] + (size + 4).to_bytes(4, "little") + RAW[436:] + b"hide"
    with pytest.raises(MalformedEvidence, match="left over"):
        parse_quote(grown)


def test_debug_is_read_from_the_attributes() -> None:
    assert not parsed().body.debug
    assert parse_quote(attested.flip(RAW, (48 + 48) * 8 + 1)).body.debug
