"""What an operator sets, and the part of it that is measured into the node's identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from attestation.issuers.nvidia import GpuMode

DATABASE_FILE: Final = "node.db"
TEES: Final = ("auto", "simulator", "gramine", "tsm", "dstack")
SIMULATED_TEES: Final = ("tdx", "sgx", "sev-snp")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one client, and all of them together, can make the node do."""

    max_body_bytes: int = 4 << 20
    max_header_bytes: int = 32 << 10
    max_messages: int = 2048
    max_inputs: int = 2048
    header_timeout_s: float = 15.0
    body_timeout_s: float = 30.0
    generation_timeout_s: float = 600.0
    drain_timeout_s: float = 20.0
    keep_alive_s: int = 75
    max_connections: int = 1024
    max_inflight: int = 128
    requests_per_minute: int = 1200
    concurrent_requests: int = 96
    attestations_per_minute: int = 600


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the measured code came from, as ACI's source_provenance names it; unbound claims."""

    repo_url: str | None = None
    repo_commit: str | None = None
    image_digest: str | None = None

    def to_json(self) -> dict[str, str | None]:
        return {**asdict(self), "image_provenance": None}


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to serve; `id` None lets the loader name it after its file."""

    path: Path
    id: str | None = None


@dataclass(frozen=True, slots=True)
class GivenKey:
    """An API key the operator names at start, by its digest (sha256 of the key)."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChainChoice:
    """Where a node registers itself, and the file with the key that pays for it.

    `rpc` may hold a provider's key, so it is not shown. `push_collateral`: the same key pays
    for bringing the collateral that registering rests on up to date. `take_seat`: and for a
    seat, with which the node's receipts cost less to check.
    """

    rpc: str = field(repr=False)
    registry: str
    policy: str
    key_file: Path
    push_collateral: bool = False
    take_seat: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """One node. `tee` is always typed by a person; nothing falls back to the simulator.

    "auto" is the device the machine has. `sim_tee` is what the simulator simulates. `gpu` is
    one of the modes of attestation.issuers.nvidia; `event_log` says whether evidence explains
    its boot.
    """

    tee: str
    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 8443
    chat_models: Sequence[ModelChoice] = ()
    embedding_models: Sequence[ModelChoice] = ()
    rows: int = 8
    context: int = 2048
    threads: int = 2
    hostnames: Sequence[str] = ()
    subject: str | None = None
    keyset_days: float = 30.0
    receipt_days: float = 30.0
    collateral: Path | None = None
    collateral_url: str | None = None
    collateral_cache: Path | None = None
    database_url: str | None = None
    sim_tee: str = "tdx"
    gpu: GpuMode = "auto"
    event_log: bool = True
    api_keys: Sequence[GivenKey] = ()
    chain: ChainChoice | None = None
    provenance: Provenance = field(default_factory=Provenance)
    limits: Limits = field(default_factory=Limits)

    def measured(self, models: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The settings a client relies on, as the JSON document whose digest is measured.

        `models` are (id, model_digest). Addresses and paths are left out: moving a node
        does not change what it is.
        """
        limits = {  # milliseconds, since canonical JSON has no business with fractions
            name: round(value * 1000) if isinstance(value, float) else value
            for name, value in asdict(self.limits).items()
        }
        return {
            "tee": self.tee,
            "models": [{"id": id, "model_digest": digest} for id, digest in models],
            "rows": self.rows,
            "context": self.context,
            "hostnames": list(self.hostnames),
            "subject": self.subject,
            "keyset_seconds": round(self.keyset_days * 86400),
            "receipt_seconds": round(self.receipt_days * 86400),
            "source": self.provenance.to_json(),
            "limits": limits,
        }
