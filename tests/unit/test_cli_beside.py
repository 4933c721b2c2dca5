"""`adyton verify` says what stood beside the quote; and where references of GPUs come from."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nvidia_pki
import pytest
from eventlogs import ccel, ccel_events, rtmrs
from fake_node import SEED, FakeNode
from fakes import nvml as fake

from adyton.cli import main
from adyton.cli.options import build_trust
from adyton.trust import MAX_DOCUMENT_BYTES, Trust, read_document
from attestation.errors import CollateralError
from attestation.evidence.eventlog import TcgEvent, TcgEventLog
from attestation.issuers.base import BootEvidence, IssuedEvidence
from attestation.issuers.simulator import MeasuredState, SimulatedPlatform, SimulatorIssuer
from attestation.roots import NVIDIA_RIM_ROOT, PRODUCTION_ROOTS

AT = nvidia_pki.NOW


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path, "node").running() as running:
        yield running


class Booted(SimulatorIssuer):
    """A simulated TD whose registers are what this log leads to, and which hands it out."""

    def __init__(self, log: TcgEventLog) -> None:
        digests = (hashlib.sha256(part).digest() for part in (b"code", b"config", b"model"))
        super().__init__("tdx", SEED, MeasuredState(*digests))
        self._log = log

    def issue(self, report_data: bytes) -> IssuedEvidence:
        platform = SimulatedPlatform(seed=SEED, now=int(time.time()))
        fields = self.measured.tdx_fields() | {"report_data": report_data}
        fields |= {
            k.replace("rtmr", "rt_mr"): bytes.fromhex(v) for k, v in rtmrs(self._log).items()
        }
        quote = platform.tdx_quote(fields)
        boot = BootEvidence(ccel=self._log.write())
        return IssuedEvidence("tdx", quote, platform.collateral("tdx"), simulated=True, boot=boot)


def showing(node: FakeNode, events: list[TcgEvent]) -> None:
    """The node serves this log, whatever its registers are."""
    text = base64.b64encode(ccel(events).write()).decode()

    def edit(report: dict[str, Any]) -> dict[str, Any]:
        report["attestation"]["evidence"]["ccel"] = text
        return report

    node.edit_report = edit


def verify(node: FakeNode, tmp_path: Path, *options: str) -> int:
    root = tmp_path / "root.der"
    root.write_bytes(node.root)
    pin = ("--measurement", node.measurement)
    return main(("verify", node.url, "--root", str(root), *pin, *options))


def test_a_replayed_log_is_a_line_of_its_own(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ccel(ccel_events())
    node.issuer = Booted(log)
    assert verify(node, tmp_path) == 0
    out = capsys.readouterr().out
    assert "event log was replayed" in out and "explains rtmr0, rtmr1, rtmr2, rtmr3" in out
    assert verify(node, tmp_path, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["event_registers"] == rtmrs(log)
    assert (document["dstack"], document["gpus"]) == (None, [])


def test_a_log_of_another_boot_is_refused(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    showing(node, ccel_events())
    assert verify(node, tmp_path, "--json") == 4
    assert json.loads(capsys.readouterr().out)["step"] == "rtmr0"


def test_a_log_that_explains_nothing_is_no_check_that_held(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    showing(node, [])
    assert verify(node, tmp_path) == 0
    out = capsys.readouterr().out
    assert "explains no register" in out and "was replayed" not in out


def test_without_a_log_nothing_is_said_of_one(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(node, tmp_path) == 0
    out = capsys.readouterr().out
    assert "event log" not in out and "GPU" not in out
    assert verify(node, tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["event_registers"] == {}


# --- whom reference values are believed from -----------------------------------------------------


def test_reference_values_are_nvidias_unless_roots_are_named(tmp_path: Path) -> None:
    (named := tmp_path / "root.der").write_bytes(root := fake.root(AT))
    assert Trust.of().gpu_rim_roots == (NVIDIA_RIM_ROOT,)
    assert Trust.of().roots == PRODUCTION_ROOTS
    assert Trust.of(root=named).gpu_rim_roots == (root,)
    assert Trust.of(roots=[]).gpu_rim_roots == ()
    assert Trust.of(root=named, gpu_rim_roots=[NVIDIA_RIM_ROOT]).gpu_rim_roots == (NVIDIA_RIM_ROOT,)
    assert build_trust((), "genuine", None).gpu_rim_roots == (NVIDIA_RIM_ROOT,)
    assert build_trust((named,), "genuine", None).gpu_rim_roots == (root,)


def test_nvidias_root_of_reference_values_vouches_for_no_evidence() -> None:
    assert NVIDIA_RIM_ROOT not in Trust.of().roots


def test_references_are_bytes_or_files(tmp_path: Path) -> None:
    (path := tmp_path / "rim.xml").write_bytes(b"<rim/>")
    trust = Trust.of(gpu_rims=[b"<a/>", path, str(path)], gpu_revocation=[path])
    assert trust.gpu_rims == (b"<a/>", b"<rim/>", b"<rim/>")
    assert trust.gpu_revocation == (b"<rim/>",)
    assert build_trust((), "genuine", None, rim=(path,), revocation=(path,)).gpu_rims == (
        b"<rim/>",
    )


def test_references_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(CollateralError, match="no-such-file"):
        read_document(tmp_path / "no-such-file")
    with (tmp_path / "large").open("wb") as f:
        f.truncate(MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(CollateralError, match="longer"):
        read_document(tmp_path / "large")
