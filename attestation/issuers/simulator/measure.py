"""What a simulated node measures: the code it runs, its configuration, its model.

There is no hardware behind this, so it is honest only as far as the process is. What it
gives is the behaviour people build against: change one file and the measurement changes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from attestation.canonical import jcs
from attestation.issuers.base import IssuerError

MARK: Final = b"adyton-simulator"
"""Stands in a measured field of all simulated evidence: TDX mr_owner_config, SGX config_id,
SEV-SNP host_data."""

NODE_PACKAGES: Final = ("attestation", "enclave", "gateway")
_DIGEST_BYTES: Final = 32
_NAME: Final = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


@dataclass(frozen=True, slots=True)
class MeasuredState:
    """Three SHA-256 digests (32 bytes each) that stand for what the node runs."""

    code_digest: bytes
    config_digest: bytes
    model_digest: bytes

    def __post_init__(self) -> None:
        for what in (self.code_digest, self.config_digest, self.model_digest):
            if len(what) != _DIGEST_BYTES:
                raise IssuerError("measured state: each digest is 32 bytes")

    @property
    def digest(self) -> bytes:
        """One digest over all three, so that pinning a register made of it covers them."""
        document = {
            "code": self.code_digest.hex(),
            "config": self.config_digest.hex(),
            "model": self.model_digest.hex(),
            "purpose": "adyton.simulator.measured_state.v1",
        }
        return hashlib.sha256(jcs(document)).digest()

    @property
    def mr_td(self) -> bytes:
        return hashlib.sha384(b"adyton.simulator.mr_td.v1\0" + self.digest).digest()

    @property
    def mr_enclave(self) -> bytes:
        return hashlib.sha256(b"adyton.simulator.mr_enclave.v1\0" + self.digest).digest()

    @property
    def snp_measurement(self) -> bytes:
        return hashlib.sha384(b"adyton.simulator.snp.v1\0" + self.digest).digest()

    def tdx_fields(self) -> dict[str, bytes]:
        """The TD report registers that follow from this state."""
        return {
            "mr_td": self.mr_td,
            "mr_config_id": self.config_digest.ljust(48, b"\0"),
            "mr_owner_config": MARK.ljust(48, b"\0"),
            "rt_mr1": _extend(self.code_digest),
            "rt_mr2": _extend(self.config_digest),
            "rt_mr3": _extend(self.model_digest),
        }

    def sgx_fields(self) -> dict[str, bytes | int]:
        """The SGX report registers that follow from this state."""
        return {
            "mr_enclave": self.mr_enclave,
            "mr_signer": hashlib.sha256(b"adyton simulator signer").digest(),
            "config_id": MARK.ljust(64, b"\0"),
            "isv_prod_id": 1,
            "isv_svn": 1,
        }

    def snp_fields(self) -> dict[str, bytes]:
        """The SEV-SNP report fields that follow from this state."""
        return {"measurement": self.snp_measurement, "host_data": MARK.ljust(32, b"\0")}


def _extend(digest: bytes) -> bytes:
    """A runtime register extended once from zero, as TDG.MR.RTMR.EXTEND does."""
    return hashlib.sha384(bytes(48) + hashlib.sha384(digest).digest()).digest()


def measure_config(config: Mapping[str, Any]) -> bytes:
    """SHA-256 of the JCS form of the settings that bear on security."""
    return hashlib.sha256(jcs(config)).digest()


def measure_code(packages: Iterable[str] = NODE_PACKAGES) -> bytes:
    """SHA-256 over every installed file of these packages and every dependency's version."""
    document = {"files": measure_files(packages), "distributions": measure_distributions()}
    return hashlib.sha256(jcs(document)).digest()


def measure_files(packages: Iterable[str]) -> dict[str, str]:
    """SHA-256 (hex) of each file of the packages, by path relative to where they stand.

    Byte-code caches and hidden files are left out. Nothing is imported.
    """
    out: dict[str, str] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise IssuerError(f"cannot measure {package}: no such package is installed")
        for location in spec.submodule_search_locations:
            base = Path(location)
            for path in sorted(base.rglob("*")):
                inside = path.relative_to(base)
                if any(p == "__pycache__" or p.startswith(".") for p in inside.parts):
                    continue
                if path.is_file():
                    name = f"{package}/{inside.as_posix()}"
                    out[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return out


def measure_distributions(
    name: str = "adyton", extras: tuple[str, ...] = ("node",)
) -> dict[str, str]:
    """The version of every installed distribution that `name[extras]` needs, transitively.

    A requirement whose distribution is absent does not apply to this machine and is skipped.
    """
    out: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(name, extra) for extra in ("", *extras)]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            distribution = metadata.distribution(current[0])
        except metadata.PackageNotFoundError:
            continue
        out[_normal(current[0])] = distribution.version
        for requirement in distribution.requires or []:
            waiting += _wanted(requirement, current[1])
    if _normal(name) not in out:
        raise IssuerError(f"cannot measure {name}: no such distribution is installed")
    return out


def _wanted(requirement: str, extra: str) -> list[tuple[str, str]]:
    """What a requirement line asks for when its owner was asked for with `extra`."""
    line, _, marker = requirement.partition(";")
    condition = _EXTRA.search(marker)
    if (condition.group(1) if condition else "") != extra:
        return []
    match = _NAME.match(line)
    if match is None:
        return []
    wanted = [e.strip() for e in (match.group(2) or "").split(",") if e.strip()]
    return [(_normal(match.group(1)), e) for e in ("", *wanted)]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
