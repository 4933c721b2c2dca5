"""What verification concludes about an SGX or TDX quote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from attestation.evidence import SgxQuote, TdReport15, TdxQuote
from attestation.verify.model import SIMULATOR_MARK, VerifiedReport

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


def _registers(quote: SgxQuote | TdxQuote) -> Mapping[str, str]:
    if isinstance(quote, SgxQuote):
        names: tuple[str, ...] = _SGX_REGISTERS
    else:
        names = _TD15_REGISTERS if isinstance(quote.body, TdReport15) else _TDX_REGISTERS
    return MappingProxyType({name: getattr(quote.body, name).hex() for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapReport(VerifiedReport):
    """A quote whose signatures, chains, TCB and collateral all held at one moment.

    Platform flags are None where the PCK certificate does not state them.
    `collateral_issued` is when the older of TCB info and QE identity was issued.
    """

    quote: SgxQuote | TdxQuote
    merged_tcb_status: str
    platform_tcb_status: str
    qe_tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_eval_data_number: int
    collateral_issued: int
    fmspc: str
    pce_id: str
    sgx_type: int
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt: bool | None
    registers: Mapping[str, str] = field(init=False)

    def __post_init__(self, seal: object) -> None:
        # The two-argument form of super() is what a dataclass with slots needs.
        super(DcapReport, self).__post_init__(seal)
        object.__setattr__(self, "registers", _registers(self.quote))

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
    def tcb_status(self) -> str:
        """Intel's status of platform and quoting enclave, merged."""
        return self.merged_tcb_status

    @property
    def measurement_name(self) -> Literal["mr_enclave", "mr_td"]:
        return "mr_enclave" if self.tee == "sgx" else "mr_td"

    @property
    def measurements(self) -> Mapping[str, str]:
        return self.registers

    @property
    def simulated(self) -> bool:
        """True when the measured mark stands in `mr_owner_config` or `config_id`."""
        quote = self.quote
        mark = quote.body.config_id if isinstance(quote, SgxQuote) else quote.body.mr_owner_config
        return mark.startswith(SIMULATOR_MARK)

    def facts(self) -> dict[str, Any]:
        return {
            "advisory_ids": list(self.advisory_ids),
            "tcb_evaluation_data_number": self.tcb_eval_data_number,
            "collateral_issued": self.collateral_issued,
            "collateral_not_after": self.endorsements_not_after,
            "fmspc": self.fmspc,
            "dynamic_platform": self.dynamic_platform,
            "cached_keys": self.cached_keys,
            "smt": self.smt,
        }
