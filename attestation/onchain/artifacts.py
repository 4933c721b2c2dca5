"""The contracts as compiled: ABI and bytecode, carried in the package.

CI compiles `contracts/` again and compares, so that what is deployed is what can be read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from attestation.onchain.abi import ErrorTable, Interface
from attestation.onchain.faults import ChainError

FOLDER: Final[Traversable] = resources.files("attestation.onchain").joinpath("artifacts")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One contract: what can be asked of it, and the bytes that create it."""

    name: str
    interface: Interface
    bytecode: bytes = field(repr=False)

    def creation(self, *arguments: Any) -> bytes:
        """The data of a transaction that deploys it."""
        if not self.bytecode:
            raise TypeError(f"{self.name} is an interface: nothing to deploy")
        return self.bytecode + self.interface.construct(*arguments)


@cache
def _read(name: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(FOLDER.joinpath(f"{name}.json").read_text("utf-8"))
    except FileNotFoundError:
        raise ChainError(f"this installation carries no compiled {name}") from None
    return document


@cache
def artifact(name: str) -> Artifact:
    """The contract of this name. Raises ChainError when the package lacks it."""
    document = _read(name)
    return Artifact(
        name, Interface(name, document["abi"]), bytes.fromhex(document.get("bytecode", ""))
    )


def names() -> tuple[str, ...]:
    """Every contract the package carries."""
    if not FOLDER.is_dir():
        return ()
    found = (f.name for f in FOLDER.iterdir())
    return tuple(sorted(n.removesuffix(".json") for n in found if n.endswith(".json")))


@cache
def errors() -> ErrorTable:
    """Every custom error of every contract: calls pass through several of them."""
    return ErrorTable(item for name in names() for item in _read(name)["abi"])
