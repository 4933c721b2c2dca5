"""MRENCLAVE of a Gramine enclave, computed from its manifest and libpal.so alone.

Spec: Intel SDM volume 3D, "Enclave measurement" (ECREATE, EADD, EEXTEND), over the memory
layout that Gramine's signer lays out. The layout is Gramine 1.9's, which 1.6 to 1.8 share:
its sizes and offsets stand below, and another layout needs other numbers here.
"""

from __future__ import annotations

import hashlib
import struct
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from attestation.errors import MalformedEvidence
from attestation.manifest.elf import Program, read_program

GRAMINE_LAYOUT: Final = "1.9"
PAGE: Final = 4096
_CHUNK: Final = 256

SSA_FRAME_BYTES: Final = 4 * PAGE
SSA_FRAMES: Final = 2
STACK_BYTES: Final = 64 * PAGE
SIGNAL_STACK_BYTES: Final = 16 * PAGE
GPR_BYTES: Final = 184
HEAP_MIN: Final = 0x10000
STACK_CANARY: Final = 0xBADBADBADBAD

READ, WRITE, EXECUTE = 0x1, 0x2, 0x4
TCS, REGULAR = 0x100, 0x200

DEFAULT_THREADS: Final = 4
DEFAULT_SIZE: Final = "256M"
DEFAULT_SIZE_EDMM: Final = "1024G"
MAX_THREADS: Final = 4096
MAX_ENCLAVE_BYTES: Final = 1 << 46
MAX_COMMITTED_BYTES: Final = 1 << 36
MAX_MANIFEST_BYTES: Final = 16 << 20
MAX_LIBPAL_BYTES: Final = 64 << 20

_SIZE_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class EnclaveShape:
    """What of the manifest decides the layout. Sizes in bytes."""

    size: int
    max_threads: int
    edmm: bool


@dataclass(frozen=True, slots=True)
class Area:
    """Consecutive pages at `offset` in the enclave; `data` None: added but not measured."""

    name: str
    offset: int
    size: int
    flags: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """MRENCLAVE (lowercase hex) with what it was computed over, in the order measured."""

    mr_enclave: str
    shape: EnclaveShape
    areas: tuple[Area, ...]


def parse_manifest(manifest: bytes) -> dict[str, Any]:
    """The manifest's TOML. Raises MalformedEvidence."""
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise MalformedEvidence("manifest", f"longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        return tomllib.loads(manifest.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise MalformedEvidence("manifest", "not UTF-8", e.start) from None
    except (ValueError, RecursionError) as e:
        raise MalformedEvidence("manifest", f"not TOML ({str(e)[:200]})") from None


def parse_size(value: Any, field: str) -> int:
    """Bytes meant by a Gramine size such as `512M`. Raises MalformedEvidence."""
    text = value if isinstance(value, str) else ""
    unit = _SIZE_UNITS.get(text[-1:], 1)
    digits = text[:-1] if unit > 1 else text
    try:
        return int(digits, 0) * unit
    except ValueError:
        raise MalformedEvidence(field, f"{str(value)[:40]!r} is no size") from None


def table(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The table `name`, empty where there is none. Raises MalformedEvidence."""
    value = document.get(name, {})
    if not isinstance(value, dict):
        raise MalformedEvidence(f"manifest.{name}", "is not a table")
    return value


def enclave_shape(document: dict[str, Any]) -> EnclaveShape:
    """Size, threads and EDMM as the manifest has them, or Gramine's defaults.

    Raises MalformedEvidence; also where the size is no power of two, as SECS.SIZE must be.
    """
    sgx = table(document, "sgx")
    edmm = sgx.get("edmm_enable", False)
    threads = sgx.get("max_threads", DEFAULT_THREADS)
    if not isinstance(edmm, bool):
        raise MalformedEvidence("manifest.sgx.edmm_enable", "is not a boolean")
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise MalformedEvidence("manifest.sgx.max_threads", f"is not between 1 and {MAX_THREADS}")
    field = "manifest.sgx.enclave_size"
    size = parse_size(sgx.get("enclave_size", DEFAULT_SIZE_EDMM if edmm else DEFAULT_SIZE), field)
    # Without EDMM every page of the heap is added, and so hashed, one by one.
    limit = MAX_ENCLAVE_BYTES if edmm else MAX_COMMITTED_BYTES
    if not PAGE <= size <= limit or size & (size - 1):
        raise MalformedEvidence(field, f"{size} is no power of two between {PAGE} and {limit}")
    return EnclaveShape(size, threads, edmm)


def measure(manifest: bytes, libpal: bytes) -> Measurement:
    """MRENCLAVE of the enclave that these exact bytes of `.manifest.sgx` and libpal.so make.

    Raises MalformedEvidence.
    """
    shape = enclave_shape(parse_manifest(manifest))
    if len(libpal) > MAX_LIBPAL_BYTES:
        raise MalformedEvidence("libpal", f"longer than {MAX_LIBPAL_BYTES} bytes")
    areas = tuple(_areas(shape, manifest + b"\0", read_program(libpal, "libpal")))
    digest = hashlib.sha256(_ecreate(shape.size))
    for area in areas:
        for record in _records(area):
            digest.update(record)
    return Measurement(digest.hexdigest(), shape, areas)


# --- the instructions ------------------------------------------------------------------------


def _ecreate(size: int) -> bytes:
    return struct.pack("<8sLQ44x", b"ECREATE", SSA_FRAME_BYTES // PAGE, size)


def _records(area: Area) -> Iterator[bytes]:
    """What EADD and EEXTEND put into the digest for each page, 64 and 320 bytes at a time."""
    for at in range(0, area.size, PAGE):
        offset = area.offset + at
        yield struct.pack("<8sQQ40x", b"EADD", offset, area.flags)
        if area.data is None:
            continue
        page = area.data[at : at + PAGE].ljust(PAGE, b"\0")
        for i in range(0, PAGE, _CHUNK):
            yield struct.pack("<8sQ48x", b"EEXTEND", offset + i) + page[i : i + _CHUNK]


# --- the layout --------------------------------------------------------------------------------


def _up(value: int) -> int:
    return -(-value // PAGE) * PAGE


def _down(value: int) -> int:
    return value // PAGE * PAGE


def _areas(shape: EnclaveShape, manifest: bytes, pal: Program) -> Iterator[Area]:
    """Every area, placed downwards from the enclave's end, the heap filling what is left."""
    threads = shape.max_threads
    plan = [
        ("manifest", _up(len(manifest))),
        ("ssa", threads * SSA_FRAME_BYTES * SSA_FRAMES),
        ("tcs", threads * PAGE),
        ("tls", threads * PAGE),
        *[("stack", STACK_BYTES)] * threads,
        *[("sig_stack", SIGNAL_STACK_BYTES)] * threads,
        ("pal", _image_size(pal)),
    ]
    placed: list[tuple[str, int, int]] = []
    top = shape.size
    for name, size in plan:
        top -= size
        placed.append((name, top, size))
    if top < HEAP_MIN:
        raise MalformedEvidence("manifest.sgx.enclave_size", "the enclave does not fit in it")
    tcs, tls = _thread_pages(shape, placed, pal.entry, len(manifest))
    contents = {"manifest": manifest, "tcs": tcs, "tls": tls}
    for name, offset, size in placed[:-1]:
        flags = {"manifest": READ | REGULAR, "tcs": TCS}.get(name, READ | WRITE | REGULAR)
        yield Area(name, offset, size, flags, contents.get(name, b""))
    yield from _pal_areas(pal, top)
    if not shape.edmm and top > HEAP_MIN:
        yield Area("free", HEAP_MIN, top - HEAP_MIN, READ | WRITE | EXECUTE | REGULAR, data=None)


def _image_size(pal: Program) -> int:
    """Bytes from the lowest to the highest page of libpal.so. Raises MalformedEvidence."""
    if not pal.segments:
        raise MalformedEvidence("libpal", "has nothing to load")
    if not any(_down(s.address) == 0 for s in pal.segments):
        raise MalformedEvidence("libpal", "is not position-independent")
    size = max(_up(s.address + s.memory_size) for s in pal.segments)
    if size > MAX_LIBPAL_BYTES:
        raise MalformedEvidence("libpal", f"takes more than {MAX_LIBPAL_BYTES} bytes of memory")
    if pal.entry >= size:
        raise MalformedEvidence("libpal", "its entry point lies outside it")
    return size


def _pal_areas(pal: Program, base: int) -> Iterator[Area]:
    for segment in pal.segments:
        first = _down(segment.address)
        lead = segment.address - first
        if segment.offset % PAGE != lead:
            raise MalformedEvidence("libpal", "a segment is not aligned", segment.offset)
        flags = REGULAR
        flags |= READ if segment.readable else 0
        flags |= WRITE if segment.writable else 0
        flags |= EXECUTE if segment.executable else 0
        size = _up(segment.address + segment.memory_size) - first
        yield Area("pal", base + first, size, flags, bytes(lead) + segment.data)


def _thread_pages(
    shape: EnclaveShape, placed: list[tuple[str, int, int]], entry: int, manifest_size: int
) -> tuple[bytes, bytes]:
    """One TCS and one TLS page for each thread. Spec: SDM "TCS"; Gramine `pal_tcb.h`.

    The enclave's base address is 0 when Gramine signs, so offsets serve as addresses.
    """
    at = {name: offset for name, offset, _ in placed}
    stacks = [(o, o + size) for name, o, size in placed if name == "stack"]
    signals = [(o, o + size) for name, o, size in placed if name == "sig_stack"]
    tcs, tls = bytearray(), bytearray()
    for t in range(shape.max_threads):
        ssa = at["ssa"] + SSA_FRAME_BYTES * SSA_FRAMES * t
        own_tls = at["tls"] + PAGE * t
        tcs += struct.pack(
            "<16xQLLQ16xQLL4024x", ssa, 0, SSA_FRAMES, at["pal"] + entry, own_tls, 0xFFF, 0xFFF
        )
        tls += struct.pack(
            "<QQ256xQQQ8xQQ8xQQ72xQQQ3656x",
            own_tls,
            STACK_CANARY,
            shape.size,
            at["tcs"] + PAGE * t,
            stacks[t][1],
            *signals[t],
            ssa,
            ssa + SSA_FRAME_BYTES - GPR_BYTES,
            manifest_size,
            HEAP_MIN,
            at["pal"],
        )
    return bytes(tcs), bytes(tls)
