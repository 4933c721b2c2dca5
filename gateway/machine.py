"""The machine a node runs on, as the issuer of its evidence."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from attestation.canonical import jcs
from attestation.collateral.model import Collateral
from attestation.errors import CollateralError
from attestation.issuers.base import Issuer
from attestation.issuers.simulator import (
    MeasuredState,
    SimulatorIssuer,
    load_or_create_seed,
    measure_code,
    measure_config,
)
from gateway.errors import StartError
from gateway.settings import Settings

SIMULATOR: Final = "simulator"
_MAX_COLLATERAL_BYTES: Final = 4 << 20


def open_machine(settings: Settings, models: list[tuple[str, str]]) -> Issuer:
    """The issuer a person named with `--tee`. Raises IssuerError; there is no fallback."""
    if settings.tee != SIMULATOR:
        return _hardware(settings)
    return SimulatorIssuer(settings.sim_tee, _seed(settings), _measure(settings, models))


def _hardware(settings: Settings) -> Issuer:
    from attestation.issuers import open_issuer

    return open_issuer(settings.tee)


def _measure(settings: Settings, models: list[tuple[str, str]]) -> MeasuredState:
    digests = dict(models)
    return MeasuredState(
        code_digest=measure_code(),
        config_digest=measure_config(settings.measured(models)),
        model_digest=hashlib.sha256(jcs(digests)).digest(),
    )


def code_provenance(settings: Settings) -> Settings:
    """The settings with an image digest where nobody gave one: that of the code itself."""
    given = settings.provenance
    if settings.tee != SIMULATOR or given.image_digest is not None:
        return settings
    return replace(
        settings, provenance=replace(given, image_digest=f"sha256:{measure_code().hex()}")
    )


def _seed(settings: Settings) -> bytes:
    return load_or_create_seed(settings.state_dir / "simulator.seed")


def cache_key(settings: Settings) -> bytes | None:
    """What authenticates converted models on disk, or None where nothing can keep a secret."""
    if settings.tee == SIMULATOR:
        secret: bytes | None = _seed(settings)
    else:
        secret = _hardware(settings).sealing_key()
    if secret is None:
        return None
    return hmac.digest(secret, b"adyton model cache v1", "sha256")


def read_collateral(path: Path | None) -> Collateral | None:
    """The operator's collateral, for issuers that have none to give. Raises StartError."""
    if path is None:
        return None
    try:
        if path.stat().st_size > _MAX_COLLATERAL_BYTES:
            raise StartError(f"{path} is too large to be collateral")
        return Collateral.from_json(json.loads(path.read_bytes()))
    except OSError as e:
        raise StartError(f"{path}: {e.strerror}") from None
    except (ValueError, CollateralError) as e:
        raise StartError(f"{path} is not collateral: {e}") from None
