"""The worker's process as its parent holds it: started, heard, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from enclave.errors import WorkerUnavailable

_INHERITED = ("PATH", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "TMPDIR", "TZ")
_MAX_LINE = 1000
_TERM_TIMEOUT_S = 3.0


class Child:
    """One life of the worker. Its standard input stays open: the end of it is how the
    worker learns that this process died."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._relay = asyncio.create_task(_relay_lines(process), name="worker-output")

    @classmethod
    async def start(cls, command: Sequence[str], home: Path) -> Child:
        """Run `command`. Raises WorkerUnavailable when it cannot be run."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(home),
                start_new_session=True,  # a terminal's Ctrl-C is for the node, which drains
                limit=_MAX_LINE * 64,
            )
        except OSError as error:
            raise WorkerUnavailable(f"the engine worker cannot be started: {error}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def end(self, *, ask_first: bool) -> None:
        """Leave nothing of it behind, asked with SIGTERM first or killed at once."""
        if ask_first and self.returncode is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):  # then it is killed
                await asyncio.wait_for(self._process.wait(), _TERM_TIMEOUT_S)
        self._signal(signal.SIGKILL)
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._relay

    def _signal(self, number: signal.Signals) -> None:
        """To the whole group the worker leads, so that nothing it started stays behind."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended on its own meanwhile
                os.killpg(self._process.pid, number)


def say(text: str) -> None:
    """One line on the node's standard error."""
    print(f"worker: {text}", file=sys.stderr, flush=True)


def _environment(home: Path) -> Mapping[str, str]:
    """Only what finding and running native code needs: no tokens, no proxies, no PYTHON*."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **inherited,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ORT_DISABLE_TELEMETRY": "1",
        "GRPC_VERBOSITY": "ERROR",
        # gRPC's older poller wakes fewer threads: a fifth less CPU for each engine step,
        # on cores that the engine itself could use.
        "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    }


async def _relay_lines(process: asyncio.subprocess.Process) -> None:
    """Pass on what the worker prints, line by line. It prints faults, never content."""
    if process.stdout is None:
        return
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            continue  # a line longer than the buffer: dropped, and reading goes on
        if not line:
            return
        say(line.decode(errors="replace").rstrip()[:_MAX_LINE])
