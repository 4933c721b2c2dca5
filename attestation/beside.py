"""What stands beside the CPU's evidence in a report: event logs, dstack's words, and GPUs.

Everything shown is judged, wanted or not: a log that does not replay, an application that
was not measured and a device that answered another nonce are refused, never passed over.
docs/spec/verification.md, "What stands beside the quote", has the members and the steps.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from attestation.errors import CollateralError, MalformedEvidence, VerificationError
from attestation.issuers.base import NVIDIA
from attestation.verify import VerifiedReport
from attestation.verify.dcap_report import DcapReport
from attestation.verify.nvidia_gpu import VerifiedGpu, gpu_nonce

if TYPE_CHECKING:
    from attestation.verify.dstack import DstackFacts
    from attestation.verify.events import EventLog, VerifiedEvents
    from attestation.verify.nvidia_rim import VerifiedRim

MAX_EVENT_LOG: Final = 2 << 20
"""Characters of an event log in a report, in JSON or base64; a whole report has 4 MiB."""
MAX_TEXT: Final = 1 << 20
MAX_GPUS: Final = 16
MAX_GPU_EVIDENCE: Final = 1 << 16
MAX_CERT_CHAIN: Final = 1 << 16

_WHERE: Final = "report.attestation.evidence"
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_GPU_MEMBERS: Final = frozenset({"kind", "evidence", "cert_chain"})


@dataclass(frozen=True, slots=True)
class GpuReferences:
    """What a relying party judges GPUs by. Files as their signers made them.

    `rims` are reference values signed under one of `rim_roots` (DER); `revocation` OCSP
    responses and CRLs (DER) about devices and about signers of reference values. They are
    verified when a report shows a GPU, and not before.
    """

    rims: Sequence[bytes] = field(default=(), repr=False)
    rim_roots: Sequence[bytes] = field(default=(), repr=False)
    revocation: Sequence[bytes] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Boot:
    """What the registers of a verified report stand for; None where nothing was shown."""

    events: VerifiedEvents | None = None
    dstack: DstackFacts | None = None


def _text(parent: Mapping[str, Any], where: str, name: str, limit: int) -> str | None:
    """A text of up to `limit` characters, None where it is absent or null."""
    value = parent.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MalformedEvidence(f"{where}.{name}", "must be a string or null")
    if len(value) > limit:
        raise MalformedEvidence(f"{where}.{name}", f"longer than {limit} characters")
    return value


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What is malformed within is told as part of the member it stands in."""
    try:
        yield
    except MalformedEvidence as e:
        raise MalformedEvidence(f"{_WHERE}.{name}", str(e)) from None


@contextmanager
def _within() -> Iterator[None]:
    """What is malformed within has its own name, which is a member of `evidence`."""
    try:
        yield
    except MalformedEvidence as e:
        raise MalformedEvidence(f"{_WHERE}.{e.field}", e.detail, e.offset) from None


def _event_log(evidence: Mapping[str, Any]) -> EventLog | None:
    """The one log of this report: dstack's, or the firmware's own."""
    from attestation.evidence.eventlog import TcgEventLog
    from attestation.evidence.eventlog_json import RtmrEventLog

    text = _text(evidence, _WHERE, "event_log", MAX_EVENT_LOG)
    ccel = _text(evidence, _WHERE, "ccel", MAX_EVENT_LOG)
    if text is not None and ccel is not None:
        raise MalformedEvidence(f"{_WHERE}.ccel", "stands beside event_log; one log is enough")
    if text is not None:
        with _reading("event_log"):
            return RtmrEventLog.read(text)
    if ccel is None:
        return None
    try:
        data = base64.b64decode(ccel, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvidence(f"{_WHERE}.ccel", "not base64") from None
    with _reading("ccel"):
        return TcgEventLog.read(data)


def _encoded(text: str | None, name: str) -> bytes | None:
    """The exact bytes that were hashed."""
    try:
        return None if text is None else text.encode()
    except UnicodeEncodeError:
        raise MalformedEvidence(f"{_WHERE}.{name}", "holds a lone surrogate") from None


def verify_boot(evidence: Mapping[str, Any], report: VerifiedReport) -> Boot:
    """The log that `evidence` shows, if any, is what extended the registers of `report`.

    dstack's facts are derived where dstack measured a whole boot into RTMR3. Raises
    MalformedEvidence, or VerificationError with a step of `verify_events` or
    `verify_dstack`; `compose_hash` also where an application is shown that nothing measured.
    """
    log = _event_log(evidence)
    app_compose = _encoded(_text(evidence, _WHERE, "app_compose", MAX_TEXT), "app_compose")
    vm_config = _text(evidence, _WHERE, "vm_config", MAX_TEXT)
    events = dstack = None
    if log is not None:
        from attestation.verify.events import verify_events

        events = verify_events(log, report)
        if events.runtime is not None and events.runtime.ready and isinstance(report, DcapReport):
            from attestation.verify.dstack import verify_dstack

            with _within():
                dstack = verify_dstack(report, events, app_compose=app_compose, vm_config=vm_config)
    if app_compose is not None and dstack is None:
        raise VerificationError("compose_hash", "app_compose is shown, but no event measured it")
    return Boot(events, dstack)


@dataclass(frozen=True, slots=True)
class _ShownGpu:
    evidence: bytes
    cert_chain: bytes


def _gpu(value: Any, where: str) -> _ShownGpu:
    if not isinstance(value, Mapping) or set(value) != _GPU_MEMBERS:
        raise MalformedEvidence(where, f"must be an object of {', '.join(sorted(_GPU_MEMBERS))}")
    if value["kind"] != NVIDIA:
        raise MalformedEvidence(f"{where}.kind", f"must be {NVIDIA}")
    text = _text(value, where, "evidence", 2 * MAX_GPU_EVIDENCE)
    if text is None or not _HEX.fullmatch(text):
        raise MalformedEvidence(f"{where}.evidence", "must be hex")
    chain = _text(value, where, "cert_chain", MAX_CERT_CHAIN)
    if chain is None or not chain.isascii():
        raise MalformedEvidence(f"{where}.cert_chain", "must be PEM")
    return _ShownGpu(bytes.fromhex(text), chain.encode("ascii"))


def _gpus(evidence: Mapping[str, Any]) -> tuple[_ShownGpu, ...]:
    shown = evidence.get("gpus")
    if shown is None:
        return ()
    if not isinstance(shown, list) or len(shown) > MAX_GPUS:
        raise MalformedEvidence(f"{_WHERE}.gpus", f"must be a list of up to {MAX_GPUS}")
    return tuple(_gpu(value, f"{_WHERE}.gpus[{i}]") for i, value in enumerate(shown))


def _fitting(
    shown: _ShownGpu, roots: Sequence[bytes], rims: Sequence[VerifiedRim]
) -> Sequence[VerifiedRim]:
    """Those of the reference values that are for this device's chip and versions.

    Where there are none all are returned, so that verification says what does not fit.
    """
    if not rims:
        return ()
    from attestation.evidence.nvidia import NvidiaEvidence
    from attestation.verify.nvidia_device import read_device

    stated = NvidiaEvidence.read(shown.evidence).facts
    device = read_device(shown.cert_chain, tuple(roots))
    chips = {_plain(device.product), _plain(stated.chip or device.product)}
    versions = {stated.vbios_version.upper(), (stated.driver_version or "").upper()}
    fits = [r for r in rims if _plain(r.rim.product) in chips and r.rim.version.upper() in versions]
    return fits or rims


def _plain(product: str) -> str:
    """Products as compared: some files write LS_10, others LS10."""
    return product.replace("_", "")


def verify_gpus(
    evidence: Mapping[str, Any],
    report_data: bytes,
    roots: Sequence[bytes],
    now: int,
    references: GpuReferences,
) -> tuple[VerifiedGpu, ...]:
    """The devices that `evidence` shows, each of which answered for this very report data.

    Raises what `verify_rim` and `verify_gpu` raise, with the device's place in the list:
    MalformedEvidence, CollateralError or VerificationError.
    """
    shown = _gpus(evidence)
    if not shown:
        return ()
    from attestation.verify.nvidia import verify_gpu
    from attestation.verify.nvidia_rim import verify_rim

    nonce, revocation = gpu_nonce(report_data), references.revocation
    rims = [
        verify_rim(rim, references.rim_roots, now, revocation=revocation) for rim in references.rims
    ]
    out = []
    for i, gpu in enumerate(shown):
        name = f"gpus[{i}]"
        with _reading(name), _naming(name):
            out.append(
                verify_gpu(
                    gpu.evidence,
                    gpu.cert_chain,
                    roots,
                    now,
                    nonce=nonce,
                    rims=_fitting(gpu, roots, rims),
                    revocation=revocation,
                )
            )
    return tuple(out)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Refusals within say which device they are about; the step stays what it is."""
    try:
        yield
    except VerificationError as e:
        raise VerificationError(e.step, f"{name}: {e.detail}") from None
    except CollateralError as e:
        raise CollateralError(f"{name}: {e}") from None
