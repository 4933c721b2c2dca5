"""What every evidence issuer offers, whatever machine is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from attestation.collateral.model import Collateral
from attestation.errors import AttestationError


class IssuerError(AttestationError):
    """This machine did not give evidence: no such device, busy, or refused. Says which."""


@dataclass(frozen=True, slots=True)
class IssuedEvidence:
    """One quote over the caller's report data, with what is needed to judge it.

    `tee_type` is ACI's name (`tdx`, `sgx`). `simulated` says what a person must be told;
    verifiers never read it. `collateral` is None where the issuer has none to give.
    """

    tee_type: str
    quote: bytes
    collateral: Collateral | None
    simulated: bool


class Issuer(Protocol):
    """A source of evidence. Implementations may block on a device; call from a thread."""

    @property
    def name(self) -> str:
        """What a person types after `--tee`."""
        ...

    @property
    def tee_type(self) -> str: ...

    @property
    def simulated(self) -> bool: ...

    @property
    def measurement(self) -> str:
        """The register that names the workload (`mr_td` or `mr_enclave`), lowercase hex."""
        ...

    def issue(self, report_data: bytes) -> IssuedEvidence:
        """A quote over exactly these 64 bytes. Raises IssuerError."""
        ...

    def sealing_key(self) -> bytes | None:
        """32 secret bytes that nobody but this workload on this platform can derive, or None.

        What "this workload" means is the platform's: one measurement (Gramine, the
        simulator), or an application id in its key management's hands (dstack). None where
        the platform derives no such key (TDX by itself). Raises IssuerError.
        """
        ...
