"""The machine a node runs on, as the issuer of its evidence."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from attestation.canonical import jcs
from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.errors import CollateralError
from attestation.issuers import Issuer, detect_issuer, open_issuer
from attestation.issuers.nvidia import GpuIssuer, open_gpus
from attestation.issuers.simulator import (
    AmdAuthority,
    MeasuredState,
    SimulatorIssuer,
    load_or_create_seed,
    measure_code,
    measure_config,
)
from gateway.errors import StartError
from gateway.logs import event
from gateway.settings import Settings

SIMULATOR: Final = "simulator"
AUTO: Final = "auto"
_MAX_COLLATERAL_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Machine:
    """What evidence will come from. `hardware` is None for the simulator, which has the rest.

    `authority` is the simulated AMD that certifies it, None where it simulates no AMD.
    """

    settings: Settings
    hardware: Issuer | None = None
    seed: bytes = b""
    authority: AmdAuthority | None = None

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The machine a person named with `--tee`, or let us find; never the simulator unnamed.

        Raises IssuerError, or StartError about the collateral.
        """
        collateral = read_collateral(settings.collateral)
        if settings.tee != SIMULATOR:
            name = detect_issuer() if settings.tee == AUTO else settings.tee
            issuer = open_issuer(name, collateral=collateral, event_log=settings.event_log)
            return cls(settings, hardware=issuer)
        authority = None
        if settings.sim_tee == "sev-snp":
            authority = AmdAuthority.load_or_create(settings.state_dir / "simulator-amd.pem")
        seed = load_or_create_seed(settings.state_dir / "simulator.seed")
        return cls(settings, seed=seed, authority=authority)

    def issuer(self, models: list[tuple[str, str]]) -> Issuer:
        """The issuer, once the models' (id, digest) are known: the simulator measures them."""
        if self.hardware is not None:
            return self.hardware
        measured = MeasuredState(
            code_digest=measure_code(),
            config_digest=measure_config(self.settings.measured(models)),
            model_digest=hashlib.sha256(jcs(dict(models))).digest(),
        )
        return SimulatorIssuer(self.settings.sim_tee, self.seed, measured, authority=self.authority)


def find_gpus(settings: Settings) -> GpuIssuer | None:
    """The GPUs whose evidence goes out beside the machine's own, None for none.

    Raises IssuerError where they are wanted and missing, or there and silent.
    """
    gpus, why = open_gpus(settings.gpu)
    event("gpus", count=0 if gpus is None else gpus.count, reason=why[:400])
    return gpus


def code_provenance(settings: Settings) -> Settings:
    """The settings with an image digest where nobody gave one: that of the code itself."""
    given = settings.provenance
    if settings.tee != SIMULATOR or given.image_digest is not None:
        return settings
    return replace(
        settings, provenance=replace(given, image_digest=f"sha256:{measure_code().hex()}")
    )


def read_collateral(path: Path | None) -> Collateral | SnpEndorsements | None:
    """The operator's collateral, for issuers that have none to give. Raises StartError.

    AMD's endorsements are told from DCAP's by their `vek`.
    """
    if path is None:
        return None
    try:
        if path.stat().st_size > _MAX_COLLATERAL_BYTES:
            raise StartError(f"{path} is too large to be collateral")
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and "vek" in document:
            return SnpEndorsements.from_json(document)
        return Collateral.from_json(document)
    except OSError as e:
        raise StartError(f"{path}: {e.strerror}") from None
    except (ValueError, CollateralError) as e:
        raise StartError(f"{path} is not collateral: {e}") from None
