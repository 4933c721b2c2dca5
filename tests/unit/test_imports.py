"""One direction of imports, and a client that stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("adyton", "attestation", "enclave", "gateway", "fhe", "contracts")
HEAVY = (
    "alembic",
    "fastapi",
    "gguf",
    "grpc",
    "numpy",
    "onnx",
    "onnxruntime",
    "prometheus_client",
    "sqlalchemy",
    "starlette",
    "tokenizers",
    "torch",
    "transformers",
    "uvicorn",
)

# Who may import which of our packages; a dotted name allows that module and what is in it.
MAY: dict[str, tuple[str, ...]] = {
    "attestation": (),
    "enclave": ("attestation",),
    "gateway": (
        "attestation",
        "enclave.errors",
        "enclave.keys",
        "enclave.sealing",
        "enclave.models",
        "enclave.worker.client",
        "enclave.worker.process",
        "enclave.worker.supervisor",
        "enclave.worker.proto",
    ),
    "adyton": ("attestation",),
    "fhe": (),
}

NETWORK = tuple(
    f"attestation.collateral.{name}"
    for name in ("cache", "fetch", "fetch_snp", "http", "kds", "pcs", "refresh", "source")
)

# bytes -> evidence -> verify -> policy: no layer knows one that stands to its right.
LAYERS: dict[str, tuple[str, ...]] = {
    "attestation/evidence": ("attestation.verify", "attestation.policy", "attestation.issuers"),
    "attestation/verify": (
        "attestation.policy",
        "attestation.issuers",
        "attestation.report",
        "attestation.ratls",
        *NETWORK,
    ),
    "attestation/policy": (
        "attestation.issuers",
        "attestation.report",
        "attestation.receipts",
        "attestation.collateral",
    ),
    "attestation/ratls": ("attestation.issuers", "attestation.report", *NETWORK),
    "attestation/receipts": ("attestation.issuers", "attestation.verify", "attestation.report"),
    "attestation/report.py": ("attestation.issuers.simulator", "attestation.roots"),
    "attestation/beside.py": ("attestation.issuers", "attestation.policy", "attestation.roots"),
    "attestation/roots.py": ("attestation.issuers",),
}

# verify and policy are pure: nothing that reaches a socket, a clock or the environment.
IMPURE = (
    "asyncio",
    "http",
    "httpx",
    "os",
    "random",
    "requests",
    "secrets",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "urllib",
)


def files(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [f for f in found if not f.name.endswith(("_pb2.py", "_pb2_grpc.py"))]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module `path` imports, at whatever depth, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == a or name.startswith(a + ".") for a in allowed)


@pytest.mark.parametrize("package", [p for p in MAY if (ROOT / p).is_dir()])
def test_packages_import_only_what_stands_left_of_them(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files(package)
        for line, name in imports(path)
        if name.partition(".")[0] in OURS and not within(name, (package, *MAY[package]))
    ]
    assert wrong == []


@pytest.mark.parametrize("place", LAYERS)
def test_layers_of_attestation_point_one_way(place: str) -> None:
    assert files(place), place
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files(place)
        for line, name in imports(path)
        if within(name, LAYERS[place])
        and not within(name, ("attestation.collateral.model", "attestation.issuers.base"))
    ]
    assert wrong == []


@pytest.mark.parametrize("place", ["attestation/evidence", "attestation/verify"])
def test_verification_is_pure(place: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files(place)
        for line, name in imports(path)
        if within(name, IMPURE)
    ]
    assert wrong == []


def test_the_engine_is_reached_through_the_worker_only() -> None:
    outside = [p for p in ("adyton", "attestation", "gateway") if (ROOT / p).is_dir()]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for package in outside
        for path in files(package)
        for line, name in imports(path)
        if within(name, ("enclave.engine", "onnxruntime", "onnx", "gguf"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "module",
    [
        "adyton",
        "adyton.cli",
        "attestation.collateral",
        "attestation.policy",
        "attestation.receipts",
        "attestation.report",
        "attestation.roots",
        "attestation.verify",
    ],
)
def test_the_client_side_stays_light(module: str) -> None:
    """In a fresh interpreter: what a client imports pulls in nothing of the node."""
    program = f"import {module}, sys; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(done.stdout.split())
    assert not loaded & {*HEAVY, "gateway", "enclave"}


def test_the_rules_are_tested_against_a_breach(tmp_path: Path) -> None:
    breach = tmp_path / "breach.py"
    breach.write_text("def f():\n    from enclave.engine import api\n    import numpy.linalg\n")
    assert [name for _, name in imports(breach)] == ["enclave.engine.api", "numpy.linalg"]
    assert not within("enclave.engine.api", MAY["gateway"])
    assert not within("attestation_other.x", ("attestation",))
