"""Real GPU and NVSwitch evidence and reference values, under the policy `genuine`.

ADYTON_VECTORS names the folder (see test_shared_vectors.py). `accept` means authentic; of
reference values it means that NVIDIA signed them. Those have no time in the manifest: the
one taken here is the devices' own, at which both good files hold.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import AttestationError, VerificationError
from attestation.evidence.nras import DetachedEat
from attestation.evidence.nvidia import NvidiaEvidence
from attestation.evidence.rim import read_rim
from attestation.policy import load_policy
from attestation.policy.gpu import gpu_findings
from attestation.roots import NVIDIA_RIM_ROOT, PRODUCTION_ROOTS, load_root
from attestation.verify import VerifiedGpu
from attestation.verify.nvidia import verify_gpu
from attestation.verify.nvidia_rim import verify_rim

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))
MANIFEST = VECTORS / "manifest.json"
NOW = 1_780_272_000  # 2026-06-01
needs_vectors = pytest.mark.skipif(
    not MANIFEST.is_file(), reason="no manifest.json where ADYTON_VECTORS points"
)


def vectors(*tees: str) -> list[dict[str, Any]]:
    if not MANIFEST.is_file():
        return []
    return [v for v in json.loads(MANIFEST.read_text()) if v["tee"] in tees]


def cases(*tees: str) -> list[Any]:
    found = [v for v in vectors(*tees) if (v.get("expected") or {}).get("verdict")]
    return [pytest.param(v, id=v["id"]) for v in found] or [pytest.param(None, marks=needs_vectors)]


def vector(name: str) -> dict[str, Any]:
    return next(v for v in vectors("nvidia-gpu", "nvidia-switch") if v["id"] == name)


def rim_file(name: str) -> bytes:
    (found,) = (VECTORS / "nvidia-rim").glob(f"*/{name}")
    return found.read_bytes()


def verify(v: dict[str, Any], **odd: Any) -> VerifiedGpu:
    evidence, chain = ((VECTORS / v[name]).read_bytes() for name in ("evidence", "cert_chain"))
    arguments = {"nonce": bytes.fromhex(v["fields"]["nonce"]), **odd}
    roots = arguments.pop("roots", [load_root((VECTORS / v["root"]).read_bytes())])
    now = arguments.pop("now", v["verification_time"])
    return verify_gpu(evidence, chain, roots, now, **arguments)


@pytest.mark.parametrize("v", cases("nvidia-gpu", "nvidia-switch"))
def test_device_verdict_under_genuine(v: dict[str, Any]) -> None:
    def judge() -> VerifiedGpu:
        gpu = verify(v)
        now, nonce = v["verification_time"], gpu.nonce
        assert not list(gpu_findings([gpu], load_policy("genuine").gpu, nonce=nonce, now=now))
        return gpu

    if v["expected"]["verdict"] == "accept":
        gpu = judge()
        raw = (VECTORS / v["evidence"]).read_bytes()
        assert gpu.kind == v["tee"]
        assert gpu.nonce_checked
        assert NvidiaEvidence.read(raw).write() == raw
        assert verify(v, roots=PRODUCTION_ROOTS).root_sha256 == gpu.root_sha256
    else:
        with pytest.raises(AttestationError):
            judge()


@pytest.mark.parametrize("v", cases("nvidia-gpu", "nvidia-switch"))
def test_real_evidence_is_refused_once_touched(v: dict[str, Any]) -> None:
    for odd in ({"nonce": bytes(32)}, {"roots": [NVIDIA_RIM_ROOT]}, {"now": 0}):
        with pytest.raises(VerificationError):
            verify(v, **odd)


@pytest.mark.parametrize("v", cases("nvidia-rim"))
def test_reference_value_verdict(v: dict[str, Any]) -> None:
    xml = (VECTORS / v["file"]).read_bytes()
    if v["expected"]["verdict"] == "accept":
        rim = verify_rim(xml, [NVIDIA_RIM_ROOT], NOW).rim
        assert rim == read_rim(xml)
        assert any(m.active for m in rim.measurements.values())
    else:
        with pytest.raises(AttestationError):
            verify_rim(xml, [NVIDIA_RIM_ROOT], NOW)


@needs_vectors
@pytest.mark.parametrize(
    ("name", "step", "date"),
    [
        ("incorrect_cert_chain_driver_rim.xml", "root", (2026, 6, 1)),
        ("incorrect_signature_driver_rim.xml", "rim_signature", (2026, 6, 1)),
        ("NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml", "rim_signature", (2026, 6, 1)),
        ("NV_GPU_DRIVER_GH100_570.124.03_expired.xml", "rim_signature", (2025, 1, 1)),
        (
            "NV_SWITCH_BIOS_5612_0002_890_9610550001_invalid_signature.xml",
            "rim_signature",
            (2025, 6, 1),
        ),
        (
            "NV_SWITCH_BIOS_5612_0002_890_9610550001_measurement_mismatch.xml",
            "rim_signature",
            (2025, 6, 1),
        ),
        ("NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch.xml", "expired", (2026, 6, 1)),
    ],
)
def test_each_bad_file_is_refused_for_its_own_reason(
    name: str, step: str, date: tuple[int, int, int]
) -> None:
    """At a time when its signer's certificates hold, so that age alone decides nothing."""
    now = int(datetime(*date, hour=12, tzinfo=UTC).timestamp())
    with pytest.raises(VerificationError) as e:
        verify_rim(rim_file(name), [NVIDIA_RIM_ROOT], now)
    assert e.value.step == step


@needs_vectors
def test_a_genuine_file_the_device_does_not_match_is_refused() -> None:
    """NVIDIA did sign this VBIOS file, and in 2025 it was in force: the device differs."""
    name = "NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch.xml"
    now = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp())
    rim = verify_rim(rim_file(name), [NVIDIA_RIM_ROOT], now)
    with pytest.raises(VerificationError) as e:
        verify(vector("gpu-hopper-sample"), now=now, rims=[rim])
    assert e.value.step == "rim_measurements"
    assert "[9]" in e.value.detail


@needs_vectors
@pytest.mark.parametrize(
    "name", ["gpu-switch-sample", *(f"gpu-switch-multi-ls10-sdk-{i}" for i in range(4))]
)
def test_a_real_switch_gives_the_values_nvidia_signed(name: str) -> None:
    xml = rim_file("switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml")
    switch = verify(vector(name), rims=[verify_rim(xml, [NVIDIA_RIM_ROOT], NOW)])
    assert switch.measured
    assert switch.debug is False
    assert len(switch.rims[0].compared) == 31


@needs_vectors
def test_a_real_gpu_gives_the_drivers_values_nvidia_signed() -> None:
    xml = rim_file("NV_GPU_DRIVER_GH100_550.144.03.xml")
    gpu = verify(vector("gpu-secretvm-0"), rims=[verify_rim(xml, [NVIDIA_RIM_ROOT], NOW)])
    assert [(r.kind, r.version) for r in gpu.rims] == [("driver", "550.144.03")]
    # The unit behind measurement 35 is fused off: 20 of the 21 active values count.
    assert len(gpu.rims[0].compared) == 20
    assert not gpu.measured


@needs_vectors
def test_values_of_another_version_are_refused_on_real_evidence() -> None:
    xml = rim_file("NV_GPU_DRIVER_GH100_550.144.03.xml")
    rim = verify_rim(xml, [NVIDIA_RIM_ROOT], NOW)
    for name, step in (("gpu-hopper-sdk-0", "rim_version"), ("gpu-switch-sample", "rim_product")):
        with pytest.raises(VerificationError) as e:
            verify(vector(name), rims=[rim])
        assert e.value.step == step


@needs_vectors
def test_what_upstream_calls_expired_is_authentic() -> None:
    """The manifest leaves the verdict open: chain and signature hold, and only they are here."""
    gpu = verify(vector("gpu-hopper-sample-expired"))
    assert (gpu.driver_version, gpu.debug) == ("570.124.03", None)


@needs_vectors
@pytest.mark.parametrize("kind", ["hopperClaimsv3", "switch"])
def test_sample_verdicts_have_the_form_that_is_read(kind: str) -> None:
    """Their key set is not public any more, so only the form can be held against them."""
    folder = VECTORS / "nvidia-eat"
    eat = DetachedEat.read(
        (folder / f"eat-{kind}_detached_eat" / f"{kind}_detached_eat.json").read_bytes()
    )
    decoded = json.loads((folder / f"eat-{kind}_decoded" / f"{kind}_decoded.json").read_bytes())
    assert {name: dict(t.claims) for name, t in eat.devices.items()} == decoded
    for name, t in eat.devices.items():
        assert eat.overall.claims["submods"][name] == ["DIGEST", ["SHA-256", t.sha256]]


@needs_vectors
def test_a_sample_verdict_gives_what_it_should_under_a_key_of_ours() -> None:
    """The claims of a real verdict, signed anew, pass every check of claims."""
    import nvidia_pki as pki

    from attestation.verify.nras import verify_nras

    folder = VECTORS / "nvidia-eat"
    for kind, name in (("hopperClaimsv3", "GPU-0"), ("switch", "SWITCH-0")):
        decoded = json.loads((folder / f"eat-{kind}_decoded" / f"{kind}_decoded.json").read_bytes())
        claims = decoded[name]
        common = {k: claims[k] for k in ("iss", "iat", "nbf", "exp", "eat_nonce")}
        bundle = pki.bundle({name: pki.token(claims)}, **common)
        nonce = bytes.fromhex(claims["eat_nonce"])
        (found,) = verify_nras(bundle, pki.jwks(), claims["iss"], claims["iat"], nonce=nonce)
        assert found.ueid == claims["ueid"]
