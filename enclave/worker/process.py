"""The worker as a process: it dies with its parent, dumps no core and prints no content.

The parent holds the other end of standard input and sends nothing: end-of-file means that
the parent is gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

EXIT_ORPHANED = 3

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def harden() -> None:
    """No core dump and no debugger of the same user can carry prompts out of this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent(fd: int) -> None:
    """Exit when the parent does: by signal where the kernel offers it, by end-of-file always.

    The signal alone would miss a parent that died before it was asked for; end-of-file
    alone would miss nothing, but needs this process to get a turn on the CPU.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.read(fd, 4096):
            pass
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def private_directory(path: Path) -> None:
    """Create `path` for this user only, or refuse one that others may enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise SystemExit(f"adyton worker: {path} must belong to this user alone (mode 0700)")


def print_fault(where: str, error: BaseException) -> None:
    """Tell the operator which code failed. Never the message: it may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    at = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-6:]))
    print(f"{where}: {type(error).__name__} at {at}", file=sys.stderr, flush=True)


def silence_content() -> None:
    """Send every path that would print an exception's message through `print_fault`."""

    def excepthook(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        print_fault("fatal", error)

    def thread_excepthook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            print_fault("thread", args.exc_value)

    def unraisablehook(args: Any) -> None:
        if args.exc_value is not None:
            print_fault("unraisable", args.exc_value)

    sys.excepthook = excepthook
    threading.excepthook = thread_excepthook
    sys.unraisablehook = unraisablehook
    logging.basicConfig(handlers=[_FaultLog(logging.WARNING)], force=True)


class _FaultLog(logging.Handler):
    """Where something was logged and what kind of error it was; never the message."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            print_fault(record.name, record.exc_info[1])
        else:
            # The pattern may have been formatted already, so only its place is printed.
            at = f"{record.filename}:{record.lineno}"
            print(f"{record.name}: {record.levelname} at {at}", file=sys.stderr, flush=True)


def loop_exception_handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException):
        print_fault("loop", error)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        # Some library kernels lack these; end-of-file and the resource limit still hold.
        print(f"prctl({option}) is not available here", file=sys.stderr, flush=True)
