"""The `adyton` command. This module stays small: a command loads what it needs, no more."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code the whole CLI promises (`adyton.cli.failures`)."""
    from adyton.cli.app import run

    return run(list(sys.argv[1:] if argv is None else argv))
