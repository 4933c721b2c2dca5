"""An SEV-SNP node, as a person runs and checks it; and a machine that has no TEE at all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import snp_pki
from fakes import tsm as tsm_fake
from fakes.fuse import mounted, unavailable
from running import RunningNode, gateway, running

from attestation.evidence import AttestationReport, CertificateTable
from attestation.evidence.snp_certs import ARK_GUID, ASK_GUID, CRL_GUID, VCEK_GUID
from attestation.issuers import IssuerError, detect_issuer
from attestation.issuers.simulator import AmdAuthority, SimulatedSnp

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def snp_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    state = tmp_path_factory.mktemp("snp") / "state"
    with running(state, "--sim-tee", "sev-snp") as node:
        yield node


@pytest.fixture
def trust(snp_node: RunningNode) -> tuple[str, ...]:
    facts = snp_node.facts
    return ("--root", facts["root"], "--measurement", facts["measurement"])


def adyton(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adyton.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **more
    )


def test_the_node_says_what_it_is(snp_node: RunningNode) -> None:
    facts = snp_node.facts
    assert facts["simulated"] is True and facts["tee_type"] == "sev_snp"
    assert len(facts["measurement"]) == 96
    with snp_node.client("") as client:
        attestation = client.get("/v1/aci/attestation").json()["attestation"]
    assert attestation["tee_type"] == "sev_snp"
    report = AttestationReport.read(bytes.fromhex(attestation["evidence"]["quote"]))
    assert report.measurement.hex() == facts["measurement"]
    assert report.report_data[:32].hex() == attestation["report_data"]
    assert set(attestation["evidence"]["collateral"]) == {"vek", "chain", "crl"}


def test_verify(snp_node: RunningNode, trust: tuple[str, ...]) -> None:
    done = adyton("verify", snp_node.url, *trust)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIMULATED" in done.stdout and "✗" not in done.stdout
    done = adyton("verify", snp_node.url, *trust, "--json")
    document = json.loads(done.stdout)
    assert document["measurement"] == snp_node.facts["measurement"]
    assert document["keyset_digest"] == snp_node.facts["keyset_digest"]


def test_verify_without_the_root_or_with_another_measurement(snp_node: RunningNode) -> None:
    done = adyton("verify", snp_node.url, "--json")
    assert (done.returncode, json.loads(done.stdout)["step"]) == (4, "root")
    other = ("--root", snp_node.facts["root"], "--measurement", "ab" * 48)
    assert adyton("verify", snp_node.url, *other, "--json").returncode == 5


def test_chat_and_its_receipt(
    snp_node: RunningNode, trust: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {**os.environ, "ADYTON_API_KEY": snp_node.key(), "ADYTON_URL": snp_node.url}
    asked = adyton(
        "chat", "Say hello.", *trust, "--max-tokens", "8", "--json",
        "--receipt-dir", str(tmp_path), env=environment,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert json.loads(asked.stdout)["answer"]
    (kept,) = tmp_path.glob("*.json")
    checked = adyton("receipt", "verify", str(kept), *trust, "--json")
    assert checked.returncode == 0, checked.stdout


def test_served_evidence_verifies_offline(
    snp_node: RunningNode, trust: tuple[str, ...], tmp_path: Path
) -> None:
    with snp_node.client("") as client:
        evidence = client.get("/v1/aci/attestation").json()["attestation"]["evidence"]
    report, collateral = tmp_path / "report.bin", tmp_path / "endorsements.json"
    report.write_bytes(bytes.fromhex(evidence["quote"]))
    collateral.write_text(json.dumps(evidence["collateral"]))
    given = ("verify-quote", str(report), "--collateral", str(collateral), "--policy", "genuine")
    done = adyton(*given, "--root", snp_node.facts["root"], "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["measurement"] == snp_node.facts["measurement"]
    assert adyton(*given, "--json").returncode == 4


GUEST = (
    "mount -t tmpfs none /sys/kernel && mkdir -p /sys/kernel/config/tsm/report && "
    'mount --bind "$0" /sys/kernel/config/tsm/report && exec "$@"'
)
"""What a process sees here, with its children: a machine that has Linux's configfs-tsm."""


def cannot_pretend() -> str | None:
    """Why no process here can be shown such a machine, or None."""
    if reason := unavailable():
        return reason
    command = ("unshare", "--mount", "--propagation", "private")
    try:
        probe = subprocess.run(
            [*command, "mount", "-t", "tmpfs", "none", "/sys/kernel"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as e:
        return f"no unshare command here: {e}"
    return f"no mount namespaces here: {probe.stderr}" if probe.returncode else None


CANNOT_PRETEND = cannot_pretend()


def guest_device(machine: SimulatedSnp, level: int) -> tsm_fake.Tsm:
    """What a SNP guest at this privilege level has, on a host that hands out certificates."""
    endorsements = machine.endorsements()
    assert endorsements.crl is not None
    guids = (VCEK_GUID, ASK_GUID, ARK_GUID, CRL_GUID)
    documents = (endorsements.vek, *endorsements.chain, endorsements.crl)
    table = CertificateTable.build(zip(guids, documents, strict=True)).write()

    def report(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        fields = {"measurement": b"\x0a" * 48, "report_data": inblob, "vmpl": privlevel}
        return machine.report(fields), table

    device = tsm_fake.Tsm(report, b"sev_guest")
    device.privlevel_floor = level
    return device


@pytest.mark.skipif(CANNOT_PRETEND is not None, reason=str(CANNOT_PRETEND))
def test_a_node_finds_the_guests_own_device_and_is_verified(tmp_path: Path) -> None:
    """The hardware path from `--tee auto` to a verified chat, all but the hardware."""
    machine = SimulatedSnp(
        seed=b"m" * 32,
        authority=AmdAuthority.of(snp_pki.rsa_key("ark"), snp_pki.rsa_key("ask")),
        now=int(time.time()),
    )
    (root := tmp_path / "ark.der").write_bytes(machine.root_der)
    (device := tmp_path / "report").mkdir()
    state = tmp_path / "state"
    command = [
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", GUEST, str(device)),
        *(sys.executable, "-m", "gateway", "serve", "--tee", "auto", "--port", "0"),
        *("--state-dir", str(state), "--json"),
    ]
    log = tmp_path / "node.log"
    with mounted(device, guest_device(machine, level=0)), log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()[-2000:]
            facts = json.loads(line)
            assert (facts["tee_type"], facts["simulated"], facts["root"]) == (
                "sev_snp",
                False,
                None,
            )
            assert facts["measurement"] == "0a" * 48
            trust = ("--root", str(root), "--measurement", facts["measurement"])
            done = adyton("verify", facts["url"], *trust, "--json")
            assert done.returncode == 0, done.stdout
            assert json.loads(done.stdout)["simulated"] is False
            node = RunningNode(process, facts, state, log)
            environment = {**os.environ, "ADYTON_API_KEY": node.key(), "ADYTON_URL": node.url}
            asked = adyton("chat", "Hi.", *trust, "--max-tokens", "4", "--json", env=environment)
            assert asked.returncode == 0, asked.stdout
            assert node.stop() == 0
        finally:
            process.kill()
            process.wait(10)
    assert not (state / "keys.age").exists(), "no sealing key, so keys live in memory"


def test_a_machine_without_a_tee_is_told_so_and_nothing_is_simulated(tmp_path: Path) -> None:
    with contextlib.suppress(IssuerError):
        pytest.skip(f"this machine has a TEE: {detect_issuer()}")
    done = gateway("serve", "--tee", "auto", "--port", "0", "--state-dir", str(tmp_path))
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for looked in ("no TEE", "/dev/attestation", "dstack.sock", "/sys/kernel/config/tsm/report"):
        assert looked in error
    assert not list(tmp_path.glob("simulator*"))
