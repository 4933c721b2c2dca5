"""What verification concludes. Nothing outside `attestation.verify` can make one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from attestation.evidence import SgxQuote, TdReport15, TdxQuote

SIMULATOR_MARK: Final = b"adyton-simulator"
"""Stands in a measured field of simulated evidence, so that people can be told."""

_TDX_REGISTERS: Final = (
    "mr_td",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "rt_mr0",
    "rt_mr1",
    "rt_mr2",
    "rt_mr3",
    "td_attributes",
    "xfam",
    "mr_seam",
    "mr_signer_seam",
    "seam_attributes",
    "tee_tcb_svn",
)
_TD15_REGISTERS: Final = (*_TDX_REGISTERS, "tee_tcb_svn2", "mr_service_td")
_SGX_REGISTERS: Final = (
    "mr_enclave",
    "mr_signer",
    "config_id",
    "attributes",
    "isv_family_id",
    "isv_ext_prod_id",
)

_SEAL: Final = object()


def _registers(quote: SgxQuote | TdxQuote) -> Mapping[str, str]:
    if isinstance(quote, SgxQuote):
        names: tuple[str, ...] = _SGX_REGISTERS
    else:
        names = _TD15_REGISTERS if isinstance(quote.body, TdReport15) else _TDX_REGISTERS
    return MappingProxyType({name: getattr(quote.body, name).hex() for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReport:
    """A quote whose signatures, chains, TCB and collateral all held at one moment.

    It says the evidence is authentic, not that it is wanted: that is policy. Times are
    Unix seconds. Platform flags are None where the PCK certificate does not state them.
    `collateral_issued` is when the older of TCB info and QE identity was issued.
    """

    quote: SgxQuote | TdxQuote
    verified_at: int
    tcb_status: str
    platform_tcb_status: str
    qe_tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_eval_data_number: int
    collateral_issued: int
    collateral_not_before: int
    collateral_not_after: int
    fmspc: str
    pce_id: str
    sgx_type: int
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt: bool | None
    root_sha256: str
    measurements: Mapping[str, str] = field(init=False)
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedReport is made by attestation.verify only")
        object.__setattr__(self, "measurements", _registers(self.quote))

    @property
    def tee(self) -> Literal["sgx", "tdx"]:
        return "sgx" if isinstance(self.quote, SgxQuote) else "tdx"

    @property
    def debug(self) -> bool:
        """Always False: verification refuses debug enclaves and TDs."""
        return self.quote.body.debug

    @property
    def report_data(self) -> bytes:
        """The 64 bytes the workload chose."""
        return self.quote.body.report_data

    @property
    def measurement(self) -> str:
        """The register that names the workload: `mr_td` or `mr_enclave`, lowercase hex."""
        return self.measurements["mr_enclave" if self.tee == "sgx" else "mr_td"]

    @property
    def simulated(self) -> bool:
        """True when the evidence itself says it is simulated. For display, never for trust."""
        quote = self.quote
        mark = quote.body.config_id if isinstance(quote, SgxQuote) else quote.body.mr_owner_config
        return mark.startswith(SIMULATOR_MARK)
