"""The simulator as an issuer: what a node started with `--tee simulator` asks for quotes."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.issuers.base import SEV_SNP, IssuedEvidence, IssuerError
from attestation.issuers.simulator import pki
from attestation.issuers.simulator.amd import AmdAuthority
from attestation.issuers.simulator.files import keep
from attestation.issuers.simulator.measure import MeasuredState
from attestation.issuers.simulator.platform import EPOCH_S, SimulatedPlatform
from attestation.issuers.simulator.snp import SimulatedSnp

SIMULATED_TEES: Final = ("tdx", "sgx", "sev-snp")
"""What a person types after `--sim-tee`."""
REPORT_DATA_BYTES: Final = 64
_SEED_BYTES: Final = 32


def _clock() -> int:
    return int(time.time())


@dataclass(frozen=True, slots=True)
class _Machine:
    """A simulated machine in one epoch: its root, what endorses it, and how it quotes."""

    epoch: int
    root_der: bytes
    collateral: Collateral | SnpEndorsements
    quote: Callable[[bytes], bytes]


class SimulatorIssuer:
    """Issues evidence over `measured` under this machine's own root: TDX version 4 or SGX
    version 3 quotes, or SEV-SNP version 3 reports.

    The same seed, state, report data and 30-day epoch give the same quote; for TDX and SGX
    the same collateral and root too. SEV-SNP's root is that of `authority`; without one, a
    new authority is made, so the root is another at every start. Thread-safe.
    """

    name = "simulator"
    simulated = True

    def __init__(
        self,
        tee: str,
        seed: bytes,
        measured: MeasuredState,
        now: Callable[[], int] = _clock,
        authority: AmdAuthority | None = None,
    ) -> None:
        if tee not in SIMULATED_TEES:
            raise IssuerError(f"the simulator issues {', '.join(SIMULATED_TEES)}, not {tee!r}")
        if len(seed) < _SEED_BYTES:
            raise IssuerError(f"a simulator seed has at least {_SEED_BYTES} bytes")
        self._tee = tee
        self._seed = seed
        self._measured = measured
        self._now = now
        self._authority = authority
        if tee == "sev-snp" and authority is None:
            self._authority = AmdAuthority.generate()
        self._lock = threading.Lock()
        self._machine = self._at(now())

    def __repr__(self) -> str:
        return f"SimulatorIssuer(tee={self._tee!r}, measurement={self.measurement!r})"

    @property
    def tee_type(self) -> str:
        return SEV_SNP if self._tee == "sev-snp" else self._tee

    @property
    def measurement(self) -> str:
        measured = self._measured
        match self._tee:
            case "tdx":
                return measured.mr_td.hex()
            case "sgx":
                return measured.mr_enclave.hex()
            case _:
                return measured.snp_measurement.hex()

    @property
    def measured(self) -> MeasuredState:
        return self._measured

    @property
    def root_der(self) -> bytes:
        """The simulator's root certificate, trusted only where a person names it."""
        return self._machine.root_der

    def issue(self, report_data: bytes) -> IssuedEvidence:
        """A quote over these 64 bytes, with collateral that is current now."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise IssuerError(f"report data has {REPORT_DATA_BYTES} bytes, not {len(report_data)}")
        machine = self._current()
        return IssuedEvidence(
            self.tee_type, machine.quote(report_data), machine.collateral, simulated=True
        )

    def sealing_key(self) -> bytes:
        """32 bytes of this seed and this measurement: a stand-in for what hardware derives.

        Whoever reads the seed can derive it too; nothing is protected from the machine.
        """
        return pki.derive(self._seed, f"sealing {self._tee} {self.measurement}")

    def _current(self) -> _Machine:
        now = self._now()
        with self._lock:
            if now // EPOCH_S != self._machine.epoch:
                self._machine = self._at(now)
            return self._machine

    def _at(self, now: int) -> _Machine:
        if self._authority is not None and self._tee == "sev-snp":
            return self._snp(now, self._authority)
        platform = SimulatedPlatform(seed=self._seed, now=now)
        quote = platform.tdx_quote if self._tee == "tdx" else platform.sgx_quote
        measured = self._measured
        fields = measured.tdx_fields() if self._tee == "tdx" else measured.sgx_fields()
        return _Machine(
            now // EPOCH_S,
            platform.root_der,
            platform.collateral(self._tee),
            lambda report_data: quote({**fields, "report_data": report_data}),
        )

    def _snp(self, now: int, authority: AmdAuthority) -> _Machine:
        platform = SimulatedSnp(seed=self._seed, authority=authority, now=now)
        fields = self._measured.snp_fields()
        return _Machine(
            now // EPOCH_S,
            platform.root_der,
            platform.endorsements(),
            lambda report_data: platform.report({**fields, "report_data": report_data}),
        )


def load_or_create_seed(path: Path) -> bytes:
    """The seed kept at `path`, made at first use (mode 0600), so a node keeps its root.

    Raises IssuerError where the file is not a seed or cannot be read or written.
    """
    seed = keep("simulator seed", path, lambda: secrets.token_bytes(_SEED_BYTES))
    if len(seed) != _SEED_BYTES:
        raise IssuerError(f"simulator seed {path}: {len(seed)} bytes, not {_SEED_BYTES}")
    return seed
