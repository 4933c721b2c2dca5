"""What a policy wants of GPUs: every mismatch is found, and nothing passes by being unsaid."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import nvidia_pki as pki
import pytest

from attestation.errors import MalformedEvidence
from attestation.policy import load_policy
from attestation.policy.gpu import GpuPolicy, GpuResult, gpu_findings
from attestation.verify import VerifiedGpuToken
from attestation.verify.model import _SEAL
from attestation.verify.nras import verify_nras


def fields(
    *gpus: GpuResult, nonce: bytes | None = pki.NONCE, now: int = pki.NOW, **wanted: Any
) -> list[str]:
    """The fields that findings name."""
    return [f.field for f in gpu_findings(gpus, GpuPolicy(**wanted), nonce=nonce, now=now)]


@lru_cache
def token() -> VerifiedGpuToken:
    (found,) = verify_nras(pki.bundle(), pki.jwks(), pki.ISSUER, pki.NOW, nonce=pki.NONCE)
    return found


def changed(gpu: Any, **odd: Any) -> Any:
    return replace(gpu, **odd, seal=_SEAL)


def test_a_gpu_of_which_everything_was_checked_passes_the_defaults() -> None:
    assert fields(pki.wanted_gpu(), required=True) == []
    assert load_policy("strict").gpu == GpuPolicy()


def test_the_defaults_refuse_whatever_was_not_checked() -> None:
    assert fields(pki.verify()) == ["gpu[0].rim", "gpu[0].revocation"]
    assert fields(pki.verify(nonce=None), nonce=None) == [
        "gpu[0].nonce",
        "gpu[0].rim",
        "gpu[0].revocation",
    ]
    assert fields(token()) == ["gpu[0].source"]


def test_a_policy_that_requires_gpus_refuses_none() -> None:
    assert fields() == []
    assert fields(required=True) == ["gpu.count"]
    assert fields(pki.wanted_gpu(), min_count=2) == ["gpu.count"]


def test_one_gpu_shown_twice_is_one_gpu() -> None:
    gpu = pki.wanted_gpu()
    assert fields(gpu, gpu, min_count=2) == ["gpu.devices"]
    # New firmware gave it a new key, and with it a new number.
    assert fields(gpu, changed(gpu, ueid="1")) == ["gpu.devices"]
    assert fields(gpu, changed(gpu, ueid="1", device_id="NVIDIA:GH100:2"), min_count=2) == []


def test_switches_do_not_count_as_gpus() -> None:
    switch = pki.verify(pki.switch_evidence(), pki.switch_chain())
    found = fields(switch, required=True, require_rim=False, require_revocation=False)
    assert found == ["gpu.count"]


def test_a_nonce_other_than_this_reports_is_found_by_policy_too() -> None:
    """The verifier was told another machine's nonce; the policy knows this report's."""
    other = b"\x07" * 32
    gpu = pki.verify(pki.evidence(nonce=other), nonce=other)
    assert "gpu[0].nonce" in fields(gpu)
    assert fields(changed(token(), nonce=other), accept_nras=True) == ["gpu[0].nonce"]


def test_an_unchecked_nonce_is_refused_even_where_it_is_equal() -> None:
    gpu = pki.verify(nonce=None)
    assert fields(gpu, require_rim=False, require_revocation=False) == ["gpu[0].nonce"]
    loose = {"require_rim": False, "require_revocation": False, "require_nonce": False}
    assert fields(gpu, nonce=None, **loose) == []


def test_only_an_inspecting_policy_goes_without_a_nonce() -> None:
    document = {"version": 1, "name": "loose", "gpu": {"require_nonce": False}}
    with pytest.raises(MalformedEvidence, match=r"policy\.gpu\.require_nonce"):
        load_policy(document)
    assert not load_policy({**document, "inspection_only": True}).gpu.require_nonce
    genuine = load_policy("genuine").gpu
    found = gpu_findings([pki.verify(nonce=None), token()], genuine, nonce=None, now=pki.NOW)
    assert list(found) == []


def test_devtools_mode_passes_no_policy_that_compares_firmware() -> None:
    """Nothing in the evidence says devtools: not having compared is reason enough."""
    for rims in ([], [pki.rim(pki.driver_rim())], [pki.rim(pki.vbios_rim())]):
        gpu = pki.verify(rims=rims, revocation=pki.device_revocation())
        assert "gpu[0].rim" in fields(gpu)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"architectures": ("hopper", "blackwell")}, []),
        ({"architectures": ("blackwell",)}, ["gpu[0].architecture"]),
        ({"driver_versions": ("550.144.03",)}, []),
        ({"driver_versions": ("550.144.3",)}, ["gpu[0].driver_version"]),
        ({"min_driver_version": "550.144"}, []),
        ({"min_driver_version": "550.144.03"}, []),
        ({"min_driver_version": "550.144.04"}, ["gpu[0].driver_version"]),
        ({"min_driver_version": "1000.0"}, ["gpu[0].driver_version"]),
        ({"min_driver_version": "newest"}, ["gpu[0].driver_version"]),
        ({"vbios_versions": ("96.00.5e.00.01",)}, []),
        ({"vbios_versions": ("96.00.5F.00.01",)}, ["gpu[0].vbios_version"]),
        ({"min_vbios_version": "96.00.5E.00.01"}, []),
        ({"min_vbios_version": "96.00.9F.00.01"}, ["gpu[0].vbios_version"]),
        ({"modes": ("spt",)}, []),
        ({"modes": ("mpt", "ppcie")}, ["gpu[0].mode"]),
    ],
)
def test_what_is_wanted_is_compared(wanted: dict[str, Any], found: list[str]) -> None:
    assert fields(pki.wanted_gpu(), **wanted) == found


def test_a_version_that_cannot_be_compared_is_not_new_enough() -> None:
    odd = changed(token(), driver_version="beta", vbios_version="new")
    wanted = {"min_driver_version": "1.0", "min_vbios_version": "00.00.00.00.00"}
    found = fields(odd, accept_nras=True, **wanted)
    assert found == ["gpu[0].vbios_version", "gpu[0].driver_version"]


def test_a_mode_nobody_states_is_not_the_wanted_one() -> None:
    old = pki.evidence(stated=pki.opaque(feature_flag=None))
    loose: dict[str, Any] = {"require_rim": False, "require_revocation": False}
    assert fields(pki.verify(old), modes=("spt",), **loose) == ["gpu[0].mode"]
    assert fields(token(), modes=("spt",), accept_nras=True) == ["gpu[0].mode"]
    switch = pki.verify(pki.switch_evidence(), pki.switch_chain())
    assert fields(switch, modes=("spt",), **loose) == []


def test_a_certificate_on_hold_passes_only_where_said_aloud() -> None:
    held = changed(pki.wanted_gpu(), held=("2a",))
    assert fields(held) == ["gpu[0].held"]
    assert fields(held, dangerous_allow_certificate_hold=True) == []


def test_a_result_kept_too_long_is_refused() -> None:
    assert fields(pki.wanted_gpu(), now=pki.END + 1) == ["gpu[0].window"]
    assert fields(token(), accept_nras=True, now=pki.NOW + 3601) == ["gpu[0].window"]
    assert fields(token(), accept_nras=True) == []


def test_a_file_says_what_the_section_means() -> None:
    section = {
        "required": True,
        "min_count": 8,
        "architectures": ["hopper"],
        "driver_versions": ["590.12"],
        "min_driver_version": "550.90.07",
        "vbios_versions": ["96.00.A5.00.01"],
        "min_vbios_version": "96.00.9F.00.01",
        "modes": ["ppcie"],
        "require_rim": False,
        "require_revocation": False,
        "accept_nras": True,
        "dangerous_allow_certificate_hold": True,
    }
    assert load_policy({"version": 1, "name": "x", "gpu": section}).gpu == GpuPolicy(
        required=True,
        min_count=8,
        architectures=("hopper",),
        driver_versions=("590.12",),
        min_driver_version="550.90.07",
        vbios_versions=("96.00.A5.00.01",),
        min_vbios_version="96.00.9F.00.01",
        modes=("ppcie",),
        require_rim=False,
        require_revocation=False,
        accept_nras=True,
        dangerous_allow_certificate_hold=True,
    )


@pytest.mark.parametrize(
    "section",
    [
        {"devtools": True},
        {"min_driver_version": "550"},
        {"min_vbios_version": "96.00"},
        {"architectures": ["volta"]},
        {"modes": []},
        {"min_count": -1},
    ],
)
def test_a_section_of_another_shape_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidence, match=r"policy\.gpu"):
        load_policy({"version": 1, "name": "x", "gpu": section})
