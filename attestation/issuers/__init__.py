"""Sources of evidence: one module for each kind of machine, opened by name.

The simulator is not among the names. It is made only where a person asked for it, by
calling SimulatorIssuer; nothing falls back to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attestation.collateral.model import Collateral
from attestation.issuers.base import IssuedEvidence, Issuer, IssuerError

HARDWARE_ISSUERS: Final = ("gramine", "tsm", "dstack")

__all__ = ["HARDWARE_ISSUERS", "IssuedEvidence", "Issuer", "IssuerError", "open_issuer"]


def open_issuer(
    name: str, *, device: Path | None = None, collateral: Collateral | None = None
) -> Issuer:
    """The issuer of this machine's hardware, after it has given one quote.

    `device` replaces the usual path (a directory for gramine and tsm, a socket for
    dstack); `collateral` goes out with every quote. Raises IssuerError naming the device
    that is missing or refuses.
    """
    if name == "gramine":
        from attestation.issuers.gramine import DEVICE, GramineIssuer

        return GramineIssuer(device or DEVICE, collateral)
    if name == "tsm":
        from attestation.issuers.tsm import REPORTS, TsmIssuer

        return TsmIssuer(device or REPORTS, collateral)
    if name == "dstack":
        from attestation.issuers.dstack import SOCKET, DstackIssuer

        return DstackIssuer(device or SOCKET, collateral)
    raise IssuerError(f"no hardware issuer {name!r}; there are {', '.join(HARDWARE_ISSUERS)}")
