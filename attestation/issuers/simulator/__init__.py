"""A simulated platform: genuine formats and cryptography under a root nobody else trusts."""

from attestation.issuers.simulator.amd import AmdAuthority
from attestation.issuers.simulator.issuer import (
    SIMULATED_TEES,
    SimulatorIssuer,
    load_or_create_seed,
)
from attestation.issuers.simulator.measure import (
    MeasuredState,
    measure_code,
    measure_config,
    measure_distributions,
)
from attestation.issuers.simulator.platform import SimulatedPlatform, Window
from attestation.issuers.simulator.snp import SimulatedSnp
from attestation.issuers.simulator.tcb import Standing

__all__ = [
    "SIMULATED_TEES",
    "AmdAuthority",
    "MeasuredState",
    "SimulatedPlatform",
    "SimulatedSnp",
    "SimulatorIssuer",
    "Standing",
    "Window",
    "load_or_create_seed",
    "measure_code",
    "measure_config",
    "measure_distributions",
]
