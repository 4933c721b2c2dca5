"""The GPU issuer against NVML's own structures: what it hands out, and what it will not."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nvidia_pki
import pytest
from fakes import nvml as fake
from fakes.nvml import Nvml

from attestation.issuers.base import IssuerError
from attestation.issuers.nvidia import (
    GPU_MODES,
    MAX_DEVICES,
    GpuIssuer,
    NoConfidentialGpus,
    open_gpus,
)
from attestation.verify.nvidia import verify_gpu

NONCE = nvidia_pki.NONCE


def test_every_gpu_answers_the_nonce_with_evidence_that_verifies() -> None:
    issuer = GpuIssuer(Nvml(gpus=2))
    assert issuer.count == 2
    given = issuer.issue(NONCE)
    devices = [
        verify_gpu(
            g.evidence,
            g.cert_chain.encode(),
            [fake.root(nvidia_pki.NOW)],
            nvidia_pki.NOW,
            nonce=NONCE,
        )
        for g in given
    ]
    assert len({d.device_id for d in devices}) == 2
    assert [set(g.to_json()) for g in given] == [{"kind", "evidence", "cert_chain"}] * 2


def test_the_nonce_reaches_each_gpu_and_none_is_asked_twice() -> None:
    nvml = Nvml(gpus=3)
    issuer = GpuIssuer(nvml)
    nvml.asked.clear()
    issuer.issue(NONCE)
    assert nvml.asked == [(0, NONCE), (1, NONCE), (2, NONCE)]


def test_the_structures_have_nvmls_sizes() -> None:
    assert ctypes.sizeof(fake.c_nvmlConfComputeGpuAttestationReport_t) == 12 + 32 + 8192 + 4096
    assert ctypes.sizeof(fake.c_nvmlConfComputeGpuCertificate_t) == 8 + 4096 + 5120
    assert ctypes.sizeof(fake.c_nvmlConfComputeSystemState_t) == 12


def test_threads_do_not_get_each_others_answers() -> None:
    issuer = GpuIssuer(Nvml())
    nonces = [bytes((i,)) * 32 for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for nonce, given in zip(nonces, pool.map(issuer.issue, nonces), strict=True):
            assert all(nonce in g.evidence for g in given)


@pytest.mark.parametrize("nonce", [b"", b"short", bytes(64)])
def test_a_nonce_of_another_size_is_refused(nonce: bytes) -> None:
    with pytest.raises(IssuerError, match="32 bytes"):
        GpuIssuer(Nvml()).issue(nonce)


def test_closing_lets_go_of_the_driver() -> None:
    nvml = Nvml()
    issuer = GpuIssuer(nvml)
    assert nvml.users == 1
    issuer.close()
    assert nvml.users == 0
    with pytest.raises(IssuerError, match="Uninitialized"):
        issuer.issue(NONCE)


# --- no GPUs to show -----------------------------------------------------------------------


def absent(change: Callable[[Nvml], None]) -> Nvml:
    nvml = Nvml()
    change(nvml)
    return nvml


def fault(name: str, code: int) -> Callable[[Nvml], None]:
    return lambda nvml: nvml.faults.update({name: code})


WITHOUT: Any = pytest.mark.parametrize(
    ("change", "reason"),
    [
        (fault("nvmlInit", fake.LIBRARY_NOT_FOUND), "Library Not Found"),
        (fault("nvmlInit", fake.DRIVER_NOT_LOADED), "Driver Not Loaded"),
        (fault("nvmlSystemGetConfComputeState", fake.NOT_SUPPORTED), "Not Supported"),
        (lambda nvml: setattr(nvml, "gpus", 0), "no GPU"),
        (lambda nvml: setattr(nvml, "cc_feature", 0), "off on the 2 GPUs"),
        (lambda nvml: setattr(nvml, "dev_tools", 1), "DevTools"),
    ],
)


@WITHOUT
def test_auto_goes_without_and_says_why(change: Callable[[Nvml], None], reason: str) -> None:
    nvml = absent(change)
    issuer, why = open_gpus("auto", nvml)
    assert issuer is None and reason in why
    assert nvml.users == 0


@WITHOUT
def test_require_fails_and_says_why(change: Callable[[Nvml], None], reason: str) -> None:
    with pytest.raises(NoConfidentialGpus, match=reason):
        open_gpus("require", absent(change))


def test_off_does_not_look() -> None:
    nvml = Nvml()
    assert open_gpus("off", nvml)[0] is None
    assert nvml.users == 0 and nvml.asked == []


@pytest.mark.parametrize("mode", ["auto", "require"])
def test_gpus_that_are_there_are_taken(mode: Any) -> None:
    issuer, why = open_gpus(mode, Nvml())
    assert issuer is not None and issuer.count == 2 and why.startswith("2 in confidential")
    assert mode in GPU_MODES


def test_without_the_binding_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    issuer, why = open_gpus("auto")
    assert issuer is None and "nvidia-ml-py is not installed" in why
    with pytest.raises(NoConfidentialGpus, match="not installed"):
        open_gpus("require")


def test_the_binding_is_loaded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(gpus=1))  # type: ignore[arg-type]
    issuer, _ = open_gpus("require")
    assert issuer is not None and issuer.count == 1


def test_a_binding_from_before_confidential_computing_is_too_old() -> None:
    class Old:
        NVMLError = fake.NVMLError

    issuer, why = open_gpus("auto", Old())
    assert issuer is None and "too old" in why


# --- GPUs that are there, and fail --------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (fault("nvmlDeviceGetHandleByIndex", fake.NO_PERMISSION), "Insufficient Permissions"),
        (
            fault("nvmlDeviceGetConfComputeGpuAttestationReport", fake.GPU_IS_LOST),
            "GPU 0: GPU is lost",
        ),
        (fault("nvmlDeviceGetConfComputeGpuCertificate", fake.NOT_SUPPORTED), "Not Supported"),
        (lambda nvml: setattr(nvml, "report", lambda *_: b""), "GPU 0: returned no evidence"),
        (lambda nvml: setattr(nvml, "report", lambda *_: bytes(9000)), "returned no evidence"),
        (
            lambda nvml: setattr(nvml, "report", lambda *_: nvidia_pki.evidence(nonce=NONCE)),
            "answered another nonce",
        ),
        (lambda nvml: setattr(nvml, "certificates", lambda _: b"\xff"), "returned no evidence"),
        (lambda nvml: setattr(nvml, "certificates", lambda _: b""), "returned no evidence"),
        (lambda nvml: setattr(nvml, "gpus", MAX_DEVICES + 1), "more than"),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "require"])
def test_a_protected_gpu_that_gives_no_evidence_stops_the_node(
    mode: Any, change: Callable[[Nvml], None], reason: str
) -> None:
    nvml = absent(change)
    with pytest.raises(IssuerError, match=reason) as e:
        open_gpus(mode, nvml)
    assert not isinstance(e.value, NoConfidentialGpus)
    assert nvml.users == 0


def test_a_gpu_lost_later_leaves_no_evidence_of_the_others() -> None:
    nvml = Nvml()
    issuer = GpuIssuer(nvml)
    honest = nvml.report
    nvml.report = lambda index, nonce: honest(index, nonce) if index == 0 else b""
    with pytest.raises(IssuerError, match="GPU 1"):
        issuer.issue(NONCE)


def test_a_driver_that_cannot_be_let_go_does_not_hide_why() -> None:
    nvml = Nvml()
    nvml.cc_feature = 0
    nvml.faults["nvmlShutdown"] = fake.GPU_IS_LOST
    assert "off" in open_gpus("auto", nvml)[1]


def test_zeros_after_the_chain_are_padding() -> None:
    nvml = Nvml()
    whole = nvml.certificates
    nvml.certificates = lambda index: whole(index) + bytes(16)
    assert GpuIssuer(nvml).issue(NONCE)[0].cert_chain.endswith("-----\n")
