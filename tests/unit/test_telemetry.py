"""onnxruntime's telemetry stays off: no file under HOME, no outbound connection."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, sys, threading, time
seen = set()
done = threading.Event()
import psutil
me = psutil.Process()
def watch():
    # Connections opened by native code show here too; Python's audit hook sees only its own.
    while not done.is_set():
        for c in me.net_connections(kind="all"):
            seen.add((c.family.name, str(c.raddr or c.laddr)))
        done.wait(0.005)
sys.addaudithook(lambda e, a: seen.add((e, str(a))) if e.startswith("socket.") else None)
thread = threading.Thread(target=watch); thread.start()
from enclave.engine import load_embedder
from enclave.models import default_embedding_model
vectors, _ = load_embedder(default_embedding_model(), id="m", threads=1).embed(["hello"])
assert vectors.shape == (1, 384)
import onnxruntime
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
time.sleep(0.5)
done.set(); thread.join()
print(sorted(seen))
"""


def test_no_file_in_home_and_no_connection(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert left == []


def test_the_watcher_sees_a_connection() -> None:
    """Without this, a watcher that sees nothing would pass the test above."""
    body = PROGRAM[: PROGRAM.index("from enclave.engine")] + (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "time.sleep(0.1)\ndone.set(); thread.join()\n"
        "print(any('AF_INET' in a for a, _ in seen), any(a == 'socket.connect' for a, _ in seen))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.split() == ["True", "True"]


def test_only_one_module_imports_onnxruntime() -> None:
    importers = set()
    for package in ("adyton", "attestation", "enclave", "gateway"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names.append(node.module or "")
                if any(n.split(".")[0] == "onnxruntime" for n in names):
                    importers.add(path.relative_to(ROOT).as_posix())
    assert importers == {"enclave/engine/ort.py"}
