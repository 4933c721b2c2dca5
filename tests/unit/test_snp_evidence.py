"""SEV-SNP reports as bytes: what each version has, and what may not be there."""

from __future__ import annotations

import pytest
import snp_pki as pki

from attestation.errors import MalformedEvidence
from attestation.evidence import AttestationReport
from attestation.evidence.snp import (
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    TcbParts,
    TcbVersion,
)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_what_each_version_has(version: int) -> None:
    report = pki.parsed_report(version=version)
    assert AttestationReport.read(report.write()) == report
    assert (report.cpuid_fam_id is None) == (version < 3)
    assert (report.launch_mit_vector is None) == (version < 5)


@pytest.mark.parametrize("version", [0, 1, 6, 2**32 - 1])
def test_unknown_version(version: int) -> None:
    with pytest.raises(MalformedEvidence) as e:
        AttestationReport.read(version.to_bytes(4, "little") + pki.report()[4:])
    assert (e.value.field, e.value.offset) == ("report.version", 0)


@pytest.mark.parametrize("bits", [1 << 5, 1 << 31])
def test_reserved_bits_of_key_info(bits: int) -> None:
    raw = pki.report()
    with pytest.raises(MalformedEvidence) as e:
        AttestationReport.read(raw[:0x48] + bits.to_bytes(4, "little") + raw[0x4C:])
    assert (e.value.field, e.value.offset) == ("report.key_info", 0x48)


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x00, "Milan"),
        (0x19, 0x0F, "Milan"),
        (0x19, 0x10, "Genoa"),
        (0x19, 0xA0, "Genoa"),
        (0x19, 0x20, None),
        (0x1A, 0x02, "Turin"),
        (0x1A, 0x11, "Turin"),
        (0x1A, 0x12, None),
        (0x17, 0x01, None),
    ],
)
def test_product_by_processor(family: int, model: int, product: str | None) -> None:
    report = pki.parsed_report(cpuid_fam_id=family, cpuid_mod_id=model)
    assert report.product == product


def test_version_2_names_no_product() -> None:
    assert pki.parsed_report(version=2).product is None


def test_turin_lays_its_levels_out_differently() -> None:
    raw = TcbVersion(bytes([1, 2, 0, 0, 0, 0, 6, 7]))
    assert raw.parts("Genoa") == TcbParts(None, 1, 2, 6, 7)
    with pytest.raises(MalformedEvidence, match="for Turin"):
        raw.parts("Turin")
    turin = TcbVersion(bytes([1, 2, 3, 4, 0, 0, 0, 7]))
    assert turin.parts("Turin") == TcbParts(1, 2, 3, 4, 7)
    with pytest.raises(MalformedEvidence, match="for Milan"):
        turin.parts("Milan")


def test_guest_policy_bits() -> None:
    names = (
        *("smt", None, "migrate_ma", "debug", "single_socket", "cxl_allow"),
        *("mem_aes_256_xts", "rapl_dis", "ciphertext_hiding", "page_swap_disable"),
    )
    for position, name in enumerate(names, start=16):
        policy = GuestPolicy(1 << position)
        assert [n for n in names if n and getattr(policy, n)] == ([name] if name else [])
    assert (GuestPolicy(0x0137).abi_major, GuestPolicy(0x0137).abi_minor) == (1, 0x37)


def test_platform_info_bits() -> None:
    names = (
        *("smt_en", "tsme_en", "ecc_en", "rapl_dis", "ciphertext_hiding_en"),
        *("alias_check_complete", "iommu_write_safe", "tio_en", None),
    )
    for position, name in enumerate(names):
        info = PlatformInfo(1 << position)
        assert [n for n in names if n and getattr(info, n)] == ([name] if name else [])
        assert info.unknown == (0 if name else 1 << position)
    assert PlatformInfo(1 << 63).unknown == 1 << 63


def test_firmware_versions_compare_by_major_first() -> None:
    assert FirmwareVersion(1, 55, 29) < FirmwareVersion(1, 56, 0) < FirmwareVersion(2, 0, 0)
    assert FirmwareVersion(1, 55, 29).write() == bytes([29, 55, 1, 0])
