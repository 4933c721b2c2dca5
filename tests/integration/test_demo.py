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
    for lie in ("answer", "question", "Intel's root", "another measurement"):
        assert re.search(rf"✓ .*{lie}.* refused", done.stdout), lie
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_demo_json_lists_its_checks(tmp_path: Path) -> None:
    done = demo("--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] and document["failed"] == 0
    assert len(document["steps"]) == document["checks"] > 15


def test_demo_fails_when_the_node_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from adyton.cli import demo_node, main

    command = (sys.executable, "-c", "import sys; sys.exit('no model here')")
    monkeypatch.setattr(demo_node, "_SELF", command)
    assert main(["demo"]) == 1
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
