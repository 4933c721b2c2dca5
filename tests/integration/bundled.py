"""The node as it is shipped: rendered once, started from its bundle with nothing around it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from running import RunningNode

RENDER_S = 240.0


def adyton(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """What `adyton ARGUMENTS --json` prints; it must exit with `code`."""
    command = [sys.executable, "-m", "adyton.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RENDER_S, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def await_node(
    command: Sequence[str], folder: Path, state_dir: Path, env: dict[str, str]
) -> RunningNode:
    """The node that `command` starts in `folder`, ready; `state_dir` is where it lies here."""
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(30)
        raise AssertionError(f"the node did not start: {log.read_text()[-3000:]}")
    facts = json.loads(line)
    for name in ("root", "tls_cert"):  # where the node sees them, told as we do
        facts[name] = str(state_dir / Path(facts[name]).name)
    return RunningNode(process, facts, state_dir, log)
