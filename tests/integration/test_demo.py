"""`adyton demo`, whole: what a newcomer sees first must not be broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


def demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adyton.cli", "demo", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, cwd=cwd
    )


@pytest.mark.slow
def test_demo_ends_ok_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = demo(cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.rstrip().splitlines()[-1]
    counted = re.fullmatch(r"demo: ok \((\d+) checks\)", last)
    assert counted is not None, last
    assert done.stdout.count("  ✓ ") == int(counted[1])
    assert "SIMULATED" in done.stdout and "✗" not in done.stdout
    for lie in ("answer", "question", "Intel's root", "another measurement", "nobody allowed"):
        assert re.search(rf"✓ .*{lie}.* refused", done.stdout), lie
    for error in ("CommitmentMismatch", "NodeUnknown", "NoSuchQuestion", "EpochEnded"):
        assert f"      {error}(" in done.stdout
    assert re.search(r"[1-9][0-9,]+ gas  register the node", done.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "/no/such/anvil"])
def test_without_a_chain_to_run_it_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from adyton.cli import main

    monkeypatch.setenv("ADYTON_ANVIL", name)
    assert main(["demo"]) == 1
    assert "ADYTON_ANVIL" in capsys.readouterr().err


def test_without_anvil_anywhere_it_names_the_ways_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from adyton.cli import anvil
    from adyton.cli.failures import NotDone

    monkeypatch.delenv("ADYTON_ANVIL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(anvil, "_MODULES", tmp_path)
    with pytest.raises(NotDone, match=r"make demo.*ADYTON_ANVIL.*--no-chain"):
        anvil.find_anvil()


@pytest.mark.slow
def test_demo_json_lists_its_checks(tmp_path: Path) -> None:
    done = demo("--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] and document["failed"] == 0
    assert len(document["steps"]) == document["checks"] > 30
    assert document["gas"]["renew its registration, its platform known"] > 21_000


def test_demo_fails_when_the_node_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from adyton.cli import demo_node, main

    command = (sys.executable, "-c", "import sys; sys.exit('no model here')")
    monkeypatch.setattr(demo_node, "_SELF", command)
    assert main(["demo", "--no-chain"]) == 1
    out = capsys.readouterr().out
    assert "no model here" in out and "demo: failed (1 of 1 checks)" in out


def test_demo_fails_when_a_lie_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demonstration is itself a check: it must be able to fail."""
    from adyton.cli.demo import Demo
    from adyton.cli.output import Steps

    steps = Steps(quiet=False)
    Demo(steps, tmp_path).refused("a lie is refused", ValueError, lambda: None)
    assert (steps.passed, steps.failed) == (0, 1)
    assert "✗ a lie is refused" in capsys.readouterr().out
