"""Sources of evidence: one module for each kind of machine, opened by name.

The simulator is not among the names. It is made only where a person asked for it, by
calling SimulatorIssuer; nothing falls back to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attestation.collateral.model import Collateral
from attestation.collateral.snp import SnpEndorsements
from attestation.issuers.base import IssuedEvidence, Issuer, IssuerError

HARDWARE_ISSUERS: Final = ("gramine", "tsm", "dstack")

__all__ = [
    "HARDWARE_ISSUERS",
    "IssuedEvidence",
    "Issuer",
    "IssuerError",
    "detect_issuer",
    "open_issuer",
]


def open_issuer(
    name: str,
    *,
    device: Path | None = None,
    collateral: Collateral | SnpEndorsements | None = None,
    event_log: bool = True,
) -> Issuer:
    """The issuer of this machine's hardware, after it has given one quote.

    `device` replaces the usual path (a directory for gramine and tsm, a socket for
    dstack); `collateral` goes out with every quote, and so does the event log that dstack or a
    TD's firmware keeps, unless `event_log` is False. Raises IssuerError naming the device
    that is missing or refuses, or the collateral that is of another kind.
    """
    if name == "tsm":
        from attestation.issuers.tsm import CCEL, REPORTS, TsmIssuer

        ccel = CCEL if event_log else None
        return TsmIssuer(device or REPORTS, collateral, ccel=ccel)
    if isinstance(collateral, SnpEndorsements):
        raise IssuerError(f"{name}: the collateral given is for SEV-SNP")
    if name == "gramine":
        from attestation.issuers.gramine import DEVICE, GramineIssuer

        return GramineIssuer(device or DEVICE, collateral)
    if name == "dstack":
        from attestation.issuers.dstack import DstackIssuer

        return DstackIssuer(device, collateral, event_log=event_log)
    raise IssuerError(f"no hardware issuer {name!r}; there are {', '.join(HARDWARE_ISSUERS)}")


def detect_issuer(root: Path = Path("/")) -> str:
    """The name of the issuer that this machine has a device for; `root` is where / is.

    Where there are several, the innermost: Gramine's enclave runs in a guest if in anything,
    and dstack's agent in a TD whose own interface may be there too. Nothing is opened, and
    a simulator is never found. Raises IssuerError naming everything that was looked for.
    """
    from attestation.issuers.dstack import SOCKETS, find_socket
    from attestation.issuers.gramine import DEVICE
    from attestation.issuers.tsm import REPORTS

    def here(path: Path) -> Path:
        return root / path.relative_to("/")

    if here(DEVICE / "attestation_type").is_file():
        return "gramine"
    if find_socket([here(path) for path in SOCKETS]) is not None:
        return "dstack"
    if here(REPORTS).is_dir():
        return "tsm"
    looked = (
        f"{here(DEVICE)} (Gramine), {here(SOCKETS[0])} and {len(SOCKETS) - 1} other places "
        f"(dstack), {here(REPORTS)} (TDX and SEV-SNP guests, Linux 6.7 or later)"
    )
    raise IssuerError(f"this machine shows no TEE: there is no {looked}")
