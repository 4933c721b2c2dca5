"""The SPDM exchange and the fields inside it: exact, bounded, and clear about what is wrong."""

from __future__ import annotations

from dataclasses import replace

import nvidia_pki as pki
import pytest

from attestation.errors import MalformedEvidence
from attestation.evidence import nvidia as fields
from attestation.evidence.nvidia import DeviceFacts, NvidiaEvidence, OpaqueField
from attestation.evidence.spdm import MeasurementBlock, MeasurementsTranscript

GENUINE = pki.evidence()
RECORD = 37 + 8


def refused(data: bytes, match: str) -> None:
    with pytest.raises(MalformedEvidence, match=match):
        NvidiaEvidence.read(data)


def patched(at: int, data: bytes) -> bytes:
    return GENUINE[:at] + data + GENUINE[at + len(data) :]


def test_every_field_stands_where_it_is_read() -> None:
    read = MeasurementsTranscript.read(GENUINE)
    assert (read.request.attributes, read.request.operation, read.request.slot_id) == (1, 0xFF, 0)
    assert read.request.nonce == pki.NONCE
    assert [b.index for b in read.response.blocks] == list(range(1, 65))
    assert read.response.blocks[3] == MeasurementBlock(4, 1, pki.measurement(3))
    assert read.response.nonce == b"\x22" * 32
    assert read.signed == GENUINE[:-96]
    assert read.response.signature == GENUINE[-96:]
    assert read.write() == GENUINE


def test_bytes_after_the_signature_are_refused() -> None:
    refused(GENUINE + b"\0", "spdm.trailing")


@pytest.mark.parametrize(
    ("at", "data", "match"),
    [
        (0, b"\x12", "spdm.version"),
        (1, b"\xe1", "spdm.code"),
        (37, b"\x12", "spdm.version"),
        (38, b"\xe0", "spdm.code"),
        (RECORD + 1, b"\x02", "measurement_record.specification"),
        (RECORD + 2, b"\x34\x00", "measurement"),
        (RECORD + 5, b"\x2f\x00", "measurement.trailing"),
        (41, b"\x3f", "measurement_record.trailing"),
        (41, b"\x41", "measurement_record.index"),
        (42, b"\xff\xff\xff", "measurement_record"),
        (RECORD + 55, b"\x01", "two measurements have one index"),
    ],
)
def test_a_wrong_constant_or_length_is_refused(at: int, data: bytes, match: str) -> None:
    refused(patched(at, data), match)


def test_oversized_evidence_and_opaque_data_are_refused() -> None:
    refused(bytes(1 << 17), "longer than")
    at = len(GENUINE) - 96 - len(MeasurementsTranscript.read(GENUINE).response.opaque) - 2
    refused(patched(at, b"\x01\x04"), "opaque_length")


def facts(**odd: bytes | None) -> DeviceFacts:
    return NvidiaEvidence.read(pki.evidence(stated=pki.opaque(**odd))).facts


def test_a_gpu_states_what_it_runs() -> None:
    read = NvidiaEvidence.read(GENUINE)
    assert read.facts == DeviceFacts(
        driver_version="550.144.03",
        vbios_version="96.00.5E.00.01",
        project="1010",
        project_sku="0200",
        chip_sku="882",
        chip=None,
        fwid=pki.FIRMWARE,
        nvdec0=True,
        protected_pcie=False,
        mode="spt",
    )
    assert not read.is_switch
    assert read.field_names[36] == "feature_flag"
    assert read.write() == GENUINE


def test_a_switch_states_its_bios_as_text_and_no_driver() -> None:
    read = NvidiaEvidence.read(pki.switch_evidence())
    assert read.is_switch
    assert read.facts.vbios_version == pki.SWITCH_BIOS
    assert read.facts.mode is None
    assert read.field_names[26] == "switch_gpu_pdis"


@pytest.mark.parametrize(
    ("flag", "mode"), [(b"\0\0", "mpt"), (b"\1", "spt"), (b"\2\0", "ppcie"), (b"\3\0", "unknown")]
)
def test_modes_have_names(flag: bytes, mode: str) -> None:
    assert facts(feature_flag=flag).mode == mode


def test_a_mode_means_nothing_before_the_version_that_defines_it() -> None:
    assert facts(opaque_data_version=b"\0\0").mode is None
    assert facts(opaque_data_version=None).mode is None
    assert facts(feature_flag=None).mode is None


def test_what_old_firmware_leaves_out_is_none() -> None:
    read = facts(fwid=None, protected_pcie_status=None, chip_sku=None, nvdec0_status=None)
    assert (read.fwid, read.protected_pcie, read.chip_sku, read.nvdec0) == (None,) * 4


@pytest.mark.parametrize(
    ("odd", "match"),
    [
        ({"driver_version": b"\0"}, "opaque.driver_version"),
        ({"driver_version": b"550\x01"}, "opaque.driver_version"),
        ({"driver_version": b"\xff"}, "opaque.driver_version"),
        ({"vbios_version": None}, "opaque.vbios_version: missing"),
        ({"vbios_version": b"\0" * 7}, "opaque.vbios_version"),
        ({"vbios_version": b"\0" * 7 + b"\1"}, "opaque.vbios_version"),
        ({"fwid": b"\0" * 47}, "opaque.fwid"),
        ({"nvdec0_status": b"\xab"}, "opaque.nvdec0_status"),
        ({"protected_pcie_status": b"\xaa\xaa"}, "opaque.protected_pcie_status"),
        ({"opaque_data_version": b"\2\0"}, "opaque.opaque_data_version"),
        ({"opaque_data_version": b""}, "opaque.opaque_data_version"),
        ({"feature_flag": bytes(9)}, "opaque.feature_flag"),
    ],
)
def test_a_field_that_means_nothing_known_is_refused(
    odd: dict[str, bytes | None], match: str
) -> None:
    with pytest.raises(MalformedEvidence, match=match):
        facts(**odd)


def test_a_field_stated_twice_is_refused() -> None:
    stated = (*pki.opaque(), OpaqueField(fields.DRIVER_VERSION, b"575.32\0"))
    refused(pki.evidence(stated=stated), "stated twice")


def test_a_field_longer_than_the_rest_is_refused() -> None:
    response = MeasurementsTranscript.read(GENUINE).response
    cut = replace(response, opaque=response.opaque[:-1])
    refused(GENUINE[:37] + cut.write(), "opaque.value")
