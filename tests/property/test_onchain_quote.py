"""Compact quotes: nothing added, nothing lost, and only our own errors."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import attested
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral import Collateral
from attestation.errors import AttestationError, MalformedEvidence, VerificationError
from attestation.evidence import SgxQuote, TdxQuote, parse_quote
from attestation.evidence.signature import CertificationData
from attestation.issuers.simulator.pki import public_raw
from attestation.onchain.errors import NotProvable
from attestation.onchain.pki import PckLeaf
from attestation.onchain.quote import compact_quote, prove
from attestation.x509 import read_chain

KINDS = attested.KINDS[:4]
SIGNED = {"sgx-v3": 432, "tdx-v4": 632, "tdx-v5": 638, "tdx-v5-td15": 702}
kinds = st.sampled_from(KINDS)


def rewritten(kind: str, **section: object) -> bytes:
    """A quote with members of its signature section replaced; nobody has signed it."""
    parsed: SgxQuote | TdxQuote = parse_quote(attested.quote(kind))
    return replace(parsed, signature=replace(parsed.signature, **section)).write()  # type: ignore[arg-type]


@given(kinds, st.binary(min_size=64, max_size=64), st.binary(min_size=32, max_size=32))
def test_every_field_stands_where_the_contract_reads_it(
    kind: str, report_data: bytes, auth: bytes
) -> None:
    raw = attested.quote(kind, attested.platform(qe_auth_data=auth), report_data=report_data)
    parsed, section, end = parse_quote(raw), parse_quote(raw).signature, SIGNED[kind]
    compact = compact_quote(raw)
    assert len(compact) == end + 608
    assert compact[:end] == raw[:end] == parsed.signed
    offset = 54 if "v5" in kind else 48
    report = offset + (320 if kind == "sgx-v3" else 520)
    assert compact[report : report + 64] == report_data
    assert compact[end : end + 64] == section.signature
    assert compact[end + 64 : end + 128] == section.attestation_key
    assert compact[end + 128 : end + 512] == section.qe_report.write()
    assert compact[end + 512 : end + 576] == section.qe_report_signature
    assert compact[end + 576 :] == auth


@given(kinds, st.integers(0, 6000))
def test_zeros_of_a_device_buffer_are_left_out(kind: str, padding: int) -> None:
    raw = attested.quote(kind)
    assert compact_quote(raw + bytes(padding)) == compact_quote(raw)


@given(kinds, st.binary(min_size=1, max_size=200).filter(any))
def test_unsigned_bytes_are_not_left_out_silently(kind: str, trailing: bytes) -> None:
    with pytest.raises(NotProvable, match=r"quote\.trailing"):
        compact_quote(attested.quote(kind) + trailing)


@given(kinds, st.binary(max_size=200).filter(lambda b: len(b) != 32))
def test_unusual_auth_data(kind: str, auth: bytes) -> None:
    """Genuine all the same: the QE vouches for it, and only its length is odd."""
    raw = attested.quote(kind, attested.platform(qe_auth_data=auth))
    with pytest.raises(NotProvable, match=r"quote\.qe_auth_data"):
        compact_quote(raw)


@given(kinds, st.integers(0, 5000))
def test_cut_anywhere(kind: str, size: int) -> None:
    raw = attested.quote(kind)
    with pytest.raises(MalformedEvidence):
        compact_quote(raw[: size % len(raw)])


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(AttestationError):
        prove(data, attested.collateral("tdx"))


@given(kinds, st.integers(0, 50_000))
def test_flipped_bits_raise_only_our_errors(kind: str, bit: int) -> None:
    raw = attested.quote(kind)
    with contextlib.suppress(AttestationError):
        prove(attested.flip(raw, bit % (8 * len(raw))), attested.collateral(attested.tee_of(kind)))


@given(kinds, st.sampled_from([1, 2, 3, 4, 7]), st.binary(max_size=500))
def test_certification_without_a_chain(kind: str, certification: int, data: bytes) -> None:
    raw = rewritten(kind, certification=CertificationData(certification, data))
    with pytest.raises(NotProvable, match="certification_data_type"):
        prove(raw, attested.collateral(attested.tee_of(kind)))


def test_chain_of_the_collateral_does_where_the_quote_has_none() -> None:
    raw = rewritten("tdx-v4", certification=CertificationData(1, bytes(404)))
    chain = parse_quote(attested.quote("tdx-v4")).signature.pck_chain
    assert chain is not None
    given_chain = attested.with_collateral("tdx", pck_certificate_chain=chain.decode())
    assert prove(raw, given_chain) == prove(attested.quote("tdx-v4"), attested.collateral("tdx"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_the_platform(kind: str) -> None:
    platform = attested.platform()
    proof = prove(attested.quote(kind), attested.collateral(attested.tee_of(kind)))
    ca, pck = public_raw(platform.pck_ca.key), public_raw(platform.pck.key)
    assert proof.platform == b"\0" + ca + platform.pck.der
    assert proof.passing_platform == b"\6" + ca + platform.pck.der
    registered = proof.registered_platform
    assert len(registered) == 143
    assert registered[:1] == b"\1"
    assert registered[1:33] == proof.leaf.issuer_id
    assert int.from_bytes(registered[33:53], "big") == platform.pck.certificate.serial_number
    assert registered[53:117] == pck
    assert registered[117:] == (
        platform.cpu_svn + platform.pce_svn.to_bytes(2, "big") + platform.fmspc + platform.pceid
    )


def refused(field: str, kind: str = "tdx-v4", of: Collateral | None = None, **odd: object) -> None:
    platform = attested.platform(**odd)
    tee = attested.tee_of(kind)
    with pytest.raises(NotProvable) as refusal:
        prove(attested.quote(kind, platform), of or attested.collateral(tee, platform))
    assert refusal.value.field == field


def test_what_the_contracts_do_not_read() -> None:
    refused("quote.body_type", "tdx-v5-td15ex")
    refused("quote.seam", mr_signer_seam=b"\1" * 48)
    refused("quote.seam", seam_attributes=b"\1" + bytes(7))
    refused("tcb_info.fmspc", tcb_info_fmspc=bytes(6))
    refused("tcb_info.pceId", tcb_info_pceid=b"\0\1")
    sgx, tdx = attested.collateral("sgx"), attested.collateral("tdx")
    refused("qe_identity.id", of=replace(tdx, qe_identity=sgx.qe_identity))
    refused("tcb_info.id", of=replace(tdx, tcb_info=sgx.tcb_info))
    other = attested.platform(seed=b"fixed seed of another platform!!")
    signing = attested.collateral("tdx").tcb_info_issuer_chain
    refused("collateral.pck_crl_issuer_chain", of=replace(tdx, pck_crl_issuer_chain=signing))
    assert other.pck_ca.der != attested.platform().pck_ca.der


def test_levels_that_are_not_best_first() -> None:
    """Python sorts levels as Intel's library does; contracts take the order that was signed."""
    tdx = attested.collateral("tdx")
    head, _, levels = tdx.tcb_info.partition('"tcbLevels":[{"tcb":{"sgx')
    assert levels
    worse = tdx.tcb_info.replace('"pcesvn":13', '"pcesvn":11')
    assert head
    assert worse != tdx.tcb_info
    refused("tcb_info.tcbLevels", of=replace(tdx, tcb_info=worse))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id":"TDX","id":"TDX"}', "null"])
def test_collateral_that_cannot_be_read(text: str) -> None:
    for member in ("tcb_info", "qe_identity"):
        with pytest.raises(AttestationError):
            prove(attested.quote("tdx-v4"), attested.with_collateral("tdx", **{member: text}))


@pytest.mark.parametrize(
    "levels",
    ["7", "[7]", '[{"tcb":7}]', '[{"tcb":{"sgxtcbcomponents":[{"svn":"x"}],"pcesvn":1}}]', "{}"],
)
def test_levels_that_cannot_be_read(levels: str) -> None:
    tdx = attested.collateral("tdx")
    head = tdx.tcb_info.partition('"tcbLevels":[{"tcb":{"sgx')[0]
    refused("tcb_info.tcbLevels", of=replace(tdx, tcb_info=f'{head}"tcbLevels":{levels}}}'))


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_accepts(kind: str) -> None:
    tee = attested.tee_of(kind)
    debug = {"attributes": b"\7" + bytes(15)} if tee == "sgx" else {"td_attributes": b"\1" * 8}
    platform, collateral = attested.platform(), attested.collateral(tee)
    quoted = platform.sgx_quote if tee == "sgx" else platform.tdx_quote
    for raw, step in (
        (attested.quote(kind, **debug), "debug"),
        (quoted({}, header={"qe_vendor_id": bytes(16)}), "header.qe_vendor_id"),
        (quoted({}, header={"attestation_key_type": 3}), "header.attestation_key_type"),
    ):
        with pytest.raises(VerificationError) as refusal:
            prove(raw, collateral)
        assert refusal.value.step == step
    debugged = attested.platform(qe_attributes=b"\x17" + bytes(15))
    with pytest.raises(VerificationError, match="debug"):
        prove(attested.quote(kind, debugged), collateral)


def test_bound_service_td() -> None:
    raw = attested.quote("tdx-v5-td15", mr_service_td=b"\1" * 48)
    with pytest.raises(VerificationError, match="service_td"):
        prove(raw, attested.collateral("tdx"))


def test_leaf_that_is_a_ca() -> None:
    platform = attested.platform()
    pem = (platform.pck_ca.pem + platform.root.pem).encode()
    leaf, issuer = read_chain("chain", pem)
    with pytest.raises(NotProvable, match="a CA's certificate"):
        PckLeaf.read(issuer.der, leaf.der)


def test_chain_that_is_none() -> None:
    raw = rewritten("tdx-v4", certification=CertificationData(5, b"no PEM"))
    with pytest.raises(VerificationError, match="pck_chain"):
        prove(raw, attested.collateral("tdx"))
