"""Where the contracts are: the file that `adyton chain deploy` writes and the others read.

It holds nothing secret and decides nothing by itself, but whoever reads another's file
trusts the contracts it names: compare the addresses with a source you believe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from attestation.canonical import loads_strict
from attestation.errors import MalformedEvidence
from attestation.onchain.abi import read_address

FORMAT: Final = "adyton-deployment/1"
MAX_FILE_BYTES: Final = 1 << 16
P256 = Literal["precompile", "software"]
_ADDRESSES: Final = ("quote_verifier", "node_registry", "measurement_policy")


@dataclass(frozen=True, slots=True)
class Deployment:
    """Contracts on one chain; addresses are checksummed (EIP-55).

    `block` is the one from which their events have to be read. `root_sha256` is of the
    trust anchor's certificate (hex), whose key is pinned in the quote verifier; `simulated`
    tells people that it is not Intel's. `software_p256` is set where the chain lacks the
    precompile and a contract stands in for it.
    """

    chain_id: int
    block: int
    quote_verifier: str
    node_registry: str
    measurement_policy: str
    root_sha256: str
    simulated: bool
    software_p256: str | None = None

    @classmethod
    def from_json(cls, obj: Any) -> Self:
        """Read the JSON form. Raises MalformedEvidence naming the member at fault."""
        if not isinstance(obj, Mapping) or obj.get("format") != FORMAT:
            raise MalformedEvidence("deployment.format", f"must be {FORMAT}")
        software = obj.get("software_p256")
        return cls(
            chain_id=_number(obj, "chain_id"),
            block=_number(obj, "block"),
            **{name: _address(obj, name) for name in _ADDRESSES},
            root_sha256=_digest(obj, "root_sha256"),
            simulated=_flag(obj, "simulated"),
            software_p256=None if software is None else _address(obj, "software_p256"),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file. Raises MalformedEvidence for its content; OSError is the caller's."""
        with path.open("rb") as f:
            data = f.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise MalformedEvidence("deployment", f"longer than {MAX_FILE_BYTES} bytes")
        return cls.from_json(loads_strict(data, "deployment"))

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "format": FORMAT,
            "chain_id": self.chain_id,
            "block": self.block,
            "quote_verifier": self.quote_verifier,
            "node_registry": self.node_registry,
            "measurement_policy": self.measurement_policy,
            "root_sha256": self.root_sha256,
            "simulated": self.simulated,
        }
        if self.software_p256 is not None:
            out["software_p256"] = self.software_p256
        return out

    def save(self, path: Path) -> None:
        """`path` holds the document whole, or what it held before."""
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n", "utf-8")
        temporary.replace(path)


def _number(obj: Mapping[str, Any], name: str) -> int:
    value = obj.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedEvidence(f"deployment.{name}", "must be a number that is not negative")
    return value


def _flag(obj: Mapping[str, Any], name: str) -> bool:
    value = obj.get(name)
    if not isinstance(value, bool):
        raise MalformedEvidence(f"deployment.{name}", "must be true or false")
    return value


def _digest(obj: Mapping[str, Any], name: str) -> str:
    value = obj.get(name)
    if not isinstance(value, str) or len(value) != 64 or value.strip("0123456789abcdef"):
        raise MalformedEvidence(f"deployment.{name}", "must be 64 lowercase hex characters")
    return value


def _address(obj: Mapping[str, Any], name: str) -> str:
    value = obj.get(name)
    try:
        return read_address(value if isinstance(value, str) else "")
    except ValueError as e:
        raise MalformedEvidence(f"deployment.{name}", str(e)) from None
