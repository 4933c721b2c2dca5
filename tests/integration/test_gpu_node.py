"""A node with two GPUs: `gateway serve` over a made-up driver, judged by the real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import nvml
from running import RunningNode, gateway, running

import adyton as client_library
from attestation.issuers.nvidia import open_gpus

TIMEOUT_S = 120
TESTS = Path(__file__).parents[1]
# What nvidia-ml-py installs, over GPUs that are lost while a file says so.
PYNVML = """\
import sys
from pathlib import Path

from fakes import nvml


class Driver(nvml.Nvml):
    def _called(self, name):
        if Path({lost!r}).exists() and name.startswith("nvmlDevice"):
            raise nvml.NVMLError(nvml.GPU_IS_LOST)
        super()._called(name)


sys.modules[__name__] = Driver(gpus=2, at={at})
"""


@dataclass
class GpuNode:
    """A running node, the moment its GPUs' certificates are good around, and test files."""

    node: RunningNode
    at: int
    folder: Path

    @property
    def lost(self) -> Path:
        return self.folder / "lost"

    def file(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def policy(self, **gpu: Any) -> str:
        document = {"version": 1, "name": "gpus", "gpu": {"required": True, **gpu}}
        return self.file("policy.json", json.dumps(document).encode())

    def roots(self) -> list[str]:
        """--root of the simulated CPU, of the made-up GPUs, of their reference values."""
        gpus = self.file("gpu-root.der", nvml.root(self.at))
        rims = self.file("rim-root.der", nvml.rim_authorities(self.at).root)
        return ["--root", self.node.facts["root"], "--root", gpus, "--root", rims]

    def references(self) -> list[str]:
        """--rim and --revocation of everything that wants checking."""
        out = []
        for i, rim in enumerate(nvml.rims(self.at)):
            out += ["--rim", self.file(f"rim-{i}.xml", rim)]
        documents = (*nvml.revocation(self.at), *nvml.rim_revocation(self.at))
        for i, document in enumerate(documents):
            out += ["--revocation", self.file(f"revocation-{i}.der", document)]
        return out

    def trust(self, **gpu: Any) -> list[str]:
        pin = ["--measurement", self.node.facts["measurement"]]
        return [*self.roots(), *self.references(), "--policy", self.policy(**gpu), *pin]


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuNode]:
    folder = tmp_path_factory.mktemp("gpus")
    at = int(time.time())
    (modules := folder / "modules").mkdir()
    (modules / "pynvml.py").write_text(PYNVML.format(lost=str(folder / "lost"), at=at))
    path = os.pathsep.join((str(modules), str(TESTS)))
    environment = {"PYTHONPATH": path}
    with running(folder / "state", "--gpu", "require", environment=environment) as node:
        yield GpuNode(node, at, folder)


def adyton(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adyton.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **more
    )


def answer(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = adyton(*arguments, "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


def test_gpus_that_the_policy_requires_are_accepted(gpus: GpuNode) -> None:
    code, document = answer("verify", gpus.node.url, *gpus.trust(min_count=2))
    assert code == 0, document
    assert document["claims"]["gpu_attested"]["status"] == "asserted"
    assert [g["kind"] for g in document["gpus"]] == ["nvidia-gpu"] * 2
    assert all(g["measured"] and g["revocation_checked"] for g in document["gpus"])
    assert len({g["device_id"] for g in document["gpus"]}) == 2


def test_a_person_sees_a_line_for_each_gpu(gpus: GpuNode) -> None:
    done = adyton("verify", gpus.node.url, *gpus.trust())
    assert done.returncode == 0 and "✗" not in done.stdout, done.stdout
    for i in range(2):
        assert f"GPU {i} answered for this report" in done.stdout
    assert done.stdout.count("firmware compared with signed values; revocation checked") == 2


def test_a_policy_that_wants_three_gpus_refuses_two(gpus: GpuNode) -> None:
    code, document = answer("verify", gpus.node.url, *gpus.trust(min_count=3))
    assert (code, document["error"]) == (5, "PolicyError")
    assert [f["field"] for f in document["findings"]] == ["gpu.count"]


def test_without_reference_values_a_person_is_told_what_to_give(gpus: GpuNode) -> None:
    pin = ("--measurement", gpus.node.facts["measurement"])
    done = adyton("verify", gpus.node.url, *gpus.roots(), "--policy", gpus.policy(), *pin)
    assert done.returncode == 5
    assert "gpu[0].rim" in done.stdout and "--rim" in done.stdout + done.stderr


def test_gpus_whose_root_nobody_named_are_refused(gpus: GpuNode) -> None:
    root = ("--root", gpus.node.facts["root"], "--policy", "genuine")
    code, document = answer("verify", gpus.node.url, *root)
    assert (code, document["step"]) == (4, "root")
    assert "gpus[0]" in document["reason"]


def test_each_challenge_is_answered_by_each_gpu_anew(gpus: GpuNode) -> None:
    with gpus.node.client("") as client:
        shown = [
            client.get("/v1/aci/attestation", params={"nonce": nonce}).json()
            for nonce in ("11" * 32, "22" * 32)
        ]
    first, second = (s["attestation"]["evidence"]["gpus"] for s in shown)
    assert len(first) == len(second) == 2
    assert all(a["evidence"] != b["evidence"] for a, b in zip(first, second, strict=True))
    assert [g["cert_chain"] for g in first] == [g["cert_chain"] for g in second]


def test_a_chat_and_its_receipt_rest_on_the_gpus_too(gpus: GpuNode, tmp_path: Path) -> None:
    environment = {**os.environ, "ADYTON_API_KEY": gpus.node.key(), "ADYTON_URL": gpus.node.url}
    trust = gpus.trust(min_count=2)
    asked = ("chat", "Hi.", *trust, "--max-tokens", "4", "--receipt-dir", str(tmp_path), "--json")
    done = adyton(*asked, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = tmp_path.glob("*.json")
    code, document = answer("receipt", "verify", str(bundle), *trust)
    assert code == 0, document
    code, document = answer("receipt", "verify", str(bundle), *gpus.trust(min_count=3))
    assert (code, document["error"]) == (5, "PolicyError")


def test_the_library_takes_the_same_files(gpus: GpuNode) -> None:
    trust = gpus.trust(min_count=2)
    given = {
        option: [trust[i + 1] for i, word in enumerate(trust) if word == f"--{option}"]
        for option in ("root", "rim", "revocation")
    }
    with client_library.Client(
        base_url=gpus.node.url,
        api_key=gpus.node.key(),
        policy=gpus.policy(min_count=2),
        measurement=gpus.node.facts["measurement"],
        roots=given["root"],
        gpu_rims=given["rim"],
        gpu_revocation=[Path(p).read_bytes() for p in given["revocation"]],
    ) as client:
        assert len(client.adyton.node.gpus) == 2


def test_a_gpu_that_is_lost_is_an_outage_and_never_left_out(gpus: GpuNode) -> None:
    gpus.lost.touch()
    try:
        with gpus.node.client("") as client:
            refused = client.get("/v1/aci/attestation", params={"nonce": "33" * 32})
    finally:
        gpus.lost.unlink()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "evidence_unavailable"
    assert answer("verify", gpus.node.url, *gpus.trust(min_count=2))[0] == 0


def test_the_log_says_how_many_gpus_there_are(gpus: GpuNode) -> None:
    lines = [json.loads(line) for line in gpus.node.log.read_text().splitlines()]
    (line,) = [entry for entry in lines if entry["event"] == "gpus"]
    assert line["count"] == 2


def test_a_node_whose_gpus_are_required_does_not_start_without(tmp_path: Path) -> None:
    found, why = open_gpus("auto")
    if found is not None:
        pytest.skip("this machine has GPUs in confidential-compute mode")
    arguments = ("--tee", "simulator", "--port", "0", "--state-dir", str(tmp_path))
    done = gateway("serve", *arguments, "--gpu", "require")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert why in error
