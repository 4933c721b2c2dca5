"""Evidence of NVIDIA GPUs in confidential-compute mode, from the driver's NVML.

Each GPU signs an SPDM request that carries our nonce, so its answer belongs to one CPU
report. NVML hands out request and answer end to end, and the chain of the GPU's attestation
key as PEM, leaf first. Spec: NVML API reference, "Confidential Compute"; nvidia-ml-py
(`pynvml`); NVIDIA/nvtrust, local_gpu_verifier.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

from attestation.errors import CollateralError, MalformedEvidence
from attestation.evidence.nvidia import NvidiaEvidence
from attestation.evidence.spdm import NONCE_BYTES
from attestation.issuers.base import GpuEvidence, IssuerError
from attestation.x509 import read_chain

GpuMode = Literal["auto", "require", "off"]
GPU_MODES: Final[tuple[GpuMode, ...]] = ("auto", "require", "off")
MAX_DEVICES: Final = 16
"""More than any machine has; a report shows no more."""

_NEEDED: Final = (
    "nvmlSystemGetConfComputeState",
    "nvmlDeviceGetConfComputeGpuAttestationReport",
    "nvmlDeviceGetConfComputeGpuCertificate",
)


class NoConfidentialGpus(IssuerError):  # noqa: N818 - named for what is true
    """This machine has no GPU that could give evidence; says why."""


class GpuIssuer:
    """Issues evidence of every GPU of this machine. Thread-safe; call from a thread.

    Opening it asks each GPU once, to fail early. It raises NoConfidentialGpus where there is
    no driver, no GPU, or no confidential computing; any other failure is an IssuerError.
    `nvml` is the `pynvml` module, loaded unless given.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml if nvml is not None else _load()
        self._lock = threading.Lock()
        self._initialise()
        try:
            self._devices = self._open()
            self.issue(bytes(NONCE_BYTES))
        except BaseException:
            with suppress(IssuerError):  # the first failure is the one to tell
                self.close()
            raise

    @property
    def count(self) -> int:
        return len(self._devices)

    def issue(self, nonce: bytes) -> tuple[GpuEvidence, ...]:
        """Evidence of every GPU for this nonce (32 bytes), in the driver's order.

        All or nothing: raises IssuerError where one of them fails.
        """
        if len(nonce) != NONCE_BYTES:
            raise IssuerError(f"a GPU's nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        with self._lock:
            return tuple(self._one(i, device, nonce) for i, device in enumerate(self._devices))

    def close(self) -> None:
        """Let go of the driver. Nothing may be issued afterwards."""
        with self._calling("nvmlShutdown"):
            self._nvml.nvmlShutdown()

    def _initialise(self) -> None:
        missing = [name for name in _NEEDED if not hasattr(self._nvml, name)]
        if missing:
            raise NoConfidentialGpus(f"nvidia-ml-py is too old: it has no {missing[0]}")
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as e:
            raise NoConfidentialGpus(f"NVML does not start: {e}") from e

    def _open(self) -> list[Any]:
        """Handles of all GPUs, once the driver says that their memory is protected."""
        nvml = self._nvml
        try:
            count = nvml.nvmlDeviceGetCount()
            state = nvml.nvmlSystemGetConfComputeState() if count else None
        except nvml.NVMLError as e:
            raise NoConfidentialGpus(f"the driver knows no confidential computing: {e}") from e
        if state is None:
            raise NoConfidentialGpus("the driver has no GPU")
        if not state.ccFeature:
            raise NoConfidentialGpus(f"confidential computing is off on the {count} GPUs")
        if state.devToolsMode:
            raise NoConfidentialGpus("the GPUs are in DevTools mode, which protects nothing")
        if count > MAX_DEVICES:
            raise IssuerError(f"the driver has {count} GPUs, more than {MAX_DEVICES}")
        with self._calling("nvmlDeviceGetHandleByIndex"):
            return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]

    def _one(self, index: int, device: Any, nonce: bytes) -> GpuEvidence:
        with self._calling(f"GPU {index}"):
            report = self._nvml.nvmlDeviceGetConfComputeGpuAttestationReport(device, nonce)
            chain = self._nvml.nvmlDeviceGetConfComputeGpuCertificate(device)
        evidence = _filled(report.attestationReport, report.attestationReportSize)
        pem = _filled(chain.attestationCertChain, chain.attestationCertChainSize).rstrip(b"\0")
        return _checked(f"GPU {index}", evidence, pem, nonce)

    @contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as e:
            raise IssuerError(f"NVML: {what}: {e}") from e


def _load() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise NoConfidentialGpus("nvidia-ml-py is not installed: install adyton[gpu]") from None


def _filled(buffer: Any, size: int) -> bytes:
    """The part of a fixed buffer that the driver says it filled."""
    return bytes(buffer)[: min(size, len(buffer))]


def _checked(name: str, evidence: bytes, chain: bytes, nonce: bytes) -> GpuEvidence:
    """What the driver handed out, once it is of the right form and for this nonce."""
    try:
        parsed = NvidiaEvidence.read(evidence)
        read_chain("cert_chain", chain)
        text = chain.decode("ascii")
    except (MalformedEvidence, CollateralError, UnicodeDecodeError) as e:
        raise IssuerError(f"{name}: returned no evidence: {e}") from e
    if parsed.transcript.request.nonce != nonce:
        raise IssuerError(f"{name}: answered another nonce")
    return GpuEvidence(evidence, text)


def open_gpus(mode: GpuMode, nvml: Any = None) -> tuple[GpuIssuer | None, str]:
    """The issuer of this machine's GPUs, None for none; and why, for the log.

    `auto` takes them where the driver has them in confidential-compute mode, `require` fails
    where it has not, `off` does not look. Raises IssuerError: also under `auto` where a GPU
    in that mode gives no evidence.
    """
    if mode == "off":
        return None, "not wanted"
    try:
        issuer = GpuIssuer(nvml)
    except NoConfidentialGpus as e:
        if mode == "require":
            raise
        return None, str(e)
    return issuer, f"{issuer.count} in confidential-compute mode"
