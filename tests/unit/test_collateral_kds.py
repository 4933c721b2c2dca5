"""AMD's service: whose endorsements a report needs, fetched, checked and cached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import snp_pki as amd
from cryptography.x509 import CRLNumber
from fakes import collateral_server as fake
from fakes.collateral_server import CollateralServer
from fakes.kds import Kds, pem

from attestation.collateral.check import check_item
from attestation.collateral.errors import CollateralMissing, CollateralRolledBack
from attestation.collateral.fetch_snp import afetch_endorsements
from attestation.collateral.http import Fetcher, Patience
from attestation.collateral.item import Item, Key, Kind
from attestation.collateral.kds import KdsClient, chips_of
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError, MalformedEvidence
from attestation.roots import AMD_ARKS
from attestation.verify.snp import verify_snp

NOW = amd.NOW
QUICK = Patience(attempts=2, backoff_s=0.01, total_s=5)
ROOTS = [amd.ark(p) for p in amd.PRODUCTS]


@pytest.fixture
async def server() -> AsyncIterator[CollateralServer]:
    async with CollateralServer(Kds().answer) as server:
        yield server


async def endorse(
    server: CollateralServer,
    report: bytes,
    *,
    cache: Path | None = None,
    now: int = NOW,
    vlek: bytes | None = None,
    product: str | None = None,
    roots: list[bytes] = ROOTS,
) -> SnpEndorsements:
    obtained = await afetch_endorsements(
        report,
        url=server.url,
        cache=cache,
        roots=roots,
        now=now,
        vlek=vlek,
        product=product,
        patience=QUICK,
    )
    return obtained.value


@pytest.mark.parametrize("product", amd.PRODUCTS)
async def test_fetched_endorsements_verify_the_report(
    server: CollateralServer, product: str
) -> None:
    report = amd.report("vcek", product)
    found = await endorse(server, report)
    verified = verify_snp(report, found, ROOTS, NOW)
    assert verified.revocation_checked
    assert verified.product == product


async def test_what_is_asked_of_the_service(server: CollateralServer) -> None:
    await endorse(server, amd.report("vcek", "Turin"))
    hwid = amd.chip_id("Turin")[:8].hex()
    assert server.requests == [
        "/vcek/v1/Turin/crl",
        f"/vcek/v1/Turin/{hwid}?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=68",
        "/vcek/v1/Turin/cert_chain",
    ]


async def test_a_report_that_names_no_product_is_tried_with_each(
    server: CollateralServer,
) -> None:
    report = amd.report("vcek", "Genoa", version=2)
    assert [c.product for c in chips_of(report)] == ["Milan", "Genoa"]
    assert verify_snp(report, await endorse(server, report), ROOTS, NOW).product == "Genoa"
    with pytest.raises(CollateralMissing):
        await endorse(server, report, product="Milan")


async def test_a_vlek_comes_from_the_cloud_and_its_chain_from_amd(
    server: CollateralServer,
) -> None:
    report = amd.report("vlek", "Milan")
    with pytest.raises(CollateralError, match="vlek: the cloud hands out"):
        await endorse(server, report)
    found = await endorse(server, report, vlek=amd.vek("vlek"))
    assert verify_snp(report, found, ROOTS, NOW).signing_key == "vlek"
    with pytest.raises(CollateralError, match="endorsements: "):
        await endorse(server, report, vlek=amd.vek("vlek", signer=amd.rsa_key("other")))


async def test_a_certificate_is_kept_for_a_month_and_the_crl_for_a_day(
    server: CollateralServer, tmp_path: Path
) -> None:
    report = amd.report()
    first = await endorse(server, report, cache=tmp_path / "c")
    server.requests.clear()
    assert await endorse(server, report, cache=tmp_path / "c", now=NOW + 600) == first
    assert server.requests == []
    later = NOW + amd.DAY * 9 // 10
    assert await endorse(server, report, cache=tmp_path / "c", now=later) == first
    assert server.requests == ["/vcek/v1/Milan/crl"]


async def test_without_network_the_cache_serves(server: CollateralServer, tmp_path: Path) -> None:
    report = amd.report()
    first = await endorse(server, report, cache=tmp_path / "c")
    obtained = await afetch_endorsements(
        report, url=None, cache=tmp_path / "c", roots=ROOTS, now=NOW + 600
    )
    assert obtained.value == first


async def test_an_older_crl_is_a_rollback(server: CollateralServer, tmp_path: Path) -> None:
    kds = Kds()
    server.genuine = kds.answer
    report = amd.report()
    for number, refused in ((7, False), (6, True), (7, False)):
        kds.crls["Milan"] = amd.crl(more=[(CRLNumber(number), False)])
        (tmp_path / "c" / "item_snp-crl_vcek_milan.json").unlink(missing_ok=True)
        if refused:
            with pytest.raises(CollateralRolledBack, match="number 6 after 7"):
                await endorse(server, report, cache=tmp_path / "c")
        else:
            await endorse(server, report, cache=tmp_path / "c")


@pytest.mark.parametrize(
    ("where", "body", "says"),
    [
        pytest.param("SPL=", b"<html>", "snp-vcek: |vek", id="HTML for a certificate"),
        pytest.param("SPL=", amd.vek("vcek", "Genoa"), "chain", id="of another product"),
        pytest.param(
            "SPL=",
            amd.vek(amd={"4": b"\x01" * 64}),
            "another chip",
            id="of another chip",
        ),
        pytest.param(
            "SPL=",
            amd.vek(amd={"3.8": amd.vek_extensions()["3.1"]}),
            "asked for",
            id="of other levels",
        ),
        pytest.param("SPL=", amd.vek(signer=amd.rsa_key("other")), "not signed by", id="not AMD's"),
        pytest.param(
            "SPL=", amd.vek(not_after=NOW - 1, not_before=NOW - 9), "expired", id="expired"
        ),
        pytest.param("SPL=", bytes(20_000), "longer than 16384", id="too long"),
        pytest.param("/cert_chain", b"", "0 certificates", id="no chain"),
        pytest.param("/cert_chain", pem(amd.ark()).encode(), "chain", id="a chain without ASK"),
        pytest.param(
            "/crl", amd.crl(signer=amd.rsa_key("other")), "not signed by a trusted", id="forged CRL"
        ),
        pytest.param("/crl", amd.crl(product="Genoa"), "not signed by a trusted", id="other CRL"),
        pytest.param("/crl", amd.crl(next_update=NOW - 1), "snp-crl: expired", id="old CRL"),
        pytest.param("/crl", b"nothing", "not a CRL", id="no CRL"),
        pytest.param("/crl", amd.crl([65537]), "revoked", id="ASK revoked"),
    ],
)
async def test_wrong_answers_are_refused(
    server: CollateralServer, tmp_path: Path, where: str, body: bytes, says: str
) -> None:
    server.on(where, fake.changed(body=body))
    with pytest.raises(CollateralError, match=says):
        await endorse(server, amd.report(), cache=tmp_path / "c")


async def test_roots_of_the_vendor_do_not_vouch_for_the_tests(server: CollateralServer) -> None:
    with pytest.raises(CollateralError, match="trusted"):
        await endorse(server, amd.report(), roots=list(AMD_ARKS))


def test_a_ca_that_no_root_issued() -> None:
    key = Key(Kind.SNP_CHAIN, "vlek/milan")
    good = Item(key, amd.intermediate("vlek"), b"", "")
    assert check_item(good, ROOTS, NOW).anchor == amd.ark("Milan")
    for der in (
        amd.intermediate("vlek", signer=amd.rsa_key("other")),
        amd.intermediate("vlek", ca=False, path_length=None),
        amd.intermediate("vlek", product="Genoa"),
        amd.vek("vlek"),
    ):
        with pytest.raises(CollateralError, match="not a CA that a trusted root issued"):
            check_item(replace(good, content=der), ROOTS, NOW)


def test_reports_that_do_not_say_what_they_need() -> None:
    masked = amd.report(chip_id=bytes(64), mask_chip_key=True)
    with pytest.raises(CollateralError, match="chip_id: masked"):
        chips_of(masked)
    with pytest.raises(CollateralError, match="neither VCEK nor VLEK"):
        chips_of(amd.report(signing_key=7))
    with pytest.raises(CollateralError, match="no known processor"):
        chips_of(amd.report(cpuid_fam_id=0x30))
    with pytest.raises(MalformedEvidence):
        chips_of(b"no report")


async def test_kinds_the_service_does_not_have() -> None:
    async with Fetcher(QUICK) as fetcher:
        with pytest.raises(CollateralError, match="not something AMD's service has"):
            await KdsClient(fetcher).fetch(Key(Kind.ROOT_CRL, "intel"))
