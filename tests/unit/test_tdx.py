"""TDX v4 and v5 quotes with every TD report body, and what only looks like one."""

from __future__ import annotations

from dataclasses import replace

import attested
import pytest

from attestation.errors import MalformedEvidence
from attestation.evidence import (
    CertificationData,
    TdReport10,
    TdReport15,
    TdReport15Ex,
    TdxQuote,
    parse_quote,
)
from attestation.evidence.signature import PCK_CHAIN, QE_REPORT

BODIES = {
    "tdx-v4": (TdReport10, 48, 584),
    "tdx-v5": (TdReport10, 54, 584),
    "tdx-v5-td15": (TdReport15, 54, 648),
    "tdx-v5-td15ex": (TdReport15Ex, 54, 885),
}


def parsed(kind: str) -> TdxQuote:
    quote = parse_quote(attested.quote(kind))
    assert isinstance(quote, TdxQuote)
    return quote


@pytest.mark.parametrize("kind", BODIES)
def test_body_and_signed_span_of_each_format(kind: str) -> None:
    body, start, size = BODIES[kind]
    raw, quote = attested.quote(kind), parsed(kind)
    assert type(quote.body) is body
    assert quote.body.write() == raw[start : start + size]
    assert quote.signed == raw[: start + size]
    assert quote.body.mr_td == raw[start + 136 : start + 184]
    assert quote.body.report_data == raw[start + 520 : start + 584] == attested.REPORT_DATA
    assert quote.write() == raw


def test_fields_of_the_extended_body_stand_at_intels_offsets() -> None:
    body = bytes(i % 251 for i in range(885))
    raw = attested.quote("tdx-v5-td15ex")
    quote = parse_quote(raw[:54] + body + raw[54 + 885 :])
    assert isinstance(quote.body, TdReport15Ex)
    assert quote.body.tee_tcb_svn2 == body[584:600]
    assert quote.body.mr_service_td == body[600:648]
    assert quote.body.vmid == body[648]
    assert quote.body.td_id == body[649:681]
    assert quote.body.cur_service_td_attributes == body[877:]
    assert quote.body.write() == body


@pytest.mark.parametrize("version", [0, 3, 6, 65535])
def test_tdx_quotes_of_other_versions_are_refused(version: int) -> None:
    with pytest.raises(MalformedEvidence) as e:
        parse_quote(version.to_bytes(2, "little") + attested.quote("tdx-v4")[2:])
    assert e.value.field == "quote.version"


@pytest.mark.parametrize("tee_type", [1, 0x80, 0x82, 0x8100, 0xFFFFFFFF])
def test_unknown_tee_types_are_refused(tee_type: int) -> None:
    raw = attested.quote("tdx-v4")
    with pytest.raises(MalformedEvidence, match="not supported"):
        parse_quote(raw[:4] + tee_type.to_bytes(4, "little") + raw[8:])


@pytest.mark.parametrize("body_type", [0, 1, 5, 65535])
def test_v5_body_that_is_no_td_report_is_refused(body_type: int) -> None:
    raw = attested.quote("tdx-v5")
    with pytest.raises(MalformedEvidence, match="not a TD report"):
        parse_quote(raw[:48] + body_type.to_bytes(2, "little") + raw[50:])


@pytest.mark.parametrize("size", [0, 583, 585, 648, 0xFFFFFFFF])
def test_v5_body_size_must_be_that_of_its_type(size: int) -> None:
    raw = attested.quote("tdx-v5")
    with pytest.raises(MalformedEvidence, match="body_size"):
        parse_quote(raw[:50] + size.to_bytes(4, "little") + raw[54:])


def with_inner(certification: CertificationData) -> bytes:
    quote = parsed("tdx-v4")
    return replace(quote, signature=replace(quote.signature, certification=certification)).write()


def test_v4_needs_the_qe_report_wrapped() -> None:
    raw = attested.quote("tdx-v4")
    at = 48 + 584 + 4 + 128
    with pytest.raises(MalformedEvidence, match="must be 6"):
        parse_quote(raw[:at] + PCK_CHAIN.to_bytes(2, "little") + raw[at + 2 :])


def test_qe_report_inside_a_qe_report_is_refused() -> None:
    with pytest.raises(MalformedEvidence, match="inside a QE report"):
        parse_quote(with_inner(CertificationData(QE_REPORT, b"")))


def test_bytes_hidden_inside_the_wrapper_are_refused() -> None:
    quote = parsed("tdx-v4")
    inner = quote.signature.write()[128 + 6 :] + b"hidden"
    section = quote.signature.write()[:128] + CertificationData(QE_REPORT, inner).write()
    raw = attested.quote("tdx-v4")[:632] + len(section).to_bytes(4, "little") + section
    with pytest.raises(MalformedEvidence, match="left over"):
        parse_quote(raw)


def test_bytes_hidden_after_the_wrapper_are_refused() -> None:
    section = parsed("tdx-v4").signature.write() + b"hidden"
    raw = attested.quote("tdx-v4")[:632] + len(section).to_bytes(4, "little") + section
    with pytest.raises(MalformedEvidence, match="left over"):
        parse_quote(raw)


def test_debug_is_read_from_the_td_attributes() -> None:
    assert not parsed("tdx-v4").body.debug
    assert parse_quote(attested.flip(attested.quote("tdx-v4"), (48 + 120) * 8)).body.debug


def test_signature_size_beyond_the_ceiling_is_refused() -> None:
    raw = attested.quote("tdx-v4")
    with pytest.raises(MalformedEvidence, match="exceeds"):
        parse_quote(raw[:632] + b"\xff\xff\xff\xff" + raw[636:])
