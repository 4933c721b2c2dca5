"""nvidia-ml-py's `pynvml` over made-up GPUs: the same names, structures and failures.

An `Nvml` stands where the module does. Buffers have NVML's fixed sizes and are filled up to
the size beside them; the nonce is copied into the structure; a call before `nvmlInit` or
after the last `nvmlShutdown` fails with code 1. Spec: NVML API reference, "Confidential
Compute"; nvidia-ml-py 12.535 and later.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import nvidia_pki
from cryptography.hazmat.primitives.serialization import Encoding
from nvidia_pki import Chain, Party

NVML_GPU_CERT_CHAIN_SIZE = 0x1000
NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE = 0x1400
NVML_CC_GPU_CEC_NONCE_SIZE = 0x20
NVML_CC_GPU_ATTESTATION_REPORT_SIZE = 0x2000
NVML_CC_GPU_CEC_ATTESTATION_REPORT_SIZE = 0x1000

UNINITIALIZED = 1
NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
GPU_IS_LOST = 15
_TEXTS = {
    UNINITIALIZED: "Uninitialized",
    NOT_SUPPORTED: "Not Supported",
    NO_PERMISSION: "Insufficient Permissions",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    GPU_IS_LOST: "GPU is lost",
}
DAY = 86_400


class NVMLError(Exception):
    """One class for every code here; the real module derives one for each."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return _TEXTS[self.value]


class c_nvmlConfComputeSystemState_t(ctypes.Structure):
    _fields_ = [
        ("environment", ctypes.c_uint),
        ("ccFeature", ctypes.c_uint),
        ("devToolsMode", ctypes.c_uint),
    ]


class c_nvmlConfComputeGpuCertificate_t(ctypes.Structure):
    _fields_ = [
        ("certChainSize", ctypes.c_uint),
        ("attestationCertChainSize", ctypes.c_uint),
        ("certChain", ctypes.c_uint8 * NVML_GPU_CERT_CHAIN_SIZE),
        ("attestationCertChain", ctypes.c_uint8 * NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE),
    ]


class c_nvmlConfComputeGpuAttestationReport_t(ctypes.Structure):
    _fields_ = [
        ("isCecAttestationReportPresent", ctypes.c_uint),
        ("attestationReportSize", ctypes.c_uint),
        ("cecAttestationReportSize", ctypes.c_uint),
        ("nonce", ctypes.c_uint8 * NVML_CC_GPU_CEC_NONCE_SIZE),
        ("attestationReport", ctypes.c_uint8 * NVML_CC_GPU_ATTESTATION_REPORT_SIZE),
        ("cecAttestationReport", ctypes.c_uint8 * NVML_CC_GPU_CEC_ATTESTATION_REPORT_SIZE),
    ]


@lru_cache
def authorities(at: int) -> tuple[Party, Party, Party]:
    """Identity of a GPU, its family's authority, and the root, good around `at` (Unix)."""
    window = (at - DAY, at + DAY)
    root = nvidia_pki.issue("device root", None, window=window)
    family = nvidia_pki.issue("family", root, window=window)
    brom = nvidia_pki.issue("GH100 A01 GSP BROM", family, usage=("cert_sign",), window=window)
    return brom, family, root


@lru_cache
def chain(index: int, at: int) -> Chain:
    """The chain of the GPU in this place."""
    brom, family, root = authorities(at)
    leaf = nvidia_pki.issue(
        f"leaf {index}",
        brom,
        ca=None,
        usage=("sign",),
        extensions=(
            nvidia_pki.device_name(f"NVIDIA:GH100:48B00000000001{index:02d}"),
            nvidia_pki.composite(brom),
        ),
        window=(at - DAY, at + DAY),
    )
    return Chain((leaf, brom, family, root))


def root(at: int) -> bytes:
    """The made-up vendor's root, DER."""
    return authorities(at)[-1].der


def revocation(at: int) -> tuple[bytes, ...]:
    """Good answers about every certificate above the GPUs' keys."""
    brom, family, top = authorities(at)
    window = (at - DAY, at + DAY)
    by = nvidia_pki.responder(family, window=window)
    return (
        nvidia_pki.ocsp_response(brom, family, by=by, window=window),
        nvidia_pki.crl(top, window=window),
    )


@lru_cache
def rim_authorities(at: int) -> Chain:
    """Who signs reference values, good around `at`."""
    window = (at - DAY, at + DAY)
    top = nvidia_pki.issue("rim root", None, window=window)
    family = nvidia_pki.issue("rim family", top, path_length=0, window=window)
    leaf = nvidia_pki.issue("rim signer", family, ca=False, usage=("sign",), window=window)
    return Chain((leaf, family, top))


def rims(at: int) -> tuple[bytes, ...]:
    """Reference values of the GPUs' driver and VBIOS."""
    by = rim_authorities(at)
    return (
        nvidia_pki.sign_rim(nvidia_pki.rim_xml(), by),
        nvidia_pki.sign_rim(nvidia_pki.rim_xml(nvidia_pki.VBIOS, range(20)), by),
    )


def rim_revocation(at: int) -> tuple[bytes, ...]:
    leaf, family, top = rim_authorities(at).parties
    window = (at - DAY, at + DAY)
    by = nvidia_pki.responder(family, window=window)
    return (
        nvidia_pki.ocsp_response(leaf, family, by=by, window=window),
        nvidia_pki.crl(top, window=window),
    )


class Nvml:
    """The module over `gpus` GPUs. What is set after construction is a way to misbehave.

    `faults` maps a function's name to the code it fails with; `report` and `certificates`
    make what a GPU hands out.
    """

    NVMLError = NVMLError

    def __init__(self, gpus: int = 2, at: int = nvidia_pki.NOW) -> None:
        self.gpus = gpus
        self.cc_feature = 1
        self.dev_tools = 0
        self.users = 0
        self.asked: list[tuple[int, bytes]] = []
        self.faults: dict[str, int] = {}
        self.report: Callable[[int, bytes], bytes] = lambda index, nonce: nvidia_pki.evidence(
            chain(index, at).leaf, nonce=nonce
        )
        self.certificates: Callable[[int], bytes] = lambda index: chain(index, at).pem

    def _called(self, name: str) -> None:
        if name in self.faults:
            raise NVMLError(self.faults[name])
        if not self.users and name != "nvmlInit":
            raise NVMLError(UNINITIALIZED)

    def nvmlInit(self) -> None:
        self._called("nvmlInit")
        self.users += 1

    def nvmlShutdown(self) -> None:
        self._called("nvmlShutdown")
        self.users -= 1

    def nvmlSystemGetConfComputeState(self) -> Any:
        self._called("nvmlSystemGetConfComputeState")
        return c_nvmlConfComputeSystemState_t(2, self.cc_feature, self.dev_tools)

    def nvmlDeviceGetCount(self) -> int:
        self._called("nvmlDeviceGetCount")
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        self._called("nvmlDeviceGetHandleByIndex")
        return ctypes.c_void_p(index + 1)

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, device: Any, c_nonce: bytes) -> Any:
        self._called("nvmlDeviceGetConfComputeGpuAttestationReport")
        out = c_nvmlConfComputeGpuAttestationReport_t()
        # A nonce of another length does not fit the structure's array, as in the real module.
        out.nonce = (ctypes.c_uint8 * len(c_nonce))(*c_nonce)
        index = device.value - 1
        self.asked.append((index, bytes(out.nonce)))
        data = self.report(index, bytes(out.nonce))
        out.attestationReportSize = len(data)
        ctypes.memmove(out.attestationReport, data, min(len(data), len(out.attestationReport)))
        return out

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: Any) -> Any:
        self._called("nvmlDeviceGetConfComputeGpuCertificate")
        out = c_nvmlConfComputeGpuCertificate_t()
        data = self.certificates(device.value - 1)
        out.attestationCertChainSize = len(data)
        ctypes.memmove(
            out.attestationCertChain, data, min(len(data), len(out.attestationCertChain))
        )
        return out


def root_pem(at: int) -> bytes:
    """The root as a file that a person names."""
    return authorities(at)[-1].certificate.public_bytes(Encoding.PEM)
