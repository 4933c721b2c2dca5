"""The simulator as an issuer: what a node started with `--tee simulator` asks for quotes."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attestation.collateral.model import Collateral
from attestation.issuers.base import IssuedEvidence, IssuerError
from attestation.issuers.simulator import pki
from attestation.issuers.simulator.measure import MeasuredState
from attestation.issuers.simulator.platform import EPOCH_S, SimulatedPlatform

REPORT_DATA_BYTES: Final = 64
_SEED_BYTES: Final = 32


def _clock() -> int:
    return int(time.time())


class SimulatorIssuer:
    """Issues TDX version 4 or SGX version 3 quotes over `measured`, under the seed's own root.

    The same seed, state, report data and 30-day epoch give the same bytes. Thread-safe.
    """

    name = "simulator"
    simulated = True

    def __init__(
        self,
        tee: str,
        seed: bytes,
        measured: MeasuredState,
        now: Callable[[], int] = _clock,
    ) -> None:
        if tee not in {"tdx", "sgx"}:
            raise IssuerError(f"the simulator issues tdx and sgx evidence, not {tee!r}")
        if len(seed) < _SEED_BYTES:
            raise IssuerError(f"a simulator seed has at least {_SEED_BYTES} bytes")
        self._tee = tee
        self._seed = seed
        self._measured = measured
        self._now = now
        self._lock = threading.Lock()
        self._platform = SimulatedPlatform(seed=seed, now=now())
        self._collateral = self._platform.collateral(tee)

    def __repr__(self) -> str:
        return f"SimulatorIssuer(tee={self._tee!r}, measurement={self.measurement!r})"

    @property
    def tee_type(self) -> str:
        return self._tee

    @property
    def measurement(self) -> str:
        measured = self._measured
        return (measured.mr_td if self._tee == "tdx" else measured.mr_enclave).hex()

    @property
    def measured(self) -> MeasuredState:
        return self._measured

    @property
    def root_der(self) -> bytes:
        """The simulator's root certificate, trusted only where a person names it."""
        return self._platform.root_der

    def issue(self, report_data: bytes) -> IssuedEvidence:
        """A quote over these 64 bytes, with collateral that is current now."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise IssuerError(f"report data has {REPORT_DATA_BYTES} bytes, not {len(report_data)}")
        platform, collateral = self._current()
        if self._tee == "tdx":
            quote = platform.tdx_quote({**self._measured.tdx_fields(), "report_data": report_data})
        else:
            quote = platform.sgx_quote({**self._measured.sgx_fields(), "report_data": report_data})
        return IssuedEvidence(self._tee, quote, collateral, simulated=True)

    def sealing_key(self) -> bytes:
        """32 bytes of this seed and this measurement: a stand-in for what hardware derives.

        Whoever reads the seed can derive it too; nothing is protected from the machine.
        """
        return pki.derive(self._seed, f"sealing {self._tee} {self.measurement}")

    def _current(self) -> tuple[SimulatedPlatform, Collateral]:
        now = self._now()
        with self._lock:
            if now // EPOCH_S != self._platform.now // EPOCH_S:
                self._platform = SimulatedPlatform(seed=self._seed, now=now)
                self._collateral = self._platform.collateral(self._tee)
            return self._platform, self._collateral


def load_or_create_seed(path: Path) -> bytes:
    """The seed kept at `path`, made at first use (mode 0600), so a node keeps its root.

    Raises IssuerError where the file is not a seed or cannot be read or written.
    """
    try:
        if not path.exists():
            _write_new(path, secrets.token_bytes(_SEED_BYTES))
        seed = path.read_bytes()
    except OSError as e:
        raise IssuerError(f"simulator seed {path}: {e.strerror}") from e
    if len(seed) != _SEED_BYTES:
        raise IssuerError(f"simulator seed {path}: {len(seed)} bytes, not {_SEED_BYTES}")
    return seed


def _write_new(path: Path, content: bytes) -> None:
    """`path` holds `content` whole, unless somebody else was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
