"""Expected launch digests: what is measured is all that runs, computed a second time by hand."""

from __future__ import annotations

import hashlib
import struct
import sys
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import CollateralError, MalformedEvidence
from attestation.reference.snp import MAX_FIRMWARE_BYTES, SnpLaunch, expected_measurement

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
RESET = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
HASHES = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SEC_MEM, SECRETS, CPUID, KERNEL_HASHES = 1, 2, 3, 0x10
SECTIONS = (
    (0x800000, 0x2000, SEC_MEM),
    (0x80D000, 0x1000, SECRETS),
    (0x80E000, 0x1000, CPUID),
    (0x810000, 0x1000, KERNEL_HASHES),
)
KERNEL, INITRD, APPEND = b"a kernel", b"an initrd", "console=ttyS0"


def guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


def firmware(sections: Iterable[tuple[int, int, int]] = SECTIONS, size: int = 8192) -> bytes:
    """Firmware with the tables OVMF has at its end, and nothing else."""
    items = tuple(sections)
    metadata = b"ASEV" + struct.pack("<III", 16 + 12 * len(items), 1, len(items))
    metadata += b"".join(struct.pack("<III", *item) for item in items)
    entries = b""
    for name, value in ((RESET, 0x80B004), (METADATA, 1024), (HASHES, 0x810400)):
        entries += struct.pack("<I", value) + struct.pack("<H", 22) + guid(name)
    footer = struct.pack("<H", len(entries) + 18) + guid(FOOTER)
    out = bytearray(size)
    out[-1024 : -1024 + len(metadata)] = metadata
    tail = entries + footer
    out[-32 - len(tail) : -32] = tail
    return bytes(out)


@pytest.fixture
def launch(tmp_path: Path) -> SnpLaunch:
    files = {"ovmf": firmware(), "kernel": KERNEL, "initrd": INITRD}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = {name: tmp_path / name for name in files}
    return SnpLaunch(**paths, vcpus=2, vcpu_type="EPYC-Milan", append=APPEND)  # type: ignore[arg-type]


def page_info(digest: bytes, kind: int, gpa: int, contents: bytes) -> bytes:
    """One step of the launch digest. AMD 56860, PAGE_INFO."""
    head = digest + contents + struct.pack("<HBBBBBB", 0x70, kind, 0, 0, 0, 0, 0)
    return hashlib.sha384(head + struct.pack("<Q", gpa)).digest()


def hashes_page() -> bytes:
    """The page in which QEMU gives the firmware the hashes of what it loads."""
    documents = (
        ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", APPEND.encode() + b"\0"),
        ("44baf731-3a2f-4bd7-9af1-41e29169781d", INITRD),
        ("4de79437-abd2-427f-b835-d5b172d2045b", KERNEL),
    )
    entries = b"".join(
        guid(name) + struct.pack("<H", 50) + hashlib.sha256(data).digest()
        for name, data in documents
    )
    table = guid("9438d606-4f22-4cc9-b479-a793d411fd21") + struct.pack("<H", 168) + entries
    return (bytes(0x400) + table).ljust(4096, b"\0")


def by_hand(launch: SnpLaunch) -> str:
    """The digest chained as the specification says; only the VMSA pages are the library's."""
    from sevsnpmeasure.sev_mode import SevMode
    from sevsnpmeasure.vcpu_types import CPU_SIGS
    from sevsnpmeasure.vmsa import VMSA

    digest, image = bytes(48), launch.ovmf.read_bytes()
    for at in range(0, len(image), 4096):
        page = hashlib.sha384(image[at : at + 4096]).digest()
        digest = page_info(digest, 1, (1 << 32) - len(image) + at, page)
    for at in (0x800000, 0x801000):
        digest = page_info(digest, 3, at, bytes(48))
    digest = page_info(digest, 5, 0x80D000, bytes(48))
    digest = page_info(digest, 6, 0x80E000, bytes(48))
    digest = page_info(digest, 1, 0x810000, hashlib.sha384(hashes_page()).digest())
    state = VMSA(SevMode.SEV_SNP, 0x80B004, CPU_SIGS[launch.vcpu_type], launch.guest_features)
    for page in state.pages(launch.vcpus):
        digest = page_info(digest, 2, 0xFFFFFFFFF000, hashlib.sha384(page).digest())
    return digest.hex()


def test_digest_is_the_one_chained_by_hand(launch: SnpLaunch) -> None:
    assert expected_measurement(launch) == by_hand(launch)


def test_everything_that_runs_changes_the_digest(launch: SnpLaunch, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    image = tmp_path / "image"
    image.write_bytes(b"\x90" + firmware()[1:])
    changes: list[dict[str, Any]] = [
        {"kernel": other},
        {"initrd": other},
        {"initrd": None},
        {"append": APPEND + " debug"},
        {"append": ""},
        {"ovmf": image},
        {"vcpus": 3},
        {"vcpu_type": "EPYC-Genoa"},
        {"guest_features": 0x21},
        {"vmm": "ec2"},
        {"vmm": "gce"},
        {"kernel": None, "initrd": None, "append": ""},
    ]
    digests = {expected_measurement(replace(launch, **change)) for change in changes}
    assert len(digests | {expected_measurement(launch)}) == len(changes) + 1


def test_kernel_that_the_firmware_would_not_measure(launch: SnpLaunch) -> None:
    launch.ovmf.write_bytes(firmware(SECTIONS[:3]))
    with pytest.raises(MalformedEvidence, match="any kernel would run"):
        expected_measurement(launch)
    bare = replace(launch, kernel=None, initrd=None, append="")
    assert len(expected_measurement(bare)) == 96


@pytest.mark.parametrize(
    "odd",
    [
        {"kernel": None},
        {"kernel": None, "initrd": None},
        {"append": "quiet\0 init=/bin/sh"},
        {"vcpus": 0},
        {"vcpus": 1025},
        {"guest_features": -1},
        {"guest_features": 1 << 64},
        {"vmm": "xen"},
    ],
)
def test_setting_that_cannot_be_measured(launch: SnpLaunch, odd: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidence, match="launch"):
        replace(launch, **odd)


def test_unknown_processor(launch: SnpLaunch) -> None:
    with pytest.raises(MalformedEvidence, match="EPYC-Milan"):
        expected_measurement(replace(launch, vcpu_type="Pentium"))


@pytest.mark.parametrize(
    "image",
    [
        b"",
        bytes(4097),
        bytes(8192),
        firmware(SECTIONS[2:]),
        firmware([(0x800000, 0x800, SEC_MEM), *SECTIONS[1:]]),
        firmware([(0x800001, 0x1000, SEC_MEM), *SECTIONS[1:]]),
        firmware([(0, 0xFFFFF000, SEC_MEM), *SECTIONS[1:]]),
        firmware([(0, 0x1000, 99), *SECTIONS[1:]]),
        firmware().replace(b"ASEV", b"VESA"),
        firmware().replace(guid(RESET), bytes(16)),
        firmware().replace(struct.pack("<H", 22) + guid(HASHES), b"\0\0" + guid(HASHES)),
    ],
)
def test_firmware_that_cannot_be_measured(launch: SnpLaunch, image: bytes) -> None:
    launch.ovmf.write_bytes(image)
    with pytest.raises(MalformedEvidence, match="ovmf"):
        expected_measurement(launch)


def test_firmware_beyond_all_measure(launch: SnpLaunch) -> None:
    with launch.ovmf.open("r+b") as f:
        f.truncate(MAX_FIRMWARE_BYTES + 4096)
    with pytest.raises(MalformedEvidence, match="ovmf"):
        expected_measurement(launch)


def test_missing_file_is_an_os_error(launch: SnpLaunch, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        expected_measurement(replace(launch, kernel=tmp_path / "absent"))
    with pytest.raises(FileNotFoundError):
        expected_measurement(replace(launch, ovmf=tmp_path / "absent"))


def test_without_the_library_it_says_what_to_install(
    launch: SnpLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sevsnpmeasure.guest", None)
    with pytest.raises(CollateralError, match=r"adyton\[measure\]"):
        expected_measurement(launch)
