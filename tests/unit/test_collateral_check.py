"""What an item must be before it is kept: signed, current, and what was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import attested
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.collateral.check import ca_of, check_item, iso, join_checked
from attestation.collateral.item import Item, Key, Kind, Platform, join_items, split_collateral
from attestation.errors import CollateralError
from attestation.issuers.simulator import pki
from attestation.issuers.simulator.platform import DAY_S, SimulatedPlatform, Window
from attestation.roots import PRODUCTION_ROOTS

NOW = attested.NOW
ROOTS = [attested.platform().root_der]
TDX = Platform("tdx", attested.platform().fmspc.hex(), "platform")
NAMES = ("tcb-info", "qe-identity", "pck-crl", "root-crl")


def items(platform: Platform = TDX, **odd: Any) -> dict[str, Item]:
    collateral = attested.platform(**odd).collateral(platform.tee)
    return {i.key.kind.value: i for i in split_collateral(collateral, platform)}


def resigned(item: Item, **members: Any) -> Item:
    """The document with other members (None: removed), signed again by the TCB signer."""
    document = json.loads(item.content) | members
    text = json.dumps({k: v for k, v in document.items() if v is not None}).encode()
    key = attested.platform().tcb_signing.key
    return replace(item, content=text, signature=pki.sign_raw(key, text))


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_genuine_items_join_into_the_collateral_they_came_from(tee: str) -> None:
    platform = replace(TDX, tee=tee)
    checked = [check_item(i, ROOTS, NOW) for i in items(platform).values()]
    assert join_checked(checked) == attested.collateral(tee)
    assert join_items([c.item for c in checked]) == attested.collateral(tee)
    assert [c.version[0] for c in checked[:2]] == [17, 17]
    assert {c.anchor for c in checked} == set(ROOTS)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_holds_under_roots_of_others(name: str) -> None:
    with pytest.raises(CollateralError, match="trusted"):
        check_item(items()[name], PRODUCTION_ROOTS, NOW)
    with pytest.raises(CollateralError, match="trusted"):
        check_item(items()[name], [], NOW)


def test_a_chain_may_leave_the_root_out() -> None:
    item = items()["tcb-info"]
    alone = replace(item, issuer_chain=attested.platform().tcb_signing.pem)
    assert check_item(alone, ROOTS, NOW).anchor == ROOTS[0]


P = attested.platform()
STRANGER = SimulatedPlatform(seed=b"s" * 32, now=NOW)


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        pytest.param("", "0 certificates", id="none"),
        pytest.param("garbage", "0 certificates", id="garbage"),
        pytest.param(P.tcb_signing.pem + P.pck_ca.pem + P.root.pem, "3 certificates", id="three"),
        pytest.param(P.tcb_signing.pem + P.pck_ca.pem, "not trusted", id="another CA as root"),
        pytest.param(P.root.pem + P.root.pem, "its head is a CA", id="the root as signer"),
        pytest.param(P.pck_ca.pem + P.root.pem, "its head is a CA", id="the PCK CA as signer"),
        pytest.param(P.pck.pem + P.root.pem, "not signed by a trusted root", id="a PCK as signer"),
        pytest.param(STRANGER.tcb_signing.pem + P.root.pem, "not signed", id="stranger, our root"),
    ],
)
def test_chains_that_are_not_a_tcb_signer_under_the_root(chain: str, says: str) -> None:
    with pytest.raises(CollateralError, match=says):
        check_item(replace(items()["tcb-info"], issuer_chain=chain), ROOTS, NOW)


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64, bytes(63), bytes(65)])
def test_signatures_that_are_none(signature: bytes) -> None:
    with pytest.raises(CollateralError, match="tcb-info signature"):
        check_item(replace(items()["tcb-info"], signature=signature), ROOTS, NOW)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"id": "SGX"}, "id: asked for TDX"),
        ({"version": 2}, "version: asked for 3"),
        ({"version": True}, "version: asked for 3"),
        ({"fmspc": "00906ED50000"}, "fmspc: asked for 00ad70000000"),
        ({"fmspc": None}, "fmspc: asked for"),
        ({"tcbType": 1}, "tcbType: asked for 0"),
        ({"tcbType": False}, "tcbType: asked for 0"),
        ({"issueDate": "yesterday"}, "issueDate: not an RFC 3339"),
        ({"issueDate": "2026-05-28T20:26:40"}, "issueDate: no time zone"),
        ({"issueDate": 5}, "issueDate: must be of type str"),
        ({"nextUpdate": "0001-01-01T00:00:00+23:00"}, "nextUpdate|expired"),
        ({"nextUpdate": None}, "nextUpdate: must be of type str"),
        ({"tcbEvaluationDataNumber": "17"}, "must be of type int"),
        ({"tcbEvaluationDataNumber": True}, "must be of type int"),
    ],
)
def test_signed_documents_that_say_something_else(members: dict[str, Any], says: str) -> None:
    with pytest.raises(CollateralError, match=says):
        check_item(resigned(items()["tcb-info"], **members), ROOTS, NOW)


def test_a_signed_document_that_is_no_object() -> None:
    key = attested.platform().tcb_signing.key
    for text in (b"[]", b"\xff", b'{"a":1,"a":2}'):
        item = replace(items()["tcb-info"], content=text, signature=pki.sign_raw(key, text))
        with pytest.raises(CollateralError, match="tcb-info"):
            check_item(item, ROOTS, NOW)


def test_the_identity_of_the_other_quoting_enclave() -> None:
    sgx = items(replace(TDX, tee="sgx"))["qe-identity"]
    with pytest.raises(CollateralError, match=r"qe-identity\.id: asked for TD_QE, got 'QE'"):
        check_item(replace(sgx, key=items()["qe-identity"].key), ROOTS, NOW)
    with pytest.raises(CollateralError, match=r"qe-identity\.version"):
        check_item(resigned(items()["qe-identity"], version=3), ROOTS, NOW)


@pytest.mark.parametrize("name", NAMES)
def test_windows_are_closed_on_both_sides(name: str) -> None:
    window = Window(NOW, NOW + DAY_S)
    odd = dict.fromkeys(("crl_window", "tcb_info_window", "qe_identity_window"), window)
    item = items(**odd)[name]
    assert check_item(item, ROOTS, window.start).not_before == window.start
    assert check_item(item, ROOTS, window.end).not_after == window.end
    with pytest.raises(CollateralError, match="not valid before"):
        check_item(item, ROOTS, window.start - 1)
    with pytest.raises(CollateralError, match="expired"):
        check_item(item, ROOTS, window.end + 1)


def test_certificates_have_windows_too() -> None:
    old = {"certificates": Window(NOW - 9 * DAY_S, NOW - DAY_S)}
    roots = [attested.platform(**old).root_der]
    for item in items(**old).values():
        with pytest.raises(CollateralError, match="expired"):
            check_item(item, roots, NOW)


def test_a_crl_by_another_ca() -> None:
    good = items()
    with pytest.raises(CollateralError, match="not signed by the head"):
        check_item(replace(good["pck-crl"], content=good["root-crl"].content), ROOTS, NOW)
    with pytest.raises(CollateralError, match="root-crl: not signed by a trusted root"):
        check_item(replace(good["root-crl"], content=good["pck-crl"].content), ROOTS, NOW)
    processor = replace(good["pck-crl"], key=Key(Kind.PCK_CRL, "processor"))
    with pytest.raises(CollateralError, match="not of the processor CA"):
        check_item(processor, ROOTS, NOW)


def test_a_signer_whose_key_is_of_another_kind() -> None:
    """Chained to the root, but not able to make the signature Intel's documents have."""
    key = ec.derive_private_key(7, ec.SECP384R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(pki.name("TCB Signing"))
        .issuer_name(P.root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(NOW - DAY_S, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW + DAY_S, UTC))
        .sign(P.root.key, hashes.SHA256())
    )
    chain = certificate.public_bytes(Encoding.PEM).decode() + P.root.pem
    with pytest.raises(CollateralError, match="its signer has no P-256 key"):
        check_item(replace(items()["tcb-info"], issuer_chain=chain), ROOTS, NOW)


def root_crl(extension: x509.ExtensionType | None) -> Item:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(P.root.certificate.subject)
        .last_update(datetime.fromtimestamp(NOW - DAY_S, UTC))
        .next_update(datetime.fromtimestamp(NOW + DAY_S, UTC))
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    der = builder.sign(P.root.key, hashes.SHA256()).public_bytes(Encoding.DER)
    return replace(items()["root-crl"], content=der)


def test_a_crl_without_a_number_is_ordered_by_its_time() -> None:
    assert check_item(root_crl(None), ROOTS, NOW).version == (0, NOW - DAY_S)


def test_a_crl_number_that_cannot_be_read() -> None:
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.20"), b"\x05\x00")
    with pytest.raises(CollateralError, match="its extensions cannot be read"):
        check_item(root_crl(odd), ROOTS, NOW)


def test_a_signer_revoked_by_the_root() -> None:
    for odd in ({"tcb_signing_revoked": True}, {"pck_ca_revoked": True}):
        checked = [check_item(i, ROOTS, NOW) for i in items(**odd).values()]
        with pytest.raises(CollateralError, match="its signer is revoked"):
            join_checked(checked)


def test_parts_under_different_roots_do_not_mix() -> None:
    roots = [*ROOTS, STRANGER.root_der]
    mine = [check_item(i, roots, NOW) for i in items().values()]
    theirs = split_collateral(STRANGER.collateral("tdx"), TDX)
    mixed = [*mine[:3], check_item(theirs[3], roots, NOW)]
    with pytest.raises(CollateralError, match="different roots"):
        join_checked(mixed)


@pytest.mark.parametrize(
    ("name", "ca"),
    [
        ("Intel SGX PCK Platform CA", "platform"),
        ("Intel SGX PCK Processor CA", "processor"),
        ("Intel SGX Root CA", None),
        ("Platform Processor", None),
        ("", None),
    ],
)
def test_cas_are_told_by_their_names(name: str, ca: str | None) -> None:
    assert ca_of(pki.name(name)) == ca if name else ca_of(x509.Name([])) is None


def test_times_no_calendar_has_are_still_shown() -> None:
    assert iso(0) == "1970-01-01T00:00:00Z"
    assert iso(1 << 62) == f"{1 << 62} s"


# --- names of items ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        ("snp", "00ad70000000", "platform", "standard"),
        ("tdx", "00AD70000000", "platform", "standard"),
        ("tdx", "00ad7000000", "platform", "standard"),
        ("tdx", "../../../etc", "platform", "standard"),
        ("tdx", "00ad70000000", "root", "standard"),
        ("tdx", "00ad70000000", "platform", "latest"),
    ],
)
def test_platforms_that_are_none(fields: tuple[str, str, str, str]) -> None:
    with pytest.raises(CollateralError):
        Platform(*fields)


@pytest.mark.parametrize(
    "text",
    ["", "tcb-info", "tcb-info/", "other/x", "pck-crl/../../x", "pck-crl/A", "pck-crl/a//b"],
)
def test_keys_that_are_none(text: str) -> None:
    with pytest.raises(CollateralError, match=r"item\.key"):
        Key.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        {"key": 5},
        {"content": None},
        {"content": "not base64!"},
        {"signature": "x"},
        {"issuer_chain": "x" * ((2 << 20) + 1)},
    ],
)
def test_items_that_cannot_be_read(change: dict[str, Any]) -> None:
    with pytest.raises(CollateralError, match=r"item\."):
        Item.from_json({**items()["tcb-info"].to_json(), **change})
    with pytest.raises(CollateralError, match="must be a JSON object"):
        Item.from_json([])
