"""TCB info and quoting-enclave identity of a simulated platform, as exact JSON text.

Spec: Intel Provisioning Certification Service v4, TCB info version 3, QE identity
version 2. Hex is upper case and members stand in Intel's order; what is signed is this
text, so nothing here may depend on anything but its arguments.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

_LEVEL_DATE: Final = "2025-01-01T00:00:00Z"
_OLD_LEVEL_DATE: Final = "2023-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Standing:
    """A TCB status with the advisories that explain it."""

    status: str = "UpToDate"
    advisory_ids: tuple[str, ...] = ()


HEALTHY: Final = Standing()


@dataclass(frozen=True, slots=True)
class Issued:
    """When a signed document was issued and until when it counts, Unix seconds."""

    issue_date: int
    next_update: int
    evaluation_number: int

    def dates(self) -> dict[str, str]:
        return {"issueDate": iso(self.issue_date), "nextUpdate": iso(self.next_update)}


def iso(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _hex(data: bytes) -> str:
    return data.hex().upper()


def _components(svns: bytes) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in svns]


def _level(tcb: dict[str, Any], standing: Standing, date: str = _LEVEL_DATE) -> dict[str, Any]:
    level: dict[str, Any] = {"tcb": tcb, "tcbDate": date, "tcbStatus": standing.status}
    if standing.advisory_ids:
        level["advisoryIDs"] = list(standing.advisory_ids)
    return level


def _platform_levels(
    cpu_svn: bytes, pce_svn: int, tdx_svn: bytes | None, standing: Standing
) -> list[dict[str, Any]]:
    """Levels, newest first, of which the platform meets exactly the one with `standing`."""

    def tcb(sgx: bytes, pce: int) -> dict[str, Any]:
        out: dict[str, Any] = {"sgxtcbcomponents": _components(sgx), "pcesvn": pce}
        if tdx_svn is not None:
            out["tdxtcbcomponents"] = _components(tdx_svn)
        return out

    levels = []
    if standing.status != "UpToDate":
        # Something newer exists that this platform has not reached.
        levels.append(_level(tcb(cpu_svn, pce_svn + 1), HEALTHY))
    levels.append(_level(tcb(cpu_svn, pce_svn), standing))
    if pce_svn:
        levels.append(_level(tcb(cpu_svn, pce_svn - 1), Standing("OutOfDate"), _OLD_LEVEL_DATE))
    return levels


@dataclass(frozen=True, slots=True)
class TdxModule:
    """The TDX module a TDX platform runs: `tee_tcb_svn[0]` is its SVN, `[1]` its version."""

    tee_tcb_svn: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    standing: Standing

    def required_svn(self) -> bytes:
        """TDX components the platform level asks for; the module's own are judged apart."""
        return bytes(2) + self.tee_tcb_svn[2:]

    def members(self) -> dict[str, Any]:
        identity = {
            "mrsigner": _hex(self.mr_signer_seam),
            "attributes": _hex(self.seam_attributes),
            "attributesMask": "FF" * 8,
        }
        svn, version = self.tee_tcb_svn[0], self.tee_tcb_svn[1]
        newer = self.standing.status != "UpToDate"
        levels = [_level({"isvsvn": svn + 1}, HEALTHY)] if newer else []
        levels.append(_level({"isvsvn": svn}, self.standing))
        return {
            "tdxModule": identity,
            "tdxModuleIdentities": [
                {"id": f"TDX_{version:02X}", **identity, "tcbLevels": levels},
            ],
        }


def tcb_info(
    issued: Issued,
    *,
    fmspc: bytes,
    pceid: bytes,
    cpu_svn: bytes,
    pce_svn: int,
    standing: Standing,
    tdx: TdxModule | None,
) -> str:
    """TCB info v3 for SGX, or for TDX where its module is given."""
    document: dict[str, Any] = {
        "id": "SGX" if tdx is None else "TDX",
        "version": 3,
        **issued.dates(),
        "fmspc": _hex(fmspc),
        "pceId": _hex(pceid),
        "tcbType": 0,
        "tcbEvaluationDataNumber": issued.evaluation_number,
    }
    if tdx is not None:
        document |= tdx.members()
    required = None if tdx is None else tdx.required_svn()
    document["tcbLevels"] = _platform_levels(cpu_svn, pce_svn, required, standing)
    return _text(document)


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """The quoting enclave's own facts, which its report carries and its identity demands."""

    mr_enclave: bytes
    mr_signer: bytes
    attributes: bytes
    misc_select: int
    isv_prod_id: int
    isv_svn: int


# Every flag but MODE64BIT is compared and XFRM is not: the mask Intel publishes.
_QE_ATTRIBUTES_MASK: Final = bytes.fromhex("fbffffffffffffff") + bytes(8)


def qe_identity(issued: Issued, tee: str, qe: QuotingEnclave, standing: Standing) -> str:
    """The identity (`QE` for SGX, `TD_QE` for TDX) that `qe` satisfies with `standing`."""
    masked = bytes(a & m for a, m in zip(qe.attributes, _QE_ATTRIBUTES_MASK, strict=True))
    levels: list[dict[str, Any]] = []
    if standing.status != "UpToDate":
        levels.append(_level({"isvsvn": qe.isv_svn + 1}, HEALTHY))
    levels.append(_level({"isvsvn": qe.isv_svn}, standing))
    return _text(
        {
            "id": "TD_QE" if tee == "tdx" else "QE",
            "version": 2,
            **issued.dates(),
            "tcbEvaluationDataNumber": issued.evaluation_number,
            "miscselect": _hex(qe.misc_select.to_bytes(4, "little")),
            "miscselectMask": "FFFFFFFF",
            "attributes": _hex(masked),
            "attributesMask": _hex(_QE_ATTRIBUTES_MASK),
            "mrsigner": _hex(qe.mr_signer),
            "isvprodid": qe.isv_prod_id,
            "tcbLevels": levels,
        }
    )
