"""A hardware node with `--collateral-url`: fresh collateral in every report, failures told."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import attested
import pytest
import snp_pki as amd
from fakes import collateral_server as fake
from fakes.collateral_server import CollateralServer
from fakes.kds import Kds
from gateway_fakes import fake_node

from attestation.collateral.http import Patience
from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.issuers.base import IssuedEvidence, IssuerError
from attestation.issuers.simulator import SimulatedPlatform
from attestation.issuers.simulator.pccs import SimulatedPccs
from gateway.collateral import CollateralKeeper
from gateway.errors import StartError
from gateway.metrics import Metrics
from gateway.settings import Settings

ROOT = SimulatedPlatform(seed=attested.SEED, now=0).root_der


class Hardware:
    """An issuer as hardware is: no collateral of its own, not simulated."""

    name, tee_type, simulated, measurement = "tsm", "tdx", False, "00" * 48

    def __init__(self, quote: bytes, collateral: Collateral | SnpEndorsements | None = None):
        self.quote, self.collateral = quote, collateral
        self.failure: IssuerError | None = None

    def issue(self, report_data: bytes) -> IssuedEvidence:
        if self.failure is not None:
            raise self.failure
        return IssuedEvidence(self.tee_type, self.quote, self.collateral, simulated=False)

    def sealing_key(self) -> None:
        return None


@pytest.fixture
async def pccs() -> AsyncIterator[CollateralServer]:
    async with CollateralServer(SimulatedPccs(attested.SEED).answer) as server:
        yield server


def settings(state_dir: Path, url: str | None, **changes: Any) -> Settings:
    return replace(Settings(tee="tsm", state_dir=state_dir, collateral_url=url), **changes)


TDX = attested.quote("tdx-v4")
SGX = attested.quote("sgx-v3")


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("quote", [TDX, SGX], ids=["tdx", "sgx"])
async def test_a_report_carries_what_the_pccs_has(
    pccs: CollateralServer, tmp_path: Path, quote: bytes
) -> None:
    metrics = Metrics()
    keeper = await CollateralKeeper.open(
        settings(tmp_path, pccs.url), Hardware(quote), metrics, roots=(ROOT,)
    )
    assert keeper is not None
    try:
        evidence = keeper.endorse(Hardware(quote).issue(bytes(64)))
        tee = "tdx" if quote is TDX else "sgx"
        assert evidence.collateral == SimulatedPccs(attested.SEED).platform.collateral(tee)
        assert sample(metrics, "adyton_collateral_renewals_total", outcome="renewed") == 1
        assert sample(metrics, "adyton_collateral_not_after_seconds") > 1_700_000_000
        assert (tmp_path / "collateral" / "seen.json").exists()
    finally:
        await keeper.close()


async def test_an_snp_machine_asks_amds_service(tmp_path: Path) -> None:
    class Snp(Hardware):
        tee_type = "sev_snp"

    async with CollateralServer(Kds().answer) as kds:
        for kind, own in (("vcek", None), ("vlek", SnpEndorsements(amd.vek("vlek")))):
            issuer = Snp(amd.report(kind), own)
            chosen = settings(tmp_path / kind, kds.url, collateral_cache=tmp_path / f"c{kind}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("attestation.collateral.fetch_snp.KDS_PATIENCE", Patience())
                patch.setattr("attestation.collateral.refresh.time.time", lambda: amd.NOW)
                keeper = await CollateralKeeper.open(chosen, issuer, Metrics(), roots=(amd.ark(),))
                assert keeper is not None
                assert isinstance(keeper.current, SnpEndorsements)
                await keeper.close()


async def test_without_a_url_there_is_no_keeper(tmp_path: Path) -> None:
    assert await CollateralKeeper.open(settings(tmp_path, None), Hardware(TDX), Metrics()) is None


async def test_a_node_that_nobody_could_verify_does_not_start(
    pccs: CollateralServer, tmp_path: Path
) -> None:
    good = settings(tmp_path, pccs.url)
    simulated = Hardware(TDX)
    simulated.simulated = True
    silent = Hardware(TDX)
    silent.failure = IssuerError("busy")
    for chosen, issuer, says in (
        (good, Hardware(TDX), "not trusted"),  # under the vendor's roots
        (good, simulated, "makes its own"),
        (good, silent, "evidence: busy"),
        (good, Hardware(b"nothing"), "evidence: "),
        (replace(good, collateral=tmp_path / "x"), Hardware(TDX), "not both"),
        (settings(tmp_path, "http://pccs.example"), Hardware(TDX), "not https"),
    ):
        with pytest.raises(StartError, match=says):
            await CollateralKeeper.open(chosen, issuer, Metrics())


async def test_a_failed_renewal_is_logged_and_counted_and_the_last_good_one_serves(
    pccs: CollateralServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    keeper = await CollateralKeeper.open(
        settings(tmp_path, pccs.url), Hardware(TDX), metrics, roots=(ROOT,)
    )
    assert keeper is not None
    try:
        before = keeper.current
        pccs.on("/", fake.changed(body=b"<html>"))
        for path in (tmp_path / "collateral").glob("item_*"):
            path.unlink()
        with caplog.at_level(logging.WARNING, "adyton"), pytest.raises(Exception, match="tcb-info"):
            await keeper._refresher.renew()
        assert keeper.current == before
        assert sample(metrics, "adyton_collateral_renewals_total", outcome="failed") == 1
        (record,) = [r for r in caplog.records if r.getMessage() == "collateral_not_renewed"]
        assert record.fields["error"] == "CollateralError"
        assert record.fields["seconds_left"] > 0
    finally:
        await keeper.close()


async def test_the_nodes_report_follows_the_keeper(pccs: CollateralServer, tmp_path: Path) -> None:
    async with fake_node(tmp_path / "node") as fake_:
        node = fake_.node
        node._keeper = await CollateralKeeper.open(
            settings(tmp_path, pccs.url), Hardware(SGX), node.metrics, roots=(ROOT,)
        )
        served = json.loads(await node.attester.report(node.ring.current, "ab" * 32))
        assert served["attestation"]["evidence"]["collateral"]["tcb_info"].startswith('{"id":"SGX"')
        assert "adyton_collateral_not_after_seconds" in node.metrics.render().decode()
        task = node._keeper._task
    assert task is not None
    assert task.cancelled()
