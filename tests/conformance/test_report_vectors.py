"""Real event logs and GPU evidence in the places where a node puts them.

The vectors are collected from public repositories and are not part of this project:
ADYTON_VECTORS names their folder.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fakes.nvml import Nvml

from attestation.beside import verify_boot
from attestation.collateral import Collateral
from attestation.errors import VerificationError
from attestation.evidence.eventlog import TcgEventLog
from attestation.issuers.nvidia import GpuIssuer
from attestation.issuers.tsm import read_ccel
from attestation.roots import PRODUCTION_ROOTS
from attestation.verify import DcapReport, verify_quote
from attestation.verify.nvidia import verify_gpu

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))
MANIFEST = VECTORS / "manifest.json"
pytestmark = pytest.mark.skipif(
    not MANIFEST.is_file(), reason="no manifest.json where ADYTON_VECTORS points"
)

NEAR_TIME = 1_787_000_000  # 2026-08-17, inside the window of the collateral in the bundle
CCEL = (
    "ccel-dstack/ccel.bin",
    "ccel-google-cos113/ccel_data.dat",
    "ccel-trustee-gcp/CCEL_data_gcp",
    "ccel-trustee-gke/CCEL_data_grub_gke",
    "ccel-trustee-grub/CCEL_data_grub",
    "ccel-trustee-ovmf/CCEL_data_ovmf",
)


def gpu_vectors() -> list[Any]:
    if not MANIFEST.is_file():
        return []
    return [
        pytest.param(v, id=v["id"])
        for v in json.loads(MANIFEST.read_text())
        if v["tee"] == "nvidia-gpu" and (v.get("expected") or {}).get("verdict") == "accept"
    ]


def near() -> tuple[DcapReport, dict[str, str]]:
    """A node of NEAR's MPC network: its quote, and what it would show beside it."""
    path = VECTORS / "dstack-bundle" / "near-mpc-public-data" / "public_data.json"
    info = json.loads(path.read_text())["tee_participant_info"]["Dstack"]
    endorsements = {
        k: bytes(v).hex() if isinstance(v, list) else v for k, v in info["collateral"].items()
    }
    collateral = Collateral.from_json(endorsements)
    report = verify_quote(bytes(info["quote"]), collateral, PRODUCTION_ROOTS, NEAR_TIME)
    told = info["tcb_info"]
    return report, {
        "event_log": json.dumps(told["event_log"]),
        "app_compose": told["app_compose"],
    }


def test_what_a_production_node_shows_is_what_its_quote_measured() -> None:
    report, evidence = near()
    boot = verify_boot(evidence, report)
    assert boot.events is not None and len(boot.events.registers) == 4
    assert boot.dstack is not None and boot.dstack.app_compose is not None
    assert boot.dstack.compose_hash == (
        "2911e1f733466216dedb862d6d669e11256ee7a34ce4dbc66c4b807ba7a9c895"
    )


def test_an_entry_taken_out_of_a_production_log_is_refused() -> None:
    report, evidence = near()
    entries = json.loads(evidence["event_log"])
    for i in range(len(entries)):
        shortened = json.dumps([*entries[:i], *entries[i + 1 :]])
        with pytest.raises(VerificationError):
            verify_boot({**evidence, "event_log": shortened}, report)


@pytest.mark.parametrize("name", CCEL)
def test_real_firmware_logs_go_out_whole_and_without_their_padding(name: str) -> None:
    path = VECTORS / "eventlog" / name
    boot = read_ccel(path)
    assert boot is not None
    sent = TcgEventLog.read(base64.b64decode(boot.to_json()["ccel"]))
    kept = TcgEventLog.read(path.read_bytes())
    assert (sent.header, sent.events, sent.padding) == (kept.header, kept.events, b"")


@pytest.mark.parametrize("v", gpu_vectors())
def test_what_real_gpus_answered_fits_nvmls_buffers_and_verifies(v: dict[str, Any]) -> None:
    nonce = bytes.fromhex(v["fields"]["nonce"])
    evidence, chain = ((VECTORS / v[name]).read_bytes() for name in ("evidence", "cert_chain"))
    nvml = Nvml(gpus=1)
    issuer = GpuIssuer(nvml)  # its first question is its own
    nvml.report = lambda *_: evidence
    nvml.certificates = lambda _: chain
    (given,) = issuer.issue(nonce)
    assert given.evidence == evidence
    gpu = verify_gpu(
        given.evidence,
        given.cert_chain.encode(),
        PRODUCTION_ROOTS,
        v["verification_time"],
        nonce=nonce,
    )
    assert gpu.kind == "nvidia-gpu" and gpu.nonce_checked
