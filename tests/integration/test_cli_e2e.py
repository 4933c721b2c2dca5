"""The commands as people run them, against a real node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import RunningNode

TIMEOUT_S = 120


def adyton(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adyton.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **more
    )


@pytest.fixture
def trust(node: RunningNode) -> tuple[str, ...]:
    return ("--root", node.facts["root"], "--measurement", node.facts["measurement"])


def test_verify(node: RunningNode, trust: tuple[str, ...]) -> None:
    done = adyton("verify", node.url, *trust)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout and "✗" not in done.stdout
    done = adyton("verify", node.url, *trust, "--json")
    document = json.loads(done.stdout)
    assert document["keyset_digest"] == node.facts["keyset_digest"]
    assert document["measurement"] == node.facts["measurement"]


def test_verify_without_the_simulators_root_is_code_4(node: RunningNode) -> None:
    done = adyton("verify", node.url, "--json")
    assert (done.returncode, json.loads(done.stdout)["step"]) == (4, "root")


def test_served_quote_verifies_offline(
    node: RunningNode, trust: tuple[str, ...], tmp_path: Path
) -> None:
    with node.client("") as client:
        evidence = client.get("/v1/aci/attestation").json()["attestation"]["evidence"]
    quote, collateral = tmp_path / "quote.hex", tmp_path / "collateral.json"
    quote.write_text(evidence["quote"])
    collateral.write_text(json.dumps(evidence["collateral"]))
    given = ("verify-quote", str(quote), "--collateral", str(collateral), "--policy", "genuine")
    done = adyton(*given, "--root", node.facts["root"], "--json")
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["measurement"] == node.facts["measurement"] and document["simulated"]
    assert adyton(*given, "--json").returncode == 4


def test_chat_receipt_get_and_receipt_verify(
    node: RunningNode, trust: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {**os.environ, "ADYTON_API_KEY": node.key(), "ADYTON_URL": node.url}
    asked = adyton(
        "chat", "Say hello.", *trust, "--max-tokens", "8", "--json",
        "--receipt-dir", str(tmp_path / "kept"), env=environment,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stdout
    answer = json.loads(asked.stdout)
    assert answer["answer"] and answer["simulated"] and not answer["inspection_only"]

    (kept,) = (tmp_path / "kept").glob("*.json")
    checked = adyton("receipt", "verify", str(kept), *trust, "--json")
    assert checked.returncode == 0, checked.stdout
    document = json.loads(checked.stdout)
    assert document["receipt_id"] == answer["receipt_id"]
    assert document["checked_request"] and document["checked_response"]

    got = tmp_path / "got.json"
    fetched = adyton(
        "receipt", "get", answer["receipt_id"], *trust, "--out", str(got), env=environment
    )
    assert fetched.returncode == 0, fetched.stderr
    assert adyton("receipt", "verify", str(got), *trust).returncode == 0

    foreign = environment | {"ADYTON_API_KEY": node.key("somebody-else")}
    refused = adyton("receipt", "get", answer["receipt_id"], *trust, "--json", env=foreign)
    assert refused.returncode == 1


def test_chat_from_a_pipe(node: RunningNode, trust: tuple[str, ...]) -> None:
    done = adyton(
        "chat", "--url", node.url, "--api-key", node.key(), *trust, "--max-tokens", "8",
        input="Say hello.\n",
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip()
    assert "SIMULATED" in done.stderr and "receipt " in done.stderr


def test_serve_and_keys_answer_for_the_gateway(node: RunningNode) -> None:
    assert "--tee" in adyton("serve", "--help").stdout
    assert adyton("serve").returncode == 2
    listed = adyton("keys", "list", "--state-dir", str(node.state_dir), "--json")
    assert listed.returncode == 0 and json.loads(listed.stdout)
