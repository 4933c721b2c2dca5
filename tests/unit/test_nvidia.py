"""GPU and NVSwitch evidence: each way of passing off another device, time or firmware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nvidia_pki as pki
import pytest

from attestation.errors import CollateralError, MalformedEvidence, VerificationError
from attestation.evidence.spdm import MeasurementBlock
from attestation.verify import VerifiedGpu, VerifiedGpuToken
from attestation.verify.nvidia import verify_gpu
from attestation.verify.nvidia_gpu import gpu_nonce


def refused(step: str, call: Callable[[], Any]) -> VerificationError:
    with pytest.raises(VerificationError) as e:
        call()
    assert e.value.step == step, e.value
    return e.value


def rims(*files: bytes) -> list[Any]:
    return [pki.rim(f) for f in files]


def test_a_healthy_gpu_is_what_it_says() -> None:
    gpu = pki.verify()
    assert (gpu.kind, gpu.architecture) == ("nvidia-gpu", "hopper")
    assert (gpu.device_id, gpu.serial) == ("NVIDIA:GH100:48B0000000000001", "48B0000000000001")
    assert gpu.ueid == str(pki.gpu_chain().leaf.certificate.serial_number)
    assert gpu.hwmodel == "GH100 A01 GSP BROM"
    assert (gpu.driver_version, gpu.vbios_version, gpu.mode) == (pki.DRIVER, pki.VBIOS, "spt")
    assert gpu.measurements[7] == pki.measurement(7).hex()
    assert gpu.nonce == pki.NONCE
    assert gpu.nonce_checked
    assert (gpu.endorsements_not_before, gpu.endorsements_not_after) == (pki.START, pki.END)
    assert not gpu.revocation_checked


def test_a_healthy_switch_is_what_it_says() -> None:
    switch = pki.verify(pki.switch_evidence(), pki.switch_chain())
    assert (switch.kind, switch.architecture) == ("nvidia-switch", "ls10")
    assert (switch.driver_version, switch.vbios_version) == (None, pki.SWITCH_BIOS)


def test_facts_are_json() -> None:
    import json

    facts = json.loads(json.dumps(pki.wanted_gpu().facts()))
    assert facts["measured"] is True
    assert facts["debug"] is False
    assert [r["kind"] for r in facts["rims"]] == ["driver", "vbios"]
    assert pki.verify(pki.evidence(stated=pki.opaque(fwid=None))).facts()["fwid"] is None


@pytest.mark.parametrize("kind", [VerifiedGpu, VerifiedGpuToken])
def test_nobody_else_makes_a_result(kind: Any) -> None:
    names = [n for n in kind.__dataclass_fields__ if n != "seal"]
    with pytest.raises(TypeError, match=r"by attestation\.verify only"):
        kind(**dict.fromkeys(names), seal=object())


# The nonce.


def test_evidence_copied_from_another_machines_gpu_is_refused() -> None:
    """Genuine evidence of a genuine GPU, made for the report of another machine."""
    elsewhere = gpu_nonce(b"\x01" * 64)
    copied = pki.evidence(nonce=elsewhere)
    assert pki.verify(copied, nonce=elsewhere).nonce == elsewhere
    refused("nonce", lambda: pki.verify(copied))


def test_a_missing_nonce_is_an_error_unless_said_aloud() -> None:
    with pytest.raises(TypeError, match="nonce"):
        verify_gpu(pki.evidence(), pki.gpu_chain().pem, [pki.gpu_chain().root], pki.NOW)  # type: ignore[call-arg]
    assert not pki.verify(nonce=None).nonce_checked


@pytest.mark.parametrize("nonce", [b"", pki.NONCE[:-1], pki.NONCE + b"\0"])
def test_an_empty_or_short_nonce_is_no_wildcard(nonce: bytes) -> None:
    refused("nonce", lambda: pki.verify(nonce=nonce))


def test_the_nonce_binds_exactly_the_report_data() -> None:
    assert gpu_nonce(pki.REPORT_DATA).hex() == (
        "7d2e1ff1742118e2cbb31786179252e8bcf2f8eb8583ce027ca06726cda4be5e"
    )
    assert gpu_nonce(pki.REPORT_DATA[:-1] + b"\0") != pki.NONCE
    for size in (0, 32, 63, 65):
        with pytest.raises(MalformedEvidence, match="report_data"):
            gpu_nonce(bytes(size))


# Signature and exchange.


def test_a_flipped_measurement_is_refused() -> None:
    raw = bytearray(pki.evidence())
    raw[60] ^= 1
    refused("signature", lambda: pki.verify(bytes(raw)))


def test_a_signature_of_another_device_is_refused() -> None:
    other = pki.chain(pki.device_name("NVIDIA:GH100:99"), pki.composite(pki.authorities()[0]))
    leaf = replace(other.leaf, key=pki.key("another device"))
    refused("signature", lambda: pki.verify(pki.evidence(leaf)))


def test_a_signature_of_zeros_is_refused() -> None:
    refused("signature", lambda: pki.verify(pki.evidence()[:-96] + bytes(96)))


@pytest.mark.parametrize("odd", [{"attributes": 0}, {"operation": 1}])
def test_a_request_for_less_than_everything_is_refused(odd: dict[str, int]) -> None:
    raw = pki.evidence(request=replace(pki.REQUEST, **odd))
    refused("request", lambda: pki.verify(raw))


def test_an_answer_from_another_slot_is_refused() -> None:
    refused("response", lambda: pki.verify(pki.evidence(param2=1)))
    raw = pki.evidence(request=replace(pki.REQUEST, slot_id=1), param2=1)
    assert pki.verify(raw).nonce_checked


@pytest.mark.parametrize(
    "measured",
    [(), pki.blocks()[1:], pki.blocks()[::-1], (MeasurementBlock(1, 1, b"\0" * 32),)],
)
def test_measurements_with_a_gap_or_another_size_are_refused(measured: Any) -> None:
    refused("measurements", lambda: pki.verify(pki.evidence(measured=measured)))


def test_switch_evidence_under_a_gpus_certificate_is_refused() -> None:
    raw = pki.evidence(stated=pki.switch_opaque(), measured=pki.blocks(31))
    refused("kind", lambda: pki.verify(raw))


def test_gpu_evidence_under_a_switchs_certificate_is_refused() -> None:
    raw = pki.evidence(pki.switch_chain().leaf)
    refused("kind", lambda: pki.verify(raw, pki.switch_chain()))


def test_firmware_other_than_the_one_the_key_was_made_for_is_refused() -> None:
    raw = pki.evidence(stated=pki.opaque(fwid=b"\x01" * 48))
    refused("fwid", lambda: pki.verify(raw))
    unstated = pki.chain(pki.device_name())
    refused("fwid", lambda: pki.verify(by=unstated))
    raw = pki.evidence(stated=pki.opaque(fwid=None))
    assert pki.verify(raw, unstated).stated.fwid is None


@pytest.mark.parametrize(
    ("now", "step"), [(pki.START - 1, "not_yet_valid"), (pki.END + 1, "expired")]
)
def test_a_clock_off_by_years_is_named(now: int, step: str) -> None:
    refused(step, lambda: pki.verify(now=now))


def test_a_foreign_root_is_refused() -> None:
    from attestation.roots import PRODUCTION_ROOTS

    refused("root", lambda: pki.verify(roots=PRODUCTION_ROOTS))
    refused("root", lambda: pki.verify(roots=[]))


# Reference values.


def test_all_firmware_compared_means_no_debugging() -> None:
    gpu = pki.verify(rims=rims(pki.driver_rim(), pki.vbios_rim()))
    assert gpu.measured
    assert gpu.debug is False
    assert [(r.kind, len(r.compared)) for r in gpu.rims] == [("driver", 20), ("vbios", 20)]


def test_without_reference_values_debugging_stays_unknown() -> None:
    assert pki.verify().debug is None
    assert pki.verify(rims=rims(pki.driver_rim())).debug is None
    assert pki.verify(rims=rims(pki.vbios_rim())).debug is None


def test_a_switch_has_no_driver_to_compare() -> None:
    switch = pki.verify(pki.switch_evidence(), pki.switch_chain(), rims=rims(pki.switch_rim()))
    assert switch.debug is False


@pytest.mark.parametrize("index", [0, 19, 20, 39])
def test_devtools_firmware_measures_otherwise_and_is_refused(index: int) -> None:
    """Devtools mode has no flag in the evidence: it shows in what is measured."""
    raw = pki.evidence(measured=pki.blocks(**{f"m{index}": b"\x0d" * 48}))
    both = rims(pki.driver_rim(), pki.vbios_rim())
    error = refused("rim_measurements", lambda: pki.verify(raw, rims=both))
    assert f"[{index}]" in error.detail


def test_a_measurement_left_out_is_a_mismatch() -> None:
    raw = pki.evidence(measured=pki.blocks(30))
    refused("rim_measurements", lambda: pki.verify(raw, rims=rims(pki.driver_rim())))


def test_any_alternative_will_do() -> None:
    values = {25: (b"\x01" * 48, pki.measurement(25))}
    file = pki.sign_rim(pki.rim_xml(values=values))
    assert pki.verify(rims=rims(file)).rims[0].compared == tuple(range(20, 40))


def test_inactive_measurements_are_not_compared() -> None:
    file = pki.sign_rim(pki.rim_xml(values={25: (b"\x01" * 48,)}, inactive=[25]))
    assert 25 not in pki.verify(rims=rims(file)).rims[0].compared


def test_measurement_35_counts_only_where_its_unit_exists() -> None:
    off = pki.evidence(
        stated=pki.opaque(nvdec0_status=b"\x55"), measured=pki.blocks(m35=b"\x01" * 48)
    )
    assert 35 not in pki.verify(off, rims=rims(pki.driver_rim())).rims[0].compared
    for status in (b"\xaa", None):
        on = pki.evidence(
            stated=pki.opaque(nvdec0_status=status), measured=pki.blocks(m35=b"\x01" * 48)
        )
        refused("rim_measurements", lambda on=on: pki.verify(on, rims=rims(pki.driver_rim())))


def test_a_file_that_compares_nothing_proves_nothing() -> None:
    file = pki.sign_rim(pki.rim_xml(inactive=range(20, 40)))
    refused("rim_measurements", lambda: pki.verify(rims=rims(file)))


@pytest.mark.parametrize(
    ("odd", "step"),
    [
        ({"version": "550.144.04"}, "rim_version"),
        ({"version": "96.00.5E.00.02"}, "rim_version"),
        ({"product": "GB100"}, "rim_product"),
        ({"edition": "SWITCH"}, "rim_product"),
    ],
)
def test_values_for_another_version_or_product_are_refused(odd: dict[str, str], step: str) -> None:
    file = pki.sign_rim(pki.rim_xml(**odd))
    refused(step, lambda: pki.verify(rims=rims(file)))


def test_values_may_name_the_chip_instead_of_the_product() -> None:
    raw = pki.evidence(stated=pki.opaque(chip_info=b"GB102\0"))
    file = pki.sign_rim(pki.rim_xml(product="GB102"))
    assert pki.verify(raw, rims=rims(file)).rims[0].kind == "driver"


def test_two_files_that_speak_of_one_measurement_are_refused() -> None:
    overlapping = pki.sign_rim(pki.rim_xml(pki.VBIOS, range(21)))
    refused("rim_conflict", lambda: pki.verify(rims=rims(pki.driver_rim(), overlapping)))


def test_two_files_for_one_part_are_refused() -> None:
    other = pki.sign_rim(pki.rim_xml(pki.DRIVER, range(40, 50)))
    refused("rim_conflict", lambda: pki.verify(rims=rims(pki.driver_rim(), other)))


def test_values_verified_long_ago_expire_like_everything_else() -> None:
    old = replace(pki.rim(pki.driver_rim()), endorsements_not_after=pki.NOW - 1, seal=pki_seal())
    refused("expired", lambda: pki.verify(rims=[old]))


def pki_seal() -> object:
    from attestation.verify.model import _SEAL

    return _SEAL


# Revocation reaches the result.


def test_revocation_counts_only_when_it_covers_everything() -> None:
    ocsp, crl = pki.device_revocation()
    assert pki.verify(revocation=[ocsp, crl]).revocation_checked
    assert not pki.verify(revocation=[ocsp]).revocation_checked
    assert not pki.verify(revocation=[crl]).revocation_checked
    # The signers of the reference values were not asked about.
    unasked = pki.verify(rims=rims(pki.driver_rim()), revocation=[ocsp, crl])
    assert not unasked.revocation_checked
    assert pki.wanted_gpu().revocation_checked


def test_unreadable_collateral_is_not_a_forgery() -> None:
    with pytest.raises(CollateralError):
        pki.verify(revocation=[b"\x30\x00"])
    with pytest.raises(CollateralError):
        verify_gpu(pki.evidence(), b"", [pki.gpu_chain().root], pki.NOW, nonce=None)


def test_malformed_evidence_is_not_a_forgery() -> None:
    with pytest.raises(MalformedEvidence):
        pki.verify(b"")
