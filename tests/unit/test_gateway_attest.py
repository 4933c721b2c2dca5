"""The node's report is whole or it is not made: machine and GPUs answer together."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import nvml as fake
from fakes.nvml import Nvml
from gateway_fakes import fake_node

from attestation.issuers.base import IssuerError
from attestation.issuers.nvidia import GpuIssuer
from attestation.statement import report_data
from attestation.verify.nvidia_gpu import gpu_nonce
from gateway import attest, machine
from gateway.attest import Attester
from gateway.errors import ApiError
from gateway.identity import Identity
from gateway.machine import find_gpus
from gateway.settings import Provenance, Settings

NONCE = "ab" * 32


@asynccontextmanager
async def attesting(
    folder: Path, gpus: GpuIssuer | None
) -> AsyncGenerator[tuple[Attester, Identity]]:
    async with fake_node(folder / "s") as node:
        attester = Attester(node.node.issuer, provenance=Provenance(), per_minute=600, gpus=gpus)
        try:
            yield attester, node.node.ring.current
        finally:
            attester.close()


async def test_gpus_are_asked_for_the_nonce_of_this_very_report(tmp_path: Path) -> None:
    nvml = Nvml()
    async with attesting(tmp_path, GpuIssuer(nvml)) as (attester, identity):
        nvml.asked.clear()
        evidence = json.loads(await attester.report(identity, NONCE))["attestation"]["evidence"]
        wanted = gpu_nonce(report_data(identity.digest, NONCE))
        assert nvml.asked == [(0, wanted), (1, wanted)]
        assert len(evidence["gpus"]) == 2


async def test_a_node_without_gpus_serves_no_member_for_them(tmp_path: Path) -> None:
    async with attesting(tmp_path, None) as (attester, identity):
        for nonce in (NONCE, None):
            report = json.loads(await attester.report(identity, nonce))
            assert "gpus" not in report["attestation"]["evidence"]


@pytest.mark.parametrize("nonce", [NONCE, None])
async def test_a_gpu_that_falls_silent_is_an_outage(tmp_path: Path, nonce: str | None) -> None:
    nvml = Nvml()
    async with attesting(tmp_path, GpuIssuer(nvml)) as (attester, identity):
        nvml.faults["nvmlDeviceGetConfComputeGpuAttestationReport"] = fake.GPU_IS_LOST
        with pytest.raises(ApiError) as e:
            await attester.report(identity, nonce)
        assert (e.value.status, e.value.code) == (503, "evidence_unavailable")


async def test_questions_do_not_pile_up_before_slow_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attest, "_MAX_WAITING", 3)
    nvml, release = Nvml(gpus=1), threading.Event()
    gpus = GpuIssuer(nvml)
    honest = nvml.report

    def slow(index: int, nonce: bytes) -> bytes:
        release.wait(30)
        return honest(index, nonce)

    nvml.report = slow
    async with attesting(tmp_path, gpus) as (attester, identity):
        asked = [asyncio.create_task(attester.report(identity, NONCE)) for _ in range(3)]
        await asyncio.sleep(0)
        try:
            with pytest.raises(ApiError) as e:
                await attester.report(identity, NONCE)
            assert (e.value.status, e.value.code) == (503, "overloaded")
        finally:
            release.set()
        assert len(await asyncio.gather(*asked)) == 3
        assert await attester.report(identity, NONCE)


# --- at start ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "count"), [("auto", 2), ("require", 2), ("off", 0)])
def test_the_operator_says_whether_gpus_are_shown(
    mode: Any, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(machine, "event", lambda name, **fields: told.append({name: fields}))
    gpus = find_gpus(Settings("simulator", tmp_path, gpu=mode))
    assert (0 if gpus is None else gpus.count) == count
    assert told[0]["gpus"]["count"] == count and told[0]["gpus"]["reason"]


def test_required_gpus_in_clear_mode_stop_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = Nvml()
    nvml.cc_feature = 0
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert find_gpus(Settings("simulator", tmp_path)) is None
    with pytest.raises(IssuerError, match="confidential computing is off"):
        find_gpus(Settings("simulator", tmp_path, gpu="require"))
