"""MRENCLAVE: against page lists written out by hand, and against every way to be malformed."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise

import pytest
from manifest_inputs import PAGE, TINY_MANIFEST, R, W, X, elf, libpal

from attestation.errors import MalformedEvidence
from attestation.manifest.measure import enclave_shape, measure, parse_manifest, parse_size

# Page flags as the SDM's SECINFO has them: R=1, W=2, X=4, page type << 8 (TCS 1, REG 2).
RO, RW, RX, RWX, TCS = 0x201, 0x203, 0x205, 0x207, 0x100


class Sdm:
    """ECREATE, EADD and EEXTEND one by one, as the SDM's pseudocode updates MRENCLAVE."""

    def __init__(self, size: int) -> None:
        self.log = b"ECREATE\0" + struct.pack("<LQ", 4, size) + bytes(44)

    def add(self, offset: int, flags: int, page: bytes | None) -> None:
        self.log += b"EADD\0\0\0\0" + struct.pack("<QQ", offset, flags) + bytes(40)
        if page is None:
            return
        assert len(page) == PAGE
        for i in range(16):
            self.log += b"EEXTEND\0" + struct.pack("<Q", offset + 256 * i) + bytes(48)
            self.log += page[256 * i : 256 * (i + 1)]

    def digest(self) -> str:
        return hashlib.sha256(self.log).hexdigest()


def page(*fields: tuple[int, str, int]) -> bytes:
    """A zero page with these (offset, struct format, value) written into it."""
    out = bytearray(PAGE)
    for offset, fmt, value in fields:
        struct.pack_into(fmt, out, offset, value)
    return bytes(out)


def by_hand(manifest: bytes, pal: bytes) -> Sdm:
    """The tiny enclave's pages at addresses computed on paper, from the top of 4 MiB down."""
    e = Sdm(0x400000)
    e.add(0x3FF000, RO, (manifest + b"\0").ljust(PAGE, b"\0"))
    for n in range(8):  # two SSA frames of four pages
        e.add(0x3F7000 + n * PAGE, RW, bytes(PAGE))
    e.add(
        0x3F6000,
        TCS,
        page(
            (0x10, "<Q", 0x3F7000),  # OSSA
            (0x1C, "<L", 2),  # NSSA
            (0x20, "<Q", 0x3A1040),  # OENTRY: libpal at 0x3A0000, entry 0x1040
            (0x38, "<Q", 0x3F5000),  # OGSBASGX
            (0x40, "<L", 0xFFF),  # FSLIMIT
            (0x44, "<L", 0xFFF),  # GSLIMIT
        ),
    )
    e.add(
        0x3F5000,
        RW,
        page(
            (0x000, "<Q", 0x3F5000),  # self
            (0x008, "<Q", 0xBADBADBADBAD),  # stack canary
            (0x110, "<Q", 0x400000),  # enclave_size
            (0x118, "<Q", 0x3F6000),  # tcs_offset
            (0x120, "<Q", 0x3F5000),  # initial_stack_addr: the stack's end
            (0x130, "<Q", 0x3A5000),  # sig_stack_low
            (0x138, "<Q", 0x3B5000),  # sig_stack_high
            (0x148, "<Q", 0x3F7000),  # ssa
            (0x150, "<Q", 0x3FB000 - 184),  # gpr: the first frame's end less its registers
            (0x1A0, "<Q", len(manifest) + 1),  # manifest_size
            (0x1A8, "<Q", 0x10000),  # heap_min
            (0x1B0, "<Q", 0x3A0000),  # heap_max
        ),
    )
    for n in range(64):
        e.add(0x3B5000 + n * PAGE, RW, bytes(PAGE))
    for n in range(16):
        e.add(0x3A5000 + n * PAGE, RW, bytes(PAGE))
    code = bytes(range(256)) * 17
    e.add(0x3A0000, RO, (b"\x7f" * 100).ljust(PAGE, b"\0"))
    e.add(0x3A1000, RX, code[:PAGE])
    e.add(0x3A2000, RX, code[PAGE:].ljust(PAGE, b"\0"))
    e.add(0x3A3000, RW, (bytes(16) + b"data").ljust(PAGE, b"\0"))
    e.add(0x3A4000, RW, bytes(PAGE))
    return e


def test_every_page_stands_where_it_was_put_by_hand() -> None:
    assert measure(TINY_MANIFEST, libpal()).mr_enclave == by_hand(TINY_MANIFEST, libpal()).digest()


def test_without_edmm_the_heap_is_added_and_not_measured() -> None:
    manifest = TINY_MANIFEST.replace(b"edmm_enable = true", b"edmm_enable = false")
    expected = by_hand(manifest, libpal())
    for offset in range(0x10000, 0x3A0000, PAGE):
        expected.add(offset, RWX, None)
    assert measure(manifest, libpal()).mr_enclave == expected.digest()


GOLDENS = {
    "tiny": (TINY_MANIFEST, "e70a4069f1a607ebd49df154f15d9d8187035f73cc0c84103d6e65cbc63d4619"),
    "committed": (
        TINY_MANIFEST.replace(b"edmm_enable = true", b""),
        "ef446afc5309b74c24a77b3817e04e329d5599a226c3c7f2abfc1de89cdcd516",
    ),
    "threads": (
        TINY_MANIFEST.replace(b"max_threads = 1", b"max_threads = 3"),
        "01b3e49f70d0be00a84202d1a9aaf6000acdc72f1295cb534f1e79812ad848f2",
    ),
    "defaults": (b"", "e1cfa48464a4d9172b0b8f220d4124f585b352f2e8402c8b074e238c65f9d58e"),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_measurements_stay_what_they_were(name: str) -> None:
    """Values that Gramine 1.9's own signer gave for the same manifest and library."""
    manifest, expected = GOLDENS[name]
    assert measure(manifest, libpal()).mr_enclave == expected


@pytest.mark.parametrize(
    "changed",
    [
        TINY_MANIFEST + b"\n",
        TINY_MANIFEST.replace(b'"4M"', b'"8M"'),
        TINY_MANIFEST.replace(b"max_threads = 1", b"max_threads = 2"),
        TINY_MANIFEST.replace(b"edmm_enable = true", b"edmm_enable = false"),
        TINY_MANIFEST.replace(b"isvsvn = 3", b"isvsvn = 4"),
    ],
)
def test_every_byte_of_the_manifest_is_measured(changed: bytes) -> None:
    assert changed != TINY_MANIFEST
    before, after = measure(TINY_MANIFEST, libpal()), measure(changed, libpal())
    assert before.mr_enclave != after.mr_enclave


def test_a_byte_of_the_library_changes_the_measurement() -> None:
    changed = bytearray(libpal())
    changed[2 * PAGE] ^= 1
    assert measure(TINY_MANIFEST, bytes(changed)).mr_enclave != (
        measure(TINY_MANIFEST, libpal()).mr_enclave
    )


def test_areas_cover_the_enclave_without_gap_or_overlap() -> None:
    areas = measure(b'[sgx]\nenclave_size = "64M"\nmax_threads = 5\n', libpal()).areas
    spans = sorted((a.offset, a.offset + a.size) for a in areas)
    assert spans[0][0] == 0x10000
    assert spans[-1][1] == 64 << 20
    assert all(end == start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("0x1000", 4096), ("64K", 65536), ("3M", 3 << 20), ("1024G", 1 << 40)],
)
def test_sizes_read_as_gramine_reads_them(text: str, size: int) -> None:
    assert parse_size(text, "size") == size


@pytest.mark.parametrize("text", ["", "M", "1T", "1.5G", 4096, None, "one", "1 MB"])
def test_sizes_that_gramine_does_not_know_are_refused(text: object) -> None:
    with pytest.raises(MalformedEvidence, match="size"):
        parse_size(text, "size")


@pytest.mark.parametrize(
    ("manifest", "field"),
    [
        (b"\xff", "manifest"),
        (b"not toml", "manifest"),
        (b"sgx = 1", "manifest.sgx"),
        (b'[sgx]\nedmm_enable = "yes"', "manifest.sgx.edmm_enable"),
        (b"[sgx]\nmax_threads = 0", "manifest.sgx.max_threads"),
        (b"[sgx]\nmax_threads = true", "manifest.sgx.max_threads"),
        (b"[sgx]\nmax_threads = 100000", "manifest.sgx.max_threads"),
        (b'[sgx]\nenclave_size = "3M"', "manifest.sgx.enclave_size"),
        (b'[sgx]\nenclave_size = "2K"', "manifest.sgx.enclave_size"),
        (b'[sgx]\nenclave_size = "128G"', "manifest.sgx.enclave_size"),
        (b'[sgx]\nenclave_size = "256K"', "manifest.sgx.enclave_size"),
        (b"x = [" + b"[" * 10000, "manifest"),
        (b"#" * (17 << 20), "manifest"),
    ],
)
def test_manifests_that_make_no_enclave_are_refused(manifest: bytes, field: str) -> None:
    with pytest.raises(MalformedEvidence) as caught:
        measure(manifest, libpal())
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (b"", "not an ELF file"),
        (b"\x7fELF" + bytes(60), "ELF"),
        (libpal()[:64], "ELF"),
        (elf([]), "nothing to load"),
        (elf([(0x400000, b"x", 1, R)]), "not position-independent"),
        (elf([(0, b"x", 1, R)], entry=0x1000), "entry point"),
        (elf([(0, b"x", 1 << 40, R | W)]), "bytes of memory"),
        (elf([(0, b"x", 0, R)]), "outside the file"),
        (elf([(0, b"x", 1, R)] * 65), "segments"),
    ],
)
def test_libraries_that_cannot_be_loaded_are_refused(library: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidence, match=reason):
        measure(TINY_MANIFEST, library)


def test_a_library_for_another_machine_is_refused() -> None:
    other = bytearray(libpal())
    other[18] = 183  # AArch64
    with pytest.raises(MalformedEvidence, match="x86-64"):
        measure(TINY_MANIFEST, bytes(other))


def test_a_segment_cut_off_by_the_end_of_the_file_is_refused() -> None:
    with pytest.raises(MalformedEvidence, match="outside the file"):
        measure(TINY_MANIFEST, libpal()[: 3 * PAGE])


def test_a_segment_at_an_odd_place_in_the_file_is_refused() -> None:
    odd = bytearray(elf([(0, b"x" * 8, 8, R | X)]))
    struct.pack_into("<Q", odd, 64 + 8, 100)
    with pytest.raises(MalformedEvidence, match="not aligned"):
        measure(TINY_MANIFEST, bytes(odd))


def test_a_library_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(MalformedEvidence, match="libpal: longer"):
        measure(TINY_MANIFEST, bytes((64 << 20) + 1))


def test_gramines_defaults_hold_where_the_manifest_is_silent() -> None:
    shape = enclave_shape(parse_manifest(b""))
    assert (shape.size, shape.max_threads, shape.edmm) == (256 << 20, 4, False)
    assert enclave_shape(parse_manifest(b"[sgx]\nedmm_enable = true")).size == 1 << 40
