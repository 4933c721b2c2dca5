"""Bundles for many platforms, and what a person is told about a file of collateral."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import attested
import pytest
import snp_pki as amd
from fakes.kds import pem

from attestation.collateral import bundle as module
from attestation.collateral.bundle import Bundle, collateral_for, read_collateral_file
from attestation.collateral.cache import FORMAT as ITEM_FORMAT
from attestation.collateral.describe import describe
from attestation.collateral.item import Item, Key, Kind, Platform, split_collateral
from attestation.collateral.kds import chips_of
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, MalformedEvidence
from attestation.issuers.simulator.platform import DAY_S, SimulatedPlatform
from attestation.roots import PRODUCTION_ROOTS
from attestation.verify import verify_quote
from attestation.verify.snp import verify_snp
from attestation.x509 import read_chain

NOW = attested.NOW
ROOTS = [attested.platform().root_der]
FMSPC = attested.platform().fmspc.hex()
SGX, TDX = (Platform(tee, FMSPC, "platform") for tee in ("sgx", "tdx"))


def items(platform: Platform, of: SimulatedPlatform | None = None) -> tuple[Item, ...]:
    return split_collateral((of or attested.platform()).collateral(platform.tee), platform)


BOTH = Bundle.of([*items(SGX), *items(TDX)], at=NOW)


def written(document: Any) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("kind", attested.KINDS)
def test_one_file_serves_quotes_of_every_kind(kind: str) -> None:
    data = written(BOTH.to_json())
    quote = attested.quote(kind)
    collateral = collateral_for(data, quote)
    assert collateral == attested.collateral(attested.tee_of(kind))
    assert verify_quote(quote, collateral, ROOTS, NOW)


def test_shared_parts_are_there_once() -> None:
    assert len(BOTH.items) == 6
    assert Bundle.from_json(json.loads(written(BOTH.to_json()))) == BOTH
    assert [str(c.item.key.kind) for c in BOTH.check(ROOTS, NOW)].count("root-crl") == 1


def test_a_plain_collateral_file_serves_too() -> None:
    data = written(attested.collateral("tdx").to_json())
    assert collateral_for(data, b"whatever") == attested.collateral("tdx")


def test_a_platform_that_is_not_in_it_is_named() -> None:
    only = written(Bundle.of(items(SGX)).to_json())
    with pytest.raises(CollateralError, match=f"bundle: has no tcb-info/tdx/{FMSPC}/standard"):
        collateral_for(only, attested.quote("tdx-v4"))
    with pytest.raises(MalformedEvidence):
        collateral_for(only, b"no quote")


def test_intels_early_channel_serves_where_the_standard_one_is_not_in_it() -> None:
    early = replace(TDX, update="early")
    data = written(Bundle.of(items(early)).to_json())
    assert collateral_for(data, attested.quote("tdx-v4")) == attested.collateral("tdx")


def test_a_bundle_with_something_forged_is_not_made() -> None:
    forged = replace(items(TDX)[0], signature=bytes(64))
    with pytest.raises(CollateralError, match="tcb-info signature"):
        Bundle.of([forged, *items(TDX)[1:]]).check(ROOTS, NOW)


def test_two_documents_of_one_name_are_refused() -> None:
    twice = [*items(TDX), replace(items(TDX)[0], signature=b"")]
    with pytest.raises(CollateralError, match="is in it twice"):
        Bundle.of(twice)
    document = BOTH.to_json()
    document["items"].append(document["items"][0])
    with pytest.raises(CollateralError, match="one is there twice"):
        Bundle.from_json(document)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other/1"}, r"bundle\.format"),
        ({"items": {}}, r"bundle\.items"),
        ({"items": [5]}, "item: must be"),
        ({"at": "now"}, r"bundle\.at"),
        ({"at": True}, r"bundle\.at"),
    ],
)
def test_bundles_that_cannot_be_read(change: dict[str, Any], says: str) -> None:
    with pytest.raises(CollateralError, match=says):
        Bundle.from_json(BOTH.to_json() | change)
    with pytest.raises(CollateralError):
        Bundle.from_json(None)


def test_bundles_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS", 5)
    with pytest.raises(CollateralError, match="more than 5"):
        Bundle.of(BOTH.items.values())
    with pytest.raises(CollateralError, match="at most 5"):
        Bundle.from_json(BOTH.to_json())
    monkeypatch.setattr(module, "MAX_BUNDLE_BYTES", 10)
    with pytest.raises(CollateralError, match="longer than 10"):
        read_collateral_file(bytes(11))


def test_text_that_is_not_utf8_is_collateral_that_cannot_be_read() -> None:
    odd = replace(items(TDX)[0], content=b"\xff")
    with pytest.raises(CollateralError, match="tcb-info: not UTF-8"):
        Bundle.of([odd, *items(TDX)[1:]]).collateral(TDX)


# --- SEV-SNP --------------------------------------------------------------------------------


def snp_items(kind: str, product: str = "Milan") -> list[Item]:
    (chip,) = chips_of(amd.report(kind, product))
    chain = pem(amd.intermediate(kind, product), amd.ark(product))
    crl = Item(chip.crl, amd.crl(product=product), b"", "")
    if kind == "vcek":
        return [Item(chip.vcek, amd.vek(kind, product), b"", chain), crl]
    return [Item(chip.chain, amd.intermediate(kind, product), b"", ""), crl]


def test_reports_find_their_endorsements() -> None:
    bundle = Bundle.of([*snp_items("vcek"), *snp_items("vcek", "Genoa"), *snp_items("vlek")])
    again = Bundle.from_json(json.loads(written(bundle.to_json())))
    for report in (
        amd.report("vcek"),
        amd.report("vcek", "Genoa"),
        amd.report("vcek", "Genoa", version=2),
        amd.report("vlek"),
    ):
        found = again.endorsements_for(report, amd.vek("vlek"))
        assert verify_snp(report, found, [amd.ark(p) for p in amd.PRODUCTS], NOW)
    with pytest.raises(CollateralError, match="vlek: the cloud"):
        again.endorsements_for(amd.report("vlek"))
    with pytest.raises(CollateralError, match="bundle: has no snp-vcek/turin"):
        again.endorsements_for(amd.report("vcek", "Turin"))


# --- show -------------------------------------------------------------------------------------


def test_a_good_file_is_described() -> None:
    found = describe(written(BOTH.to_json()), ROOTS, NOW)
    assert found.form == "bundle"
    assert found.usable
    by_key = {p.key: p for p in found.parts}
    tcb_info = by_key[f"tcb-info/tdx/{FMSPC}/standard"]
    assert (tcb_info.number, tcb_info.revoked) == (17, None)
    assert by_key["pck-crl/platform"].revoked == 0
    assert tcb_info.days_left(tcb_info.not_after - DAY_S) == 1.0
    assert tcb_info.to_json(NOW)["days_left"] == tcb_info.days_left(NOW)


def test_plain_collateral_is_described_by_what_it_says_it_is() -> None:
    found = describe(written(attested.collateral("tdx").to_json()), ROOTS, NOW)
    assert found.form == "collateral"
    assert found.usable
    assert [p.key.partition("/")[0] for p in found.parts] == [
        "tcb-info",
        "qe-identity",
        "pck-crl",
        "root-crl",
    ]


def test_a_file_of_the_cache_is_described() -> None:
    document = {"format": ITEM_FORMAT, "fetched_at": 1, "item": items(TDX)[2].to_json()}
    found = describe(written(document), ROOTS, NOW)
    assert (found.form, found.usable) == ("item", True)


def test_endorsements_are_described() -> None:
    good = amd.endorsements()
    roots = [amd.ark(p) for p in amd.PRODUCTS]
    found = describe(written(good.to_json()), roots, NOW)
    assert found.usable
    assert [p.key for p in found.parts] == ["vek", "chain", "chain", "crl"]
    assert "SEV-VCEK" in found.parts[0].what
    late = describe(written(good.to_json()), roots, NOW + 99 * DAY_S)
    assert not late.usable
    assert "expired" in str(late.parts[0].problem)
    broken = SnpEndorsements(b"x", (b"y",), b"z")
    assert not describe(written(broken.to_json()), roots, NOW).usable


def test_each_part_has_its_own_problem() -> None:
    collateral = attested.collateral("tdx").to_json()
    damaged = collateral | {
        "tcb_info": "nothing",
        "pck_crl": "00",
        "qe_identity_signature": "11" * 64,
        "pck_crl_issuer_chain": "",
    }
    found = describe(written(damaged), ROOTS, NOW)
    assert [p.problem is None for p in found.parts] == [False, False, False, True]
    assert found.parts[0].number is None
    assert found.parts[0].days_left(NOW) is None
    assert not describe(written(collateral), PRODUCTION_ROOTS, NOW).usable


def test_certificates_in_bundles_are_described() -> None:
    bundle = Bundle.of([*snp_items("vcek"), *snp_items("vlek")])
    roots = [amd.ark()]
    assert describe(written(bundle.to_json()), roots, NOW).usable
    odd = Bundle.of([Item(Key(Kind.SNP_VCEK, "milan/zz/1"), amd.vek(), b"", pem(amd.ark()))])
    assert not describe(written(odd.to_json()), roots, NOW).usable


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"5", b"{}", b'{"format":5}', b'{"vek":1}', b"{" * 100_000]
)
def test_garbage_is_no_collateral(data: bytes) -> None:
    with pytest.raises(CollateralError):
        describe(data, ROOTS, NOW)


def test_a_file_too_long_to_be_collateral(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestation.collateral.describe.MAX_BUNDLE_BYTES", 10)
    with pytest.raises(CollateralError, match="longer than 10"):
        describe(bytes(11), ROOTS, NOW)


def test_endorsements_without_a_crl_are_described() -> None:
    bare = replace(amd.endorsements(), crl=None)
    assert len(describe(written(bare.to_json()), [amd.ark()], NOW).parts) == 3


def test_pem_of_items_is_one_form() -> None:
    item = items(TDX)[0]
    assert len(read_chain("x", item.issuer_chain.encode())) == 2
