"""A simulated node as a child process, for as long as the demonstration lasts."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adyton.cli.failures import NotDone

START_TIMEOUT_S: Final = 180.0
STOP_TIMEOUT_S: Final = 30.0
_SELF: Final = (sys.executable, "-P", "-m", "adyton.cli")


@dataclass(frozen=True)
class RunningNode:
    """What the node printed when it was ready, and the process behind it."""

    url: str
    root: bytes
    keyset_digest: str
    measurement: str
    state_dir: Path
    process: subprocess.Popen[str]

    def create_key(self, name: str) -> str:
        """A new API key, made by `adyton keys create`."""
        command = [*_SELF, "keys", "create", name, "--state-dir", str(self.state_dir), "--json"]
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise NotDone(f"adyton keys create failed: {done.stderr.strip()[-500:]}")
        return str(_object(done.stdout, "adyton keys create")["key"])

    def stop(self) -> int:
        """Ask the node to end, as an operator would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NotDone(f"{what} printed {text[:200]!r} instead of a JSON object")
    return document


def _log_tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return "\n".join(lines[-15:])


def _first_line(process: subprocess.Popen[str], log: Path) -> str:
    """The node's first line of output. Raises NotDone when it ends or stays silent instead."""
    lines: queue.Queue[str] = queue.Queue()
    stdout = process.stdout or ()

    def read() -> None:
        # Reads on to the end, so that the node never blocks on a full pipe.
        for line in stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        line = lines.get(timeout=START_TIMEOUT_S)
    except queue.Empty:
        raise NotDone(f"the node was not ready after {START_TIMEOUT_S:.0f} s") from None
    if not line:
        raise NotDone(f"the node ended while starting:\n{_log_tail(log)}")
    return line


def _root_bytes(text: str, state_dir: Path) -> bytes:
    """The simulator's root, given as PEM or as the path of a file."""
    from attestation.roots import load_root

    if text.startswith("-----BEGIN"):
        return load_root(text.encode())
    path = Path(text)
    return load_root((path if path.is_absolute() else state_dir / path).read_bytes())


@contextmanager
def running_node(state_dir: Path) -> Generator[RunningNode]:
    """A node on a free loopback port, stopped on the way out whatever happens."""
    state_dir.mkdir(parents=True, exist_ok=True)
    log = state_dir.parent / "node.log"
    command = [
        *_SELF,
        *("serve", "--tee", "simulator", "--port", "0"),
        *("--state-dir", str(state_dir), "--json"),
    ]
    with (
        log.open("w", encoding="utf-8") as stderr,
        subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            ready = _object(_first_line(process, log), "adyton serve")
            yield RunningNode(
                url=str(ready["url"]),
                root=_root_bytes(str(ready["root"]), state_dir),
                keyset_digest=str(ready["keyset_digest"]),
                measurement=str(ready["measurement"]),
                state_dir=state_dir,
                process=process,
            )
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """The process is gone when this returns."""
    if process.poll() is None:
        process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    if process.poll() is None:
        process.kill()
